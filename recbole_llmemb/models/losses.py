"""How a state and an item make a score; losses over single positions, and the alignment."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

__all__ = ["AlignmentLoss", "Items", "Loss"]

#: What ``item_similarity: cosine`` divides by where ``similarity_temperature`` is empty.
COSINE_TEMPERATURE = 0.07
#: A learned temperature stays between these.
BOUNDS = (0.01, 10.0)
# Vectors shorter than this count as having no direction: their gradients would be huge.
_SHORTEST = 1e-4
try:  # torch ≥ 2.13 computes logits and loss in chunks: a third of the time and no logits matrix
    from torch.nn import LinearCrossEntropyOptions
except ImportError:
    LinearCrossEntropyOptions = None  # type: ignore[assignment,misc]
# Logits in flight at a time, on CPU and on CUDA: what a core's cache, or a GPU's lanes, hold.
# torch's own choice is far smaller for the narrow states of recommenders (5 times slower).
_CHUNK = (1_500_000, 64_000_000)
# More logits than these (4 GB, of which a step would hold three) are never there at once.
_MOST_LOGITS = 1_000_000_000


class Items(NamedTuple):
    """What states are scored against."""

    vectors: torch.Tensor  # (n, d): row 0 is padding
    bias: torch.Tensor | None = None  # (n,): added to the scores


class EvalCache(nn.Module):
    """Something that evaluation computes once, and again only after a parameter changed.

    Fused optimizers do not count their changes in ``_version``, so every use that may lead to a
    gradient, and every change between training and evaluation, forgets it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: Any = None

    def get(self, tensors: Iterable[torch.Tensor], compute: Callable[[], Any]) -> Any:
        """What ``compute`` returns, which depends on these tensors and nothing else."""
        if torch.is_grad_enabled():
            self._kept = None
            return compute()
        tensors = tuple(tensors)
        key: list[Any] = [(t.data_ptr(), t._version, t.shape, t.dtype, t.device) for t in tensors]
        key += [torch.is_autocast_enabled(t.device.type) for t in tensors[:1]]
        if self._kept is None or self._kept[0] != key:
            # The tensors are kept, too, so that no other can come to lie at their address.
            self._kept = key, tensors, compute()
        return self._kept[2]

    def forget(self) -> None:
        """Compute it anew when it is asked for next."""
        self._kept = None

    def train(self, mode: bool = True) -> EvalCache:
        if mode != self.training:
            self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        # What evaluation computed is not worth copying or pickling.
        return {**self.__dict__, "_kept": None}


