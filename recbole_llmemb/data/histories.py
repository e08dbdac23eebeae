"""Histories in another order, and samples of users."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_llmemb.data.lazy import POSITION, LazyInteraction, SortedInteractions

# Odd constants that scatter neighboring numbers (Knuth's, and two of SplitMix64's).
_SCATTER = (6364136223846793005, 1442695040888963407, -4658895280553007687)


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

    ``last``: see :func:`shuffled_order`.
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
    ``last``: see :func:`shuffled_order`.
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

    ``dataset``: the training split.
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


def sampled_users(dataset, count, seed=0):
    """Whether each user id is among the ``count`` chosen ones, ``bool (n_users,)``."""
    tokens = dataset.field2id_token[dataset.uid_field]
    digests = [hashlib.blake2b(f"{seed} {token}".encode(), digest_size=8) for token in tokens]
    draws = np.frombuffer(b"".join(each.digest() for each in digests), dtype=">u8")
    chosen = np.zeros(len(tokens), dtype=bool)
    chosen[1 + np.argsort(draws[1:], kind="stable")[:count]] = True
    return chosen
