"""Rows of a sequential dataset that know their history instead of holding it.

RecBole writes every history prefix of every user into a padded matrix
(``n_interactions × MAX_ITEM_LIST_LENGTH`` int64 for each list field, filled by a
Python loop). Here a row keeps only where its target lies in the interactions sorted
by user and time, and how many interactions before it are its history; the padded
lists are gathered for the rows of a batch when the batch is asked for, in another
order or of a sample of users where that is wanted.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from recbole.data.dataset import DIENDataset, SequentialDataset
from recbole.data.interaction import Interaction

from recbole_llmemb.core.imports import around
from recbole_llmemb.data.windows import stretches

#: Column with the position of a row's target in the sorted interactions.
POSITION = "_target_position"
# Odd constants that scatter neighboring numbers (Knuth's, and two of SplitMix64's).
_SCATTER = (6364136223846793005, 1442695040888963407, -4658895280553007687)


class SortedInteractions:
    """All interactions sorted by user, then time; shared by every split of a dataset.

    ``fields``: one tensor per field, each with one row per interaction.
    ``list_fields``: for each list field (``item_id_list``) the field it lists (``item_id``).
    ``max_length``: longest history kept, ``MAX_ITEM_LIST_LENGTH``.
    """

    def __init__(self, fields, list_fields, max_length):
        self.fields = fields
        self.list_fields = list_fields
        self.max_length = max_length

    def history(self, list_field, positions, lengths, width=None):
        """Gather padded histories, oldest first, padding on the right.

        ``list_field``: which list to build.
        ``positions``, ``lengths`` (n,): where each row's target lies and how long its history is.
        ``width``: columns of the result; defaults to ``max_length``.
        Returns zero where a history is shorter than ``width``.
        """
        values = self.fields[self.list_fields[list_field]]
        offsets = torch.arange(width or self.max_length)
        index = (positions - lengths).unsqueeze(-1) + offsets  # also of a single row, without n
        mask = offsets < lengths.unsqueeze(-1)
        # A row near the end of the data points past it where its mask is off.
        gathered = values[index.clamp_(max=len(values) - 1)]
        more = gathered.dim() - mask.dim()
        return gathered * mask.view(*mask.shape, *[1] * more).to(gathered.dtype)

    def before(self, user_field, item_field, positions, users=None):
        """All that the users of some rows met before their targets, however long ago.

        ``positions`` (n,): where each row's target lies.
        ``users`` (n,): whose rows they are, where no interaction of theirs lies there.
        Returns (m,): Row numbers, in ascending order, and the items.
        """
        owners = self.fields[user_field]
        starts = torch.searchsorted(owners, owners[positions] if users is None else users)
        found = stretches(starts.numpy(), (positions - starts).numpy())
        rows, places = map(torch.from_numpy, found)
        return rows, self.fields[item_field][places]


class LazyInteraction(Interaction):
    """An :class:`~recbole.data.interaction.Interaction` whose list fields are gathered on demand.

    Behaves like RecBole's for sorting, splitting and indexing, and stays lazy through
    them; :meth:`materialize` gives a plain interaction with the lists in it.
    """

    def __init__(self, columns, store, length_field):
        super().__init__(columns)
        self.store = store
        self.length_field = length_field

    def __getitem__(self, index):
        if isinstance(index, str):
            if index in self.store.list_fields and index not in self.interaction:
                return self._history(index)
            return self.interaction[index]
        if isinstance(index, (list, range, np.ndarray)):
            index = torch.as_tensor(np.asarray(index))
            if index.numel() == 0:
                index = index.long()
        columns = {name: column[index] for name, column in self.interaction.items()}
        return LazyInteraction(columns, self.store, self.length_field)

    def __contains__(self, item):
        return item in self.interaction or item in self.store.list_fields

    def _history(self, list_field):
        positions, lengths = self.interaction[POSITION], self.interaction[self.length_field]
        return self.store.history(list_field, positions, lengths)

    def materialize(self):
        """A plain interaction with the list fields of these rows gathered."""
        columns = {name: col for name, col in self.interaction.items() if name != POSITION}
        for list_field in self.store.list_fields:
            columns[list_field] = self._history(list_field)
        return Interaction(columns)


def install():
    """Let RecBole's datasets note where targets lie, where ``exclude_history`` is set."""
    for kind in (SequentialDataset, DIENDataset):

        @around(kind, "data_augmentation")
        def noted(augment, self):
            augment(self)
            if self.config["exclude_history"]:
                self.sorted_interactions, positions = interactions_of(self)
                self.inter_feat.update(Interaction({POSITION: positions}))


def interactions_of(dataset):
    """Users and items of all interactions in order, from the rows made of them.

    ``dataset``: augmented: a row for each interaction but each user's first.
    Returns the :class:`SortedInteractions`, and where in them each row's target lies,
    ``(n_rows,)``.
    """
    inter, count = dataset.interactions(), len(dataset.inter_feat)
    users = inter[dataset.uid_field].numpy()
    order = np.lexsort((np.arange(len(users)) < count, users))  # each user's first ones come last
    fields = {name: inter[name][order] for name in (dataset.uid_field, dataset.iid_field)}
    store = SortedInteractions(fields, {}, dataset.max_item_list_len)
    return store, torch.from_numpy(np.argsort(order)[:count])


