"""Means and spreads over seeds, changes against a baseline, and whether they can be chance."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import numpy as np

from recbole_llmemb.apps.compare.grouping import differing_tables
from recbole_llmemb.apps.compare.significance import TESTS, direction, holm, mark, paired_p
from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.evaluation.groups import GROUP_NAMES
from recbole_llmemb.evaluation.metrics import less_is_better
from recbole_llmemb.records.values import one_line
from recbole_llmemb.run.per_user import read_users


@dataclass
class Cell:
    """One number of a table."""

    mean: float | None  # Over seeds; None where it does not exist
    std: float | None = None  # Sample standard deviation over seeds; None for a single one
    # Relative to the baseline, 0.1 for 10% more; None for the baseline itself.
    change: float | None = None
    p: float | None = None  # Adjusted p-value against the baseline, where it was tested
    best: bool = False  # Whether no group has more, to the digits shown

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Mean, spread, change and marks as they are shown, empty where there are none."""
        mean = "" if self.mean is None else f"{self.mean:.4f}"
        std = "" if self.std is None else f"{self.std:.4f}"
        change = "" if self.change is None else f"{self.change:+.1%}"
        return mean, std, change, mark(self.p) if change else ""

    def __str__(self) -> str:
        mean, std, change, stars = self.parts
        return " ".join(filter(None, (mean or "-", std and f"± {std}", change + stars)))


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
    marks: str | None = None  # What the marks mean; None where nothing was tested
    notes: list[str] = field(default_factory=list)  # What readers should know, marks included

    @property
    def runs(self) -> list:
        return [run for group in self.groups for run in group.runs]


def compare(groups, metrics=None, main=None, test="t") -> Comparison:
    """Compare groups of runs; the first is the baseline.

    ``metrics``: the columns; all that the files have if not given.
    ``main``: metric of the figures; the runs' ``valid_metric``, or NDCG@10, if not given.
    """
    runs = [run for group in groups for run in group.runs]
    _check_alike(runs)
    metrics = _choose_metrics(runs, metrics)
    dataset = one_line(runs[0].dataset)
    found = Comparison(groups, dataset, metrics, _main_metric(runs, metrics, main))
    found.overall = _rows(groups, metrics, lambda run, metric: run.test[metric])
    _tell_best(found.overall, less_is_better)
    _by_group(found)
    _test(found, test)
    items = {run.tested["items"]: run for run in runs if run.tested.get("items")}
    if len(items) > 1:
        ranked = ", ".join(f"{str(r.file)!r} {n.split('-')[0]}" for n, r in items.items())
        found.notes.append(
            f"Items that are ranked differ: {ranked}. Scores among fewer candidates are higher."
        )
    if tables := differing_tables(runs):
        had = ", ".join(f"{str(run.file)!r} {table[:8]}" for table, run in tables.items())
        found.notes.append(f"Item tables differ where settings do not: {had}.")
    rounded = {str(run.config.get("metric_decimal_place", 4)): run for run in runs}
    if len(rounded) > 1:
        told = ", ".join(f"{str(run.file)!r} to {places}" for places, run in rounded.items())
        found.notes.append(f"Values are rounded, to decimal places that differ: {told}.")
    if any(len(group.runs) == 1 for group in groups):
        found.notes.append("A value without ± is of one run; it says nothing about its spread.")
    return found


def _check_alike(runs):
    for run in runs[1:]:
        pair = runs[0], run
        for fact, values, advice in (
            ("is of dataset {}", [r.dataset for r in pair], "on one dataset at a time"),
            ("is of the interactions {:.8}", [r.data for r in pair], "on the same file"),
            ("was tested on {:,} rows", [r.rows for r in pair], "on the same data and split"),
            ("was tested on the targets {}", [r.tested.get("targets") for r in pair],
             "on the same data, filters and split"),
            ("was tested under eval_args {}", [r.config.get("eval_args") or None for r in pair],
             "under the same, as others say nothing about each other"),
            ("was tested with exclude_history: {}",
             [r.config.get("exclude_history", False) for r in pair],
             "under the same measure, or evaluate their checkpoints under both "
             "(recbole-llm order-test --exclude_history=False,True)"),
        ):  # fmt: skip
            if None not in values and values[0] != values[1]:
                told = [f"{str(r.file)!r} {fact.format(v)}" for r, v in zip(pair, values)]
                raise UserError(f"{' and '.join(told)}; compare runs {advice}.", where=run.file)


