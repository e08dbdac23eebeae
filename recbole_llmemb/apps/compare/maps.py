"""Maps of the items, before and after adaptation: the raw table, and what a model made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.reports import DOTS, bare, dots, legend, new_figure, principal_plane
from recbole_llmemb.core.terminal import progress_bar
from recbole_llmemb.models.contract import as_method
from recbole_llmemb.models.llmemb.settings import ItemSettings
from recbole_llmemb.records.items import CATEGORY_FIELDS, first_category, read_dataset_items
from recbole_llmemb.run.restore import restore
from recbole_llmemb.table import EmbeddingTable, match

_MOST = 2000  # items on a map: more hide each other, and t-SNE takes its time


@dataclass
class ItemMap:
    """What a map shows of one checkpoint."""

    # (n, D): Rows of the table as it was encoded; None where the model has no table.
    before: torch.Tensor | None
    after: torch.Tensor  # (n, d): Item embeddings of the model
    popularity: np.ndarray  # (n,): Training interactions
    categories: list[str] | None  # Of each item; None where the item file has no such field
    field: str = ""  # Where the categories come from


def read_map(checkpoint, category_field=None, data_path=None) -> ItemMap:
    """Rebuild a model and take its items.

    At most 2,000 items are taken, evenly by token order, so that maps of different
    checkpoints on one dataset show the same items.

    ``category_field``: field of the ``.item`` file; the first of the usual names if not given.
    ``data_path``: the folder that holds the dataset's folder, if it is not where it was.
    """
    loaded = restore(checkpoint, device="cpu", data_path=data_path)
    dataset = loaded.dataset
    tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    order = sorted(range(1, len(tokens)), key=tokens.__getitem__)
    picked = order[:: -(-len(order) // _MOST)]
    with torch.no_grad():
        after = as_method(loaded.model).items().vectors[picked].float().cpu()
    counts, _ = dataset.training_counts(loaded.splits[0])
    field, categories = _categories(loaded.config, [tokens[i] for i in picked], category_field)
    before = _raw_rows(loaded.config, dataset, picked)
    return ItemMap(before, after, counts[picked].numpy(), categories, field)


def _raw_rows(config, dataset, picked):
    """The table's rows before whitening and the adapter, or None without a table."""
    used = config["llm_table_used"]
    if not used:
        return None
    tokens = dataset.field2id_token[dataset.iid_field]
    missing = ItemSettings.of(config).llm_missing
    table = EmbeddingTable.load(used["path"])
    return match(table, tokens, missing=missing, where=used["path"])[picked].float()


def _categories(config, tokens, wanted):
    file = Path(config["data_path"]) / f"{config['dataset']}.item"
    if not file.is_file():
        return "", None
    text = read_dataset_items(file, config)
    if wanted is not None and wanted not in text.fields:
        raise UserError(
            f"--category_field is {wanted!r}, which {file} does not have; it has "
            f"{', '.join(text.fields)}.",
            key="category_field",
        )
    field = wanted or next((name for name in CATEGORY_FIELDS if name in text.fields), None)
    if field is None:
        return "", None
    values = dict(zip(text.tokens, text.attributes, strict=True))
    return field, [first_category(values.get(token, {}).get(field, "")) for token in tokens]


def flatten(vectors, method, seed=0) -> tuple[torch.Tensor, str]:
    """Points ``(n, 2)`` for ``(n, D)`` vectors by ``pca`` or ``tsne``, and how in words."""
    if method == "pca":
        points, share = principal_plane(vectors)
        return points, f"two components, {share:.0%} of the variance"
    from sklearn.manifold import TSNE

    if len(vectors) < 5:
        raise UserError("t-SNE needs at least 5 items; leave --map=pca.", key="map")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    points = tsne.fit_transform(vectors.numpy())
    return torch.from_numpy(points - points.mean(0)), "t-SNE"


def maps_of(found, method, category_field, data_path) -> dict[str, tuple[str, Any]]:
    """A map of the first run of each group that has a checkpoint; notes what has none.

    Returns by file name without suffix: caption and figure.
    """
    figures, refused = {}, {}
    for group in progress_bar(found.groups, desc="item maps", unit="checkpoint", disable=None):
        run = next((run for run in group.runs if run.checkpoint), None)
        if run is None:
            continue
        try:
            shown = read_map(run.checkpoint, category_field, data_path)
        except UserError as error:
            if error.key == "category_field":
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


def draw_map(shown: ItemMap, method: str, title: str):
    """Before and after (columns), colored by category and by popularity (rows)."""
    stages = [("item embeddings", shown.after)]
    if shown.before is not None:
        stages = [("before: the table", shown.before), ("after adaptation", shown.after)]
    drawers = [_by_category] if shown.categories else []
    drawers.append(_by_popularity)
    figure = new_figure(5, 6.2 / len(stages) * len(drawers) + 1, "compressed")
    grid = figure.subplots(len(drawers), len(stages), squeeze=False)
    for column, (words, vectors) in enumerate(stages):
        points, how = flatten(vectors, method)
        for axes, draw in zip(grid[:, column], drawers):
            bare(axes, points, words if axes is grid[0, column] else "")
            drawn = draw(axes, points.numpy(), shown)
        grid[-1, column].set_xlabel(how.replace(", ", ",\n"), fontsize=9)
    figure.colorbar(drawn, ax=grid[-1], location="bottom", label="training interactions")
    if shown.categories:
        legend(figure, grid[0, 0], title=f"{title}, by {shown.field}", markerscale=2)
    else:
        figure.suptitle(title, fontsize=10)
    return figure


def _by_category(axes, points, shown):
    dots(axes, points, shown.categories)


def _by_popularity(axes, points, shown):
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm

    order = np.argsort(shown.popularity, kind="stable")  # popular items, the few, on top
    norm = LogNorm(1, max(2, int(shown.popularity.max())))
    shades = ListedColormap(colormaps["viridis"](np.linspace(0.25, 0.9, 256)))
    counts = np.maximum(shown.popularity[order], 1)
    return axes.scatter(*points[order].T, c=counts, norm=norm, cmap=shades, **DOTS)
