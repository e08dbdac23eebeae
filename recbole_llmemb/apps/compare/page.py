"""One HTML page with everything on it, which opens without a network."""

from __future__ import annotations

import base64
import html

from recbole_llmemb.apps.compare.tables import to_html

_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: #fff; color: #1d2330;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.6rem; padding-top: 0.4rem;
  border-top: 1px solid #dde1e8; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; padding: 0; margin: 0.8rem 0;
  list-style: none; }
a { color: #0b5cad; }
.lead, figcaption, .notes { color: #4a5263; }
.notes { padding-left: 1.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #e6e9ef; }
thead th { border-bottom: 2px solid #8d96a8; font-weight: 600; }
th:first-child { text-align: left; font-weight: 500; }
tbody tr:first-child { background: #f5f7fa; }
.long td, .long th { white-space: normal; overflow-wrap: anywhere; text-align: left; }
.long td.whole { white-space: nowrap; }
.std { color: #6a7283; }
.up { color: #14693d; }
.down { color: #a02a22; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; }
figcaption { font-size: 0.9rem; max-width: 46rem; }
footer { margin: 3rem 0 1rem; font-size: 0.85rem; color: #6a7283; }
@media (max-width: 40rem) { body { padding: 0.7rem; } th, td { padding: 0.3rem 0.45rem; } }
@media print { nav { display: none; } }
"""


def page(found, tables, figures, settings=None, p_values=None, version="") -> str:
    """The report.

    ``figures``: by name: caption and the PNG's bytes.
    ``version``: of this package.
    """
    sections = [(table.title, to_html(table)) for table in tables]
    if found.notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in found.notes)
        first = sections[0]
        sections[0] = first[0], f'{first[1]}\n<ul class="notes">{items}</ul>'
    if p_values is not None:
        sections.insert(1, (p_values.title, to_html(p_values)))
    for name, (caption, png) in figures.items():
        title = name.replace("_", " ").capitalize()
        sections.append((title, _figure(title, caption, png)))
    if settings is not None:
        sections.append((settings.title, f'<div class="long">{to_html(settings)}</div>'))
    sections.append(("Result files", _files(found)))
    entries = "".join(
        f'<li><a href="#s{number}">{html.escape(title)}</a></li>'
        for number, (title, _) in enumerate(sections)
    )
    body = "\n".join(
        f'<section id="s{number}">\n<h2>{html.escape(title)}</h2>\n{content}\n</section>'
        for number, (title, content) in enumerate(sections)
    )
    title = f"Comparison on {found.dataset}"
    count = len(found.runs)
    base = html.escape(found.groups[0].label)
    against = f" Changes are relative to <b>{base}</b>." if len(found.groups) > 1 else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
<p class="lead">{count} run{"s" if count != 1 else ""}; mean ± sample standard deviation over
seeds.{against}</p>
<nav aria-label="Contents"><ul>{entries}</ul></nav>
</header>
<main>
{body}
</main>
<footer>recbole-llm compare, recbole-llmemb {html.escape(version)}</footer>
</body>
</html>
"""


def _figure(title, caption, png) -> str:
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _files(found) -> str:
    rows = []
    for group in found.groups:
        files = ", ".join(f"{run.file.name} (seed {run.seed})" for run in group.runs)
        rows.append(
            f'<tr><th scope="row">{html.escape(group.label)}</th>'
            f'<td class="whole">{html.escape(group.runs[0].model)}</td>'
            f"<td>{html.escape(files)}</td></tr>"
        )
    head = "<thead><tr><th>run</th><th>model</th><th>files</th></tr></thead>"
    return f'<div class="long scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'
