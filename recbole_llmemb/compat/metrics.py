"""Catalog metrics by their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recbole_llmemb.compat.changes import around

# Value of some lists of recommended items, (b, k), in which 0 is padding.
Measure = Callable[[Any, np.ndarray, Any], float]


def collect_catalog_metrics() -> None:
    """Give the catalog metrics what their formulas ask for, and let them be collected.

    RecBole's ``Collector`` counts padding among the items, and leaves items that training never
    meets out of the rarest ones. Then it calls ``.cpu()`` on these numbers and fails.
    """
    from recbole.evaluator import Collector

    @around(Collector, "data_collect")
    def without_padding(data_collect, self, train_data):
        data_collect(self, train_data)
        struct, items = self.data_struct, train_data.dataset.num(self.config["ITEM_ID_FIELD"])
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
