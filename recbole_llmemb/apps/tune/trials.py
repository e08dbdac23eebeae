"""What came of the trials of a search: plain data, and figures of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.reports import new_figure, svg

#: File of a trial's checkpoint that tells what came of it.
EXTRA = "rest.pth"

_BEST, _OTHER, _FAILED = "#d1495b", "#4f86c0", "#999999"


@dataclass
class Trial:
    """One trial of a finished search."""

    number: int  # From 1, in the order in which they were begun
    settings: dict  # The searched keys
    score: float | None = None  # The search's metric at the trial's best epoch
    failed: str | None = None  # Why there is none
    epochs: int = 0
    best_epoch: int = 0
    stopped: bool = False  # Whether the scheduler ended it before it had ended itself
    seconds: float = 0.0
    curve: list = field(default_factory=list)  # Epoch, and the metric at that epoch
    node: str = ""  # Where it ran: the address, and how Ray calls the node
    checkpoint: object = None

    @property
    def status(self) -> str:
        """In a word, for tables."""
        return "failed" if self.failed else "stopped early" if self.stopped else "finished"


def settings_of(config: dict) -> dict:
    """The searched keys of what Ray calls a trial's configuration."""
    return dict(config["trial"]["settings"] if "trial" in config else config)


def number_of(config: dict) -> int:
    """A trial's number, from 1."""
    return config["trial"]["number"] if "trial" in (config or {}) else 0


def stopped_early(result: dict) -> bool:
    """Whether a last result is of a trial that had not ended itself."""
    return "epoch" in result and not result.get("ended")


def in_words(settings: dict) -> str:
    """``learning_rate=0.00123, n_layers=2``."""
    return ", ".join(f"{key}={short(value)}" for key, value in settings.items())


def short(value) -> str:
    """A value for tables, floats to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def collect(grid, metric) -> list[Trial]:
    """The trials of a :class:`ray.tune.ResultGrid`, in the order in which they began."""
    return sorted((_trial(result, metric) for result in grid), key=lambda trial: trial.number)


def _trial(result, metric) -> Trial:
    last, frame = dict(result.metrics or {}), result.metrics_dataframe
    rows = [last] if frame is None else frame.to_dict("records")
    # Without NaN; of an epoch that was trained twice, the later.
    rows = [{key: value for key, value in row.items() if value == value} for row in rows]
    trial = Trial(number_of(result.config), settings_of(result.config))
    kept = _kept(result.checkpoint)
    trial.settings = kept.get("settings", trial.settings)
    told = kept.get("rows", rows)
    epochs = {int(row["epoch"]): row for row in told if row.get("score") is not None}
    trial.failed = next((row["failed"] for row in [last, *rows] if row.get("failed")), None)
    if result.error is not None and not trial.failed:
        trial.failed = _why(result.error)
    trial.seconds = float(last.get("time_total_s") or 0.0)
    nodes = [row["node"] for row in rows if "node" in row]
    trial.node = " ".join(filter(None, (last.get("node_ip"), *nodes[-1:])))
    trial.checkpoint = result.checkpoint
    name = metric.name
    trial.curve = [
        (epoch, epochs[epoch][name]) for epoch in sorted(epochs) if name in epochs[epoch]
    ]
    if epochs:
        trial.epochs = max(epochs)
        final = epochs[trial.epochs]
        trial.best_epoch = int(final["best_epoch"])
        trial.stopped = not trial.failed and stopped_early(final)
        trial.score = None if trial.failed else final["score"]
    elif not trial.failed:
        trial.failed = "it was never begun"
    return trial


def _kept(given) -> dict:
    """What a checkpoint tells, by whose checksums damage is seen; Ray's files have none."""
    if given is None:
        return {}
    with given.as_directory() as folder:
        return checkpoint.load(Path(folder) / EXTRA)


def _why(error) -> str:
    text = " ".join(str(error).split())
    if "died" in text.lower() or "ActorDied" in type(error).__name__:
        return "its process died, 3 times (killed, or the machine was out of memory)"
    return text[-300:]


def best_of(trials, metric) -> Trial:
    """The trial with the best score, the first of equals."""
    scored = [trial for trial in trials if trial.score is not None and trial.checkpoint]
    if scored:
        return ranked_trials(scored, metric)[0]
    reasons = [trial.failed for trial in trials if trial.failed]
    first = max(set(reasons), key=reasons.count) if reasons else "none was begun"
    raise UserError(f"All {len(trials)} trials failed, most of them with: {first.rstrip('.')}.")


def ranked_trials(trials, metric) -> list[Trial]:
    """The best first, failed ones last."""
    sign = -1 if metric.mode == "max" else 1
    return sorted(trials, key=lambda t: (t.score is None, sign * (t.score or 0.0), t.number))


