"""Rows of RecBole's own sequential data that know all that came before their targets.

RecBole keeps the last ``MAX_ITEM_LIST_LENGTH`` items of a history only. To take a history out of
a ranking, all of it must be known.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from recbole.data.dataset import DIENDataset, SequentialDataset
from recbole.data.interaction import Interaction

from recbole_llmemb.data.lazy import POSITION, SortedInteractions


def install():
    """Let RecBole's datasets note where targets lie, where ``exclude_history`` is set."""
    for kind in (SequentialDataset, DIENDataset):
        kind.data_augmentation = _with_positions(kind.data_augmentation)


def _with_positions(augment):
    @functools.wraps(augment)
    def noted(self):
        augment(self)
        if self.config["exclude_history"]:
            self.sorted_interactions, positions = interactions_of(self)
            self.inter_feat.update(Interaction({POSITION: positions}))

    return noted


def interactions_of(dataset):
    """Users and items of all interactions in order, from the rows made of them.

    ``dataset``: augmented: a row for each interaction but each user's first.
    Returns the :class:`SortedInteractions`, and where in them each row's target lies,
    ``(n_rows,)``.
    """
    rows = dataset.inter_feat
    users, items = rows[dataset.uid_field].numpy(), rows[dataset.iid_field].numpy()
    first = np.r_[True, users[1:] != users[:-1]][: len(users)]
    began = rows[dataset.item_id_list_field][:, 0].numpy()[first]
    fields = {
        dataset.uid_field: np.insert(users, np.flatnonzero(first), users[first]),
        dataset.iid_field: np.insert(items, np.flatnonzero(first), began),
    }
    fields = {name: torch.from_numpy(values) for name, values in fields.items()}
    store = SortedInteractions(fields, {}, dataset.max_item_list_len)
    return store, torch.from_numpy(np.arange(len(users)) + np.cumsum(first))
