"""Rows of a sequential dataset that know their history instead of holding it.

RecBole writes every history prefix of every user into a padded matrix
(``n_interactions × MAX_ITEM_LIST_LENGTH`` int64 for each list field, filled by a
Python loop). Here a row keeps only where its target lies in the interactions sorted
by user and time, and how many interactions before it are its history; the padded
lists are gathered for the rows of a batch when the batch is asked for.
"""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.dataset import DIENDataset, SequentialDataset
from recbole.data.interaction import Interaction

from recbole_llmemb.compat.changes import around
from recbole_llmemb.data.windows import stretches

#: Column with the position of a row's target in the sorted interactions.
POSITION = "_target_position"


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