def _choose_metrics(runs, wanted):
    first = runs[0]
    common = [name for name in first.test if all(name in run.test for run in runs)]
    advice = f"add --metrics={','.join(common)}" if common else "compare others"
    wanted = list(dict.fromkeys(name.lower() for name in wanted)) if wanted else None
    for run in runs:
        has = f"{str(run.file)!r} has {', '.join(run.test)}"
        lacking = [name for name in wanted or first.test if name not in run.test]
        if wanted and lacking:
            raise UserError(f"{has}, but no {', '.join(lacking)}; {advice}.", where=run.file)
        if not wanted and set(run.test) != set(first.test):
            told = f"{str(first.file)!r} has the metrics {', '.join(first.test)} and {has}"
            raise UserError(f"{told}; {advice}.", where=run.file)
    return wanted or list(first.test)


def _main_metric(runs, metrics, main):
    if main is not None:
        if main.lower() not in metrics:
            offered = ", ".join(metrics)
            raise UserError(f"--metric is {main!r}; it must be one of {offered}.", key="metric")
        return main.lower()
    watched = str(runs[0].config.get("valid_metric", "ndcg@10")).lower()
    return next((name for name in (watched, "ndcg@10") if name in metrics), metrics[0])


def _rows(groups, keys, value_of):
    """``{key: Cell}`` of each group, changes against the first."""
    rows: list[dict] = []
    for group in groups:
        rows.append({})
        for key in keys:
            mean, std = mean_std([value_of(run, key) for run in group.runs])
            base = rows[0][key].mean if len(rows) > 1 else None
            change = mean / base - 1 if base and mean is not None else None
            rows[-1][key] = Cell(mean, std, change)
    return rows


