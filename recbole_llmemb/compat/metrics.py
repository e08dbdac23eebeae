"""Catalogue metrics by their definitions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np


def collect_catalogue_metrics() -> None:
    """Give the catalogue metrics what their formulas ask for, and let them be collected.

    RecBole's ``Collector`` counts padding among the items, and leaves items that training never
    meets out of the rarest ones. Then it calls ``.cpu()`` on these numbers and fails.
    """
    from recbole.evaluator import Collector

    data_collect, get_data_struct = Collector.data_collect, Collector.get_data_struct

    @functools.wraps(data_collect)
    def without_padding(self, train_data):
        data_collect(self, train_data)
        struct, items = self.data_struct, train_data.dataset.num(self.config["ITEM_ID_FIELD"])
        if "data.num_items" in struct:
            struct["data.num_items"] = items - 1
        if "data.count_items" in struct:
            struct["data.count_items"] = dict.fromkeys(range(1, items), 0) | dict(
                struct["data.count_items"]
            )

    @functools.wraps(get_data_struct)
    def of_tensors(self):
        collected = self.data_struct._data_dict
        plain = {key: value for key, value in collected.items() if not hasattr(value, "cpu")}
        for key in plain:
            del collected[key]
        struct = get_data_struct(self)
        collected.update(plain)
        struct._data_dict.update(plain)
        return struct

    Collector.data_collect, Collector.get_data_struct = without_padding, of_tensors


def compute_catalogue_metrics() -> None:
    """Compute metrics of what is recommended as RecBole documents them.

    It divides the entropy by the number of recommended items, and takes the padding that fills
    up a list for one of them, a popular and a rare one too.
    """
    from recbole.evaluator import metrics

    def measure(name: str, of: Callable[[np.ndarray, Any], float]):
        def calculate_metric(self, dataobject):
            lists = dataobject.get("rec.items").numpy()
            found = {}
            for k in self.topk:
                top = lists[:, :k]
                # How often each recommended item is, fewest first; 0 is padding.
                times = np.sort(np.unique(top[top > 0], return_counts=True)[1])
                found[f"{name}@{k}"] = round(of(times, dataobject), self.decimal_place)
            return found

        return calculate_metric

    def coverage(times, dataobject):
        return len(times) / dataobject.get("data.num_items")

    def entropy(times, dataobject):
        share = times / times.sum()
        return float(-(share * np.log(share)).sum())

    def gini(times, dataobject):
        n = dataobject.get("data.num_items")
        rank = np.arange(n - len(times) + 1, n + 1)
        return float(((2 * rank - n - 1) * times).sum() / (n * times.sum()))

    def mean_over_lists(name: str, of: Callable[[Any, np.ndarray], np.ndarray]):
        def calculate_metric(self, dataobject):
            lists, counts = dataobject.get("rec.items").numpy(), dataobject.get("data.count_items")
            of_item = np.zeros(max([lists.max(initial=0), *counts]) + 1, dtype=np.int64)
            of_item[list(counts)] = list(counts.values())
            values, found = of(self, of_item)[lists] * (lists > 0), {}
            for k in self.topk:
                items = (lists[:, :k] > 0).sum(axis=1)
                means = values[:, :k].sum(axis=1)[items > 0] / items[items > 0]
                found[f"{name}@{k}"] = round(float(means.mean()), self.decimal_place)
            return found

        return calculate_metric

    def popularity(metric, counts):
        return counts

    def rare(metric, counts):
        items = np.arange(1, len(counts))
        rarest = items[np.argsort(counts[items], kind="stable")]
        few = rarest[: max(int(len(items) * metric.tail), 1)]
        return counts <= metric.tail if metric.tail > 1 else np.isin(np.arange(len(counts)), few)

    metrics.AveragePopularity.calculate_metric = mean_over_lists("averagepopularity", popularity)
    metrics.TailPercentage.calculate_metric = mean_over_lists("tailpercentage", rare)
    metrics.ItemCoverage.calculate_metric = measure("itemcoverage", coverage)
    metrics.ShannonEntropy.calculate_metric = measure("shannonentropy", entropy)
    metrics.GiniIndex.calculate_metric = measure("giniindex", gini)
