"""What LLM-SRec trains around a frozen LLM, and its losses (section 4 of the paper)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def two_layers(
    size_in: int, size_hidden: int, size_out: int, activation: type[nn.Module] = nn.LeakyReLU
) -> nn.Sequential:
    """Linear, LayerNorm, activation, Linear: the form of every network of the paper.

    ``size_in``, ``size_hidden``, ``size_out``: ``(n, size_in)`` to ``(n, size_out)``.
    ``activation``: LeakyReLU, or GELU for the projection of the CF model's states.
    """
    return nn.Sequential(
        nn.Linear(size_in, size_hidden),
        nn.LayerNorm(size_hidden),
        activation(),
        nn.Linear(size_hidden, size_out),
    )


def slot_projection(size_in: int, width: int, spread: float) -> nn.Sequential:
    """What turns a vector into an input embedding of the LLM: d → H, LayerNorm, LeakyReLU, H → H.

    ``size_in``, ``width``: d and H.
    ``spread``: standard deviation of the LLM's own token embeddings, which outputs begin with: much
    larger ones drown what a model adds to them (BERT's positions), and smaller ones are drowned.
    """
    layers = two_layers(size_in, width, width)
    last = layers[-1]
    assert isinstance(last, nn.Linear)
    # LeakyReLU halves the second moment of what the LayerNorm gives.
    nn.init.normal_(last.weight, std=spread / (0.5 * width) ** 0.5)
    nn.init.zeros_(last.bias)
    return layers


def learned_token(width: int, spread: float) -> nn.Parameter:
    """The input embedding of ``[UserOut]`` or ``[ItemOut]``, ``(H,)``."""
    return nn.Parameter(torch.randn(width) * spread)


def standardized(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors ``(n, d)`` moved to mean 0 and scaled to overall spread 1; row 0, padding, stays 0.

    The same for every column: their relation is what the vectors say.
    """
    rows = vectors[1:].float()
    rows = rows - rows.mean(0)
    rows = rows / rows.std(correction=0).clamp(min=1e-12)
    return torch.cat([rows.new_zeros(1, rows.shape[1]), rows])


class UnitLength(nn.Module):
    """Vectors scaled to one length, so that dot products are cosines, times a number."""

    def __init__(self, length: float = 1.0) -> None:
        super().__init__()
        self.length = length

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """``(..., s)`` to ``(..., s)``."""
        return F.normalize(vectors, dim=-1) * self.length


def score_spread(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Standard deviation over items ``(n, s)`` of each user's dot products, ``(b, 1)``."""
    centered = items - items.mean(0)
    variance = ((users @ (centered.t() @ centered / len(items))) * users).sum(1, keepdim=True)
    return variance.clamp(min=1e-12).sqrt()


def retrieval_loss(
    users: torch.Tensor,
    candidates: torch.Tensor,
    target_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of each user's next item against its candidates.

    Shapes: ``users`` (b, s).
    ``candidates`` (b, 1 + k, s): each row's next item first, then its random ones.
    ``target_ids`` (b,): of the next items, which then are candidates of all other rows too: another
    row's is none of the wrong answers if it is also this one's.
    Returns mean over users.
    """
    logits = torch.einsum("bs,bks->bk", users, candidates)
    if target_ids is not None:
        same = target_ids.unsqueeze(1) == target_ids
        others = (users @ candidates[:, 0].t()).masked_fill(same, -torch.inf)
        logits = torch.cat([logits, others], dim=1)
    return F.cross_entropy(logits, logits.new_zeros(len(users), dtype=torch.long))


def mse_distillation(users: torch.Tensor, teachers: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of user vectors and projected CF states ``(b, s)``, both unit."""
    return F.mse_loss(F.normalize(users, dim=-1), F.normalize(teachers, dim=-1))


def contrastive_distillation(
    users: torch.Tensor, teachers: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The paper's ablation: a user's CF state told from those of the batch's other users.

    Shapes: ``users``, ``teachers`` (b, s).
    """
    logits = F.normalize(users, dim=-1) @ F.normalize(teachers, dim=-1).t() / temperature
    return F.cross_entropy(logits, torch.arange(len(users), device=users.device))


def uniformity_loss(vectors: torch.Tensor) -> torch.Tensor:
    """Mean over pairs of rows of exp(−2‖a − b‖²), rows ``(b, s)`` scaled to length one.

    One row alone is as uniform as can be: zero.
    """
    if len(vectors) < 2:
        return vectors.new_zeros(())
    vectors = F.normalize(vectors.float(), dim=-1)
    # ‖a − b‖² = 2 − 2ab for unit vectors: one product, no distances whose roots have no slope.
    squared = 2 - 2 * (vectors @ vectors.t())
    rows, columns = torch.triu_indices(len(vectors), len(vectors), 1, device=vectors.device)
    return torch.exp(-2 * squared[rows, columns]).mean()
