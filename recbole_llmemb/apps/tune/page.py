"""The report of a search as one page that needs no other file."""

from __future__ import annotations

import base64
from html import escape

from recbole_llmemb.apps.tune.reporting import final_table, ranked_trials
from recbole_llmemb.apps.tune.trials import short

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-size: .88rem; }
.wide { overflow-x: auto; }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid #ddd;
         white-space: nowrap; }
th { border-bottom: 2px solid #888; } td.text { text-align: left; white-space: normal; }
tr.best { background: #fdf0ee; font-weight: 600; } tr.failed { color: #888; }
pre { background: #f6f6f6; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; }
img { max-width: 100%; }
"""
_TITLES = {
    "parameters.png": "Score against each parameter",
    "parallel.png": "Parallel coordinates",
    "curves.png": "Learning curves",
}


def render(plan, space, found, best_yaml: str, pictures: dict[str, bytes]) -> str:
    """The page.

    ``pictures``: PNG files by name.
    """
    best = found.best
    title = f"{plan.model} on {plan.dataset}"
    failed = sum(trial.failed is not None for trial in found.trials)
    stopped = sum(trial.stopped for trial in found.trials)
    parts = [
        f"<h1>{escape(title)}: a search</h1>",
        f"<p>{len(found.trials)} trials in {_minutes(found.seconds)}: {stopped} stopped early, "
        f"{failed} failed. The best, trial {best.number}, has {escape(plan.metric.name)} "
        f"{best.score:.4f} on validation. The test set was ranked once, for this trial.</p>",
        f"<h2>The best trial</h2><pre>{escape(final_table(found))}</pre>",
        f"<h2>Its configuration</h2><pre>{escape(best_yaml)}</pre>",
        "<h2>Trials</h2>" + _table(plan, space, found),
    ]
    for name, content in pictures.items():
        data = base64.b64encode(content).decode()
        heading = escape(_TITLES[name])
        parts.append(f'<h2>{heading}</h2><img alt="{heading}" src="data:image/png;base64,{data}">')
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n"
        "</body></html>\n"
    )


def _table(plan, space, found):
    heads = ["trial", plan.metric.name, "best epoch", "epochs", "", "seconds", *space.keys]
    rows = ["<tr>" + "".join(f"<th>{escape(head)}</th>" for head in heads) + "</tr>"]
    for trial in ranked_trials(plan, found.trials):
        kind = "best" if trial is found.best else "failed" if trial.failed else ""
        score = "-" if trial.score is None else f"{trial.score:.4f}"
        cells = [trial.number, score, trial.best_epoch or "-", trial.epochs or "-"]
        cells = [f"<td>{cell}</td>" for cell in cells]
        status = f"failed: {trial.failed}" if trial.failed else trial.status
        cells.append(f'<td class="text">{escape(status)}</td><td>{trial.seconds:.0f}</td>')
        cells += [f"<td>{escape(short(trial.settings.get(k, '-')))}</td>" for k in space.keys]
        rows.append(f'<tr class="{kind}">' + "".join(cells) + "</tr>")
    return '<div class="wide"><table>' + "\n".join(rows) + "</table></div>"


def _minutes(seconds):
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
