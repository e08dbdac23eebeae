"""Figures of a search: score against each parameter, parallel coordinates, learning curves."""

from __future__ import annotations

import io
import math

from recbole_llmemb.apps.tune.reporting import ranked_trials
from recbole_llmemb.apps.tune.trials import short

_BEST, _OTHER, _FAILED = "#c0392b", "#4878a8", "#999999"


def draw_all(plan, space, found) -> dict[str, bytes]:
    """The figures as PNG files, by name; those that there is something to show in."""
    whole = [trial for trial in found.trials if trial.score is not None]
    figures = {"parameters.png": parameters(plan, space, found, whole)}
    if len(space.keys) > 1 and len(whole) > 1:
        figures["parallel.png"] = parallel(plan, space, found, whole)
    if any(len(trial.curve) > 1 for trial in found.trials):
        figures["curves.png"] = curves(plan, found)
    return figures


def parameters(plan, space, found, trials) -> bytes:
    """Score against each searched key, a panel each."""
    columns = min(3, len(space.keys))
    rows = math.ceil(len(space.keys) / columns)
    figure, axes = _figure(3.6 * columns + 0.4, 2.9 * rows + 0.3, rows, columns)
    for place, one in zip(axes, space.dimensions, strict=False):
        here = [trial for trial in trials if one.key in trial.settings]
        places, labels = _scale(one, [trial.settings[one.key] for trial in here])
        for trial, x in zip(here, places, strict=True):
            best = trial is found.best
            place.scatter(
                x,
                trial.score,
                s=46 if best else 26,
                color=_BEST if best else _OTHER,
                marker="*" if best else "o",
                alpha=1.0 if best else 0.7,
                zorder=3 if best else 2,
                linewidths=0,
            )
        if one.kind == "loguniform":
            place.set_xscale("log")
            place.set_xlim(one.values[0] * 0.9, one.values[1] * 1.1)
        if labels:
            place.set_xticks(range(len(labels)), labels, rotation=_slant(labels))
            place.set_xlim(-0.5, len(labels) - 0.5)
        place.set_xlabel(one.key, fontsize=9)
        place.grid(alpha=0.25)
    for number, place in enumerate(axes):
        place.tick_params(labelsize=8)
        if number % columns == 0:
            place.set_ylabel(plan.metric.name, fontsize=9)
        if number >= len(space.keys):
            place.set_visible(False)
    figure.suptitle(f"{plan.model} on {plan.dataset}: score against each parameter", fontsize=10)
    return _png(figure)


def parallel(plan, space, found, trials) -> bytes:
    """One line per trial through its parameters to its score; the better, the redder."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    figure, (axes,) = _figure(1.7 * (len(space.keys) + 1) + 1.5, 4.0, 1, 1)
    scores = [trial.score for trial in trials]
    norm = Normalize(min(scores), max(scores) or 1.0)
    colours = colormaps["viridis" if plan.metric.mode == "max" else "viridis_r"]
    for trial in reversed(ranked_trials(plan, trials)):
        heights = [_height(one, trial.settings.get(one.key)) for one in space.dimensions]
        heights.append(norm(trial.score) if max(scores) > min(scores) else 0.5)
        best = trial is found.best
        points = [(x, y) for x, y in enumerate(heights) if y is not None]
        axes.plot(
            *zip(*points, strict=True),
            color=_BEST if best else colours(norm(trial.score)),
            linewidth=2.4 if best else 1.2,
            alpha=1.0 if best else 0.8,
            zorder=3 if best else 2,
            marker="o",
            markersize=3,
        )
    names = [*space.keys, plan.metric.name]
    ends = [_ends(one) for one in space.dimensions]
    ends.append([(0, short(min(scores))), (1, short(max(scores)))])
    for x, marks in enumerate(ends):
        axes.axvline(x, color="black", linewidth=0.7)
        for height, label in marks:
            outside = {0: (-0.04, "top"), 1: (1.04, "bottom")}
            y, side = outside.get(height, (height, "center"))
            at = {"ha": "center", "va": side, "fontsize": 8, "zorder": 5}
            axes.text(x, y, label, bbox={"fc": "white", "ec": "none", "pad": 0.8}, **at)
    axes.set_ylim(-0.12, 1.12)
    axes.set_yticks([])
    axes.set_xticks(range(len(names)), names, fontsize=9, rotation=_slant(names))
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    figure.suptitle("All parameters and the score: a line per trial, the best in red", fontsize=10)
    return _png(figure)


def curves(plan, found) -> bytes:
    """The metric after each epoch of each trial."""
    figure, (axes,) = _figure(7.4, 3.9, 1, 1)
    for trial in found.trials:
        if not trial.curve:
            continue
        best = trial is found.best
        colour = _BEST if best else _FAILED if trial.failed else _OTHER
        epochs, values = zip(*trial.curve, strict=True)
        axes.plot(
            epochs, values, color=colour, linewidth=2.2 if best else 1.0,
            alpha=1.0 if best else 0.6, zorder=3 if best else 2,
            marker="o" if len(epochs) == 1 else None, markersize=3,
        )  # fmt: skip
        if trial.stopped or trial.failed:
            mark = "x" if trial.failed else "|"
            axes.plot(epochs[-1], values[-1], mark, color=colour, markersize=7, zorder=4)
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel(f"{plan.metric.name} on validation", fontsize=9)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(
        f"Learning curves: trial {found.best.number}, the best, in red; | stopped early, x failed",
        fontsize=10,
    )
    return _png(figure)


def _figure(width, height, rows, columns):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen, whatever pyplot may be set to
    return figure, list(
        figure.subplots(rows, columns, squeeze=False, sharey=rows * columns > 1).flat
    )


def _png(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _scale(one, values):
    """Where values lie on an axis; the labels, where they are choices."""
    if one.kind != "choice":
        return values, None
    labels = [short(value) for value in one.values]
    return [list(one.values).index(value) for value in values], labels


def _height(one, value):
    if value is None:
        return None
    if one.kind == "choice":
        return list(one.values).index(value) / max(1, len(one.values) - 1)
    low, high = one.values[:2]
    if one.kind == "loguniform":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _ends(one):
    """Heights and labels on a parameter's axis."""
    if one.kind == "choice":
        return [(_height(one, value), short(value)) for value in one.values]
    return [(0, short(one.values[0])), (1, short(one.values[1]))]


def _slant(labels):
    return 20 if max(map(len, labels)) > 9 and len(labels) > 2 else 0
