"""Full ranking: every row against the whole catalogue."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_llmemb.evaluation.rows import length_order, trim_histories


class LengthSortedFullSortEvalDataLoader(FullSortEvalDataLoader):
    """RecBole's full-ranking loader for sequential models, by history length.

    The same rows and the same batch tuple ``(interaction, None, positive_u,
    positive_i)``; only the order of the rows and the width of the padding differ,
    so the metrics are the same. A model that needs all histories padded to
    ``MAX_ITEM_LIST_LENGTH`` sets :attr:`trim` to ``False`` on the loader.

    Parameters
    ----------
    config : recbole.config.Config
    dataset : recbole.data.dataset.SequentialDataset
        A built split.
    sampler : recbole.sampler.AbstractSampler or None
        Not used by sequential models.
    shuffle : bool
        Ignored with a warning, as by RecBole.
    """

    trim = True

    def __init__(self, config, dataset, sampler, shuffle=False):
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        if not self.is_sequential:
            raise TypeError("LengthSortedFullSortEvalDataLoader serves sequential models only")
        self.order = length_order(dataset, config["ITEM_LIST_LENGTH_FIELD"]).numpy()

    def collate_fn(self, index):
        """Return the batch made of the rows at these places of the length order."""
        batch, history, _, _ = super().collate_fn(self.order[np.asarray(index)])
        if self.trim:
            trim_histories(
                batch,
                self.config["ITEM_LIST_LENGTH_FIELD"],
                self.config["LIST_SUFFIX"],
                self.config["MAX_ITEM_LIST_LENGTH"],
            )
        return batch, history, torch.arange(len(batch)), batch[self.iid_field]
