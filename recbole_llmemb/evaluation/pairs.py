"""Rows and what must not be recommended to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Pairs:
    """Which items must not be recommended to which rows."""

    # rows, columns: (m,): Row numbers in ascending order, and positions among the items.
    rows: torch.Tensor
    columns: torch.Tensor

    def of_rows(self, begin: int, end: int) -> Pairs:
        """Those of rows ``begin`` to ``end``, counted from ``begin``, by column."""
        first, last = torch.searchsorted(self.rows, torch.tensor([begin, end])).tolist()
        columns, order = self.columns[first:last].sort()
        return Pairs(self.rows[first:last][order] - begin, columns)

    def has(self, places, n: int):
        """Which of the positions ``(b, c)`` among n are forbidden to their row, ``(b, c)``."""
        keys = (self.rows * n + self.columns).sort().values.to(places.device)
        if not len(keys):
            return torch.zeros_like(places, dtype=torch.bool)
        wanted = torch.arange(len(places), device=places.device).unsqueeze(1) * n + places
        found = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return keys[found] == wanted

    def in_block(self, begin: int, end: int):
        """Rows and columns, sorted by column, that lie in a block of items."""
        first, last = torch.searchsorted(self.columns, torch.tensor([begin, end])).tolist()
        return self.rows[first:last], self.columns[first:last] - begin
