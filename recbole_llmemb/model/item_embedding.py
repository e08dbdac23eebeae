"""The layer that stands where a RecBole model has its item embedding.

LLMEmb (arXiv 2409.19925, §3.3): e = W₂(W₁z + b₁) + b₂ with z the frozen table row.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn


def merging_is_cheaper(rows, width, middle, size):
    """Whether W₂W₁ first, then one product, needs fewer multiplications than two products.

    Parameters
    ----------
    rows : int
        Table rows the adapter is applied to.
    width, middle, size : int
        Sizes of the table, between the two layers, and of the model.
    """
    return middle * width * size + rows * width * size < rows * (width * middle + middle * size)


class LinearAdapter(nn.Module):
    """Two linear layers without a non-linearity: one affine map of rank at most ``middle``.

    Because the map is affine, it is applied as the single product with W₂W₁ wherever
    that is cheaper; autograd then carries the gradients to W₁, b₁, W₂ and b₂ unchanged.

    Parameters
    ----------
    width, middle, size : int
        D → ``middle`` (the paper: D/2) → d.
    """

    def __init__(self, width, middle, size):
        super().__init__()
        self.down = nn.Linear(width, middle)
        self.up = nn.Linear(middle, size)

    def forward(self, rows):
        """Adapt table rows ``(n, D)`` to item embeddings ``(n, d)``."""
        down, up = self.down, self.up
        sizes = (down.in_features, down.out_features, up.out_features)
        half = rows.dtype != down.weight.dtype
        if not half and not merging_is_cheaper(len(rows), *sizes):
            return up(down(rows))
        weight, bias = up.weight @ down.weight, F.linear(down.bias, up.weight, up.bias)
        if not half:
            return F.linear(rows, weight, bias)
        # A table kept in half precision is multiplied in it; what comes out is not.
        return F.linear(rows, weight.to(rows.dtype)).to(bias.dtype) + bias


class NoAdapter(nn.Module):
    """Table rows that are item embeddings as they are, in the model's number format."""

    def forward(self, rows):
        """``(n, d)`` to ``(n, d)``."""
        return rows.float()


class TableItemEmbedding(nn.Module):
    """Item embeddings adapted from a table; takes the place of ``nn.Embedding``.

    Calling it with item ids and reading ``weight`` give what RecBole's models expect of
    ``self.item_embedding``. Row 0 (padding) is zero; ``extra_rows`` learnt rows follow
    the items (BERT4Rec's mask).

    The adapted rows are computed once and shared: inside :meth:`step` for one training
    step, and in evaluation until a parameter changes.

    Parameters
    ----------
    table : torch.FloatTensor (n_items, D)
        Row i belongs to item id i, row 0 to padding. A frozen one may be in half precision.
    adapter : nn.Module
        Maps ``(n, D)`` to ``(n, d)``.
    size : int
        d, the size of the item embeddings.
    extra_rows : int
        Learnt rows after the items.
    freeze : bool
        Whether the table stays as it is. A frozen table is not part of the state dict:
        checkpoints refer to it by path and fingerprint.
    """

    def __init__(self, table, adapter, size, extra_rows=0, freeze=True):
        super().__init__()
        self.num_embeddings = len(table) + extra_rows
        self.embedding_dim = size
        self.padding_idx = 0
        if freeze:
            self.register_buffer("table", table, persistent=False)
        else:
            self.table = nn.Parameter(table)
        self.adapter = adapter
        self.extra = nn.Parameter(torch.randn(extra_rows, size) * 0.02) if extra_rows else None
        # Where an item's row lies in the rows of the current step.
        self.register_buffer(
            "slot", torch.zeros(self.num_embeddings, dtype=torch.long), persistent=False
        )
        self._step_rows = None
        self._step_slots = None
        self._cached = None

    def extra_repr(self):
        kind = "trained" if isinstance(self.table, nn.Parameter) else "frozen"
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, {kind} table {tuple(self.table.shape)}"
        )

    def _all_rows(self):
        items = self.adapter(self.table[1:])
        parts = [items.new_zeros(1, self.embedding_dim), items]
        if self.extra is not None:
            parts.append(self.extra.to(items.dtype))
        return torch.cat(parts)

    def _some_rows(self, ids):
        n_items = len(self.table)
        if self.extra is None:
            rows = self.adapter(self.table.index_select(0, ids))
        else:
            rows = self.adapter(self.table.index_select(0, ids.clamp(max=n_items - 1)))
            learnt = self.extra.index_select(0, (ids - n_items).clamp(min=0)).to(rows.dtype)
            rows = torch.where((ids >= n_items).unsqueeze(1), learnt, rows)
        return rows * (ids != 0).unsqueeze(1)

    @contextmanager
    def step(self, ids=None):
        """Share the adapted rows between all uses of the layer in one training step.

        Parameters
        ----------
        ids : torch.LongTensor (m,), optional
            The distinct items that the step needs, in any order; without it the whole
            matrix is adapted. Ids outside ``ids`` must not be looked up.
        """
        self._cached = None
        try:
            if ids is None or len(ids) >= self.num_embeddings:
                self._step_rows = self._all_rows()
            else:
                self._step_rows = self._some_rows(ids)
                self.slot[ids] = torch.arange(len(ids), device=ids.device)
                self._step_slots = self.slot
            yield self
        finally:
            self._step_rows = self._step_slots = None

    def _unchanged_matrix(self):
        """The whole matrix for evaluation, recomputed only after a parameter changed.

        Fused optimisers do not count their changes in ``_version``, so every use that may
        lead to a gradient, and every change between training and evaluation, forgets it.
        """
        state = tuple((id(p), p._version) for p in self.parameters())
        where = self.table.device, self.table.dtype
        key = (state, where, torch.is_autocast_enabled(self.table.device.type))
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, self._all_rows())
        return self._cached[1]

    @property
    def weight(self):
        """All item embeddings, ``(n_items + extra_rows, d)``."""
        if self._step_rows is not None and self._step_slots is None:
            return self._step_rows
        if torch.is_grad_enabled():
            self._cached = None
            return self._all_rows()
        return self._unchanged_matrix()

    def forward(self, ids):
        """Embeddings of these ids, shape ``(*ids.shape, d)``."""
        if self._step_rows is not None:
            index = ids if self._step_slots is None else self._step_slots[ids]
            return F.embedding(index, self._step_rows)
        if torch.is_grad_enabled():
            self._cached = None
            return self._some_rows(ids.reshape(-1)).view(*ids.shape, -1)
        return F.embedding(ids, self._unchanged_matrix())

    def train(self, mode=True):
        """As for any module."""
        self._cached = None
        return super().train(mode)

    def __getstate__(self):
        # What evaluation computed is not worth copying or pickling.
        return {**self.__dict__, "_cached": None}
