"""Bringing a table into a shape that a model learns from quickly.

Text embeddings crowd around a common mean and vary along few directions, so most of
what tells items apart is small. An affine map of the table changes nothing in what a
linear adapter (itself affine) can express, but much in how fast it gets there.
"""

from __future__ import annotations

import torch
from torch import nn

# Directions in which the items hardly vary are rounding, not meaning: not blown up.
_RIDGE = 1e-6


class Affine(nn.Module):
    """x ↦ (x − mean)·matrix, the way from a table's vectors to what the adapter is given.

    Neither is part of the state dict: both follow from the table.

    Parameters
    ----------
    mean : torch.Tensor (D,)
    matrix : torch.Tensor (D, D') or a number
    """

    def __init__(self, mean, matrix):
        super().__init__()
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("matrix", torch.as_tensor(matrix), persistent=False)

    def forward(self, rows):
        """``(n, D)`` to ``(n, D')``, in the format of ``rows``."""
        centred = rows.to(self.mean.dtype) - self.mean
        moved = centred * self.matrix if self.matrix.dim() == 0 else centred @ self.matrix
        return moved.to(rows.dtype)

    def of_table(self, table):
        """A matched table ``(n_items, D)``, mapped; row 0 is padding and becomes zero."""
        rows = self(table[1:])
        return torch.cat([rows.new_zeros(1, rows.shape[1]), rows])


def whitening(table: torch.Tensor, std: float) -> Affine:
    """The map that makes a table's columns uncorrelated, centred and of equal spread (ZCA).

    The symmetric form is used because it is unique: it depends neither on the order of
    the items nor on the signs a solver gives to eigenvectors.

    Parameters
    ----------
    table : torch.FloatTensor (n_items, D)
        Row 0 is padding, which takes no part.
    std : float
        Standard deviation of each column afterwards.
    """
    rows = table[1:].double()
    mean = rows.mean(0)
    centred = rows - mean
    values, vectors = torch.linalg.eigh(centred.t() @ centred / max(1, len(rows)))
    values = values.clamp(min=0)
    scale = std / (values + _RIDGE * values.mean()).clamp(min=1e-30).sqrt()
    return Affine(mean, (vectors * scale) @ vectors.t())


def whiten(table: torch.Tensor, std: float) -> torch.Tensor:
    """A matched table after :func:`whitening`, ``(n_items, D)``; row 0 stays zero."""
    return whitening(table, std).of_table(table)


def rescaling(table: torch.Tensor, std: float) -> Affine:
    """The map that only brings the spread of all of a table's numbers to ``std``.

    Parameters
    ----------
    table : torch.FloatTensor (n_items, D)
        Row 0 is padding, which takes no part.
    std : float
        Standard deviation over all items and columns afterwards.
    """
    rows = table[1:].double()
    factor = std / rows.std(correction=0).clamp(min=1e-30)
    return Affine(torch.zeros_like(rows[0]), factor)
