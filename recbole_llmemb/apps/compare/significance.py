"""Paired tests over users, and what many of them at once do to a p-value."""

from __future__ import annotations

import numpy as np

from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.run.per_user import read_users

#: Name on the command line → in words.
TESTS = {
    "t": "two-sided paired t-test",
    "wilcoxon": "two-sided Wilcoxon signed-rank test",
}
LEVELS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


def paired_p(ours, theirs, test: str = "t") -> float:
    """Two-sided p-value of two systems' values on the same users.

    ``ours``, ``theirs``: ``(n_users,)``, the same users in the same order.
    ``test``: one of :data:`TESTS`.
    Returns 1 where no user differs; NaN for fewer than two users.
    """
    from scipy import stats

    difference = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    if len(difference) < 2:
        return float("nan")
    if not difference.any():
        return 1.0
    if test == "wilcoxon":
        return float(stats.wilcoxon(difference).pvalue)
    if difference.std() < 1e-12 * abs(difference.mean()):
        return 0.0  # the same difference for each of them, of which SciPy warns
    return float(stats.ttest_rel(ours, theirs).pvalue)


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
    return next((stars for level, stars in LEVELS if p < level), "")


def values_of(group) -> tuple[list[str], dict[str, np.ndarray]] | None:
    """Each user's metrics, averaged over the group's seeds.

    Returns user tokens and ``{metric: (n_users,)}``; None if not every run has a per-user file.
    """
    if not all(run.users_file for run in group.runs):
        return None
    found = [read_users(run.users_file).by_user() for run in group.runs]
    users = found[0][0]
    for run, (others, _) in zip(group.runs[1:], found[1:], strict=True):
        check_same_users(group.runs[0].users_file, users, run.users_file, others)
    names = [name for name in found[0][1] if all(name in values for _, values in found)]
    return users, {name: np.mean([values[name] for _, values in found], axis=0) for name in names}


def check_same_users(file, users, other_file, others) -> None:
    """Refuse to pair the users of one file with others."""
    if users == others:
        return
    apart = sorted(set(users) ^ set(others))
    raise UserError(
        f"{str(file)!r} and {str(other_file)!r} have different users ({len(users):,} and "
        f"{len(others):,}; in one of them only: {name_some(apart, 3)}), so they cannot be "
        "compared user by user; compare runs on the same data and split."
    )
