"""The tables of a comparison, for the terminal, Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass

from tabulate import tabulate

from recbole_llmemb.apps.compare.significance import mark

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "≥": r"$\geq$", "<": "$<$", ">": "$>$", "–": "--",
}  # fmt: skip


@dataclass
class Table:
    """A table before it is written: the first column names the rows."""

    title: str
    columns: list[str]
    rows: list[list]  # Text, or :class:`~recbole_llmemb.apps.compare.comparison.Cell`


def tables_of(found) -> list[Table]:
    """Overall metrics, the main metric by group, and what the runs cost."""
    labels = [(group.label, _seeds(group)) for group in found.groups]
    overall = Table(
        f"Test set of {found.dataset}",
        ["run", "seeds", *found.metrics],
        [[*label, *cells.values()] for label, cells in zip(labels, found.overall, strict=True)],
    )
    tables = [overall]
    if found.by_group:
        titles = [f"{name.replace('_', ' ')} ({size:,})" for name, size in found.sizes.items()]
        rows = [
            [label, *each.values()] for (label, _), each in zip(labels, found.by_group, strict=True)
        ]
        tables.append(Table(f"{found.main} by group (test users)", ["run", *titles], rows))
    tables.append(_cost(found))
    return tables


def p_values_of(found) -> Table | None:
    """The adjusted p-values, or None where nothing was tested."""
    if found.test is None:
        return None
    rows = [
        [group.label, *("-" if c.p is None else f"{c.p:.2g}" for c in cells.values())]
        for group, cells in zip(found.groups[1:], found.overall[1:], strict=True)
    ]
    return Table("Adjusted p-values", ["run", *found.metrics], rows)


def settings_of(found, differing) -> Table | None:
    """Settings in which the groups differ, or None where there are none or files tell none."""
    if not differing:
        return None
    rows = [[key, *(_setting(value) for value in row)] for key, row in differing.items()]
    return Table("Settings that differ", ["setting", *(g.label for g in found.groups)], rows)


def plain_cell(cell) -> str:
    """``0.1234 ± 0.0012 +10.0%**``."""
    if not _is_cell(cell):
        return str(cell)
    if cell.mean is None:
        return "-"
    text = f"{cell.mean:.4f}" + (f" ± {cell.std:.4f}" if cell.std is not None else "")
    return text if cell.change is None else f"{text} {cell.change:+.1%}{mark(cell.p)}"


def to_text(table: Table) -> str:
    """For the terminal."""
    rows = [[plain_cell(cell) for cell in row] for row in table.rows]
    align = ["left", *["right"] * (len(table.columns) - 1)]
    grid = tabulate(rows, table.columns, "simple", disable_numparse=True, colalign=align)
    return f"{table.title}\n\n{grid}"


def to_markdown(table: Table) -> str:
    """A pipe table, the best of each column in bold."""

    def text(cell):
        shown = plain_cell(cell).replace("|", "\\|")
        if not _is_cell(cell):
            return shown
        shown = shown.replace("*", "\\*")
        if not cell.best:
            return shown
        mean, _, rest = shown.partition(" ")
        return f"**{mean}** {rest}".rstrip()

    lines = [table.columns, ["---", *["---:"] * (len(table.columns) - 1)]]
    lines += [[text(cell) for cell in row] for row in table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def to_latex(table: Table, notes=()) -> str:
    """A ``table`` environment with booktabs rules, the best of each column in bold.

    ``notes``: put into the caption.
    """

    def text(cell):
        if not _is_cell(cell):
            return latex(cell)
        if cell.mean is None:
            return "--"
        mean = f"{cell.mean:.4f}"
        shown = f"\\textbf{{{mean}}}" if cell.best else mean
        if cell.std is not None:
            shown += f" $\\pm$ {cell.std:.4f}"
        if cell.change is not None:
            stars = mark(cell.p)
            shown += f" ({cell.change:+.1%})".replace("%", r"\%").replace("-", "$-$")
            shown += f"$^{{{stars}}}$" if stars else ""
        return shown

    caption = " ".join([f"{latex(table.title)}.", *(latex(note) for note in notes)])
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
        r"\toprule",
        " & ".join(latex(column) for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(text(cell) for cell in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def to_html(table: Table) -> str:
    """A table that scrolls by itself where it is wider than the screen."""

    def text(cell):
        if not _is_cell(cell):
            return html.escape(str(cell))
        if cell.mean is None:
            return "–"
        mean = f"{cell.mean:.4f}"
        shown = f"<b>{mean}</b>" if cell.best else mean
        if cell.std is not None:
            shown += f' <span class="std">± {cell.std:.4f}</span>'
        if cell.change is not None:
            kind = "up" if cell.change > 0 else "down"
            change = f"{cell.change:+.1%}".replace("-", "−")
            shown += f' <span class="{kind}">{change}{mark(cell.p)}</span>'
        return shown

    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
    body = "\n".join(
        "<tr>"
        + f'<th scope="row">{text(row[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(table.title)}">'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def latex(text) -> str:
    """Text with what means something to LaTeX made harmless."""
    return "".join(_LATEX.get(letter, letter) for letter in str(text))


def _is_cell(cell) -> bool:
    return hasattr(cell, "mean")


def _seeds(group) -> str:
    return str(len(group.runs))


def _cost(found) -> Table:
    columns = ["run", "epochs", "s per epoch", "training s", "trained parameters", "frozen"]
    rows = []
    for group in found.groups:
        row = [
            group.label,
            "/".join("-" if r.epochs is None else str(r.epochs) for r in group.runs),
        ]
        for key in ("train_per_epoch", "train"):
            row.append(_mean([run.seconds.get(key) for run in group.runs], "{:,.1f}"))
        for key in ("trainable", "frozen"):
            row.append(_mean([run.parameters.get(key) for run in group.runs], "{:,.0f}"))
        rows.append(row)
    return Table("What the runs cost", columns, rows)


def _mean(values, form) -> str:
    values = [value for value in values if value is not None]
    return form.format(sum(values) / len(values)) if values else "-"


def _setting(value) -> str:
    return "" if value is None else str(value)
