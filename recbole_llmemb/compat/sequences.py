"""The order of histories, and what becomes of a user's first interaction."""

from __future__ import annotations

import functools

import numpy as np
import torch

from recbole_llmemb.compat.reading import orders_by_time


def keep_times_exact() -> None:
    """Order and split interactions by times of 64 bits; equal ones stay as in the file.

    A model is given them in 32, as before.
    """
    from recbole.data.dataset import Dataset, SequentialDataset

    Dataset._remove_duplication = _by_rank(Dataset._remove_duplication)
    Dataset._user_item_feat_preparation = _in_order(Dataset._user_item_feat_preparation)
    Dataset._dataframe_to_interaction = _in_64_bits(Dataset._dataframe_to_interaction)
    SequentialDataset.data_augmentation = _with_short_lists(SequentialDataset.data_augmentation)
    Dataset.build = _with_short_times(Dataset.build)


def _by_rank(remove_duplication):
    """RecBole sorts by time in a way that mixes up equal ones; here there are none."""

    @functools.wraps(remove_duplication)
    def stable(self):
        inter, field = self.inter_feat, self.time_field
        if self.config["rm_dup_inter"] is None or field not in inter:
            return remove_duplication(self)
        times = inter[field]
        ranks = np.empty(len(inter), dtype=np.int64)
        ranks[times.to_numpy().argsort(kind="stable")] = np.arange(len(inter))
        inter[field] = ranks
        remove_duplication(self)
        self.inter_feat[field] = times[self.inter_feat.index]

    return stable


def _in_order(prepare):
    """Before numbers are scaled, which can make two times one; after the ids are given."""

    @functools.wraps(prepare)
    def sorted_first(self):
        inter, field = self.inter_feat, self.time_field
        if field in inter and orders_by_time(self):
            if self.benchmark_filename_list is None:
                inter = inter.sort_values(field, kind="stable", ignore_index=True)
            if inter[field].dtype != np.float64:  # large whole numbers, in order by now
                inter = inter.astype({field: np.float64})
            self.inter_feat = inter
        return prepare(self)

    return sorted_first


def _in_64_bits(convert):
    @functools.wraps(convert)
    def exact(self, data):
        converted, field = convert(self, data), self.time_field
        if data is self.inter_feat and field in data and orders_by_time(self):
            values = np.array(data[field].tolist() if data[field].dtype == object else data[field])
            converted.interaction[field] = torch.from_numpy(values.astype(np.float64))
        return converted

    return exact


def _with_short_lists(augment):
    @functools.wraps(augment)
    def narrowed(self):
        augment(self)
        _narrow(self.inter_feat, f"{self.time_field}{self.config['LIST_SUFFIX']}")

    return narrowed


def _with_short_times(build):
    @functools.wraps(build)
    def narrowed(self):
        parts = build(self)
        for part in [self, *parts]:
            _narrow(part.inter_feat, self.time_field)
        return parts

    return narrowed


def _narrow(inter, field):
    columns = inter.interaction
    if field in columns and columns[field].dtype == torch.float64:
        columns[field] = columns[field].float()


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
