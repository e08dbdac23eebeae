"""Rows to rank: against the whole catalog, what a user has not met of it, or sampled negatives.

RecBole runs a sequence model once per candidate, on rows collated one user at a time, and draws
new negatives at every epoch. Here a row's history is read once and scored against all its
candidates (``uniNNN``, ``popNNN``), and the candidates of a split are drawn once per run, so that
validation scores differ between epochs by the model alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from logging import getLogger

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.dataloader.general_dataloader import (
    NegSampleDataLoader,
    NegSampleEvalDataLoader,
)
from recbole.sampler import RepeatableSampler
from recbole.utils import InputType

from recbole_llmemb.compat.sampling import refuse_endless
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.histories import POSITION
from recbole_llmemb.data.windows import length_order, trim_histories
from recbole_llmemb.evaluation.metrics import KEEP_TARGET

#: Scores of a batch at most (a gigabyte), however large ``eval_batch_size`` is.
MOST_SCORES = 1 << 28
#: Which candidates of a batch are none, having been met before, ``(b, 1 + NNN)``.
EXCLUDED = "_excluded_candidates"
_PHASES = ("train", "valid", "test")


@dataclass(frozen=True)
class ExcludedPairs:
    """Which items must not be recommended to which rows."""

    # rows, columns: (m,): Row numbers in ascending order, and positions among the items.
    rows: torch.Tensor
    columns: torch.Tensor

    def of_rows(self, begin: int, end: int) -> ExcludedPairs:
        """Those of rows ``begin`` to ``end``, counted from ``begin``, by column."""
        first, last = torch.searchsorted(self.rows, torch.tensor([begin, end])).tolist()
        columns, order = self.columns[first:last].sort()
        return ExcludedPairs(self.rows[first:last][order] - begin, columns)

    def has(self, places, n: int):
        """Which of the positions ``(b, c)`` among n are forbidden to their row, ``(b, c)``."""
        rows = torch.arange(len(places), device=places.device).unsqueeze(1)
        return torch.isin(rows * n + places, (self.rows * n + self.columns).to(places.device))

    def in_block(self, begin: int, end: int):
        """Rows and columns, sorted by column, that lie in a block of items."""
        first, last = torch.searchsorted(self.columns, torch.tensor([begin, end])).tolist()
        return self.rows[first:last], self.columns[first:last] - begin


def history_of(config, dataset, index) -> ExcludedPairs:
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
    return ExcludedPairs(numbers, items)


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
        told = f"exclude_history leaves a user fewer than {max(config['topk'])} items (topk)"
        own = f"--model=LLMEmb{config['model']} with --item_embedding=id"
        raise UserError(f"{told}; ask for shorter lists, or take {own}.", key="exclude_history")
    return loader


class LengthSortedFullSortEvalDataLoader(HistoryFullSortEvalDataLoader):
    """RecBole's full-ranking loader for sequential models, by history length.

    The same rows and the same batch tuple ``(interaction, history, positive_u,
    positive_i)``; only the order of the rows and the width of the padding differ,
    so the metrics are the same.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        self.order = length_order(dataset, config["ITEM_LIST_LENGTH_FIELD"]).numpy()

    def _init_batch_size_and_step(self):
        super()._init_batch_size_and_step()
        self.step = max(1, min(self.step, MOST_SCORES // self._dataset.item_num))
        self.set_batch_size(self.step)

    def collate_fn(self, index):
        """Return the batch made of the rows at these places of the length order."""
        batch, history, _, _ = super().collate_fn(self.order[np.asarray(index)])
        trim_histories(batch, self.config)
        return batch, history, torch.arange(len(batch)), batch[self.iid_field]


def candidate_eval_loader(config, dataset, sampler, shuffle=False):
    """Return the loader for ranking against sampled negatives.

    :class:`CandidateEvalDataLoader` where every user has at most one target in the
    split (leave-one-out), otherwise RecBole's own loader, which draws negatives for
    each target and ranks a user's targets together. RecBole's also serves
    ``labeled`` evaluation, which draws none.

    ``config, dataset, sampler, shuffle``: as for RecBole's ``NegSampleEvalDataLoader``.
    """
    args = {} if sampler is None else _args(config, sampler)
    draws = args and "none" not in (args["distribution"], args["sample_num"])
    one_target = draws and bool((dataset.inter_feat[dataset.uid_field].bincount() <= 1).all())
    if draws and not one_target and config["exclude_history"]:
        raise UserError(
            "exclude_history is for each target apart, but RecBole ranks a user's targets together "
            "among sampled candidates; set mode: full in eval_args, or split by leave-one-out.",
            key="exclude_history",
        )
    loader = CandidateEvalDataLoader if one_target else NegSampleEvalDataLoader
    return loader(config, dataset, sampler, shuffle=shuffle)


class CandidateEvalDataLoader(NegSampleEvalDataLoader):
    """Rows with one target each, beside their sampled candidates.

    A batch is ``(interaction, candidates, positive_u, positive_i)``: ``B`` rows
    (``B`` = ``eval_batch_size``), a ``(B, 1 + NNN)`` LongTensor of item ids with the
    target first, ``arange(B)`` and the ``(B,)`` targets. With ``exclude_history`` the
    interaction says under :data:`EXCLUDED` which of the candidates are none. Rows come by
    history length and their padding is cut to the longest of the batch.

    The negatives follow the distribution of RecBole's sampler: drawn with
    replacement, never the target (nor, with ``repeatable: False``, anything the user
    has interacted with). They are drawn once, from ``config["seed"]`` and the phase,
    and do not touch NumPy's global random state.

    There is one row per user at most, see :func:`candidate_eval_loader`.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        self.logger = getLogger()
        self._set_neg_sample_args(config, dataset, InputType.POINTWISE, _args(config, sampler))
        self.sample_size = len(dataset)
        self.order = length_order(dataset, config["ITEM_LIST_LENGTH_FIELD"])
        # Past RecBole's evaluation loader, whose constructor indexes users in Python.
        NegSampleDataLoader.__init__(self, config, dataset, sampler, shuffle=False)
        self._draw()

    def _init_batch_size_and_step(self):
        self.step = self.config["eval_batch_size"]
        self.set_batch_size(self.step)

    def update_config(self, config):
        """Take over a new config, and new negatives if their number or seed changed."""
        super().update_config(config)
        self._draw()

    def _draw(self):
        inter = self._dataset.inter_feat
        phase = _PHASES.index(self._sampler.phase)
        negatives = draw_negatives(
            self._sampler,
            inter[self.uid_field].numpy(),
            inter[self.iid_field].numpy(),
            self.neg_sample_num,
            seed=[int(self.config["seed"]), phase],
        )
        # int32: the one thing here that grows with rows times candidates.
        self.negatives = torch.from_numpy(negatives.astype(np.int32))

    def collate_fn(self, index):
        """Return the batch made of the rows at these places of the length order."""
        rows = self.order[torch.as_tensor(index)]
        batch = self.transform(self._dataset, self._dataset[rows.numpy()])
        trim_histories(batch, self.config)
        targets = batch[self.iid_field]
        candidates = torch.cat((targets.unsqueeze(1), self.negatives[rows].long()), dim=1)
        if self.config["exclude_history"]:
            history = history_of(self.config, self._dataset, rows.numpy())
            batch[EXCLUDED] = history.has(candidates, self._dataset.item_num)
        return batch, candidates, torch.arange(len(rows)), targets


def draw_negatives(sampler, user_ids, item_ids, num, seed):
    """Draw ``num`` negatives per row, as RecBole's sampler would.

    Reads the random numbers in the same order as ``sampler.sample_by_user_ids``, so
    the same NumPy seed gives the same negatives; only the rejection is vectorized.

    ``sampler``: with its phase set.
    ``user_ids``, ``item_ids``: ``(n_rows,)`` users and their targets.
    ``num``: negatives per row.
    ``seed``: for ``numpy.random.seed``; the global state is put back afterwards.
    Returns ``(n_rows, num)`` item ids.
    """
    if len(user_ids) == 0:
        return np.zeros((0, num), dtype=np.int64)
    repeats = isinstance(sampler, RepeatableSampler)
    targets = [{item} for item in np.unique(item_ids)]
    refuse_endless(sampler, targets if repeats else sampler.used_ids[np.unique(user_ids)])
    refuse = _refusal(sampler, user_ids, item_ids)
    state = np.random.get_state()
    try:
        np.random.seed(seed)
        drawn = _sample(sampler, len(user_ids) * num)
        rows = np.tile(np.arange(len(user_ids)), num)
        check = np.flatnonzero(refuse(rows, drawn))
        while len(check):
            drawn[check] = _sample(sampler, len(check))
            check = check[refuse(rows[check], drawn[check])]
    finally:
        np.random.set_state(state)
    return drawn.reshape(num, len(user_ids)).T


def _refusal(sampler, user_ids, item_ids):
    """Return ``f(rows, items) -> bool array``: which draws must be repeated."""
    if isinstance(sampler, RepeatableSampler):
        return lambda rows, items: items == item_ids[rows]
    # Every (user, item) pair the user has, as one number each.
    used = np.concatenate(
        [
            np.fromiter(sampler.used_ids[user], dtype=np.int64) + int(user) * sampler.item_num
            for user in np.unique(user_ids)
        ]
    )
    return lambda rows, items: np.isin(user_ids[rows] * sampler.item_num + items, used)


def _sample(sampler, count):
    """``sampler.sampling(count)``; by popularity without its loop over the draws."""
    if sampler.distribution != "popularity":
        return sampler.sampling(count)
    items = np.fromiter(sampler.prob.keys(), dtype=np.int64)
    keep = np.fromiter(sampler.prob.values(), dtype=np.float64)
    alias = np.fromiter((sampler.alias[item] for item in items), dtype=np.int64)
    # Rounding can leave an item without an alias although its share is below one.
    alias = np.where(alias < 0, items, alias)
    place = np.random.randint(0, len(items), count)
    return np.where(keep[place] > np.random.random(count), items[place], alias[place])


def _args(config, sampler):
    return config[f"{sampler.phase}_neg_sample_args"]