def shuffled_order(keys, lengths, width, seed, last=None):
    """An order of the columns of right-padded histories, at random where there are items.

    The same row (by its key) gets the same order whatever batch it is in.

    ``keys``, ``lengths`` (…): of any shape.
    ``last``: only this many items at the end of each history change places; all by default.
    Returns (…, width).
    """
    column = torch.arange(width, device=keys.device)
    keys, lengths = keys.unsqueeze(-1), lengths.unsqueeze(-1)
    one, two, three = _SCATTER
    begin = torch.tensor((seed + 1) % 2**31, device=keys.device) * three
    draw = (keys + 1) * one + (column + 1) * two + begin
    for _ in range(2):
        draw = (draw ^ (draw >> 31)) * one
    draw = ((draw >> 11) & (2**40 - 1)).double() / 2**40
    draw = torch.where(column >= lengths, column + 1.0, draw)
    if last is not None:
        draw = torch.where(column < lengths - last, column - float(width), draw)
    return draw.argsort(-1)


class ShuffledInteractions(SortedInteractions):
    """Sorted interactions whose histories hold the right items in the wrong order.

    Only items change places: times and whatever else is listed stay, so that a prompt that
    names dates does not give the order away.
    """

    def __init__(self, store, item_field, user_field, seed, last=None):
        super().__init__(store.fields, store.list_fields, store.max_length)
        self.item_field, self.user_field = item_field, user_field
        self.seed, self.last = seed, last

    def history(self, list_field, positions, lengths, width=None):
        """As of :class:`SortedInteractions`; items are shuffled."""
        rows = super().history(list_field, positions, lengths, width)
        if self.list_fields[list_field] != self.item_field:
            return rows
        keys = row_keys(self.fields[self.user_field][positions], lengths)
        order = shuffled_order(keys, lengths, rows.shape[-1], self.seed, self.last)
        return rows.gather(-1, order)


def row_keys(users, lengths):
    """What tells one history from another: whose it is, and how long."""
    return users * 1_000_003 + lengths


def with_shuffled_histories(dataset, seed, last=None):
    """A copy of a built split whose histories are shuffled; targets and rows stay.

    ``dataset``: ours or RecBole's.
    """
    rows = dataset.inter_feat
    length_field = dataset.item_list_length_field
    if isinstance(rows, LazyInteraction):
        store = ShuffledInteractions(rows.store, dataset.iid_field, dataset.uid_field, seed, last)
        return dataset.copy(LazyInteraction(rows.interaction, store, length_field))
    lists, lengths = rows[dataset.item_id_list_field], rows[length_field]
    keys = row_keys(rows[dataset.uid_field], lengths)
    shuffled = lists.gather(1, shuffled_order(keys, lengths, lists.shape[1], seed, last))
    return dataset.copy(Interaction({**rows.interaction, dataset.item_id_list_field: shuffled}))


def batch_of(columns):
    """Columns ``(b,)`` and ``(b, L)`` by field, as models take them."""
    return Interaction(columns)


def with_shuffled_sequences(dataset, seed):
    """A copy of a training split in which each user's items are in another order.

    For models that train on every item of a sequence, where there is no target apart from the
    history. What is held out for evaluation stays where it is.
    """
    rows, store = dataset.inter_feat, dataset.inter_feat.store
    users, items = store.fields[dataset.uid_field], store.fields[dataset.iid_field]
    used = dataset.positions()  # by user, in order
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(len(used), generator=generator, dtype=torch.float64)
    order = np.lexsort((draw.numpy(), users[used].numpy()))
    fields = {**store.fields, dataset.iid_field: items.clone()}
    fields[dataset.iid_field][used] = items[used[order]]
    shuffled = SortedInteractions(fields, store.list_fields, store.max_length)
    columns = dict(rows.interaction)
    columns[dataset.iid_field] = fields[dataset.iid_field][columns[POSITION]]
    split = dataset.copy(LazyInteraction(columns, shuffled, dataset.item_list_length_field))
    split.sorted_interactions = shuffled
    return split


def with_sampled_users(dataset, count, seed=0):
    """A copy of a built split with the rows of ``count`` users, the same in every split.

    Users are chosen by a hash of their tokens, so the same for every model and every run.
    """
    rows = dataset.inter_feat
    keep = sampled_users(dataset, count, seed)[rows[dataset.uid_field].numpy()]
    return dataset.copy(rows[np.flatnonzero(keep)])


def _over(key, change):
    """What makes of a loader one over a changed dataset, where a configuration has ``key``."""

    def over(loader):
        def changed(config, dataset, sampler, shuffle=False):
            if config[key]:
                dataset = change(dataset, config)
            return loader(config, dataset, sampler, shuffle=shuffle)

        return changed

    return over


over_shuffled = _over(
    "shuffle_train", lambda dataset, config: with_shuffled_sequences(dataset, config["seed"])
)
over_sampled = _over(
    "user_sample", lambda dataset, config: with_sampled_users(dataset, config["user_sample"])
)


def sampled_users(dataset, count, seed=0):
    """Whether each user id is among the ``count`` chosen ones, ``bool (n_users,)``."""
    tokens = dataset.field2id_token[dataset.uid_field]
    digests = [hashlib.blake2b(f"{seed} {token}".encode(), digest_size=8) for token in tokens]
    draws = np.frombuffer(b"".join(each.digest() for each in digests), dtype=">u8")
    chosen = np.zeros(len(tokens), dtype=bool)
    chosen[1 + np.argsort(draws[1:], kind="stable")[:count]] = True
    return chosen
