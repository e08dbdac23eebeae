"""What a search leaves: a table of its trials, the best configuration, figures, one page."""

from __future__ import annotations

import csv
import io
import json
import math

import yaml

from recbole_llmemb import __version__
from recbole_llmemb.apps.tune.tuning import ranked_trials, short
from recbole_llmemb.core.reports import new_figure, render, svg
from recbole_llmemb.core.terminal import text_table
from recbole_llmemb.run.result import plain, results_table

_BEST, _OTHER, _FAILED = "#d1495b", "#4f86c0", "#999999"


def best_settings(plan, best) -> dict:
    """The configuration of the best trial, such that a run of it gives the same score."""
    values = {"dataset": plan.dataset, **plan.values(best.settings)}
    values.pop("use_gpu", None)  # of the machine of the search
    own = "epochs" in (plan.settings.get("align_teacher_config") or {})  # then it stays
    fixed = set(plan.fixed_teacher_settings)
    if best.stopped:  # a run is to stop there, too
        values["epochs"] = best.epochs
    elif "epochs" not in best.settings and fixed == {"epochs"} and not own:
        del values["align_teacher_config"]["epochs"]
        if not values["align_teacher_config"]:
            del values["align_teacher_config"]
    return values


def best_yaml(plan, found) -> str:
    """The same as a file for ``--config_files``."""
    best, values = found.best, found.settings
    lines = [
        f"# {plan.model} on {plan.dataset}: trial {best.number}, the best of {len(found.trials)}, "
        f"with {plan.metric.name} {best.score!r} on validation.",
        f"# recbole-llm run --model={plan.model} --config_files=best.yaml",
    ]
    if best.stopped:
        lines.append(
            f"# The scheduler stopped it after {best.epochs} epochs: more may give a better score."
        )
    text = yaml.safe_dump(plain(values), sort_keys=False, allow_unicode=True)
    return "\n".join(lines) + "\n" + text


def trials_table(plan, trials, limit=None) -> str:
    """The trials for people, the best first."""
    ranked = ranked_trials(trials, plan.metric)
    keys = plan.searched
    rows = [
        [
            trial.number,
            "-" if trial.score is None else f"{trial.score:.4f}",
            f"{trial.best_epoch} of {trial.epochs}" if trial.epochs else "-",
            trial.status,
            f"{trial.seconds:.0f}",
            *(short(trial.settings.get(key, "-")) for key in keys),
        ]
        for trial in ranked[:limit]
    ]
    headers = ["trial", plan.metric.name, "epochs", "", "seconds", *keys]
    text = text_table(rows, headers, ["left"] * len(headers), fixed=2)
    if limit and len(ranked) > limit:
        text += f"\n({len(ranked) - limit} more in trials.csv)"
    return text


def final_table(found, form="simple") -> str:
    """The best trial's results, as ``run`` shows them."""
    valid, test = found.valid, found.test
    return results_table(
        valid["result"],
        test["result"],
        test["groups"] if test["result"] else valid["groups"],
        labels=test["labels"],
        valid_users=valid["users"],
        test_users=test["users"],
        measure=test.get("measure"),
        form=form,
    )


def write(plan, found, place) -> list[str]:
    """Write the report; returns the names of its files.

    It goes to the search's own folder. Where that is not on this machine, it goes to
    ``found.folder`` too.
    """
    text = best_yaml(plan, found)
    pictures = draw_all(plan, plan.space, found)
    files = {
        "best.yaml": text.encode(),
        "best.json": _json(plan, found),
        "trials.csv": _csv(plan, found.trials),
        **{name: svg for name, _, svg in pictures},
        "report.html": _page(plan, found, text, pictures).encode(),
    }
    if place.remote:
        found.folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        place.write_file(name, content)
        if place.remote:
            (found.folder / name).write_bytes(content)
    return list(files)


def _page(plan, found, text, pictures) -> str:
    """The report as one page that needs no other file."""
    return render(
        __package__,
        "search.html.j2",
        title=f"{plan.model} on {plan.dataset}: a search",
        plan=plan,
        found=found,
        trials=ranked_trials(found.trials, plan.metric),
        table=final_table(found, "html"),
        best_yaml=text,
        figures=pictures,
        short=short,
        version=__version__,
    )


def _json(plan, found) -> bytes:
    best = found.best
    content = {
        "model": plan.model,
        "dataset": plan.dataset,
        "metric": plan.metric.name,
        "score": best.score,
        "trial": best.number,
        "searched": best.settings,
        "best_valid_result": found.valid["result"],
        "valid_groups": found.valid["groups"] or {},
        "test_result": found.test["result"],
        "groups": found.test["groups"] or {},
        "epochs": best.epochs,
        "trials": len(found.trials),
        "seconds": found.seconds,
        "version": __version__,
    }
    return (json.dumps(plain(content), indent=2) + "\n").encode()


def _csv(plan, trials) -> bytes:
    file, keys = io.StringIO(), plan.searched
    names = [plan.metric.name, "best_epoch", "epochs", "status", "reason", "seconds", "node"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["trial", *names, *keys])
    for t in sorted(trials, key=lambda trial: trial.number):
        own = [t.score, t.best_epoch, t.epochs, t.status, t.failed, f"{t.seconds:.2f}", t.node]
        writer.writerow([t.number, *own, *(t.settings.get(key) for key in keys)])
    return file.getvalue().encode()


# -- figures ----------------------------------------------------------------------------


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
