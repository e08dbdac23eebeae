"""Figures of a comparison: who gains, how training went, and what it cost."""

from __future__ import annotations

from typing import Any

from recbole_llmemb.apps.compare.comparison import mean_std
from recbole_llmemb.core.reports import legend, new_figure, style

_BINS = {
    "item_popularity": "training interactions of the item",
    "history_length": "training interactions of the user",
}


def figures_of(found) -> dict[str, tuple[str, Any]]:
    """All figures that the files of a comparison suffice for.

    ``found``: to which a note is added where some runs cannot be drawn.
    Returns by file name without suffix: caption, and the :class:`matplotlib.figure.Figure`.
    """
    figures = {}
    without = [g.label for g in found.groups if not all(run.bins for run in g.runs)]
    for kind, words in _BINS.items() if len(without) < len(found.groups) else ():
        caption = (
            f"{found.main} of the test set by {words}, mean and standard deviation over "
            "seeds. Bars: test users in each bin; those with hardly any at either end are put "
            "together with the next."
        )
        figures[kind] = caption, draw_bins(found, kind)
    if any(run.curve for run in found.runs):
        caption = (
            f"Validation {_watched(found)} and training loss at each validation, one line per run. "
            "Losses of different kinds cannot be compared with each other."
        )
        figures["learning_curves"] = caption, draw_curves(found)
    if without and figures:
        found.notes.append(
            f"Not in every figure: {', '.join(without)}; these result files hold no results by "
            "popularity and history length."
        )
    elif without:
        found.notes.append(
            "No figures by popularity and history length, and no learning curves: the result "
            "files do not hold what they need, as those of earlier versions."
        )
    if any(run.seconds.get("train") for run in found.runs):
        caption = (
            f"Test {found.main} against seconds of training (small: single runs, large: their "
            "mean), and seconds per epoch."
        )
        figures["training_cost"] = caption, draw_cost(found)
    return figures


def bin_label(row) -> str:
    """``0``, ``1``, ``2–3``, ``4–7``, …"""
    return str(row["from"]) if row["from"] == row["to"] else f"{row['from']}–{row['to']}"


def merge_small(rows, least=0.01) -> list[dict]:
    """Bins at either end with hardly any users, put together with their neighbors.

    A mean over three users would set the scale of the whole figure.

    ``rows``: see :func:`~recbole_llmemb.evaluation.groups.bins`.
    ``least``: share of all users that a bin at an end must have; also 10 users.
    """
    rows = list(rows)
    enough = min(max(10, least * sum(row["users"] for row in rows)), 100)
    while len(rows) > 2 and rows[0]["users"] < enough:
        rows[:2] = [_together(*rows[:2])]
    while len(rows) > 2 and rows[-1]["users"] < enough:
        rows[-2:] = [_together(*rows[-2:])]
    return rows


def _together(low, high) -> dict:
    users = low["users"] + high["users"]
    merged = {"from": low["from"], "to": high["to"], "users": users}
    for name in low.keys() - merged.keys():
        parts = [(row[name], row["users"]) for row in (low, high)]
        known = all(value is not None for value, _ in parts)
        merged[name] = sum(value * count for value, count in parts) / users if known else None
    return merged


