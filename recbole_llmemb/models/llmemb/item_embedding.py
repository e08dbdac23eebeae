"""The layer that stands where a RecBole model has its item embedding."""

from __future__ import annotations

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from recbole_llmemb.core.errors import UserError


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
    offsets : ItemOffsets, optional
        What items have learnt for themselves; added to the adapted rows.
    prepare : nn.Sequential of Affine, optional
        How ``table`` was made from the vectors that :meth:`embed` is given.
    """

    def __init__(self, table, adapter, size, extra_rows=0, freeze=True, offsets=None, prepare=None):
        super().__init__()
        self.num_embeddings = len(table) + extra_rows
        self.embedding_dim = size
        self.padding_idx = 0
        if freeze:
            self.register_buffer("table", table, persistent=False)
        else:
            self.table = nn.Parameter(table)
        self.adapter, self.offsets, self.prepare = adapter, offsets, prepare
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

    def embed(self, vectors):
        """Item embeddings of items outside the dataset: the adapter's part, nothing learnt.

        Parameters
        ----------
        vectors : torch.Tensor (n, D)
            As the table that the model was made with has them, before any PCA and whitening.

        Returns
        -------
        torch.Tensor (n, d)

        Raises
        ------
        UserError
            Vectors of another width than that table's.
        """
        return self.adapter(_prepared(vectors, self.prepare, self.table))

    def train(self, mode=True):
        """As for any module."""
        self._cached = None
        return super().train(mode)

    def __getstate__(self):
        # What evaluation computed is not worth copying or pickling.
        return {**self.__dict__, "_cached": None}


class TrainedRows(nn.Embedding):
    """Rows of a table that are trained like IDs, with nothing between them and the model.

    ``rows`` (n, d): where training starts; row 0 is padding.
    ``prepare``: how they were made from the vectors that :meth:`embed` is given.
    """

    def __init__(self, rows, prepare):
        super().__init__(*rows.shape, padding_idx=0, _weight=rows)
        self.prepare = prepare

    def embed(self, vectors):
        """Item embeddings of items outside the dataset: where training would have started.

        Parameters, result and errors are those of :meth:`TableItemEmbedding.embed`.
        """
        return _prepared(vectors, self.prepare, self.weight)


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
