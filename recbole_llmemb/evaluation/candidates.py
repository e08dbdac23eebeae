"""Ranking against sampled negatives (``uniNNN``, ``popNNN``), one pass per row.

RecBole runs a sequence model once per candidate, on rows collated one user at a
time, and draws new negatives at every epoch. Here a row's history is read once and
scored against all its candidates, and the candidates of a split are drawn once per
run, so that validation scores differ between epochs by the model alone.
"""

from __future__ import annotations

from logging import getLogger

import numpy as np
import torch
from recbole.data.dataloader.general_dataloader import (
    NegSampleDataLoader,
    NegSampleEvalDataLoader,
)
from recbole.sampler import RepeatableSampler
from recbole.utils import InputType

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.batching import length_order, trim_histories
from recbole_llmemb.evaluation.full_ranking import history_of

#: Which candidates of a batch are none, having been met before, ``(b, 1 + NNN)``.
EXCLUDED = "_excluded_candidates"
_PHASES = ("train", "valid", "test")


def candidate_eval_loader(config, dataset, sampler, shuffle=False):
    """Return the loader for ranking against sampled negatives.

    :class:`CandidateEvalDataLoader` where every user has at most one target in the
    split (leave-one-out), otherwise RecBole's own loader, which draws negatives for
    each target and ranks a user's targets together. RecBole's also serves
    ``labeled`` evaluation, which draws none.

    ``config, dataset, sampler, shuffle``: as for RecBole's ``NegSampleEvalDataLoader``.
    """
    draws = sampler is not None and _draws(_args(config, sampler))
    one_target = draws and _most_targets(dataset) <= 1
    if draws and not one_target and config["exclude_history"]:
        raise UserError(
            "exclude_history takes from each target what came before it, but under this split "
            "and sampled candidates RecBole ranks all targets of a user together; set mode: full "
            "in eval_args, or split by leave-one-out (LS)."
        )
    loader = CandidateEvalDataLoader if one_target else NegSampleEvalDataLoader
    return loader(config, dataset, sampler, shuffle=shuffle)


class CandidateEvalDataLoader(NegSampleEvalDataLoader):
    """Rows with one target each, beside their sampled candidates.

    A batch is ``(interaction, candidates, positive_u, positive_i)``: ``B`` rows
    (``B`` = ``eval_batch_size``), a ``(B, 1 + NNN)`` LongTensor of item ids with the
    target first, ``arange(B)`` and the ``(B,)`` targets. With ``exclude_history`` the
    interaction says under :data:`EXCLUDED` which of the candidates are none. Rows come by
    history length and their padding is cut to the longest of the batch (unless
    :attr:`trim` is false).

    The negatives follow the distribution of RecBole's sampler: drawn with
    replacement, never the target (nor, with ``repeatable: False``, anything the user
    has interacted with). They are drawn once, from ``config["seed"]`` and the phase,
    and do not touch NumPy's global random state.

    Parameters
    ----------
    config : recbole.config.Config
    dataset : recbole.data.dataset.SequentialDataset
        A built split with at most one row per user.
    sampler : recbole.sampler.AbstractSampler
        With its phase set.
    shuffle : bool
        Ignored with a warning, as by RecBole.

    Raises
    ------
    ValueError
        If a user has several rows; :func:`candidate_eval_loader` chooses for you.
    """

    trim = True

    def __init__(self, config, dataset, sampler, shuffle=False):
        self.logger = getLogger()
        self._set_neg_sample_args(config, dataset, InputType.POINTWISE, _args(config, sampler))
        if _most_targets(dataset) > 1:
            raise ValueError("CandidateEvalDataLoader needs at most one target per user")
        if shuffle:
            self.logger.warning("CandidateEvalDataLoader can't shuffle")
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
        if self.trim:
            trim_histories(
                batch,
                self.config["ITEM_LIST_LENGTH_FIELD"],
                self.config["LIST_SUFFIX"],
                self.config["MAX_ITEM_LIST_LENGTH"],
            )
        targets = batch[self.iid_field]
        candidates = torch.cat((targets.unsqueeze(1), self.negatives[rows].long()), dim=1)
        if self.config["exclude_history"]:
            history = history_of(self.config, self._dataset, rows.numpy())
            batch[EXCLUDED] = history.has(candidates, self._dataset.item_num)
        return batch, candidates, torch.arange(len(rows)), targets


def draw_negatives(sampler, user_ids, item_ids, num, seed):
    """Draw ``num`` negatives per row, as RecBole's sampler would.

    Reads the random numbers in the same order as ``sampler.sample_by_user_ids``, so
    the same NumPy seed gives the same negatives; only the rejection is vectorised.

    ``sampler``: with its phase set.
    ``user_ids``, ``item_ids``: ``(n_rows,)`` users and their targets.
    ``num``: negatives per row.
    ``seed``: for ``numpy.random.seed``; the global state is put back afterwards.
    Returns ``(n_rows, num)`` item ids.
    """
    if sampler.item_num <= 2:
        raise UserError(
            "The dataset has a single item, so no negative can be sampled: use `mode: full` "
            "in `eval_args`, or a dataset with more items."
        )
    if len(user_ids) == 0:
        return np.zeros((0, num), dtype=np.int64)
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


def _draws(neg_sample_args) -> bool:
    return "none" not in (neg_sample_args["distribution"], neg_sample_args["sample_num"])


def _most_targets(dataset) -> int:
    users = dataset.inter_feat[dataset.uid_field]
    return int(torch.bincount(users).max()) if len(users) else 0