def mean_std(values) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None for what does not exist."""
    values = [value for value in values if value is not None]
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _tell_best(rows, smaller) -> None:
    """Mark the best of each column, where there is something to beat."""
    for key in rows[0] if len(rows) > 1 else ():
        means = [row[key].mean for row in rows if row[key].mean is not None]
        best = (min if smaller(key) else max)(means, default=None)
        for row in rows:
            mean = row[key].mean
            row[key].best = mean is not None and f"{mean:.4f}" == f"{best:.4f}"


def _by_group(found):
    """Fill the table by group; rows differ where thresholds or what is counted did: left out."""
    left_out, trained = [], {run.tested.get("training") for run in found.runs} - {None}
    for name in GROUP_NAMES:
        groups = [run.groups.get(name, {}) for run in found.runs]
        if any(group.get(found.main) is None for group in groups):
            continue
        if len(trained) < 2 and len({group["users"] for group in groups}) == 1:
            found.sizes[name] = groups[0]["users"]
        else:
            left_out.append(name.replace("_", " "))
    if left_out:
        why = "train on other interactions" if len(trained) > 1 else "have other thresholds"
        found.notes.append(f"Left out: {', '.join(left_out)}, of other members where runs {why}.")
    if found.sizes:
        found.by_group = _rows(found.groups, found.sizes, lambda run, n: run.groups[n][found.main])
        _tell_best(found.by_group, lambda _: less_is_better(found.main))


# -- significance ---------------------------------------------------------------------


def _test(found, test) -> None:
    """Put adjusted p-values into the tables, each adjusted apart; note what was not tested."""
    if len(found.groups) < 2:
        return
    base, *labels = [group.label for group in found.groups]
    lacking = [g.label for g in found.groups if not all(run.users_file for run in g.runs)]
    if base in lacking or set(lacking) >= set(labels):
        whose = "any run" if len(lacking) == len(found.groups) else ", ".join(lacking)
        found.notes.append(
            f"Not tested for significance: there are no per-user files of {whose} (run with "
            "--save_users=True)."
        )
        return
    raw, users = _raw(found, found.metrics, None, test)
    by_group: dict = {}
    for name in found.sizes:
        tested = _raw(found, [found.main], name, test)[0]
        by_group |= {(place, name): signed for (place, _), signed in tested.items()}
    if not raw:
        return
    opposed = []
    for table, values in ((found.overall, raw), (found.by_group, by_group)):
        p_values = {}
        for (place, key), (p, way) in values.items():
            against = p < 0.05 and way * (table[place][key].change or 0) < 0
            p_values[place, key] = float("nan") if against else p
            opposed += [f"{found.groups[place].label}, {key}"] * against
        for (place, key), p in zip(p_values, holm(list(p_values.values())), strict=True):
            table[place][key].p = p
    counts = f"{len(raw)} comparisons" + (by_group and f", by group for {len(by_group)}" or "")
    found.marks = (
        f"Marks: {TESTS[test]} against {base} over {users:,} users, each user's value "
        f"averaged over seeds first; p-values adjusted by Holm's method for {counts}; "
        "* p < 0.05, ** p < 0.01, *** p < 0.001."
    )
    found.notes.append(found.marks)
    if opposed:
        found.notes.append(
            f"Without a mark, as the mean goes one way and what is tested of the users the other: "
            f"{'; '.join(opposed)}."
        )
    if lacking:
        found.notes.append(f"Not tested, for lack of per-user files: {', '.join(lacking)}.")


def _raw(found, metrics, part, test) -> tuple[dict[tuple, tuple[float, float]], int]:
    """p-values and directions by place and metric, and over how many users: :func:`values_of`."""
    raw: dict = {}
    (users, base), *others = [values_of(group, part) or ({}, {}) for group in found.groups]
    for place, (each, values) in enumerate(others, start=1):
        tested = [name for name in metrics if name in base and name in values]
        if tested:
            first, other = (found.groups[at].runs[0] for at in (0, place))
            alike = first.seed == other.seed  # some splits are drawn by it
            pair = (users, each) if alike else ([*users], [*each])
            check_same_users(first.users_file, pair[0], other.users_file, pair[1])
        for name in tested:
            both = values[name], base[name]
            raw[place, name] = paired_p(*both, test), direction(*both, test)
    return raw, len(users)


def values_of(group, part=None) -> tuple[dict[str, list[str]], dict[str, np.ndarray]] | None:
    """Each user's metrics, averaged over the group's seeds.

    ``part``: ``tail_items`` or the like; all rows if not given.
    Returns each user's targets in the first run, and ``{metric: (n_users,)}``; None if not every
    run has a per-user file that tells which rows these are.
    """
    files = [run.users_file for run in group.runs]
    rows = [file and _rows_of(read_users(file), run, part) for file, run in zip(files, group.runs)]
    if not all(rows):
        return None
    for run, each in zip(group.runs, rows) if part is None else ():
        _refuse_others(run, each)
    found = [each.by_user() for each in rows]
    users, first = found[0]
    for file, (others, _) in zip(files, found, strict=True):
        check_same_users(files[0], [*users], file, [*others])
    names = [name for name in first if all(name in values for _, values in found)]
    return users, {name: np.mean([values[name] for _, values in found], axis=0) for name in names}


def _refuse_others(run, rows) -> None:
    """Refuse a per-user file whose means are not the result of the run that names it."""
    places = run.config.get("metric_decimal_place")
    # The file's numbers are float32.
    rounding = 10.0 ** -(min(max(places, 0), 5) if isinstance(places, int) else 4)
    for name, values in rows.values.items():
        said = run.test_result.get(name)
        if said is not None and abs(values.mean() - said) > rounding:
            told = f"{str(run.users_file)!r} is of another run than {str(run.file)!r}, as the mean"
            told = f"{told} of its {name} is {values.mean():.4f}, not {said}"
            raise UserError(f"{told}; give the two that belong together.", where=run.users_file)


def _rows_of(rows, run, part):
    """The rows of a group: as many as it has, with the fewest or most training interactions.

    None where that leaves a choice: under a share, items of equal count may be on either side.
    """
    if part is None:
        return rows
    counts = rows.popularity if part.endswith("items") else rows.history
    size, low = run.groups[part]["users"], part.startswith(("tail", "short"))
    if counts.min() < 0 or size > len(counts):
        return None
    edge = np.sort(counts)[size - 1 if low else -size]
    chosen = counts <= edge if low else counts >= edge
    return rows.only(chosen) if chosen.sum() == size else None


def check_same_users(file, users, other_file, others) -> None:
    """Refuse to pair users of one file with others; mappings are of the users' targets."""
    apart, what = sorted(set(users) ^ set(others)), "users (only in one"
    if not apart and users != others:
        apart, what = [user for user in users if users[user] != others[user]], "test items (for"
    if apart:
        told = f"{str(file)!r} and {str(other_file)!r} have different {what}"
        told = f"{told}: {name_some(apart, 3)})"
        raise UserError(f"{told}; compare runs on the same data and split.", where=other_file)
