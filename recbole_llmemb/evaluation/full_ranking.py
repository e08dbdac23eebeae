"""Full ranking: every row against the whole catalog, or what it has not met of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.batching import length_order, trim_histories
from recbole_llmemb.data.lazy import POSITION
from recbole_llmemb.evaluation.measure import KEEP_TARGET

#: Scores of a batch at most (a gigabyte), however large ``eval_batch_size`` is.
MOST_SCORES = 1 << 28


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


def history_of(config, dataset, index) -> Pairs:
    """The items that are no candidates of some rows: all that the user met before the target.

    ``dataset``: A built split. A row that knows where its target lies among its user's interactions
    has all before it as its history, also what is too long ago for a model to be shown; any other
    row has what its list says.
    ``index`` (b,): rows of it.
    Returns row numbers, counted within ``index``, and item ids. Under ``exclude_history:
    keep_target`` a row's target is not among them.
    """
    rows, item_field = dataset.inter_feat[index], dataset.iid_field
    if POSITION in rows.interaction:
        store = getattr(rows, "store", None) or dataset.sorted_interactions
        numbers, items = store.before(dataset.uid_field, item_field, rows[POSITION])
    else:
        lists = rows[dataset.item_id_list_field]
        numbers, places = lists.nonzero(as_tuple=True)
        items = lists[numbers, places]
    if config["exclude_history"] == KEEP_TARGET:
        others = items != rows[item_field][numbers]
        numbers, items = numbers[others], items[others]
    return Pairs(numbers, items)


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

    def _init_batch_size_and_step(self):
        super()._init_batch_size_and_step()
        self.step = max(1, min(self.step, MOST_SCORES // self._dataset.item_num))
        self.set_batch_size(self.step)

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