def draw_all(plan, space, found) -> list[tuple[str, str, bytes]]:
    """The figures that there is something to show in: file name, title, and the SVG."""
    figures = [("parameters.svg", "Score against each parameter", _parameters(plan, space, found))]
    scored = [trial for trial in found.trials if trial.score is not None]
    if len(space.keys) > 1 and len(scored) > 1:
        figures.append(("parallel.svg", "Parallel coordinates", _parallel(plan, space, found)))
    if any(len(trial.curve) > 1 for trial in found.trials):
        figures.append(("curves.svg", "Learning curves", _curves(plan, found)))
    return [(name, title, svg(figure)) for name, title, figure in figures]


def _parameters(plan, space, found):
    """Score against each searched key, a panel each."""
    rows = math.ceil(len(space.keys) / 2)
    figure = new_figure(5, 2.4 * rows + 0.4)
    axes = list(figure.subplots(rows, 2, squeeze=False, sharey=True).flat)
    for place, one in zip(axes, space.dimensions, strict=False):
        for trial in found.trials:
            if trial.score is None or one.key not in trial.settings:
                continue
            value = trial.settings[one.key]
            x = one.values.index(value) if one.kind == "choice" else value
            mark, size = ("*", 9) if trial is found.best else ("o", 5)
            place.plot(x, trial.score, mark, markersize=size, **_look(trial, found))
        _scale(place, one)
        place.set_xlabel(one.key, fontsize=9)
        place.tick_params(labelsize=8)
        place.grid(alpha=0.25)
    for place in axes[len(space.keys) :]:
        place.set_visible(False)
    figure.supylabel(f"{plan.metric.name} on validation", fontsize=9)
    figure.suptitle("A point per trial, the best in red", fontsize=10)
    return figure


def _scale(place, one) -> None:
    """An x-axis whose labels have room."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    low, high = one.values[:2] if one.kind != "choice" else (0, 0)
    if one.kind == "choice":
        labels = _cut(one.values, 20)
        place.set_xticks(range(len(labels)), labels)
        place.set_xlim(-0.5, len(labels) - 0.5)
    elif one.kind == "loguniform" and high >= 3 * low:
        place.set_xscale("log")
        place.set_xlim(low * 0.9, high * 1.1)
        subs = (1,) if high >= 100 * low else (1, 3)
        place.xaxis.set_major_locator(LogLocator(subs=subs, numticks=5))
        place.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        place.xaxis.set_minor_formatter(NullFormatter())
    else:
        place.xaxis.set_major_locator(MaxNLocator(4))


def _cut(values, room) -> list[str]:
    """Labels that have ``room`` characters between them."""
    most = max(3, room // len(values))
    return [text if len(text) <= most else f"{text[: most - 1]}…" for text in map(short, values)]


def _parallel(plan, space, found):
    """A line per trial through its parameters, from the top down to its score."""
    from matplotlib import colormaps

    names = [*space.keys, plan.metric.name]
    figure = new_figure(5, 0.75 * len(names) + 0.6)
    axes = figure.subplots()
    trials = [one for one in ranked_trials(found.trials, plan.metric) if one.score is not None]
    low, *_, high = sorted(trial.score for trial in trials)
    better = 1 if plan.metric.mode == "max" else -1
    for trial in reversed(trials):
        at = (trial.score - low) / (high - low) if high > low else 0.5
        places = {
            y: _place(one, trial.settings[one.key])
            for y, one in enumerate(space.dimensions)
            if one.key in trial.settings
        }
        places[len(space.keys)] = at
        color = colormaps["viridis"](0.25 + 0.65 * (at if better > 0 else 1 - at))
        look = _look(trial, found, color)
        axes.plot(list(places.values()), list(places), marker="o", markersize=4, **look)
    for y, labels in enumerate([*map(_labels, space.dimensions), {0: short(low), 1: short(high)}]):
        axes.axhline(y, color="0.5", linewidth=0.7)
        axes.text(-0.03, y, names[y], ha="right", va="center", fontsize=9)
        for x, label in labels.items():
            axes.text(x, y + 0.12, label, ha="center", va="top", fontsize=8, color="0.5")
    axes.set(xlim=(-0.03, 1.03), ylim=(len(names) - 0.4, -0.3))
    axes.axis("off")
    figure.suptitle("A line per trial, the best in red; the better, the lighter", fontsize=10)
    return figure


def _curves(plan, found):
    """The metric after each epoch of each trial."""
    figure = new_figure(5, 3.7)
    axes = figure.subplots()
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
    axes.set_title(f"Trial {found.best.number}, the best, in red; | stopped, × failed", fontsize=10)
    return figure


def _look(trial, found, color=_OTHER) -> dict:
    if trial is found.best:
        return {"color": _BEST, "linewidth": 2.3, "zorder": 3}
    return {"color": color, "linewidth": 1.1, "zorder": 2, "alpha": 0.7}


def _place(one, value):
    """Where a value lies between the ends of its line, 0 to 1."""
    if one.kind == "choice":
        return one.values.index(value) / max(1, len(one.values) - 1)
    low, high = one.values[:2]
    if one.kind == "loguniform":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _labels(one) -> dict:
    """What stands below a line, by its place there."""
    values = one.values if one.kind == "choice" else one.values[:2]
    return dict(zip([_place(one, value) for value in values], _cut(values, 50), strict=True))
