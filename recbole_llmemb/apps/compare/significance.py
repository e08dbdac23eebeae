"""Whether what users have under two systems differs by more than chance."""

from __future__ import annotations

import numpy as np

#: Paired tests over users: name on the command line → in words.
TESTS = {
    "t": "two-sided paired t-test",
    "wilcoxon": "two-sided Wilcoxon signed-rank test",
}
_LEVELS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


def paired_p(ours, theirs, test: str = "t") -> float:
    """Two-sided p-value of two systems' values ``(n_users,)`` on the same users in one order.

    Returns 1 where no user differs; NaN for fewer than two users.
    """
    from scipy import stats

    difference = _difference(ours, theirs)
    if len(difference) < 2:
        return float("nan")
    if not difference.any():
        return 1.0
    if test == "wilcoxon":
        return float(stats.wilcoxon(difference).pvalue)
    if difference.std() < 1e-12 * abs(difference.mean()):  # which has no t: by their signs
        return float(2 * 0.5 ** len(difference))
    return float(stats.ttest_rel(ours, theirs).pvalue)


def direction(ours, theirs, test: str) -> float:
    """Above 0 where a test of :func:`paired_p` finds the first above the second."""
    from scipy import stats

    difference = _difference(ours, theirs)
    if test == "wilcoxon":
        difference = difference[difference != 0]
        return float((stats.rankdata(np.abs(difference)) * np.sign(difference)).sum())
    return float(difference.sum())


def _difference(ours, theirs) -> np.ndarray:
    """Per user; rounded, as 1 - 2/3 and 1/3 - 0 (means over seeds) are one rank, not two."""
    return np.round(np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float), 9)


def holm(p_values) -> list[float]:
    """Adjust p-values for their number (Holm's step-down method).

    ``p_values``: NaN stays NaN and does not count.
    Returns in the same order; not below the given ones, at most 1.
    """
    adjusted = np.array(p_values, dtype=float)
    counted = np.flatnonzero(~np.isnan(adjusted))
    order = counted[np.argsort(adjusted[counted], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(adjusted[order] * factors), 1.0)
    return adjusted.tolist()


def mark(p: float | None) -> str:
    """``***`` below 0.001, ``**`` below 0.01, ``*`` below 0.05."""
    if p is None or p != p:
        return ""
    return next((stars for level, stars in _LEVELS if p < level), "")
