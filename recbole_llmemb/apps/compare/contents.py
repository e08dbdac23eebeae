"""What ``--out`` holds: tables, figures, and the page."""

from __future__ import annotations

from recbole_llmemb import __version__
from recbole_llmemb.apps.compare import tables
from recbole_llmemb.apps.compare.grouping import differing_settings
from recbole_llmemb.core.drawing import png
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.out_folder import comment

LISTING = "report.html"


def contents_of(found, map_method="pca", category_field=None, data_path=None) -> dict[str, bytes]:
    """``table.md``, ``table.tex``, ``figures/*.png`` and ``report.html``, by their paths.

    ``found``: to which notes are added.
    ``map_method``: ``pca`` or ``tsne``; None draws no maps.
    ``category_field``, ``data_path``: see :func:`~recbole_llmemb.apps.compare.maps.read_map`.
    """
    from recbole_llmemb.apps.compare.figures import figures_of
    from recbole_llmemb.apps.compare.page import page

    figures = figures_of(found)
    if map_method:
        figures |= _maps(found, map_method, category_field, data_path)
    drawn = {name: (caption, png(figure)) for name, (caption, figure) in figures.items()}
    shown = tables.tables_of(found)
    p_values = tables.p_values_of(found)
    settings = tables.settings_of(found, differing_settings(found.groups))
    notes = "".join(f"\n{note}\n" for note in found.notes)
    markdown = "\n\n".join(f"## {each.title}\n\n{tables.to_markdown(each)}" for each in shown)
    # LaTeX has the notes with the table that they are about.
    latex = [
        tables.to_latex(each, found.notes[:1] if found.test and not at else ())
        for at, each in enumerate(shown)
    ]
    head = "% Needs \\usepackage{booktabs}.\n"
    html = page(found, shown, drawn, settings, p_values, __version__)
    contents = {
        **{f"figures/{name}.png": data for name, (_, data) in drawn.items()},
        "table.md": f"{markdown}\n{notes}".encode(),
        "table.tex": (head + "\n\n".join(latex) + "\n").encode(),
    }
    html = html.replace("\n", f"\n{comment([*contents, LISTING])}\n", 1)
    return contents | {LISTING: html.encode()}


def _maps(found, method, category_field, data_path):
    """A map of the first run of each group that has a checkpoint; notes what has none."""
    from tqdm import tqdm

    from recbole_llmemb.apps.compare.maps import draw_map, read_map

    figures, refused = {}, {}
    for group in tqdm(found.groups, desc="item maps", unit="checkpoint", disable=None):
        run = next((run for run in group.runs if run.checkpoint), None)
        if run is None:
            continue
        try:
            shown = read_map(run.checkpoint, category_field, data_path)
        except UserError as error:
            if category_field and "category_field" in str(error):
                raise  # typed wrongly, not gone
            refused[group.label] = str(error)
            continue
        name = "item_map_" + "".join(c if c.isalnum() else "_" for c in group.label)
        while name in figures:
            name += "_"
        caption = (
            f"Items of {group.label} (seed {run.seed}), {len(shown.after):,} of them"
            + (", before and after adaptation" if shown.before is not None else "")
            + ". Each map has its own axes."
        )
        figures[name] = caption, draw_map(shown, method, group.label)
    found.notes += [f"No item map of {label}: {why}" for label, why in refused.items()]
    return figures
