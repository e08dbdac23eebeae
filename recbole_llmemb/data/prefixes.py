"""Prefix batches without the padding: rows by length, in a few chunks of nearly equal ones.

RecBole pads every history to ``MAX_ITEM_LIST_LENGTH``, and most are short: on
Amazon_Beauty nine of ten positions that a model reads are padding.
"""

from __future__ import annotations

import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction

from recbole_llmemb.data.batching import length_buckets, trim_histories
from recbole_llmemb.data.loaders import ALIGN_ITEMS


class LengthSortedBatch(Interaction):
    """A batch whose rows are in the order of their lengths.

    ``chunks``: from :func:`length_buckets`, found before the batch goes to a GPU, where finding
    out would make every step wait for the one before it.
    """

    def __init__(self, columns, chunks):
        super().__init__(columns)
        self.chunks = chunks

    def to(self, device, selected_field=None):
        """As RecBole's."""
        return LengthSortedBatch(super().to(device, selected_field).interaction, self.chunks)


class LengthSortedMaskedBatch(LengthSortedBatch):
    """Rows in which RecBole has masked items (BERT4Rec), and where.

    ``targets``: How many masked items do not begin a row. RecBole's loss leaves out those that do:
    it takes their place, 0, for padding.
    """

    # Columns, so that they go to a device with the others.
    _MASKED = ("masked_place", "masked_item", "masked_negative")

    def __init__(self, columns, chunks, targets):
        super().__init__(columns, chunks)
        self.targets = targets

    @classmethod
    def of(cls, columns, chunks, config):
        """Find the masked items in the columns that RecBole's transform has made."""
        field = config["ITEM_ID_FIELD"]
        items, negatives = columns[f"Pos_{field}"], columns[f"Neg_{field}"]
        rows, which = (items > 0).nonzero(as_tuple=True)
        positions = columns["MASK_INDEX"][rows, which]
        counts = torch.tensor([end - begin for begin, end, _ in chunks])
        widths = torch.tensor([w for *_, w in chunks]).repeat_interleave(counts)
        places = (widths.cumsum(0) - widths)[rows] + positions
        order = torch.argsort(positions == 0, stable=True)
        masked = (places, items[rows, which], negatives[rows, which])
        more = {name: values[order] for name, values in zip(cls._MASKED, masked)}
        return cls(columns | more, chunks, int((positions > 0).sum()))

    @property
    def masked(self):
        """Of each masked item its place among the positions of all chunks, one after the other;
        the item; and the negative drawn for it, each ``(m,)``. Those that begin a row come last.
        """
        return tuple(self.interaction[name] for name in self._MASKED)

    def to(self, device, selected_field=None):
        """As RecBole's."""
        moved = super().to(device, selected_field).interaction
        return LengthSortedMaskedBatch(moved, self.chunks, self.targets)


class PrefixTrainDataLoader(TrainDataLoader):
    """RecBole's training loader; its batches know the distinct targets, if those are aligned.

    They are found here, on the CPU: on a GPU every step would wait for the one before it.
    """

    def collate_fn(self, index):
        """RecBole's batch of these rows, with ``align_items``."""
        batch = self.rows(index)
        if self.config["align_weight"] and self.config["align_items"] != "positions":
            batch.interaction[ALIGN_ITEMS] = torch.unique(batch[self.config["ITEM_ID_FIELD"]])
        return batch

    def rows(self, index):
        """RecBole's batch of these rows."""
        return super().collate_fn(index)


class TrimmedTrainDataLoader(PrefixTrainDataLoader):
    """The same with :class:`LengthSortedBatch` for batches.

    The same rows in every batch, so the same loss and the same gradients.
    """

    def rows(self, index):
        """RecBole's batch of these rows, sorted by length and cut to the longest."""
        batch = super().rows(index)
        config, field = self.config, self.config["ITEM_LIST_LENGTH_FIELD"]
        trim_histories(batch, field, config["LIST_SUFFIX"], config["MAX_ITEM_LIST_LENGTH"])
        order = torch.argsort(batch[field], stable=True)
        columns = {name: column[order] for name, column in batch.interaction.items()}
        chunks = length_buckets(columns[field])
        if "MASK_INDEX" in columns:
            return LengthSortedMaskedBatch.of(columns, chunks, config)
        return LengthSortedBatch(columns, chunks)
