"""Maps of the items, before and after adaptation: the raw table, and what a model made of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recbole_llmemb.core.drawing import COLORS, bare, new_figure, principal_plane
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.records.items import read_items

_NAMES = ("category", "categories", "genre", "genres", "class", "main_category", "main_cat")
_MOST = 2000  # items on a map: more hide each other, and t-SNE takes its time
METHODS = ("pca", "tsne")


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
    from recbole_llmemb.run.restore import restore

    loaded = restore(checkpoint, device="cpu", data_path=data_path)
    dataset, layer = loaded.dataset, getattr(loaded.model, "item_embedding", None)
    if layer is None:
        raise UserError(f"The model of {checkpoint} has no item embeddings to map.")
    tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    order = sorted(range(1, len(tokens)), key=tokens.__getitem__)
    picked = order[:: -(-len(order) // _MOST)]
    with torch.no_grad():
        after = layer.weight[picked].float().cpu()
    counts, _ = dataset.training_counts(loaded.splits[0])
    field, categories = _categories(loaded.config, [tokens[i] for i in picked], category_field)
    before = _raw_rows(loaded.config, dataset, picked)
    return ItemMap(before, after, counts[picked].numpy(), categories, field)


def _raw_rows(config, dataset, picked):
    """The table's rows before whitening and the adapter, or None without a table."""
    from recbole_llmemb.table import EmbeddingTable, match

    used = config["llm_table_used"]
    if not used:
        return None
    tokens = dataset.field2id_token[dataset.iid_field]
    missing = config["llm_missing"] or "error"
    table = EmbeddingTable.load(used["path"])
    return match(table, tokens, missing=missing, where=used["path"])[picked].float()


def _categories(config, tokens, wanted):
    file = Path(config["data_path"]) / f"{config['dataset']}.item"
    if not file.is_file():
        return "", None
    text = read_items(
        file,
        id_field=config["ITEM_ID_FIELD"] or "item_id",
        field_separator=config["field_separator"] or "\t",
        encoding=config["encoding"] or "utf-8",
    )
    if wanted is not None and wanted not in text.fields:
        raise UserError(
            f"--category_field is {wanted!r}, which {file} does not have; it has "
            f"{', '.join(text.fields)}."
        )
    field = wanted or next((name for name in _NAMES if name in text.fields), None)
    if field is None:
        return "", None
    values = dict(zip(text.tokens, text.attributes, strict=True))
    return field, [first_category(values.get(token, {}).get(field, "")) for token in tokens]


def first_category(text: str) -> str:
    """The first of several categories: up to a comma or the like, else the first word."""
    text = text.strip(" []'\"")
    for mark in ("|", ";", ">", ","):
        if mark in text:
            return text.partition(mark)[0].strip(" '\"")
    return text.partition(" ")[0]


def flatten(vectors, method, seed=0) -> tuple[torch.Tensor, str]:
    """Points ``(n, 2)`` for ``(n, D)`` vectors, and in words how they came about."""
    if method == "pca":
        points, share = principal_plane(vectors)
        return points, f"two components, {share:.0%} of the variance"
    from sklearn.manifold import TSNE

    if len(vectors) < 5:
        raise UserError("t-SNE needs at least 5 items; leave --map=pca.")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(
        vectors.numpy()
    )
    return torch.from_numpy(points - points.mean(0)), "t-SNE"


def draw_map(shown: ItemMap, method: str, title: str):
    """Before and after (columns), coloured by category and by popularity (rows).

    ``method``: one of :data:`METHODS`.
    """
    stages = [("table", shown.before)] if shown.before is not None else []
    stages.append(("model", shown.after))
    rows = (["category"] if shown.categories else []) + ["popularity"]
    figure = new_figure(4.2 * len(stages) + 1.6, 4.2 * len(rows), "compressed")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(rows), len(stages), squeeze=False)
    for column, (name, vectors) in enumerate(stages):
        points, how = flatten(vectors, method)
        words = "before: the table" if name == "table" else "item embeddings"
        if name == "model" and len(stages) > 1:
            words = "after adaptation"
        for row, kind in enumerate(rows):
            axes = grid[row, column]
            bare(axes, points, f"{words} ({how})")
            last = column == len(stages) - 1
            if kind == "category":
                _by_category(axes, points, shown, legend=last)
            else:
                drawn = _by_popularity(axes, points, shown.popularity)
                if last:
                    # Beside the map, as the legend above; ax=axes would take from its width.
                    beside = axes.inset_axes((1.03, 0, 0.04, 1))
                    figure.colorbar(drawn, cax=beside, label="training interactions")
    return figure


def _by_category(axes, points, shown, legend):
    most = [name for name, _ in Counter(filter(None, shown.categories)).most_common(len(COLORS))]
    of = np.array([most.index(c) if c in most else -1 for c in shown.categories])
    for place in (-1, *range(len(most))):
        chosen = of == place
        if chosen.any():
            colour, name = ("0.8", "other") if place < 0 else (COLORS[place], most[place])
            axes.scatter(
                *points[torch.from_numpy(chosen)].t().numpy(),
                s=7, alpha=0.6, linewidths=0, color=colour, label=name,
            )  # fmt: skip
    if legend:
        axes.legend(
            title=shown.field, fontsize=7, title_fontsize=8, markerscale=2,
            loc="center left", bbox_to_anchor=(1.0, 0.5),
        )  # fmt: skip


def _by_popularity(axes, points, popularity):
    from matplotlib.colors import LogNorm

    order = np.argsort(popularity, kind="stable")  # popular items, the few, on top
    norm = LogNorm(1, max(2, int(popularity.max())))
    return axes.scatter(
        *points[torch.from_numpy(order)].t().numpy(),
        c=np.maximum(popularity[order], 1), norm=norm, cmap="viridis", s=7, alpha=0.7, linewidths=0,
    )  # fmt: skip
