"""Full ranking: every row against the whole catalogue."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.evaluation.measure import history_of
from recbole_llmemb.evaluation.rows import length_order, trim_histories


class HistoryFullSortEvalDataLoader(FullSortEvalDataLoader):
    """RecBole's full-ranking loader for sequential models, which knows ``exclude_history``.

    Where that is set, the second part of a batch are row numbers and ids of the items that are
    no candidates, ``(m,)`` each, as RecBole gives them for models that read no sequences.
    """

    def collate_fn(self, index):
        """Return the batch made of these rows."""
        batch, history, *targets = super().collate_fn(index)
        if self.config["exclude_history"]:
            pairs = history_of(self.config, self._dataset, np.asarray(index))
            history = pairs.rows, pairs.columns
        return batch, history, *targets


def history_loader_of_recbole(config, dataset, sampler, shuffle=False):
    """The full-ranking loader for RecBole's own sequential models, without the history."""
    loader = HistoryFullSortEvalDataLoader(config, dataset, sampler, shuffle=shuffle)
    met = history_of(config, dataset, np.arange(len(dataset))).rows.bincount()
    if len(met) and dataset.item_num - 1 - int(met.max()) < max(config["topk"]):
        raise UserError(
            f"exclude_history leaves a user of {dataset.dataset_name} fewer than topk "
            f"{max(config['topk'])} items; ask for shorter lists, or take "
            f"--model=LLMEmb{config['model']} with --item_embedding=id."
        )
    return loader


class LengthSortedFullSortEvalDataLoader(HistoryFullSortEvalDataLoader):
    """RecBole's full-ranking loader for sequential models, by history length.

    The same rows and the same batch tuple ``(interaction, history, positive_u,
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
