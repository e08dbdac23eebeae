"""Metrics by group: tail and head items, short and long users.

LLMEmb's claim is about items and users with few interactions (arXiv 2409.19925,
section 4.3), which an overall mean hides. All counts are of *training*
interactions; under leave-one-out that is every interaction of a user but the last
two, each user's first included.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct

from recbole_llmemb.config.shared import EvaluationSettings
from recbole_llmemb.evaluation.collector import ROW_KEYS, EvalRows
from recbole_llmemb.evaluation.details import PerRowMetrics

GROUP_NAMES = ("tail_items", "head_items", "short_users", "long_users")
"""All groups, in the order in which they are reported."""


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
          the ``n`` items of the catalogue (items never seen in training included);
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

    Accuracy metrics are means over the group's rows. Catalogue metrics
    (``ItemCoverage``, ``AveragePopularity``, ``ShannonEntropy``, ``GiniIndex``,
    ``TailPercentage``) are about the lists recommended to the group, so a smaller
    group covers less of the catalogue for no other reason than its size.

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
    results, metric_names = {}, []
    masks = groups.masks(rows.user_id, rows.item_id)
    for name in GROUP_NAMES:
        chosen = masks[name].nonzero().squeeze(1)
        results[name] = {"users": len(chosen)}
        if len(chosen):
            metrics = evaluator.evaluate(_select(struct, chosen, len(rows)))
            results[name].update({key: _plain(value) for key, value in metrics.items()})
            metric_names = list(metrics)
    for result in results.values():
        if result["users"] == 0:
            result.update(dict.fromkeys(metric_names))
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


def _select(struct, chosen, n_rows) -> DataStruct:
    selected = DataStruct()
    for key, value in struct._data_dict.items():
        if key in ROW_KEYS and isinstance(value, torch.Tensor) and len(value) == n_rows:
            value = value[chosen]
        selected.set(key, value)
    return selected


def _plain(value):
    value = float(value)
    return value if math.isfinite(value) else None


class GroupEvaluator(Evaluator):
    """RecBole's evaluator, which also keeps the metrics of each group of the same rows."""

    def __init__(self, config, collector):
        super().__init__(config)
        self.collector = collector
        self.plain = Evaluator(config)
        self.groups = self.counts = self.group_metrics = self.details = None
        self.keep_details = False

    def know_groups(self, config, train):
        """Tell tail and head items and short and long users apart, by the training split."""
        if hasattr(train, "training_counts"):
            items, users = self.counts = train.training_counts(train)
            self.groups = Groups.from_training(
                items, users, config["tail_item_threshold"], config["short_user_threshold"]
            )

    def evaluate(self, dataobject):
        rows = self.collector.rows
        self.group_metrics = self.details = None
        if self.groups is not None and rows is not None:
            self.group_metrics = group_results(self.plain, dataobject, rows, self.groups)
            if self.keep_details:
                self.details = PerRowMetrics.of(self.plain, dataobject, rows, *self.counts)
        return super().evaluate(dataobject)
