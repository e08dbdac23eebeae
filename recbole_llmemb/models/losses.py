"""Losses over single positions: RecBole's CE and BPR, the authors' BCE, and the alignment."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

try:  # torch ≥ 2.13 computes logits and loss in chunks: a third of the time and no logits matrix
    from torch.nn import LinearCrossEntropyOptions
except ImportError:
    LinearCrossEntropyOptions = None  # type: ignore[assignment,misc]

__all__ = ["AlignmentLoss", "Loss"]

# Logits in flight at a time, on CPU and on CUDA: what a core's cache, or a GPU's lanes, hold.
# torch's own choice is far smaller for the narrow states of recommenders (5 times slower).
_CHUNK = (1_500_000, 64_000_000)
# More logits than these (4 GB, of which a step would hold three) are never there at once.
_MOST_LOGITS = 1_000_000_000


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

    def __init__(self, temperature: float = 2.0) -> None:
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
