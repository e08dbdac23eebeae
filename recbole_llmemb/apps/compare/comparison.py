"""Means and spreads over seeds, changes against a baseline, and whether they can be chance."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

from recbole_llmemb.apps.compare.significance import (
    TESTS,
    check_same_users,
    holm,
    paired_p,
    values_of,
)
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.evaluation.groups import GROUP_NAMES

_SMALLER = ("averagepopularity", "giniindex", "logloss", "mae", "rmse")


@dataclass(frozen=True)
class Cell:
    """One number of a table."""

    mean: float | None  # Over seeds; None where it does not exist
    std: float | None = None  # Sample standard deviation over seeds; None for a single one
    # Relative to the baseline, 0.1 for 10% more; None for the baseline itself.
    change: float | None = None
    p: float | None = None  # Adjusted p-value against the baseline, where it was tested
    best: bool = False  # Whether no group has more, to the digits shown


@dataclass
class Comparison:
    """Everything that tables and figures show."""

    groups: list  # The baseline first
    dataset: str
    metrics: list[str]
    main: str  # The metric of the figures and of the table by group
    overall: list[dict] = field(default_factory=list)  # ``{metric: Cell}`` for each group
    # ``{group name: Cell}`` of the main metric, by tail and head items, short and long users; empty
    # where the files do not have them or they are not of the same rows.
    by_group: list[dict] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)  # Rows of each of these
    test: str | None = None  # The test in words, if there was one
    notes: list[str] = field(default_factory=list)  # What readers should know, in whole sentences

    @property
    def runs(self) -> list:
        return [run for group in self.groups for run in group.runs]


def compare(groups, metrics=None, main=None, test="t") -> Comparison:
    """Compare groups of runs; the first is the baseline.

    ``metrics``: the columns; all that the files have if not given.
    ``main``: metric of the figures; the runs' ``valid_metric``, or NDCG@10, if not given.
    ``test``: one of :data:`~recbole_llmemb.apps.compare.significance.TESTS`.
    """
    runs = [run for group in groups for run in group.runs]
    _check_alike(runs)
    metrics = _choose_metrics(runs, metrics)
    main = _main_metric(runs, metrics, main)
    found = Comparison(groups, runs[0].dataset, metrics, main)
    p_values = _test(found, test)
    for place, group in enumerate(groups):
        cells = {}
        for metric in metrics:
            values = [run.test[metric] for run in group.runs]
            theirs = [run.test[metric] for run in groups[0].runs] if place else None
            cells[metric] = _cell(values, theirs, p_values.get((place, metric)))
        found.overall.append(cells)
    found.overall = _with_best(found.overall, is_smaller_better)
    _by_group(found)
    if any(len(group.runs) == 1 for group in groups):
        found.notes.append("A value without ± is of one run; it says nothing about its spread.")
    return found


def _check_alike(runs):
    first = runs[0]
    for run in runs[1:]:
        if run.dataset != first.dataset:
            raise UserError(
                f"{str(first.file)!r} is of dataset {first.dataset} and {str(run.file)!r} of "
                f"{run.dataset}; compare runs on one dataset at a time."
            )
        if None not in (run.rows, first.rows) and run.rows != first.rows:
            raise UserError(
                f"{str(first.file)!r} was tested on {first.rows:,} rows and {str(run.file)!r} on "
                f"{run.rows:,}; compare runs on the same data and split."
            )
        ours, theirs = first.config.get("eval_args"), run.config.get("eval_args")
        if ours and theirs and ours != theirs:
            raise UserError(
                f"{str(first.file)!r} was tested under eval_args {ours} and {str(run.file)!r} "
                f"under {theirs}, whose numbers say nothing about each other; compare runs "
                "under the same."
            )
        ours, theirs = (run.config.get("exclude_history", False) for run in (first, run))
        if ours != theirs:
            raise UserError(
                f"{str(first.file)!r} was tested with exclude_history: {ours} and "
                f"{str(run.file)!r} with exclude_history: {theirs}, which are two measures; "
                "compare runs under the same, or evaluate their checkpoints under both "
                "(recbole-llm order-test --exclude_history=False,True)."
            )


def _choose_metrics(runs, wanted):
    first = runs[0]
    common = [name for name in first.test if all(name in run.test for run in runs)]
    wanted = [name.lower() for name in wanted] if wanted else None
    for run in runs:
        lacking = [name for name in wanted or first.test if name not in run.test]
        extra = [] if wanted else [name for name in run.test if name not in first.test]
        if not (lacking or extra):
            continue
        advice = f"add --metrics={','.join(common)}" if common else "compare others"
        if wanted:
            raise UserError(
                f"{str(run.file)!r} has no {', '.join(lacking)}; it has {', '.join(run.test)}: "
                f"{advice}."
            )
        raise UserError(
            f"{str(first.file)!r} has the metrics {', '.join(first.test)} and {str(run.file)!r} "
            f"has {', '.join(run.test)}; {advice}."
        )
    return wanted or list(first.test)


def _main_metric(runs, metrics, main):
    if main is not None:
        if main.lower() not in runs[0].test or any(main.lower() not in r.test for r in runs):
            raise UserError(f"--metric is {main!r}; it must be one of {', '.join(metrics)}.")
        return main.lower()
    watched = str(runs[0].config.get("valid_metric", "ndcg@10")).lower()
    return next((name for name in (watched, "ndcg@10") if name in metrics), metrics[0])


def _test(found, test) -> dict[tuple, float]:
    """Adjusted p-values by place of the group and metric; notes what was and was not tested."""
    if len(found.groups) < 2:
        return {}
    values = [values_of(group) for group in found.groups]
    labels = [group.label for group in found.groups]
    lacking = [label for label, each in zip(labels, values, strict=True) if each is None]
    if values[0] is None or len(lacking) >= len(values) - 1:
        whose = "any run" if len(lacking) == len(labels) else ", ".join(lacking)
        found.notes.append(
            f"Not tested for significance: there are no per-user files of {whose} (run with "
            "--save_users=True)."
        )
        return {}
    users, base = values[0]
    raw = {}
    for place, each in enumerate(values[1:], start=1):
        if each is None:
            continue
        files = [found.groups[i].runs[0].users_file for i in (0, place)]
        check_same_users(files[0], users, files[1], each[0])
        for metric in found.metrics:
            if metric in base and metric in each[1]:
                raw[place, metric] = paired_p(each[1][metric], base[metric], test)
    if not raw:
        return {}
    found.test = TESTS[test]
    found.notes.append(
        f"Marks: {found.test} against {labels[0]} over {len(users):,} users, each user's value "
        f"averaged over seeds first; p-values adjusted by Holm's method for {len(raw)} "
        "comparisons; * p < 0.05, ** p < 0.01, *** p < 0.001."
    )
    if lacking:
        found.notes.append(f"Not tested, for lack of per-user files: {', '.join(lacking)}.")
    return dict(zip(raw, holm(list(raw.values())), strict=True))


def _by_group(found):
    """Fill the table by group; rows differ where thresholds did, and are not compared then."""
    names = [
        name
        for name in GROUP_NAMES
        if all(run.groups.get(name, {}).get(found.main) is not None for run in found.runs)
    ]
    alike = []
    for name in names:
        sizes = {run.groups[name]["users"] for run in found.runs}
        if len(sizes) == 1:
            alike.append(name)
            found.sizes[name] = sizes.pop()
    other = [name.replace("_", " ") for name in names if name not in alike]
    if other:
        found.notes.append(
            f"Left out: {', '.join(other)}; the runs draw their lines at different thresholds."
        )
    if not alike:
        return
    for place, group in enumerate(found.groups):
        cells = {}
        for name in alike:
            values = [run.groups[name][found.main] for run in group.runs]
            base = [run.groups[name][found.main] for run in found.groups[0].runs]
            cells[name] = _cell(values, base if place else None)
        found.by_group.append(cells)
    found.by_group = _with_best(found.by_group, lambda _: is_smaller_better(found.main))


def mean_std(values) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None for what does not exist."""
    values = [value for value in values if value is not None]
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _cell(values, base=None, p=None) -> Cell:
    mean, std = mean_std(values)
    against = mean_std(base)[0] if base else None
    change = mean / against - 1 if against and mean is not None else None
    return Cell(mean, std, change, p)


def is_smaller_better(metric) -> bool:
    """Whether less of a metric is more, as RecBole sees it."""
    return metric.partition("@")[0] in _SMALLER


def _with_best(rows, smaller):
    """The same, with the best of each column told: only where there is something to beat."""
    if len(rows) < 2:
        return rows
    best = {}
    for key in rows[0]:
        means = [row[key].mean for row in rows if row[key].mean is not None]
        best[key] = (min if smaller(key) else max)(means, default=math.inf)
    return [
        {
            key: Cell(
                cell.mean,
                cell.std,
                cell.change,
                cell.p,
                cell.mean is not None and f"{cell.mean:.4f}" == f"{best[key]:.4f}",
            )
            for key, cell in row.items()
        }
        for row in rows
    ]