class ItemScores(nn.Module):
    """Turns states and item embeddings into the two sides of a dot product.

    Dot: s·e/τ; cosine: s·e/(‖s‖‖e‖τ). The temperature τ may be learned, as its
    logarithm, between :data:`BOUNDS`.

    ``temperature``: τ, or where learning it begins; empty: 1, or what suits cosines.
    """

    def __init__(
        self, cosine: bool = False, temperature: float | None = None, learned: bool = False
    ) -> None:
        super().__init__()
        self.cosine = cosine
        self.fixed = temperature or (COSINE_TEMPERATURE if cosine else 1.0)
        self.log_temperature = None
        if learned:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(self.fixed)))
        self.directions = EvalCache()

    @property
    def is_dot_product(self) -> bool:
        """Whether scores are dot products and nothing else, as RecBole's own losses make them."""
        return not self.cosine and self.fixed == 1.0 and self.log_temperature is None

    @property
    def temperature(self) -> torch.Tensor | float:
        """τ, a number or a tensor that gradients flow to."""
        if self.log_temperature is None:
            return self.fixed
        low, high = (math.log(bound) for bound in BOUNDS)
        if torch.is_grad_enabled():
            # The parameter itself is brought back: behind a clamp it would get no gradient.
            with torch.no_grad():
                self.log_temperature.clamp_(low, high)
            return self.log_temperature.exp()
        return self.log_temperature.clamp(low, high).exp()

    def project(
        self, states: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What is multiplied: states ``(..., d)`` and item embeddings ``(..., d)``."""
        return self.of_states(states), self.of_items(items)

    sides = project  # its name before

    def of_states(self, states: torch.Tensor) -> torch.Tensor:
        """The side of states ``(..., d)``."""
        return states if self.is_dot_product else self._unit(states) / self.temperature

    def of_items(self, items: torch.Tensor) -> torch.Tensor:
        """The side of item embeddings ``(..., d)``."""
        if torch.is_grad_enabled():
            self.directions.forget()
        return self._unit(items)

    def of_all_items(self, items: torch.Tensor) -> torch.Tensor:
        """As :meth:`of_items` for a matrix of all items, whose side evaluation makes once."""
        return self.directions.get([items], lambda: self._unit(items)) if self.cosine else items

    def scores(
        self, states: torch.Tensor, items: Items, ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of all items ``(b, n)``, or of those with these ids ``(b, c)``.

        ``states`` (b, d).
        """
        states, vectors = self.of_states(states), self.of_all_items(items.vectors)
        if ids is None:
            return F.linear(states, vectors, items.bias)
        chosen = F.embedding(ids, vectors).to(states.dtype)
        found = torch.einsum("bd,bcd->bc", states, chosen)
        return found if items.bias is None else found + items.bias[ids]

    def _unit(self, vectors: torch.Tensor) -> torch.Tensor:
        return F.normalize(vectors, dim=-1, eps=_SHORTEST) if self.cosine else vectors


def item_cross_entropy(
    states: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    padding: bool = False,
) -> torch.Tensor:
    """Cross-entropy of the target against all items (RecBole's ``CE``), mean over positions.

    ``states`` (n, d), ``items`` (n_items, d): row 0 of the items is padding.
    ``targets`` (n,): item ids, never 0.
    ``bias`` (n_items,): added to the scores.
    ``padding``: whether padding is a candidate, as it is for RecBole.
    """
    if not padding:
        items, targets = items[1:], targets - 1
        bias = None if bias is None else bias[1:]
    # The chunked form accumulates in one type and pays from a few hundred positions on.
    if (
        LinearCrossEntropyOptions is not None
        and len(states) >= states.shape[1]
        and not torch.is_autocast_enabled(states.device.type)
    ):
        rows = max(16, _CHUNK[states.device.type == "cuda"] // len(items))
        options = LinearCrossEntropyOptions(batch_chunk_size=rows)
        return F.linear_cross_entropy(states, items, targets, linear_bias=bias, options=options)
    if len(states) * len(items) <= _MOST_LOGITS:
        return F.cross_entropy(F.linear(states, items, bias), targets)
    rows = max(1, _MOST_LOGITS // len(items))
    parts = zip(torch.split(states, rows), torch.split(targets, rows))

    def summed(some: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(some, items, bias), wanted, reduction="sum")

    # Each part's logits are computed again on the way back. They draw no random numbers.
    again = partial(checkpoint, summed, use_reentrant=False, preserve_rng_state=False)
    return torch.stack([again(*part) for part in parts]).sum() / len(states)


def sampled_cross_entropy(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the target against sampled items alone, mean over positions.

    Nothing corrects for how they were sampled, as in eSASRec (arXiv 2508.06450).

    ``positive`` (n,), ``negative`` (n, k): scores; −∞ for a sampled item that is the target.
    """
    scores = torch.cat([positive.unsqueeze(1), negative], dim=1)
    return F.cross_entropy(scores, torch.zeros_like(positive, dtype=torch.long))


def bpr_loss(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """RecBole's BPR: −log(10⁻¹⁰ + σ(positive − negative)), mean over all pairs.

    ``positive`` is ``(n,)``, ``negative`` ``(n,)`` or ``(n, k)``.
    """
    positive = positive if negative.dim() == 1 else positive.unsqueeze(1)
    return -torch.log(1e-10 + torch.sigmoid(positive - negative)).mean()


def bce_loss(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """The LLMEmb authors' loss: binary cross-entropy of positives and of sampled negatives.

    Mean over positives plus mean over negatives; shapes as :func:`bpr_loss`.
    """
    return F.softplus(-positive).mean() + F.softplus(negative).mean()


class Loss(nn.Module):
    """What training minimizes at its positions, made without arguments.

    With ``samples_negatives`` it is called with the scores of the targets ``(n,)`` and of sampled
    items ``(n,)`` or ``(n, k)``; otherwise with what :func:`item_cross_entropy` is called with.
    """

    samples_negatives = True


class CELoss(Loss):
    """:func:`item_cross_entropy`."""

    samples_negatives = False
    forward = staticmethod(item_cross_entropy)


class BPRLoss(Loss):
    """:func:`bpr_loss`."""

    forward = staticmethod(bpr_loss)


class BCELoss(Loss):
    """:func:`bce_loss`."""

    forward = staticmethod(bce_loss)


PairwiseBCE = BCELoss  # its name in earlier releases


class AlignmentLoss(nn.Module):
    """Soft-target contrastive alignment of two views of the same items (LLMEmb §3.3, RAT).

    logits = X·Yᵀ/τ, targets = softmax((X·Xᵀ + Y·Yᵀ)/2·τ); the mean of cross-entropy by
    rows and by columns. Nothing is normalized. The paper uses τ = 2.
    """

    def __init__(self, temperature: Any = 2.0) -> None:  # a parameter, where it is learned
        super().__init__()
        self.temperature = temperature

    def forward(self, teacher: torch.Tensor, adapted: torch.Tensor) -> torch.Tensor:
        """Loss between collaborative and adapted embeddings, both ``(k, d)``."""
        tau = self.temperature
        logits = teacher @ adapted.t() / tau
        targets = torch.softmax((teacher @ teacher.t() + adapted @ adapted.t()) / 2 * tau, dim=-1)
        by_rows = F.cross_entropy(logits, targets)
        # Columns of soft targets do not sum to one, so this is written out.
        by_columns = -(targets.t() * F.log_softmax(logits.t(), dim=-1)).sum(1).mean()
        return (by_rows + by_columns) / 2


class InfoNCE(AlignmentLoss):
    """Hard targets: each view is to find the item's other view among the batch's (the paper).

    logits = X·Yᵀ/τ; the mean of cross-entropy by rows and by columns against the diagonal.
    """

    def forward(self, teacher: torch.Tensor, adapted: torch.Tensor) -> torch.Tensor:
        """Loss between the views' embeddings, both ``(B, D)``."""
        logits = teacher @ adapted.t() / self.temperature
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2


def log_popularity(counts: torch.Tensor, weight: float) -> torch.Tensor:
    """What is added to the logits of the training softmax, and only there, ``(n_items,)``.

    Logit adjustment (Menon et al., ICLR 2021, arXiv 2007.07314): with ``weight`` · log of
    an item's share of the interactions added in training, the scores themselves need not say how
    popular an item is, and rank for a catalog in which that counts less. 1 is that paper's
    loss, which is consistent for the mean over items rather than over interactions.

    ``counts`` (n_items,): interactions of each item; one is added, for items without any. A
    constant, which no softmax sees, is left out.
    ``weight``: τ in that paper.
    """
    return weight * torch.log1p(counts.float())
