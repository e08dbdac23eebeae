"""Two views of each item, new ones every epoch, and contrastive losses over them (LLMEmb, SCFT)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.util import all_gather_with_grad
from sentence_transformers.util.distributed import get_world_size
from torch import nn

from recbole_llmemb.encode.shards import item_prompts
from recbole_llmemb.models.losses import AlignmentLoss


def draw_view(attributes: Mapping[str, str], ratio: float, draw: random.Random) -> dict[str, str]:
    """Shuffle an item's attributes and drop a share of them, never all.

    The number to drop is ``ratio`` times their number, rounded up or down by chance so that it
    is right on average: of two attributes, 0.4 would otherwise never drop any.

    ``attributes``: name to text. A single attribute stays as it is.
    ``ratio``: share to drop, between 0 and 1.
    ``draw``: decides.
    """
    names = list(attributes)
    if len(names) < 2:
        return dict(attributes)
    draw.shuffle(names)
    whole, part = divmod(len(names) * ratio, 1)
    kept = len(names) - int(whole) - (draw.random() < part)
    return {name: attributes[name] for name in names[: max(1, kept)]}


class Views:
    """Items to pairs of prompts; the transform of the training dataset.

    What is drawn depends on seed, epoch and item alone, so that an interrupted training sees
    after its resumption what it would have seen.

    ``items``: attributes of each item.
    ``instruction``: what stands before the attributes.
    ``value_max_chars``: longer values are cut.
    ``ratio``: share of attributes to drop.

    ``epoch``: To be set at the begin of each.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, str]],
        instruction: str,
        value_max_chars: int | None,
        ratio: float,
        seed: int,
    ):
        self.items = items
        self.epoch = 0
        self._instruction, self._max_chars = instruction, value_max_chars
        self._ratio, self._seed = ratio, seed

    def pair(self, item: int, epoch: int | str | None = None) -> list[str]:
        """Two independent views of an item, as prompts."""
        when = self.epoch if epoch is None else epoch
        draw = random.Random(f"{self._seed}/{when}/{item}")  # a string: hashed the same everywhere
        views = [draw_view(self.items[item], self._ratio, draw) for _ in range(2)]
        return item_prompts(views, self._instruction, self._max_chars)

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> dict[str, list[str]]:
        """Rows ``{"item": [numbers]}`` to columns ``view_a`` and ``view_b``."""
        pairs = [self.pair(int(item)) for item in batch["item"]]
        return {"view_a": [a for a, _ in pairs], "view_b": [b for _, b in pairs]}


def split_items(
    attributes: Sequence[Mapping[str, str]], share: float, most: int, seed: int
) -> tuple[list[Mapping[str, str]], list[Mapping[str, str]]]:
    """Items to train on and items held out, each text once.

    Items of which nothing is known take no part; those with equal attributes count as one, as
    they would be negatives of themselves. Items with a single attribute are trained on (whole)
    but not held out, as their views are equal.

    ``attributes``: of all items.
    ``share``: of the items to hold out.
    ``most``: how many to hold out at most.
    Returns two lists of attributes.
    """
    different = list({tuple(item.items()): item for item in attributes if item}.values())
    several = [i for i, item in enumerate(different) if len(item) > 1]
    count = min(int(len(several) * share), most)
    held = set(random.Random(seed).sample(several, count))
    train = [item for i, item in enumerate(different) if i not in held]
    return train, [different[i] for i in sorted(held)]


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
