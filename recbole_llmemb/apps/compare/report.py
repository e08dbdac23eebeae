"""The tables of a comparison for the terminal, and what ``--out`` holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from recbole_llmemb import __version__
from recbole_llmemb.apps.compare.comparison import Cell, mean_std
from recbole_llmemb.apps.compare.figures import figures_of, maps_of
from recbole_llmemb.apps.compare.grouping import differing_settings
from recbole_llmemb.core.reports import comment, in_markdown, render, svg
from recbole_llmemb.core.terminal import text_table
from recbole_llmemb.evaluation.metrics import less_is_better

#: The file that lists the others, and what these may be called, in earlier versions too.
LISTING, NAMES = "report.html", r"report\.html|table\.(md|tex)|figures/\w+\.(svg|png)"
# By their names in a result file, with the decimals that are shown.
_COSTS = {"train_per_epoch": 1, "train": 1, "trainable": 0, "frozen": 0}
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "≥": r"$\geq$", "<": "$<$", ">": "$>$", "–": "--",
    "|": r"\textbar{}", "`": r"\textasciigrave{}",
}  # fmt: skip


@dataclass
class Table:
    """A table before it is written: the first column names the rows."""

    title: str
    columns: list[str]
    rows: list[list[str | Cell]]

    @property
    def has_marks(self) -> bool:
        return any(getattr(cell, "p", None) is not None for row in self.rows for cell in row)


def tables_of(found) -> list[Table]:
    """Overall metrics, the main metric by group, and what the runs cost."""
    labels = [group.label for group in found.groups]
    seeds = [str(len(group.runs)) for group in found.groups]
    tables = [
        Table(
            f"Test set of {found.dataset}",
            ["run", "seeds", *found.metrics],
            [[*row, *cells.values()] for *row, cells in zip(labels, seeds, found.overall)],
        )
    ]
    if found.by_group:
        titles = [f"{name.replace('_', ' ')} ({size:,})" for name, size in found.sizes.items()]
        rows = [[label, *cells.values()] for label, cells in zip(labels, found.by_group)]
        tables.append(Table(f"{found.main} by group (test users)", ["run", *titles], rows))
    return [*tables, _cost(found)]


def verdict(found) -> list[str]:
    """What came out by the main metric: a sentence for each but the baseline, the best first."""
    smaller, said = less_is_better(found.main), []
    for place, group in enumerate(found.groups[1:], start=1):
        overall = found.overall[place].get(found.main) or Cell(None)
        if overall.change is None:
            continue
        way, size = _judged(overall, smaller)
        untested = "" if overall.p is None else " (not tested)"
        of = {"ahead": " of", "behind": "", "equal": " to"}.get(way, " from")
        parts = [f"{group.label} is {way}{of} {found.groups[0].label} {size}".rstrip()]
        for name, cell in found.by_group[place].items() if found.by_group else ():
            if name.endswith("items") and cell.change is not None:
                before, (way, size) = way, _judged(cell, smaller, untested)
                words = "" if way == before != "equal" else f"{way} "
                parts.append(f"on {name.replace('_', ' ')} {words}{size}".rstrip())
        tested = overall.p is not None or not round(overall.change, 3)
        end = "." if tested else "; not tested for significance."
        said.append((overall.change * (1 if smaller else -1), ", ".join(parts) + end))
    return [sentence for _, sentence in sorted(said, key=lambda each: each[0])]


def _judged(cell, smaller, untested="") -> tuple[str, str]:
    """Which way, and by how much."""
    if not round(cell.change, 3):  # as it is shown
        return "equal", ""
    way = "ahead" if (cell.change > 0) != smaller else "behind"
    if cell.p is None or cell.p != cell.p:
        return way, f"by {abs(cell.change):.1%}{untested}"
    p = f"p = {cell.p:.2g}" if cell.p >= 0.001 else "p < 0.001"
    if cell.p >= 0.05:
        return "not significantly different", f"({cell.change:+.1%}, {p})"
    return way, f"by {abs(cell.change):.1%} ({p})"


def _cost(found) -> Table:
    columns = ["run", "epochs", "s per epoch", "training s", "trained parameters", "frozen"]
    rows = []
    for group in found.groups:
        epochs = "/".join("-" if run.epochs is None else str(run.epochs) for run in group.runs)
        spent = [run.seconds | run.parameters for run in group.runs]
        means = [mean_std([one.get(name) for one in spent])[0] for name in _COSTS]
        shown = ["-" if m is None else f"{m:,.{d}f}" for m, d in zip(means, _COSTS.values())]
        rows.append([group.label, epochs, *shown])
    return Table("What the runs cost", columns, rows)


def to_text(table: Table) -> str:
    """For the terminal."""
    return f"{table.title}\n\n{text_table(table.rows, table.columns)}"


def to_markdown(table: Table) -> str:
    """A pipe table, the best of each column in bold."""
    return render(__package__, "table.md.j2", table=table, md=in_markdown)


def to_latex(table: Table, note: str | None = None) -> str:
    """A ``table`` environment with booktabs rules, the best of each column in bold."""
    caption = f"{table.title}. {note or ''}".rstrip()
    return render(__package__, "table.tex.j2", table=table, caption=caption, latex=latex)


def latex(text) -> str:
    """Text with what means something to LaTeX made harmless."""
    apart = re.sub("-(?=-)", "-\0", str(text))  # two would be a dash
    harmless = "".join(_LATEX.get(letter, letter) for letter in apart).replace("\0", "{}")
    # Behind the end of a row these two would be part of its command.
    return f"{{}}{harmless}" if harmless.lstrip()[:1] in ("[", "*") else harmless


def render_files(found, map_method="pca", category_field=None, data_path=None) -> dict[str, bytes]:
    """``table.md``, ``table.tex``, ``figures/*.svg`` and ``report.html``, by their paths.

    ``map_method``: ``pca`` or ``tsne``; None draws no maps.
    ``category_field``, ``data_path``: see :func:`~recbole_llmemb.apps.compare.figures.read_map`.
    """
    figures = figures_of(found)
    if map_method:
        figures |= maps_of(found, map_method, category_field, data_path)
    drawn = {name: (caption, svg(figure)) for name, (caption, figure) in figures.items()}
    tables = tables_of(found)
    markdown = [f"## {in_markdown(each.title)}\n\n{to_markdown(each)}" for each in tables]
    # LaTeX has what the marks mean in the caption of the table that has them.
    latex_tables = [to_latex(each, found.marks if each.has_marks else None) for each in tables]
    notes = "".join(f"\n{in_markdown(note)}\n" for note in found.notes)
    said = "".join(f"- {in_markdown(sentence)}\n" for sentence in verdict(found))
    if said:
        markdown.insert(0, f"## By {in_markdown(found.main)}\n\n{said}")
    contents: dict[str, Any] = {
        **{f"figures/{name}.svg": data for name, (_, data) in drawn.items()},
        "table.md": "\n\n".join(markdown) + f"\n{notes}",
        "table.tex": "% Needs \\usepackage{booktabs}.\n" + "\n\n".join(latex_tables) + "\n",
    }
    page = _page(found, tables, drawn)
    contents[LISTING] = page.replace("\n", f"\n{comment([*contents, LISTING])}\n", 1)
    return {k: v if isinstance(v, bytes) else v.encode() for k, v in contents.items()}


def _page(found, tables, drawn) -> str:
    """One page with everything on it."""
    sections = [(table.title, "table", table) for table in tables]
    if found.marks is not None:
        p_values = _p_values(found)
        sections.insert(1, (p_values.title, "table", p_values))
    sections += [(name.replace("_", " ").capitalize(), "figure", drawn[name]) for name in drawn]
    lists = [table for table in (_settings(found), _files(found)) if table.rows]
    sections += [(table.title, "long", table) for table in lists]
    return render(
        __package__,
        "report.html.j2",
        title=f"Comparison on {found.dataset}",
        verdict=verdict(found),
        found=found,
        sections=sections,
        version=__version__,
    )


def _p_values(found) -> Table:
    """Adjusted p-values of all groups but the baseline."""
    rows = [
        [group.label, *("-" if cell.p is None else f"{cell.p:.2g}" for cell in cells.values())]
        for group, cells in zip(found.groups[1:], found.overall[1:], strict=True)
    ]
    return Table("Adjusted p-values", ["run", *found.metrics], rows)


def _settings(found) -> Table:
    rows: list[list[str | Cell]] = [
        [key, *("" if value is None else str(value) for value in row)]
        for key, row in differing_settings(found.groups).items()
    ]
    return Table("Settings that differ", ["setting", *(g.label for g in found.groups)], rows)


def _files(found) -> Table:
    files = [
        ", ".join(f"{run.file.name} (seed {run.seed})" for run in group.runs)
        for group in found.groups
    ]
    rows = [[g.label, g.runs[0].model, names] for g, names in zip(found.groups, files)]
    return Table("Result files", ["run", "model", "files"], rows)