def draw_bins(found, kind):
    """The main metric by ``item_popularity`` or ``history_length``."""
    by_group = [[merge_small(run.bins.get(kind, [])) for run in g.runs] for g in found.groups]
    shown = {row["from"]: row for runs in by_group for rows in runs for row in rows}
    firsts = sorted(shown)
    figure = new_figure(5, 4)
    axes = figure.subplots()
    behind = axes.twinx()
    users = [shown[first]["users"] for first in firsts]
    behind.bar(range(len(firsts)), users, color="0.5", alpha=0.25, width=0.8, zorder=0)
    behind.set_ylabel("test users", color="0.5")
    behind.tick_params(axis="y", colors="0.5")
    axes.set_zorder(behind.get_zorder() + 1)  # lines in front of the bars
    axes.patch.set_visible(False)
    for number, (group, runs) in enumerate(zip(found.groups, by_group)):
        points = {}
        for place, first in enumerate(firsts):
            bins = [row for rows in runs for row in rows if row["from"] == first]
            mean, std = mean_std([row.get(found.main) for row in bins])
            if mean is not None:
                points[place] = mean, std or float("nan")
        if points:
            means, spreads = zip(*points.values())
            look = {"capsize": 2, "markersize": 4, **style(number)}
            axes.errorbar(list(points), means, yerr=spreads, label=group.label, **look)
    labels = [bin_label(shown[first]) for first in firsts]
    axes.set_xticks(range(len(firsts)), labels, fontsize=9, rotation=40 if len(labels) > 5 else 0)
    axes.set_xlabel(_BINS[kind])
    axes.set_ylabel(f"test {found.main}")
    axes.set_ylim(bottom=0)
    legend(figure, axes)
    return figure


def draw_curves(found):
    """Validation score and training loss by epoch."""
    figure = new_figure(5, 6)
    upper, lower = figure.subplots(2, 1)
    for number, group in enumerate(found.groups):
        label = group.label
        for run in group.runs:
            if not run.curve:
                continue
            epochs = [row["epoch"] + 1 for row in run.curve]
            few = {"marker": ".", "markersize": 5} if len(epochs) < 30 else {"marker": ""}
            look = {**style(number), "linewidth": 1.2, **few}
            upper.plot(epochs, [row["valid_score"] for row in run.curve], label=label, **look)
            lower.plot(epochs, [sum(row["train_loss"]) for row in run.curve], **look)
            label = None
    upper.set(ylabel=f"validation {_watched(found)}")
    lower.set(xlabel="epoch", ylabel="training loss, sum of an epoch")
    for axes in (upper, lower):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
    legend(figure, upper)
    return figure


def draw_cost(found):
    """Test score against seconds of training; seconds per epoch."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    bars_height = 0.3 * len(found.groups) + 0.6
    figure = new_figure(5, 3.2 + bars_height)
    upper, lower = figure.subplots(2, 1, height_ratios=(3.2, bars_height))
    bars = []
    for number, group in enumerate(found.groups):
        look = style(number)
        points = [(run.seconds.get("train"), run.test[found.main]) for run in group.runs]
        points = [(seconds, score) for seconds, score in points if seconds and score is not None]
        if points:
            only = {"color": look["color"], "marker": look["marker"]}
            upper.scatter(*zip(*points), s=12, alpha=0.5, **only)
            x, y = (mean_std(each)[0] for each in zip(*points))
            upper.scatter(x, y, s=60, label=group.label, **only)
        mean, std = mean_std([run.seconds.get("train_per_epoch") for run in group.runs])
        if mean is not None:
            bars.append((group.label, mean, std or float("nan"), look["color"]))
    seconds = [run.seconds["train"] for run in found.runs if run.seconds.get("train")]
    if max(seconds) > 5 * min(seconds):
        upper.set_xscale("log")
        upper.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        upper.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        upper.xaxis.set_minor_formatter(NullFormatter())
    upper.set(xlabel="seconds of training, with validation", ylabel=f"test {found.main}")
    upper.grid(alpha=0.25)
    legend(figure, upper)
    if bars:
        labels, means, spreads, colors = zip(*bars)
        lower.barh(labels, means, xerr=spreads, color=colors, capsize=2, height=0.6)
        lower.set_ylim(len(bars) - 0.5, -0.5)
    lower.set_xlabel("seconds per epoch")
    return figure


def _watched(found) -> str:
    """What validation was scored by, where all that is drawn agree on it."""
    names = {
        str(run.config.get("valid_metric", "score")).lower() for run in found.runs if run.curve
    }
    return names.pop() if len(names) == 1 else "score"
