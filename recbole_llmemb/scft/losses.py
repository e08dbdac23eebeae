"""Contrastive losses over two views of a batch's items (LLMEmb, SCFT)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.util import all_gather_with_grad
from sentence_transformers.util.distributed import get_world_size
from torch import nn

from recbole_llmemb.models.losses import AlignmentLoss


class InfoNCE(nn.Module):
    """Hard targets: each view is to find the item's other view among the batch's (the paper).

    logits = X·Yᵀ/τ; the mean of cross-entropy by rows and by columns against the diagonal.

    ``temperature``: τ.
    """

    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, x, y):
        """Loss between the views' embeddings, both ``(B, D)``."""
        logits = x @ y.t() / self.temperature
        own = torch.arange(len(x), device=x.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2


#: ``soft`` is the authors' code, the form that RAT aligns with too.
FORMS = {"soft": AlignmentLoss, "infonce": InfoNCE}


class ViewLoss(nn.Module):
    """A contrastive loss with a learned temperature, as sentence-transformers' trainer wants it.

    In training on several processes every view is compared with those of all of them: the
    gradient is that of one process with the whole batch.

    ``model``: gives un-normalized embeddings.
    ``temperature``: where τ starts; 3 in the authors' code.
    """

    def __init__(self, model, form: str = "soft", temperature: float = 3.0):
        super().__init__()
        self.model = model
        self.form = FORMS[form](nn.Parameter(torch.tensor(float(temperature))))

    def forward(self, features, order):
        """Loss of a batch.

        ``features``: tokens of all the views, in parts.
        ``order`` (2B,): where each view is among the parts laid end to end: first all items' one
        view, then all items' other.
        """
        parts = [self.model(part)["sentence_embedding"] for part in features]
        return self.compare(torch.cat(parts), order)

    def compare(self, vectors, order):
        """Loss of the embeddings ``(2B, D)`` of a batch's views; see :meth:`forward`."""
        # Sums over thousands of dimensions want more than half precision.
        with torch.autocast(vectors.device.type, enabled=False):
            x, y = vectors.float()[order].chunk(2)
            if get_world_size() > 1:
                x, y = all_gather_with_grad(x), all_gather_with_grad(y)
            return self.form(x, y)


class CachedViewLoss(CachedLossMixin, ViewLoss):
    """The same loss and gradients with the memory of one part of the batch at a time (GradCache).

    Parts are embedded without keeping activations, the loss gives the gradients of the
    embeddings, and then each part is embedded again to carry its own back. Costs a second forward
    pass.
    """

    mini_batch_size = 1 << 40  # the collator has cut the batch already: a part is a mini-batch

    def forward(self, features, order):
        """See :meth:`ViewLoss.forward`."""
        loss = self.forward_cached(features, order)
        if not torch.is_grad_enabled():
            return loss
        # Adds nothing but τ's gradient, so that whatever scales the loss scales it too.
        share = self.form.temperature * self._temperature_gradient
        return loss + (share - share.detach())

    def calculate_loss(self, reps, labels=None, *, with_backward=False):
        """Loss of embedded parts; with ``with_backward``, their gradients too."""
        leaves = [part for column in reps for part in column]
        loss = self.compare(torch.cat(leaves), labels)
        if not with_backward:
            return loss
        *gradients, own = torch.autograd.grad(loss, [*leaves, self.form.temperature])
        for leaf, gradient in zip(leaves, gradients):
            leaf.grad = gradient
        self._temperature_gradient = own
        return loss.detach()
