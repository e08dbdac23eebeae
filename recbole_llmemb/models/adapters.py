"""What turns table rows into item embeddings.

LLMEmb (arXiv 2409.19925, §3.3): e = W₂(W₁z + b₁) + b₂ with z the frozen table row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["LinearAdapter", "MLPAdapter", "NoAdapter"]


def merging_is_cheaper(rows: int, width: int, middle: int, size: int) -> bool:
    """Whether W₂W₁ first, then one product with ``rows``, needs fewer multiplications than two."""
    return middle * width * size + rows * width * size < rows * (width * middle + middle * size)


class LinearAdapter(nn.Module):
    """Two linear layers without a non-linearity, D → ``middle`` → d (the paper: D/2).

    The map is affine, so it is applied as the single product with W₂W₁ wherever that is cheaper;
    autograd then carries the gradients to W₁, b₁, W₂ and b₂ unchanged.
    """

    def __init__(self, width: int, middle: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, middle)
        self.up = nn.Linear(middle, size)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """``(n, D)`` to ``(n, d)``."""
        down, up = self.down, self.up
        sizes = (down.in_features, down.out_features, up.out_features)
        half = rows.dtype != down.weight.dtype
        if not half and not merging_is_cheaper(len(rows), *sizes):
            found: torch.Tensor = up(down(rows))
            return found
        weight, bias = up.weight @ down.weight, F.linear(down.bias, up.weight, up.bias)
        return _affine(rows, weight, bias)


class MLPAdapter(nn.Module):
    """One hidden layer, D → ``middle`` → d: W₂ · dropout(gelu(W₁z + b₁)) + b₂."""

    def __init__(self, width: int, middle: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Linear(width, middle)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(middle, size)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """``(n, D)`` to ``(n, d)``."""
        hidden = F.gelu(_affine(rows, self.down.weight, self.down.bias))
        found: torch.Tensor = self.up(self.dropout(hidden))
        return found


class NoAdapter(nn.Module):
    """Table rows that are item embeddings as they are, in the model's number format."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """``(n, d)`` to ``(n, d)``."""
        return rows.float()


def _affine(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    if rows.dtype == weight.dtype:
        return F.linear(rows, weight, bias)
    # A table kept in half precision is multiplied in it; what comes out is not.
    return F.linear(rows, weight.to(rows.dtype)).to(bias.dtype) + bias
