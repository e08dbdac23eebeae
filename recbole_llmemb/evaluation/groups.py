"""Metrics by group (tail and head items, short and long users) and of single rows.

LLMEmb's claim is about items and users with few interactions (arXiv 2409.19925,
section 4.3), which an overall mean hides. All counts are of *training*
interactions; under leave-one-out that is every interaction of a user but the last
two, each user's first included.
"""

from __future__ import annotations

import copy
import math
import numbers
from dataclasses import dataclass

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.base_metric import TopkMetric
from recbole.evaluator.collector import DataStruct

from recbole_llmemb.config.shared import EvaluationSettings
from recbole_llmemb.evaluation.ranking import EvalRows

GROUP_NAMES = ("tail_items", "head_items", "short_users", "long_users")
"""All groups, in the order in which they are reported."""
# Entries of the data struct with one line per evaluated row.
_ROW_KEYS = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")


@dataclass(frozen=True)
class Groups:
    """Which items are tail items and which users have short histories.

    An evaluated row belongs to ``tail_items`` or ``head_items`` by its target item,
    and to ``short_users`` or ``long_users`` by its user.

    Attributes
    ----------
    tail : torch.BoolTensor
        ``(n_items,)``, by internal item id.
    short : torch.BoolTensor
        ``(n_users,)``, by internal user id.
    labels : dict of str to str
        What each group is, in words, for tables.
    """

    tail: torch.Tensor
    short: torch.Tensor
    labels: dict[str, str]

    @classmethod
    def from_training(cls, item_counts, user_counts, tail_item_threshold, short_user_threshold):
        """Split items and users by their number of training interactions.

        A threshold is either

        - an integer ``n`` >= 1: tail (short) means fewer than ``n`` training
          interactions, as in the paper; or
        - a float ``r`` between 0 and 1: tail are the ``floor(r * n)`` least popular of
          the ``n`` items of the catalog (items never seen in training included);
          short are the same share of the users with at least one training
          interaction, those with the fewest first. Items (users) of equal count are
          taken in the order of their internal ids, so the split is the same at every
          run but does cut through the count at its border.

        Users without any training interaction are short, items without any are tail.

        Parameters
        ----------
        item_counts, user_counts : torch.Tensor
            ``(n_items,)`` and ``(n_users,)`` integers, entry 0 being the padding.
        tail_item_threshold, short_user_threshold : int or float
            See above.

        Raises
        ------
        UserError
            If a threshold is neither form.
        """
        EvaluationSettings.refuse_value("tail_item_threshold", tail_item_threshold)
        EvaluationSettings.refuse_value("short_user_threshold", short_user_threshold)
        item_counts, user_counts = item_counts.cpu(), user_counts.cpu()
        everything = torch.ones_like(item_counts, dtype=torch.bool)
        tail = _below(item_counts, tail_item_threshold, ranked=everything)
        short = _below(user_counts, short_user_threshold, ranked=user_counts > 0)
        few, many = _in_words(tail_item_threshold, "least popular", "other")
        brief, rest = _in_words(short_user_threshold, "shortest", "other")
        labels = {
            "tail_items": f"tail items ({few})",
            "head_items": f"head items ({many})",
            "short_users": f"short users ({brief})",
            "long_users": f"long users ({rest})",
        }
        return cls(tail, short, labels)

    def masks(self, user_ids, item_ids) -> dict[str, torch.Tensor]:
        """Say which rows belong to each group.

        Parameters
        ----------
        user_ids, item_ids : torch.LongTensor
            ``(n_rows,)``. An item id of -1 (a row with several targets) is in neither
            item group.

        Returns
        -------
        dict of str to torch.BoolTensor
            ``(n_rows,)`` for each of :data:`GROUP_NAMES`.
        """
        user_ids, item_ids = user_ids.cpu(), item_ids.cpu()
        one_target = item_ids >= 0
        tail = self.tail[item_ids.clamp(min=0)]
        short = self.short[user_ids]
        return {
            "tail_items": one_target & tail,
            "head_items": one_target & ~tail,
            "short_users": short,
            "long_users": ~short,
        }


def group_results(evaluator, struct, rows: EvalRows, groups: Groups) -> dict[str, dict]:
    """Evaluate every metric of RecBole's evaluator on each group's rows.

    Accuracy metrics are means over the group's rows. Catalog metrics
    (``ItemCoverage``, ``AveragePopularity``, ``ShannonEntropy``, ``GiniIndex``,
    ``TailPercentage``) are about the lists recommended to the group, so a smaller
    group covers less of the catalog for no other reason than its size.

    Parameters
    ----------
    evaluator : recbole.evaluator.Evaluator
    struct : recbole.evaluator.collector.DataStruct
        From :meth:`GroupCollector.get_data_struct`.
    rows : EvalRows
        From :attr:`GroupCollector.rows`, after that call.
    groups : Groups

    Returns
    -------
    dict of str to dict
        For each of :data:`GROUP_NAMES`, ``{"users": n, metric: value, ...}`` with plain
        numbers. A group without rows has ``users`` 0 and ``None`` for every metric, as
        has a metric that is not a number.
    """
    results: dict[str, dict] = {}
    metric_names: list[str] = []
    for name, mask in groups.masks(rows.user_id, rows.item_id).items():
        results[name] = {"users": int(mask.sum())}
        if mask.any():
            metrics = Evaluator.evaluate(evaluator, _of_rows(struct, mask))
            results[name].update({key: _plain(value) for key, value in metrics.items()})
            metric_names = list(metrics)
    for result in results.values():
        for name in metric_names:
            result.setdefault(name, None)
    return results


