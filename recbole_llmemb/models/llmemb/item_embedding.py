"""The layers that stand where a RecBole model has its item embedding."""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.losses import EvalCache

__all__ = ["TableItemEmbedding"]

# Bytes of a table on the host that are on the device at a time, where all of it is adapted.
_BLOCK = 1 << 28
#: Whose trained embeddings a new item gets, where tables are trained, and how alike they count.
NEIGHBORS, NEIGHBOR_TEMPERATURE = 20, 0.1
_NEW = 256  # New items whose neighbors are sought at a time


class TableItemEmbedding(nn.Module):
    """Item embeddings adapted from a table; takes the place of ``nn.Embedding``.

    Calling it with item ids and reading ``weight`` give what RecBole's models expect of
    ``self.item_embedding``. Row 0 (padding) is zero; ``n_special_ids`` learned rows follow
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
    n_special_ids : int
        Learnt rows after the items.
    freeze : bool
        Whether the table stays as it is: then it is no part of the state dict, and checkpoints
        refer to it by path and fingerprint.
    offsets : ItemOffsets, optional
        What items have learned for themselves; added to the adapted rows.
    prepare : nn.Sequential, optional
        How ``table`` was made from the vectors that :meth:`embed` is given.
    """

    padding_idx = 0
    on_host = False

    def __init__(
        self, table, adapter, size, n_special_ids=0, freeze=True, offsets=None, prepare=None
    ):
        super().__init__()
        self.num_embeddings, self.embedding_dim = len(table) + n_special_ids, size
        if freeze:
            self.register_buffer("table", table, persistent=False)
        else:
            self.table = nn.Parameter(table)
        self.adapter, self.offsets, self.prepare = adapter, offsets, prepare
        self.extra = (
            nn.Parameter(torch.randn(n_special_ids, size) * 0.02) if n_special_ids else None
        )
        # Where an item's row lies in the rows of the current step.
        slot = torch.zeros(self.num_embeddings, dtype=torch.long)
        self.register_buffer("slot", slot, persistent=False)
        self._step_rows = self._step_slots = self._fetched = None
        self._whole = EvalCache()

    def keep_on_host(self, pinned):
        """Leave a frozen table in the host's memory, wherever the rest of the layer goes.

        A step gets the rows that it looks up; where it needs all, and in evaluation, the table is
        adapted block by block.
        """
        table = self.table
        del self.table  # a buffer, which would move
        self.table, self.on_host = table.pin_memory() if pinned else table, True

    def fetch(self, ids):
        """Begin to bring rows from the host, for :meth:`step`; None where all are needed.

        ``ids`` (m,): as there, on the host. On a GPU they are copied while the step before runs.
        """
        if len(ids) >= self.num_embeddings:
            return None
        table, device = self.table, self.slot.device
        rows = table.new_empty(len(ids), table.shape[1], pin_memory=device.type == "cuda")
        torch.index_select(table, 0, ids.clamp(max=len(table) - 1), out=rows)
        if device.type != "cuda":
            return ids.to(device), rows.to(device)
        with torch.cuda.stream(_copies(device)):
            return tuple(one.to(device, non_blocking=True) for one in (ids.pin_memory(), rows))

    def extra_repr(self):
        return f"{self.num_embeddings}, {self.embedding_dim}, table {tuple(self.table.shape)}"

    def _adapted_table(self):
        if not self.on_host:
            return self.adapter(self.table[1:])
        rows = max(1, _BLOCK // self.table[0].nbytes)
        return torch.cat([self._adapted_block(block) for block in self.table[1:].split(rows)])

    def _adapted_block(self, block):
        def adapted():
            return self.adapter(block.to(self.slot.device, non_blocking=True))

        # What is kept for the way back would be the whole table: it is brought again.
        return checkpoint(adapted, use_reentrant=False) if torch.is_grad_enabled() else adapted()

    def _table_rows(self, items):
        if not self.on_host:
            return self.table.index_select(0, items)
        if self._fetched is not None:
            return self._fetched
        return self.table.index_select(0, items.cpu()).to(items.device)

    def _all_rows(self):
        items = self._adapted_table()
        if self.offsets is not None:
            items = items + self.offsets()[1:]
        parts = [items.new_zeros(1, self.embedding_dim), items]
        if self.extra is not None:
            parts.append(self.extra.to(items.dtype))
        return torch.cat(parts)

    def _some_rows(self, ids):
        n_items = len(self.table)
        items = ids if self.extra is None else ids.clamp(max=n_items - 1)
        rows = self.adapter(self._table_rows(items))
        if self.offsets is not None:
            rows = rows + self.offsets(items)
        if self.extra is not None:
            learned = self.extra.index_select(0, (ids - n_items).clamp(min=0)).to(rows.dtype)
            rows = torch.where((ids >= n_items).unsqueeze(1), learned, rows)
        return rows * (ids != 0).unsqueeze(1)

    @contextmanager
    def step(self, ids=None, fetched=None):
        """Share the adapted rows between all uses of the layer in one training step.

        ``ids`` (m,): the distinct items that the step needs, in any order, no others are looked
        up; without it the whole matrix is adapted.
        ``fetched``: in their place, what :meth:`fetch` gave.
        """
        self._whole.forget()
        if fetched is not None:
            ids, self._fetched = _arrived(fetched)
        try:
            if ids is None or len(ids) >= self.num_embeddings:
                self._step_rows = self._all_rows()
            else:
                self._step_rows, self._fetched = self._some_rows(ids), None
                self.slot[ids] = torch.arange(len(ids), device=ids.device)
                self._step_slots = self.slot
            yield self
        finally:
            self._step_rows = self._step_slots = self._fetched = None

    @property
    def weight(self):
        """All item embeddings, ``(n_items + n_special_ids, d)``."""
        if self._step_rows is not None and self._step_slots is None:
            return self._step_rows
        return self._whole.get([*self.parameters(), self.table], self._all_rows)

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
        """Embeddings ``(n, d)`` of items outside the dataset: the adapter's part, nothing learned.

        ``vectors`` (n, D): as the encoder of the table gives them, before any PCA and whitening.
        ``prepared``: whether these are done already.
        """
        prepare = None if prepared else self.prepare
        rows = _prepared(vectors, prepare, self.table.shape[1], self.slot.device)
        return self.adapter(rows.to(self.table.dtype))


class TrainedRows(nn.Embedding):
    """Rows of a table that are trained like IDs, with nothing between them and the model.

    ``rows`` (n, d): where training starts; row 0 is padding.
    ``prepare``: how they were made from the vectors that :meth:`embed` is given.
    ``special`` (m, d): learned rows after the items.
    """

    def __init__(self, rows, prepare, special):
        super().__init__(len(rows) + len(special), rows.shape[1], padding_idx=0,
                         _weight=torch.cat([rows, special]))  # fmt: skip
        self.prepare = prepare
        # Where the items began, by direction. No buffer: no device needs it while it trains.
        self.begun = F.normalize(rows[1:], dim=1).half()

    def embed(self, vectors, prepared=False):
        """As of :class:`TableItemEmbedding`: beside what the items next to them have become.

        Training moves known items away from where new ones would begin. So half of each is the mean
        of the :data:`NEIGHBORS` items that began nearest, weighted by the softmax of the cosines;
        the other half, as long, is where it would begin itself.
        """
        prepare, weight = None if prepared else self.prepare, self.weight
        rows = _prepared(vectors, prepare, weight.shape[1], weight.device).float()
        begun, found = self.begun.to(weight.device).float(), [weight[:0]]
        for part in F.normalize(rows, dim=1).split(_NEW):
            near = (part @ begun.T).topk(min(NEIGHBORS, len(begun)))
            shares = torch.softmax(near.values / NEIGHBOR_TEMPERATURE, dim=1)
            mean = torch.einsum("nk,nkd->nd", shares, weight[near.indices + 1].float())
            found.append((mean + mean.norm(dim=1, keepdim=True) * part) / 2)
        return torch.cat(found).to(weight.dtype)


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
    """A learned vector per item; exactly zero for items without a training interaction.

    Such items meet the loss as negatives only, which would push them somewhere for no
    reason of theirs. They get no gradient, so that no optimizer moves them from zero, and
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


def _prepared(vectors, prepare, width, device):
    """Vectors as the rows of a table were prepared, which are so wide, on this device."""
    width = len(prepare[0].mean) if prepare else width
    if vectors.dim() != 2 or vectors.shape[1] != width:
        told = f"The vectors to embed are {tuple(vectors.shape)}, the table's {width} wide"
        raise UserError(f"{told}; encode the items as the table was.")
    vectors = vectors.to(device)
    return prepare(vectors) if prepare else vectors


@lru_cache
def _copies(device):
    """The stream of a GPU that copies beside its computations."""
    return torch.cuda.Stream(device)


def _arrived(tensors):
    """Tensors that were copied beside, for what is computed from now on."""
    for one in tensors:
        if one.is_cuda:
            current = torch.cuda.current_stream(one.device)
            current.wait_stream(_copies(one.device))
            one.record_stream(current)
    return tensors
