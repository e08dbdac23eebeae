"""Items that a run does without, to see how it ranks items that it has never met."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.windows import is_first, stretches


@dataclass(frozen=True)
class HeldOut:
    """What was taken out of a dataset before anything was made of it."""

    tokens: list[str]  # The held-out items
    interactions: int  # How many interactions went with them
    # (n,): The targets: token of the user, index of the item in ``tokens``, and how many of the
    # user's other interactions came before.
    users: np.ndarray
    items: np.ndarray
    history_lengths: np.ndarray
    without_history: int  # Targets that were left out because nothing came before
    # (m,): The held-out items in the histories of targets: number of the target, in ascending
    # order, and index in ``tokens``.
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
    found = _targets(dataset, held, targets)
    dataset.inter_feat = inter[held < 0].reset_index(drop=True)
    if dataset.item_feat is not None:
        known = ~dataset.item_feat[item_field].astype(str).isin(tokens)
        dataset.item_feat = dataset.item_feat[known].reset_index(drop=True)
    return HeldOut(tokens, int((held >= 0).sum()), *found)


def _targets(dataset, held, which):
    """What :class:`HeldOut` says of the targets."""
    inter = dataset.inter_feat
    times = inter[dataset.time_field].to_numpy()  # equal ones stay as they stand in the file
    codes = inter[dataset.uid_field].astype("category").cat.codes.to_numpy()
    order = np.lexsort((times, codes))
    held, codes = held[order], codes[order]
    users = inter[dataset.uid_field].astype(str).to_numpy()[order]
    cold, first = held >= 0, is_first(codes)
    others = np.cumsum(~cold) - ~cold  # before each, all users together
    before = others - np.maximum.accumulate(np.where(first, others, 0))
    wanted = cold & np.r_[first[1:], True] if which == "last" else cold
    targets = np.flatnonzero(wanted & (before > 0))
    places = np.flatnonzero(cold)
    begin = np.searchsorted(codes[places], codes[targets])
    rows, earlier = stretches(begin, np.searchsorted(places, targets) - begin)
    without = int(wanted.sum()) - len(targets)
    met = rows, held[places[earlier]]
    return users[targets], held[targets], before[targets], without, met


def histories(held: HeldOut, dataset, rows):
    """What came before some of the targets, as a model reads it.

    ``dataset``: built, without the held-out items.
    ``rows``: which targets.
    Returns user ids, padded histories ``(b, w)`` and their lengths under RecBole's names.
    """
    store = dataset.sorted_interactions
    users, positions = _places(held, dataset, rows)
    lengths = torch.from_numpy(held.history_lengths[rows]).clamp(max=store.max_length)
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
    return users, starts + torch.from_numpy(held.history_lengths[rows])