def _below(counts, threshold, ranked) -> torch.Tensor:
    if isinstance(threshold, numbers.Integral):
        return counts < int(threshold)
    ids = ranked.nonzero().squeeze(1)
    ids = ids[ids > 0]  # 0 is the padding
    # 0.29 * 100 is 28.999999999999996 in floating point and means 29.
    size = math.floor(float(threshold) * len(ids) + 1e-9)
    order = torch.argsort(counts[ids], stable=True)
    below = counts == 0
    below[ids] = False
    below[ids[order[:size]]] = True
    return below


def _in_words(threshold, share_word, rest_word) -> tuple[str, str]:
    if isinstance(threshold, numbers.Integral):
        return f"< {threshold}", f">= {threshold}"
    share = f"{100 * float(threshold):g}%"
    return f"{share_word} {share}", f"{rest_word} {100 * (1 - float(threshold)):g}%"


def _of_rows(struct, mask) -> DataStruct:
    selected = DataStruct()
    for key, value in struct._data_dict.items():
        by_row = key in _ROW_KEYS and isinstance(value, torch.Tensor) and len(value) == len(mask)
        selected.set(key, value[mask] if by_row else value)
    return selected


def _plain(value):
    value = float(value)
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class PerRowMetrics:
    """What an evaluation found for each of its rows."""

    # user_id, item_id: ``(n_rows,)``, RecBole's internal ids; item -1 where a row has several
    # targets.
    user_id: np.ndarray
    item_id: np.ndarray
    # ``(n_rows,)``, training interactions of the target; -1 where there are several.
    popularity: np.ndarray
    history: np.ndarray  # ``(n_rows,)``, training interactions of the user
    # ``{metric: (n_rows,)}``, not rounded. Their means are the overall metrics.
    values: dict[str, np.ndarray]

    @classmethod
    def of(cls, evaluator, struct, rows, item_counts, user_counts):
        """Take an evaluation apart.

        ``struct``: what it is given.
        ``rows``: whose line each line of it is.
        ``item_counts``, ``user_counts``: ``(n_items,)`` and ``(n_users,)`` training interactions.
        """
        users, items = rows.user_id.cpu().numpy(), rows.item_id.cpu().numpy()
        popularity = item_counts.cpu().numpy()[items]
        popularity[items < 0] = -1
        values = row_values(evaluator, struct)
        return cls(users, items, popularity, user_counts.cpu().numpy()[users], values)

    def bins(self) -> dict[str, list[dict]]:
        """Means over the rows by item popularity and by history length, see :func:`bins`."""
        by = {"item_popularity": self.popularity, "history_length": self.history}
        return {name: bins(self.values, counts) for name, counts in by.items()}


def row_values(evaluator, struct) -> dict[str, np.ndarray]:
    """Every metric that is a mean over rows, before the mean is taken.

    Those are RecBole's top-k metrics; what is about the whole catalog or about all rows
    together (``ItemCoverage``, ``GAUC``) is left out.

    Returns ``{"ndcg@10": (n_rows,)}``, float64.
    """
    found = {}
    for metric in evaluator.metric_class.values():
        if isinstance(metric, TopkMetric):
            apart = copy.copy(metric)
            # The one place where RecBole's metrics take the mean over their rows.
            apart.topk_result = lambda name, rows, cutoffs=metric.topk: {
                f"{name}@{k}": rows[:, k - 1].astype(np.float64) for k in cutoffs
            }
            found.update(apart.calculate_metric(struct))
    return found


def bins(values, counts) -> list[dict]:
    """Means by count, in bins that double: 0, 1, 2–3, 4–7, 8–15, …

    They depend on nothing but the counts, so runs on one dataset share them.

    ``values``: ``{metric: (n_rows,)}``.
    ``counts``: ``(n_rows,)`` integers; rows with a negative one are left out.
    Returns ``{"from": 4, "to": 7, "users": n, metric: mean}`` for each bin that has rows.
    """
    _, number = np.frexp(counts)  # 0 → 0, 1 → 1, 2 and 3 → 2, 4 to 7 → 3, …
    number = np.where(counts < 0, -1, number)
    found = []
    for each in np.unique(number[number >= 0]).tolist():
        chosen = number == each
        first, last = (2 ** (each - 1), 2**each - 1) if each else (0, 0)
        means = {name: float(rows[chosen].mean()) for name, rows in values.items()}
        found.append({"from": first, "to": last, "users": int(chosen.sum()), **means})
    return found


class GroupEvaluator(Evaluator):
    """RecBole's evaluator, which also keeps the metrics of each group of the same rows."""

    def __init__(self, config, collector):
        super().__init__(config)
        self.collector = collector
        self.groups = self.counts = self.group_metrics = self.details = None
        self.keep_details = False

    def know_groups(self, train):
        """Tell tail and head items and short and long users apart, by the training split."""
        if hasattr(train, "training_counts"):
            items, users = self.counts = train.training_counts(train)
            thresholds = (self.config[f"{one}_threshold"] for one in ("tail_item", "short_user"))
            self.groups = Groups.from_training(items, users, *thresholds)

    def evaluate(self, dataobject):
        rows = self.collector.rows
        self.group_metrics = self.details = None
        if self.groups is not None and rows is not None:
            self.group_metrics = group_results(self, dataobject, rows, self.groups)
            if self.keep_details:
                self.details = PerRowMetrics.of(self, dataobject, rows, *self.counts)
        return super().evaluate(dataobject)
