"""What turns table rows into item embeddings: affine maps that are given, and learned adapters.

LLMEmb (arXiv 2409.19925, §3.3): e = W₂(W₁z + b₁) + b₂ with z the frozen table row.

Text embeddings crowd around a common mean and vary along few directions, so most of
what tells items apart is small. An affine map of the table changes nothing in what a
linear adapter (itself affine) can express, but much in how fast it gets there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["LinearAdapter", "MLPAdapter", "NoAdapter"]

# Directions in which the items hardly vary are rounding, not meaning: not blown up.
_RIDGE = 1e-6
# Against division by zero: what may be rounding, as a share of the numbers, and anything.
_ROUNDING, _TINY = torch.finfo(torch.float64).eps, torch.finfo(torch.float64).tiny
# How fast an item's small directions are shrunk with its excess of length, on three catalogs
# (120, 283 and 470 items of 384 columns) between too little and nothing but the largest.
_SHRINK = 6.0


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


class Affine(nn.Module):
    """x ↦ (x − mean)·matrix, the way from a table's vectors to what the adapter is given.

    Neither is part of the state dict: both follow from the table.

    Shapes: ``mean`` (D,).
    """

    mean: torch.Tensor
    matrix: torch.Tensor

    def __init__(self, mean: torch.Tensor, matrix: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("matrix", torch.as_tensor(matrix), persistent=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """``(n, D)`` to ``(n, D')``, in the format of ``rows``."""
        centered = rows.to(self.mean.dtype) - self.mean
        moved = centered * self.matrix if self.matrix.dim() == 0 else centered @ self.matrix
        return moved.to(rows.dtype)

    def of_table(self, table: torch.Tensor) -> torch.Tensor:
        """A matched table ``(n_items, D)``, mapped; row 0 is padding and becomes zero."""
        rows = self(table[1:])
        return torch.cat([rows.new_zeros(1, rows.shape[1]), rows])


class Whitening(nn.Module):
    """The map that makes a table's columns uncorrelated, centered and of equal spread (ZCA).

    The symmetric form is used because it is unique: it depends neither on the order of
    the items nor on the signs a solver gives to eigenvectors.

    Items outside the table are mapped by :meth:`forward`. It gives them nothing from
    directions in which no item of the table varies, which are rounding alone. Where the
    table has few items for its width, whitening also enlarges what tells these few apart
    beyond what a further item can be measured by: it would come out longer than any of
    them. The longer, the more its small directions are shrunk (as ridge regression of the
    table's mapped rows on its vectors does), and it ends at the length of the longest. An
    item that is like one of the table's comes out like it.

    Nothing of it is part of the state dict: all follows from the table.

    ``table`` (n_items, D): row 0 is padding, which takes no part.
    ``std``: standard deviation of each column afterwards; over all of them, with a ``ridge``.
    ``ridge``: λ as a share of the columns' mean variance: a direction of variance v is scaled by
    1/√(v + λ), so that small directions stay small. From 0, whitening, to the table as it is.
    """

    mean: torch.Tensor
    vectors: torch.Tensor
    values: torch.Tensor
    scale: torch.Tensor
    used: torch.Tensor
    longest: torch.Tensor

    def __init__(self, table: torch.Tensor, std: float, ridge: float = 0.0) -> None:
        super().__init__()
        rows = table[1:].double()
        mean = rows.mean(0)
        centered = rows - mean
        values, vectors = torch.linalg.eigh(centered.t() @ centered / max(1, len(rows)))
        values = values.clamp(min=0)
        least = (_ROUNDING**2 * rows.square().mean()).clamp(min=_TINY)
        scale = std / (values + (_RIDGE + ridge) * values.mean()).clamp(min=least).sqrt()
        if ridge:  # the spread over all columns stays what was asked for
            scale = scale * std / (values * scale.square()).mean().clamp(min=1e-30).sqrt()
        # Numerical rank. Numbers of a table are exact to 32 bits, so that much may be rounding.
        rounding = torch.finfo(torch.float32).eps ** 2 * rows.square().sum(1).mean()
        used = values > max(*rows.shape) * rounding
        for name, value in (
            ("mean", mean), ("vectors", vectors), ("values", values * used),
            ("scale", scale), ("used", used.double()),
        ):  # fmt: skip
            self.register_buffer(name, value, persistent=False)
        longest = self._along(rows).norm(dim=1).max() if len(rows) else values.new_zeros(())
        # A hair more, so that rounding leaves one that is like the longest as it is.
        self.register_buffer("longest", longest * 1.001, persistent=False)

    def _along(self, rows: torch.Tensor) -> torch.Tensor:
        """Whitened, along the directions in which the table varies, ``(n, D)``."""
        return (rows.to(self.mean.dtype) - self.mean) @ self.vectors * (self.scale * self.used)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Items outside the table, ``(n, D)`` to ``(n, D)``, in the format of ``rows``."""
        tiny = torch.finfo(self.mean.dtype).tiny  # which a module's .float() may have changed
        whole = self._along(rows)
        length = whole.norm(dim=1, keepdim=True)
        excess = (length / self.longest.clamp(min=tiny)).clamp(min=1.0)
        ridge = _SHRINK * excess.log() * self.values.sum() / self.used.sum().clamp(min=1)
        shrunk = whole * (self.values / (self.values + ridge).clamp(min=tiny))
        left = shrunk.norm(dim=1, keepdim=True).clamp(min=tiny)
        found: torch.Tensor = shrunk * (length / excess / left) @ self.vectors.t()
        return found.to(rows.dtype)

    def of_table(self, table: torch.Tensor) -> torch.Tensor:
        """The table that it was made of, mapped; row 0 is padding and becomes zero."""
        matrix = (self.vectors * self.scale) @ self.vectors.t()
        rows = ((table[1:].to(self.mean.dtype) - self.mean) @ matrix).to(table.dtype)
        return torch.cat([rows.new_zeros(1, rows.shape[1]), rows])


def whiten(table: torch.Tensor, std: float) -> torch.Tensor:
    """A matched table after :class:`Whitening`, ``(n_items, D)``; row 0 stays zero."""
    return Whitening(table, std).of_table(table)


def rescaling(table: torch.Tensor, std: float) -> Affine:
    """The map that only brings the spread of all of a table's numbers to ``std``.

    ``table`` (n_items, D): row 0 is padding, which takes no part.
    ``std``: standard deviation over all items and columns afterwards.
    """
    rows = table[1:].double()
    least = (_ROUNDING * rows.square().mean().sqrt()).clamp(min=_TINY)
    factor = std / rows.std(correction=0).clamp(min=least)
    return Affine(torch.zeros_like(rows[0]), factor)
