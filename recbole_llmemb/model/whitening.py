"""Bringing a table into a shape that a linear adapter learns from quickly.

Text embeddings crowd around a common mean and vary along few directions, so most of
what tells items apart is small. An affine map of the table changes nothing in what the
adapter (itself affine) can express, but much in how fast it gets there.
"""

from __future__ import annotations

import torch

# Directions in which the items hardly vary are rounding, not meaning: not blown up.
_RIDGE = 1e-6


def whiten(table: torch.Tensor, std: float) -> torch.Tensor:
    """Centre a matched table and make its columns uncorrelated, of equal spread (ZCA).

    The symmetric form is used because it is unique: it depends neither on the order of
    the items nor on the signs a solver gives to eigenvectors.

    Parameters
    ----------
    table : torch.FloatTensor (n_items, D)
        Row 0 is padding, which takes no part and stays zero.
    std : float
        Standard deviation of each column afterwards.

    Returns
    -------
    torch.FloatTensor (n_items, D)
    """
    rows = table[1:].double()
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.t() @ centred / max(1, len(rows)))
    values = values.clamp(min=0)
    scale = std / (values + _RIDGE * values.mean()).clamp(min=1e-30).sqrt()
    white = centred @ (vectors * scale) @ vectors.t()
    return torch.cat([torch.zeros_like(table[:1]), white.to(table.dtype)])
