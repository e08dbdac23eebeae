"""Items that a run does without, to see how it ranks items that it has never met."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_llmemb.core.errors import UserError


@dataclass(frozen=True)
class HeldOut:
    """What was taken out of a dataset before anything was made of it."""

    tokens: list[str]  # The held-out items
    interactions: int  # How many interactions went with them
    # users, items, before: (n,): The targets: token of the user, index of the item in ``tokens``,
    # and how many of the user's other interactions came before.
    users: np.ndarray
    items: np.ndarray
    before: np.ndarray
    without_history: int  # Targets that were left out because nothing came before
    # (m,): The held-out items that users met before: number of the target, in ascending order, and
    # index in ``tokens``.
    met: tuple[np.ndarray, np.ndarray]

    def __len__(self):
        return len(self.items)


def hold_out(dataset, share, seed, targets="last") -> HeldOut:
    """Take a sample of items, and every interaction with them, out of a dataset.

    It is done between RecBole's filters and its numbering of tokens, so that to all that
    follows (histories, targets, negatives, the softmax over all items, whitening, a teacher)
    these items do not exist.

    ``dataset``: filtered, with tokens still as in the files; changed in place.
    ``share``: share of the items with interactions.
    ``seed``: of the sample, which depends on nothing else but the items.
    ``targets``: the interactions with held-out items that are kept as test targets: those that are
    their user's last one, or all of them.
    """
    inter, item_field = dataset.inter_feat, dataset.iid_field
    items = sorted(map(str, inter[item_field].unique()))
    size = math.floor(share * len(items) + 1e-9)  # 0.29 of 100 is 29
    if size == 0:
        raise UserError(
            f"holdout_items is {share}, which is less than one of the {len(items)} items of "
            f"dataset {dataset.dataset_name}; give a larger share."
        )
    drawn = np.random.default_rng(seed).choice(len(items), size, replace=False)
    tokens = [items[i] for i in sorted(drawn)]

    index = {token: i for i, token in enumerate(tokens)}
    held = inter[item_field].astype(str).map(index).fillna(-1).astype(np.int64).to_numpy()
    if (held >= 0).all():
        raise UserError(
            f"holdout_items is {share}, which leaves dataset {dataset.dataset_name} without "
            "interactions; give a smaller share."
        )
    users, held_items, before, met = _targets(dataset, held, targets)
    dataset.inter_feat = inter[held < 0].reset_index(drop=True)
    if dataset.item_feat is not None:
        known = ~dataset.item_feat[item_field].astype(str).isin(tokens)
        dataset.item_feat = dataset.item_feat[known].reset_index(drop=True)
    has = before > 0
    kept = has[met[0]]
    met = (np.cumsum(has) - 1)[met[0][kept]], met[1][kept]
    gone = int((held >= 0).sum())
    return HeldOut(tokens, gone, users[has], held_items[has], before[has], int((~has).sum()), met)


def _targets(dataset, held, which):
    """User tokens, item indices and number of other interactions before, of each target.

    And, as in :class:`HeldOut`, the held-out items met before.
    """
    inter = dataset.inter_feat
    times = inter[dataset.time_field].to_numpy()  # equal ones stay as they stand in the file
    codes = inter[dataset.uid_field].astype("category").cat.codes.to_numpy()
    order = np.lexsort((times, codes))
    held, codes = held[order], codes[order]
    other = np.cumsum(held < 0) - (held < 0)  # before each, all users together
    first = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    before = other - np.repeat(other[first], np.diff(np.r_[first, len(codes)]))
    wanted = held >= 0
    if which == "last":
        wanted = wanted & np.r_[codes[1:] != codes[:-1], True]
    users = inter[dataset.uid_field].astype(str).to_numpy()[order]
    places = np.flatnonzero(held >= 0)
    begin = np.searchsorted(codes[places], codes[wanted])
    counts = np.searchsorted(places, np.flatnonzero(wanted)) - begin
    rows = np.repeat(np.arange(len(counts)), counts)
    earlier = begin[rows] + np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    return users[wanted], held[wanted], before[wanted], (rows, held[places[earlier]])


def histories(held: HeldOut, dataset, rows):
    """What came before some of the targets, as a model reads it.

    ``dataset``: built, without the held-out items.
    ``rows``: which targets.
    Returns user ids, padded histories ``(b, w)`` and their lengths under RecBole's names.
    """
    store = dataset.sorted_interactions
    users, positions = _places(held, dataset, rows)
    lengths = torch.from_numpy(held.before[rows]).clamp(max=store.max_length)
    item_list = dataset.item_id_list_field
    width = int(lengths.max()) if len(lengths) else 1
    return Interaction(
        {
            dataset.uid_field: users,
            item_list: store.history(item_list, positions, lengths, width),
            dataset.item_list_length_field: lengths,
        }
    )


def met_before(held: HeldOut, dataset, rows: slice):
    """All that the users of some targets had met, however long ago.

    Returns (m,): Numbers of the targets, within ``rows``, and positions among the other items and,
    after them, the held-out ones.
    """
    users, positions = _places(held, dataset, rows)
    store = dataset.sorted_interactions
    warm, items = store.before(dataset.uid_field, dataset.iid_field, positions, users)
    begin, end, _ = rows.indices(len(held))
    first, last = np.searchsorted(held.met[0], [begin, end])
    cold, more = (torch.from_numpy(part[first:last]) for part in held.met)
    return torch.cat([warm, cold - begin]), torch.cat([items - 1, more + dataset.item_num - 1])


def _places(held, dataset, rows):
    """User ids, and where in the dataset's interactions the targets would lie."""
    ids = dataset.field2token_id[dataset.uid_field]
    users = torch.tensor([int(ids[user]) for user in held.users[rows]], dtype=torch.long)
    starts = torch.searchsorted(dataset.sorted_interactions.fields[dataset.uid_field], users)
    return users, starts + torch.from_numpy(held.before[rows])
