"""What becomes of a user's first interaction when a history is made of it."""

from __future__ import annotations

import functools

import numpy as np
import torch


def count_first_interactions() -> None:
    """Let the matrices and counts of sequential data hold each user's first interaction.

    Augmentation leaves it in the histories alone. RecBole looks for it there in ``inter_matrix``
    only, and takes every row for a first one where histories are one item long; popularity
    (``item_counter``) and ``history_item_matrix`` miss it. Here all of them are those of any
    other dataset, over the interactions that augmentation has made the split of.
    """
    from recbole.data.dataset import Dataset, SequentialDataset
    from recbole.data.interaction import Interaction

    def over_interactions(name):
        method = getattr(Dataset, name)

        @functools.wraps(method)
        def on_all(self, *arguments, **options):
            if isinstance(self.inter_feat, Interaction):
                self = self.copy(self.interactions())
            return method(self, *arguments, **options)

        return on_all

    SequentialDataset.interactions = _interactions
    for name in ("inter_matrix", "counter", "_history_matrix"):
        setattr(SequentialDataset, name, over_interactions(name))


def _interactions(self):
    """The interactions of a built split, a line each, as they were before augmentation."""
    from recbole.data.interaction import Interaction

    rows, users = self.inter_feat, self.inter_feat[self.uid_field].numpy()
    _, earliest = np.unique(users, return_index=True)  # rows are in the order of time
    first = earliest[rows[self.item_list_length_field].numpy()[earliest] == 1]
    suffix, columns = self.config["LIST_SUFFIX"], {}
    for field in rows:
        if field + suffix in rows:
            columns[field] = torch.cat([rows[field], rows[field + suffix][first, 0]])
        elif not field.endswith(suffix) and field != self.item_list_length_field:
            columns[field] = torch.cat([rows[field], rows[field][first]])
    return Interaction(columns)
