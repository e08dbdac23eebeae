"""What a search leaves: a table of its trials, the best configuration, figures, one page."""

from __future__ import annotations

import csv
import io
import json

import yaml

from recbole_llmemb import __version__
from recbole_llmemb.apps.tune import trials
from recbole_llmemb.apps.tune.trials import ranked_trials, short
from recbole_llmemb.core.reports import render
from recbole_llmemb.core.terminal import text_table
from recbole_llmemb.run.result import plain, results_table


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
    pictures = trials.draw_all(plan, plan.space, found)
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
        metric=plan.metric.name,
        keys=plan.searched,
        best=found.best,
        trials=ranked_trials(found.trials, plan.metric),
        seconds=found.seconds,
        table=final_table(found, "html"),
        measure=found.test.get("measure", ""),
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
