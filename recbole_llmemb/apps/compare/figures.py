"""Figures of a comparison: who gains, how training went, and what it cost."""

from __future__ import annotations

import statistics

from recbole_llmemb.apps.compare.comparison import mean_std
from recbole_llmemb.core.drawing import new_figure, style

_BINS = {
    "item_popularity": "training interactions of the item",
    "history_length": "training interactions of the user",
}


def figures_of(found) -> dict[str, tuple[str, object]]:
    """All figures that the files of a comparison suffice for.

    ``found``: to which a note is added where some runs cannot be drawn.
    Returns by file name without suffix: caption, and the :class:`matplotlib.figure.Figure`.
    """
    figures = {}
    without = [g.label for g in found.groups if not all(run.bins for run in g.runs)]
    for kind, words in _BINS.items():
        if len(without) < len(found.groups):
            caption = (
                f"{found.main} of the test set by {words}, mean and standard deviation over "
                "seeds. Bars: test users in each bin; those with hardly any at either end are put "
                "together with the next."
            )
            figures[kind] = caption, draw_bins(found, kind)
    drawn = [g.label for g in found.groups if any(run.curve for run in g.runs)]
    if drawn:
        caption = (
            f"Validation {_watched(found)} and training loss at each validation, one line per run. "
            "Losses of different kinds cannot be compared with each other."
        )
        figures["learning_curves"] = caption, draw_curves(found)
    if any(run.seconds.get("train") for run in found.runs):
        caption = (
            f"Test {found.main} against seconds of training (small: single runs, large: their "
            "mean), and seconds per epoch."
        )
        figures["training_cost"] = caption, draw_cost(found)
    if without and ("item_popularity" in figures or drawn):
        found.notes.append(
            f"Not in every figure: {', '.join(without)}; these result files hold no results by "
            "popularity and history length."
        )
    elif without:
        found.notes.append(
            "No figures by popularity and history length, and no learning curves: the result "
            "files do not hold what they need, as those of earlier versions."
        )
    return figures


def bin_label(row) -> str:
    """``0``, ``1``, ``2–3``, ``4–7``, …"""
    return str(row["from"]) if row["from"] == row["to"] else f"{row['from']}–{row['to']}"


def merge_small(rows, least=0.01) -> list[dict]:
    """Bins at either end with hardly any users, put together with their neighbours.

    A mean over three users would set the scale of the whole figure.

    ``rows``: see :func:`~recbole_llmemb.evaluation.details.bins`.
    ``least``: share of all users that a bin at an end must have; also 10 users.
    """
    rows = list(rows)
    enough = min(max(10, least * sum(row["users"] for row in rows)), 100)
    for end, inner in ((0, 1), (-1, -2)):
        while len(rows) > 2 and rows[end]["users"] < enough:
            both = sorted((rows[end], rows[inner]), key=lambda row: row["from"])
            rows[inner] = _together(*both)
            rows.pop(end)
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
    sizes, labels = {}, {}
    rows_of = {id(run): merge_small(run.bins.get(kind, [])) for run in found.runs}
    for run in found.runs:
        for row in rows_of[id(run)]:
            sizes[row["from"]] = row["users"]
            labels[row["from"]] = bin_label(row)
    places = {first: place for place, first in enumerate(sorted(sizes))}
    figure = new_figure(7, 4)
    axes = figure.subplots()
    behind = axes.twinx()
    behind.bar(
        list(places.values()), [sizes[first] for first in places], color="0.9", width=0.8, zorder=0
    )
    behind.set_ylabel("test users", color="0.45")
    behind.tick_params(axis="y", colors="0.45")
    axes.set_zorder(behind.get_zorder() + 1)  # lines in front of the bars
    axes.patch.set_visible(False)
    for number, group in enumerate(found.groups):
        values: dict[int, list] = {}
        for run in group.runs:
            for row in rows_of[id(run)]:
                if row.get(found.main) is not None:
                    values.setdefault(row["from"], []).append(row[found.main])
        if not values:
            continue
        firsts = sorted(values)
        points = [mean_std(values[first]) for first in firsts]
        axes.errorbar(
            [places[first] for first in firsts],
            [mean for mean, _ in points],
            yerr=[std or float("nan") for _, std in points],
            label=group.label,
            capsize=2,
            markersize=4,
            **style(number),
        )
    axes.set_xticks(list(places.values()), [labels[first] for first in places], fontsize=8)
    axes.set_xlabel(_BINS[kind])
    axes.set_ylabel(f"test {found.main}")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    return figure


def draw_curves(found):
    """Validation score and training loss by epoch."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    for number, group in enumerate(found.groups):
        look = {**style(number), "marker": ""}
        label = group.label
        for run in group.runs:
            if not run.curve:
                continue
            epochs = [row["epoch"] + 1 for row in run.curve]
            scores = [row["valid_score"] for row in run.curve]
            losses = [sum(row["train_loss"]) for row in run.curve]
            few = {"marker": ".", "markersize": 5} if len(epochs) < 30 else {}
            left.plot(epochs, scores, label=label, linewidth=1.2, **{**look, **few})
            right.plot(epochs, losses, linewidth=1.2, **{**look, **few})
            label = None
    left.set(xlabel="epoch", ylabel=f"validation {_watched(found)}")
    right.set(xlabel="epoch", ylabel="training loss, summed over the epoch")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
    left.legend(fontsize=8)
    return figure


def draw_cost(found):
    """Test score against seconds of training; seconds per epoch."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = new_figure(10, max(4, 0.4 * len(found.groups) + 1))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    bars = []
    for number, group in enumerate(found.groups):
        look = style(number)
        runs = [
            run
            for run in group.runs
            if run.seconds.get("train") and run.test[found.main] is not None
        ]
        if runs:
            x = [run.seconds["train"] for run in runs]
            y = [run.test[found.main] for run in runs]
            only = {"color": look["color"], "marker": look["marker"]}
            left.scatter(x, y, s=12, alpha=0.5, **only)
            left.scatter(statistics.fmean(x), statistics.fmean(y), s=60, label=group.label, **only)
        spent = [run.seconds.get("train_per_epoch") for run in group.runs]
        bars.append((group.label, *mean_std(spent), look["color"]))
    left.set_xscale("log")
    left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    left.xaxis.set_minor_formatter(NullFormatter())
    left.set(xlabel="seconds of training, validation included", ylabel=f"test {found.main}")
    left.grid(alpha=0.25)
    left.legend(fontsize=8)
    bars = [bar for bar in bars if bar[1] is not None]
    right.barh(
        [label for label, *_ in bars],
        [mean for _, mean, _, _ in bars],
        xerr=[std or float("nan") for _, _, std, _ in bars],
        color=[colour for *_, colour in bars],
        capsize=2,
        height=0.6,
    )
    right.set_ylim(len(bars) - 0.5, -0.5)
    right.set_xlabel("seconds per epoch")
    right.tick_params(axis="y", labelsize=8)
    return figure


def _watched(found) -> str:
    """What validation was scored by, where all that is drawn agree on it."""
    names = {
        str(run.config.get("valid_metric", "score")).lower() for run in found.runs if run.curve
    }
    return names.pop() if len(names) == 1 else "score"
