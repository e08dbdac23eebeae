"""What RecBole's datasets make of what was read, and catalog metrics by their definitions."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from recbole_llmemb.compat.reading import ListFrame, orders_by_time
from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.core.imports import around

# Value of some lists of recommended items, (b, k), in which 0 is padding.
Measure = Callable[[Any, np.ndarray, Any], float]


def fill_missing_values() -> None:
    """Fill missing tokens with 0 ([PAD]), numbers with their mean, sequences with nothing.

    RecBole writes ``feat[field].fillna(..., inplace=True)``. pandas 3 hands out a copy there, so
    that missing values silently stay (and sequence fields crash).
    """
    from recbole.data.dataset import Dataset
    from recbole.utils import FeatureType

    def _fill_nan(self):
        for name in self.feat_name_list:
            feat = getattr(self, name)
            for field in feat:
                kind = self.field2type[field]
                if kind == FeatureType.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif kind == FeatureType.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
                else:
                    empty = np.array([], dtype=int if kind == FeatureType.TOKEN_SEQ else float)
                    filled = [empty if isinstance(x, float) else x for x in feat[field]]
                    feat[field] = pd.Series(filled, index=feat.index, dtype=object)

    Dataset._fill_nan = _fill_nan


def name_filters_that_leave_nothing() -> None:
    """Name the settings that left a dataset without interactions, or filter by no field."""
    from recbole.data.dataset import Dataset

    @around(Dataset, "_filter_by_field_value")
    def known(filter_values, self):
        absent = sorted((self.config["val_interval"] or {}).keys() - self.field2type)
        if absent:
            told = f"val_interval names {absent[0]!r}, which is no field of {self.dataset_name} "
            raise UserError(f"{told}that is read; add it to load_col.", key="val_interval")
        for field, wanted in (self.config["val_interval"] or {}).items():
            kind, interval, why = self.field2type[field].value, isinstance(wanted, str), ""
            if kind.endswith("seq"):
                why = "has a list in each line; take another field"
            elif interval and kind != "float":
                why = "has no numbers; list the values that stay"
            elif not interval and kind == "float":
                why = "has numbers; give intervals, as '[3,5]'"
            if why:
                told = f"val_interval has {wanted!r:.80} for {field}, which {why}."
                raise UserError(told, key="val_interval")
            met = set() if interval else {v for f in self.field2feats(field) for v in f[field]}
            if absent := [value for value in wanted if not interval and value not in met]:
                told = f"val_interval names {name_some(absent)} of {field}, which no line has"
                self.logger.warning(f"{told}; tokens are text, in quotes.")
        filter_values(self)

    @around(Dataset, "_reset_index")
    def checked(reset_index, self):
        if self.inter_feat.empty:
            keys = "val_interval, user_inter_num_interval, item_inter_num_interval and load_col"
            told = f"Dataset {self.dataset_name}: no interactions are left after {keys}"
            raise UserError(f"{told}; filter less.", key="val_interval")
        reset_index(self)


def tell_filtered_interactions() -> None:
    """Say how many interactions go because their user or item has no line in its file."""
    from recbole.data.dataset import Dataset

    @around(Dataset, "_filter_inter_by_user_or_item")
    def told(filter_inter, self):
        before = len(self.inter_feat)
        filter_inter(self)
        if gone := before - len(self.inter_feat):
            told = f"{gone} of {before} interactions of {self.dataset_name} left out"
            why = "whose user or item has no line in the .user or .item file"
            advice = "set filter_inter_by_user_or_item: False to keep them"
            self.logger.warning(f"{told}, {why}; {advice}.")


def check_presplit_histories() -> None:
    """Say what RecBole's sequential models need of files that are split already.

    Without a list of items per line they end in an AttributeError. Without an alias that
    says that the list holds items, its tokens are numbered for themselves, so that models
    read other items than the files name. Over longer lists than they have positions for they end
    in an IndexError.
    """
    from recbole.data.dataset import SequentialDataset

    @around(SequentialDataset, "_benchmark_presets")
    def checked(presets, self):
        listed = f"{self.iid_field}{self.config['LIST_SUFFIX']}"
        if listed not in self.inter_feat:
            told = f"benchmark_filename: RecBole's own models read histories from a column {listed}"
            advice = f"name it in load_col, or train LLMEmb{self.config['model']}, which makes them"
            raise UserError(f"{told}, which is not loaded; {advice}.")
        if listed not in self.alias["item_id"]:
            told = f"benchmark_filename: {listed} holds items only where RecBole is told so"
            raise UserError(f"{told}; set alias_of_item_id: [{listed}].")
        longest, key = max(map(len, self.inter_feat[listed])), "MAX_ITEM_LIST_LENGTH"
        if longest > self.config[key]:  # of positions, which most models embed
            told = f"{listed} has up to {longest} items, and {key} is {self.config[key]}"
            raise UserError(f"{told}; set {key}: {longest}, or write shorter lists.", key=key)
        presets(self)


def refuse_columns_called_as_what_is_made() -> None:
    """Refuse fields that are called as the histories, or their lengths, which RecBole makes.

    It puts one in the place of the other, without a word.
    """
    from recbole.data.dataset import SequentialDataset

    @around(SequentialDataset, "_aug_presets")
    def checked(presets, self):
        fields = [field for field in self.inter_feat if field != self.uid_field]
        listed = {field + self.config["LIST_SUFFIX"]: "LIST_SUFFIX" for field in fields}
        length = self.item_list_length_field
        for name, key in [(length, "ITEM_LIST_LENGTH_FIELD"), *listed.items()]:
            if name in self.field2type or (name == length and name in listed):
                told = f"{name} is to be made of histories, but dataset {self.dataset_name} has it"
                advice = f"rename it, leave it out of load_col, or set {key} to another name"
                raise UserError(f"{told}; {advice}.", key=key)
        presets(self)


def keep_times_exact() -> None:
    """Order and split interactions by times of 64 bits; equal ones stay as in the file.

    A model is given them in 32, as before.
    """
    from recbole.data.dataset import Dataset, SequentialDataset

    @around(Dataset, "_remove_duplication")
    def by_rank(remove_duplication, self):
        """RecBole sorts by time in a way that mixes up equal ones; here there are none."""
        inter, field = self.inter_feat, self.time_field
        if self.config["rm_dup_inter"] is None or field not in inter:
            return remove_duplication(self)
        times = inter[field]
        ranks = np.empty(len(inter), dtype=np.int64)
        ranks[times.to_numpy().argsort(kind="stable")] = np.arange(len(inter))
        inter[field] = ranks
        remove_duplication(self)
        self.inter_feat[field] = times[self.inter_feat.index]

    @around(Dataset, "_user_item_feat_preparation")
    def in_order(prepare, self):
        """Before numbers are scaled, which can make two times one; after the ids are given."""
        inter, field = self.inter_feat, self.time_field
        if field in inter and orders_by_time(self):
            if self.benchmark_filename_list is None:
                inter = inter.sort_values(field, kind="stable", ignore_index=True)
            if inter[field].dtype != np.float64:  # large whole numbers, in order by now
                inter = inter.astype({field: np.float64})
            self.inter_feat = inter
        prepare(self)
        for name in ("user_feat", "item_feat"):  # merged with frames of another kind
            if getattr(self, name) is not None:
                setattr(self, name, ListFrame(getattr(self, name)))

    @around(Dataset, "_dataframe_to_interaction")
    def in_64_bits(convert, self, data):
        """Of copies: pandas 3 hands out read-only columns, whose memory a tensor would share."""
        copies = {name: data[name].to_numpy(copy=True) for name in data}
        columns = {name: types.SimpleNamespace(values=copy) for name, copy in copies.items()}
        converted, field = convert(self, columns), self.time_field
        if data is self.inter_feat and field in data and orders_by_time(self):
            values = copies[field]
            values = np.array(values.tolist()) if values.dtype == object else values
            converted.interaction[field] = torch.from_numpy(values.astype(np.float64))
        return converted

    @around(SequentialDataset, "data_augmentation")
    def with_short_lists(augment, self):
        augment(self)
        _narrow(self.inter_feat, f"{self.time_field}{self.config['LIST_SUFFIX']}")

    @around(Dataset, "build")
    def with_short_times(build, self):
        parts = build(self)
        for part in [self, *parts]:
            _narrow(part.inter_feat, self.time_field)
        return parts


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

    SequentialDataset.interactions = _interactions
    for name in ("inter_matrix", "counter", "_history_matrix"):
        setattr(SequentialDataset, name, getattr(Dataset, name))

        @around(SequentialDataset, name)
        def on_all(method, self, *arguments, **options):
            if isinstance(self.inter_feat, Interaction):
                self = self.copy(self.interactions())
            return method(self, *arguments, **options)


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


def collect_catalog_metrics() -> None:
    """Give the catalog metrics what their formulas ask for, and let them be collected.

    RecBole's ``Collector`` counts padding among the items, and leaves items that training never
    meets out of the rarest ones. Then it calls ``.cpu()`` on these numbers and fails.
    """
    from recbole.evaluator import Collector

    @around(Collector, "data_collect")
    def without_padding(data_collect, self, train_data):
        dataset = train_data._dataset  # loaders of knowledge graphs have it under this name alone
        data_collect(self, types.SimpleNamespace(dataset=dataset))
        struct, items = self.data_struct, dataset.num(self.config["ITEM_ID_FIELD"])
        if "data.num_items" in struct:
            struct["data.num_items"] = items - 1
        if "data.count_items" in struct:
            never = dict.fromkeys(range(1, items), 0)
            struct["data.count_items"] = never | dict(struct["data.count_items"])

    @around(Collector, "get_data_struct")
    def of_tensors(get_data_struct, self):
        collected = self.data_struct._data_dict
        plain = {key: value for key, value in collected.items() if not hasattr(value, "cpu")}
        for key in plain:
            del collected[key]
        struct = get_data_struct(self)
        collected.update(plain)
        struct._data_dict.update(plain)
        return struct


def compute_catalog_metrics() -> None:
    """Compute metrics of what is recommended as RecBole documents them.

    It divides the entropy by the number of recommended items, and takes the padding that fills
    up a list for one of them, a popular and a rare one too.
    """
    from recbole.evaluator import metrics

    measures = {
        "AveragePopularity": _mean_of(lambda metric, counts: counts),
        "TailPercentage": _mean_of(_rare),
        "ItemCoverage": _coverage,
        "ShannonEntropy": _entropy,
        "GiniIndex": _gini,
    }
    for name, measure in measures.items():
        getattr(metrics, name).calculate_metric = _calculated(name.lower(), measure)


def _calculated(name: str, measure: Measure):
    def calculate_metric(self, dataobject):
        lists = dataobject.get("rec.items").numpy()
        found = {k: float(measure(self, lists[:, :k], dataobject)) for k in self.topk}
        return {f"{name}@{k}": round(value, self.decimal_place) for k, value in found.items()}

    return calculate_metric


def _times(lists):
    """How often each recommended item is, fewest first."""
    return np.sort(np.unique(lists[lists > 0], return_counts=True)[1])


def _coverage(metric, lists, dataobject):
    return len(_times(lists)) / dataobject.get("data.num_items")


def _entropy(metric, lists, dataobject):
    times = _times(lists)
    share = times / times.sum()
    return -(share * np.log(share)).sum()


def _gini(metric, lists, dataobject):
    times, n = _times(lists), dataobject.get("data.num_items")
    rank = np.arange(n - len(times) + 1, n + 1)
    return ((2 * rank - n - 1) * times).sum() / (n * times.sum())


def _mean_of(value: Callable[[Any, np.ndarray], np.ndarray]) -> Measure:
    """The mean over lists of the mean over their items of a value by item, ``(n_items,)``."""

    def measure(metric, lists, dataobject):
        counts = dataobject.get("data.count_items")
        of_item = np.zeros(max([lists.max(initial=0), *counts]) + 1, dtype=np.int64)
        of_item[list(counts)] = list(counts.values())
        items = (lists > 0).sum(axis=1)
        sums = (value(metric, of_item)[lists] * (lists > 0)).sum(axis=1)
        return (sums[items > 0] / items[items > 0]).mean()

    return measure


def _rare(metric, counts):
    """Whether an item's count is among the lowest: at most ``tail``, or in that share of items."""
    if metric.tail > 1:
        return counts <= metric.tail
    items = np.arange(1, len(counts))
    rarest = items[np.argsort(counts[items], kind="stable")]
    few = rarest[: max(int(len(items) * metric.tail), 1)]
    return np.isin(np.arange(len(counts)), few)
