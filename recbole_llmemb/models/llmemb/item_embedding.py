"""The layers that stand where a RecBole model has its item embedding."""

from __future__ import annotations

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.scoring import EvalCache

__all__ = ["TableItemEmbedding"]


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
        Maps ``(n, D)`` to ``(n, size)``.
    size : int
        d, the size of the item embeddings.
    extra_rows : int
        Learnt rows after the items.
    freeze : bool
        Whether the table stays as it is: then it is no part of the state dict, and checkpoints
        refer to it by path and fingerprint.
    offsets : ItemOffsets, optional
        What items have learnt for themselves; added to the adapted rows.
    prepare : nn.Sequential, optional
        How ``table`` was made from the vectors that :meth:`embed` is given.
    """

    padding_idx = 0

    def __init__(self, table, adapter, size, extra_rows=0, freeze=True, offsets=None, prepare=None):
        super().__init__()
        self.num_embeddings, self.embedding_dim = len(table) + extra_rows, size
        if freeze:
            self.register_buffer("table", table, persistent=False)
        else:
            self.table = nn.Parameter(table)
        self.adapter, self.offsets, self.prepare = adapter, offsets, prepare
        self.extra = nn.Parameter(torch.randn(extra_rows, size) * 0.02) if extra_rows else None
        # Where an item's row lies in the rows of the current step.
        slot = torch.zeros(self.num_embeddings, dtype=torch.long)
        self.register_buffer("slot", slot, persistent=False)
        self._step_rows = self._step_slots = None
        self._whole = EvalCache()

    def extra_repr(self):
        return f"{self.num_embeddings}, {self.embedding_dim}, table {tuple(self.table.shape)}"

    def _all_rows(self):
        items = self.adapter(self.table[1:])
        if self.offsets is not None:
            items = items + self.offsets()[1:]
        parts = [items.new_zeros(1, self.embedding_dim), items]
        if self.extra is not None:
            parts.append(self.extra.to(items.dtype))
        return torch.cat(parts)

    def _some_rows(self, ids):
        n_items = len(self.table)
        items = ids if self.extra is None else ids.clamp(max=n_items - 1)
        rows = self.adapter(self.table.index_select(0, items))
        if self.offsets is not None:
            rows = rows + self.offsets(items)
        if self.extra is not None:
            learnt = self.extra.index_select(0, (ids - n_items).clamp(min=0)).to(rows.dtype)
            rows = torch.where((ids >= n_items).unsqueeze(1), learnt, rows)
        return rows * (ids != 0).unsqueeze(1)

    @contextmanager
    def step(self, ids=None):
        """Share the adapted rows between all uses of the layer in one training step.

        ``ids`` (m,): the distinct items that the step needs, in any order, no others are looked
        up; without it the whole matrix is adapted.
        """
        self._whole.forget()
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

    @property
    def weight(self):
        """All item embeddings, ``(n_items + extra_rows, d)``."""
        if self._step_rows is not None and self._step_slots is None:
            return self._step_rows
        return self._whole.get([self.table, *self.parameters()], self._all_rows)

    def forward(self, ids):
        """Embeddings of these ids, shape ``(*ids.shape, d)``."""
        if self._step_rows is not None:
            index = ids if self._step_slots is None else self._step_slots[ids]
            return F.embedding(index, self._step_rows)
        if torch.is_grad_enabled():
            self._whole.forget()
            return self._some_rows(ids.reshape(-1)).view(*ids.shape, -1)
        return F.embedding(ids, self.weight)

    def embed(self, vectors, prepared=False):
        """Embeddings ``(n, d)`` of items outside the dataset: the adapter's part, nothing learnt.

        ``vectors`` (n, D): as the encoder of the table gives them, before any PCA and whitening.
        ``prepared``: whether these are done already.
        """
        prepare = None if prepared else self.prepare
        return self.adapter(_prepared(vectors, prepare, self.table))


class TrainedRows(nn.Embedding):
    """Rows of a table that are trained like IDs, with nothing between them and the model.

    ``rows`` (n, d): where training starts; row 0 is padding.
    ``prepare``: how they were made from the vectors that :meth:`embed` is given.
    """

    def __init__(self, rows, prepare):
        super().__init__(*rows.shape, padding_idx=0, _weight=rows)
        self.prepare = prepare

    def embed(self, vectors, prepared=False):
        """As of :class:`TableItemEmbedding`: where training would have started."""
        return _prepared(vectors, None if prepared else self.prepare, self.weight)


class WithNewItems(nn.Embedding):
    """What a model looks items up in that was given new ones, after all ids that it had.

    ``layer``: as it was trained.
    ``rows`` (m, d): embeddings of the new items.
    """

    def __init__(self, layer, rows):
        whole = torch.cat([layer.weight, rows.to(layer.weight.dtype)])
        super().__init__(*whole.shape, _weight=whole, _freeze=True)
        self.layer, self.embed = layer, layer.embed


class ItemOffsets(nn.Module):
    """A learnt vector per item; exactly zero for items without a training interaction.

    Such items meet the loss as negatives only, which would push them somewhere for no
    reason of theirs. They get no gradient, so that no optimiser moves them from zero, and
    their embedding is what the adapter says.

    ``weight`` (n_items, d): initial values.
    ``trained`` (n_items,): which items have training interactions; part of the state dict, as it
    belongs to the training data.
    """

    def __init__(self, weight, trained):
        super().__init__()
        self.weight = nn.Parameter(weight * trained.unsqueeze(1))
        self.register_buffer("trained", trained)

    def forward(self, ids=None):
        """Offsets of these items ``(m,)`` as ``(m, d)``, or of all ``(n_items, d)``."""
        if ids is None:
            return self.weight * self.trained.unsqueeze(1)
        return F.embedding(ids, self.weight) * self.trained[ids].unsqueeze(1)

    def penalty(self, ids):
        """Mean squared length of the offsets of a batch's items, each distinct one once.

        ``ids``: of any shape; repeats and ids that are no items (padding, a mask) are allowed.
        """
        ids = ids.reshape(-1)
        ids = torch.where(ids < len(self.weight), ids, 0)
        once = _first_of_each(ids, len(self.weight)) & (ids > 0)
        lengths = F.embedding(ids, self.weight).square().sum(1)
        return (lengths * (once & self.trained[ids])).sum() / once.sum().clamp(min=1)


def _first_of_each(ids, n):
    """Mark one place of each distinct id, without sorting and without waiting for a device."""
    places = torch.arange(len(ids), device=ids.device)
    winner = torch.empty(n, dtype=torch.long, device=ids.device)
    winner[ids] = places
    return winner[ids] == places


def _prepared(vectors, prepare, rows):
    """Vectors as a table's rows were prepared, in the format and place of these."""
    width = len(prepare[0].mean) if prepare else rows.shape[1]
    if vectors.dim() != 2 or vectors.shape[1] != width:
        raise UserError(
            f"The vectors to embed are of shape {tuple(vectors.shape)}, the table's are "
            f"{width} wide; encode the items as the table was."
        )
    if prepare:
        vectors = prepare(vectors.to(rows.device))
    return vectors.to(rows)
