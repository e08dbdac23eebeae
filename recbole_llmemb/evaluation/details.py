"""Metrics of single rows, and their means by item popularity and by history length."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from recbole.evaluator.base_metric import TopkMetric


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
        """Means over the rows of each bin, see :func:`bins`.

        Returns ``item_popularity`` and ``history_length``.
        """
        return {
            "item_popularity": bins(self.values, self.popularity),
            "history_length": bins(self.values, self.history),
        }


def row_values(evaluator, struct) -> dict[str, np.ndarray]:
    """Every metric that is a mean over rows, before the mean is taken.

    Those are RecBole's top-k metrics; what is about the whole catalogue or about all rows
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
