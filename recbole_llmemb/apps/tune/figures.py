"""Figures of a search: score against each parameter, parallel coordinates, learning curves."""

from __future__ import annotations

import io
import math

from recbole_llmemb.apps.tune.trials import ranked_trials, short

_BEST, _OTHER, _FAILED = "#c0392b", "#4878a8", "#999999"


def draw_all(plan, space, found) -> list[tuple[str, str, bytes]]:
    """The figures that there is something to show in: file name, title, and the PNG."""
    figures = [("parameters.png", "Score against each parameter", _parameters(plan, space, found))]
    scored = [trial for trial in found.trials if trial.score is not None]
    if len(space.keys) > 1 and len(scored) > 1:
        figures.append(("parallel.png", "Parallel coordinates", _parallel(plan, space, found)))
    if any(len(trial.curve) > 1 for trial in found.trials):
        figures.append(("curves.png", "Learning curves", _curves(plan, found)))
    return [(name, title, _png(figure)) for name, title, figure in figures]


def _parameters(plan, space, found):
    """Score against each searched key, a panel each."""
    from matplotlib.ticker import NullFormatter

    columns = min(3, len(space.keys))
    rows = math.ceil(len(space.keys) / columns)
    figure, axes = _figure(3.6 * columns + 0.4, 2.9 * rows + 0.3, rows, columns)
    for place, one in zip(axes, space.dimensions, strict=False):
        for trial in found.trials:
            if trial.score is None or one.key not in trial.settings:
                continue
            value = trial.settings[one.key]
            x = one.values.index(value) if one.kind == "choice" else value
            mark, size = ("*", 8) if trial is found.best else ("o", 5)
            place.plot(x, trial.score, mark, markersize=size, **_look(trial, found))
        if one.kind == "loguniform":
            low, high = one.values
            place.set_xscale("log")
            place.set_xlim(low * 0.9, high * 1.1)
            if high >= 10 * low:  # labels between powers of ten would overlap
                place.xaxis.set_minor_formatter(NullFormatter())
        if one.kind == "choice":
            labels = [short(value) for value in one.values]
            place.set_xticks(range(len(labels)), labels, rotation=_slant(labels))
            place.set_xlim(-0.5, len(labels) - 0.5)
        place.set_xlabel(one.key, fontsize=9)
        place.grid(alpha=0.25)
    for number, place in enumerate(axes):
        place.tick_params(labelsize=8)
        place.set_visible(number < len(space.keys))
        if number % columns == 0:
            place.set_ylabel(plan.metric.name, fontsize=9)
    figure.suptitle(f"{plan.model} on {plan.dataset}: score against each parameter", fontsize=10)
    return figure


def _parallel(plan, space, found):
    """One line per trial through its parameters to its score; the better, the lighter."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    figure, (axes,) = _figure(1.7 * (len(space.keys) + 1) + 1.5, 4.0, 1, 1)
    trials = [one for one in ranked_trials(found.trials, plan.metric) if one.score is not None]
    low, *_, high = sorted(trial.score for trial in trials)
    norm = Normalize(low, high)
    colors = colormaps["viridis" if plan.metric.mode == "max" else "viridis_r"]
    for trial in reversed(trials):
        heights = {
            x: _height(one, trial.settings[one.key])
            for x, one in enumerate(space.dimensions)
            if one.key in trial.settings
        }
        heights[len(space.keys)] = norm(trial.score) if high > low else 0.5
        look = _look(trial, found, colors(norm(trial.score)))
        axes.plot(list(heights), list(heights.values()), marker="o", markersize=3, **look)
    for x, labels in enumerate([*map(_labels, space.dimensions), {0: short(low), 1: short(high)}]):
        axes.axvline(x, color="black", linewidth=0.7)
        for height, label in labels.items():
            y, side = {0: (-0.04, "top"), 1: (1.04, "bottom")}.get(height, (height, "center"))
            at = {"ha": "center", "va": side, "fontsize": 8, "zorder": 5}
            axes.text(x, y, label, bbox={"fc": "white", "ec": "none", "pad": 0.8}, **at)
    names = [*space.keys, plan.metric.name]
    axes.set_ylim(-0.12, 1.12)
    axes.set_yticks([])
    axes.set_xticks(range(len(names)), names, fontsize=9, rotation=_slant(names))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.suptitle("All parameters and the score: a line per trial, the best in red", fontsize=10)
    return figure


def _curves(plan, found):
    """The metric after each epoch of each trial."""
    figure, (axes,) = _figure(7.4, 3.9, 1, 1)
    for trial in found.trials:
        if not trial.curve:
            continue
        look = _look(trial, found, _FAILED if trial.failed else _OTHER)
        epochs, values = zip(*trial.curve, strict=True)
        axes.plot(epochs, values, marker="o" if len(epochs) == 1 else None, markersize=3, **look)
        if trial.stopped or trial.failed:
            axes.plot(epochs[-1], values[-1], "x" if trial.failed else "|", markersize=7, **look)
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel(f"{plan.metric.name} on validation", fontsize=9)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(
        f"Learning curves: trial {found.best.number}, the best, in red; | stopped early, x failed",
        fontsize=10,
    )
    return figure


def _figure(width, height, rows, columns):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen, whatever pyplot may be set to
    many = rows * columns > 1
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=many).flat)


def _png(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _look(trial, found, color=_OTHER) -> dict:
    if trial is found.best:
        return {"color": _BEST, "linewidth": 2.3, "zorder": 3}
    return {"color": color, "linewidth": 1.1, "zorder": 2, "alpha": 0.7}


def _height(one, value):
    """Where a value lies between the ends of an axis, 0 to 1."""
    if one.kind == "choice":
        return one.values.index(value) / max(1, len(one.values) - 1)
    low, high = one.values[:2]
    if one.kind == "loguniform":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _labels(one) -> dict:
    """What stands beside an axis, by its height there."""
    values = one.values if one.kind == "choice" else one.values[:2]
    return {_height(one, value): short(value) for value in values}


def _slant(labels):
    return 20 if max(map(len, labels)) > 9 and len(labels) > 2 else 0
