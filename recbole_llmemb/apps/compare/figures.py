"""Figures of a comparison: who gains, training, cost; and maps of the items before and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_llmemb.apps.compare.comparison import mean_std
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.reports import (
    DOTS,
    bare,
    dots,
    legend,
    new_figure,
    plain_log,
    principal_plane,
    style,
)
from recbole_llmemb.core.terminal import progress_bar
from recbole_llmemb.models.contract import as_method
from recbole_llmemb.models.settings import ItemSettings
from recbole_llmemb.records.items import CATEGORY_FIELDS, first_category, open_dataset_items
from recbole_llmemb.run.restore import restore
from recbole_llmemb.table import EmbeddingTable, match

_BINS = {
    "item_popularity": "training interactions of the item",
    "history_length": "training interactions of the user",
}
_MOST = 2000  # items on a map: more hide each other, and t-SNE takes its time


def figures_of(found) -> dict[str, tuple[str, Any]]:
    """All figures that the files of a comparison suffice for.

    ``found``: to which a note is added where some runs cannot be drawn.
    Returns by file name without suffix: caption, and the :class:`matplotlib.figure.Figure`.
    """
    figures = {}
    without = [g.label for g in found.groups if not all(run.bins for run in g.runs)]
    for kind, words in _BINS.items() if len(without) < len(found.groups) else ():
        caption = f"Test {found.main} by {words}, mean and standard deviation over seeds."
        bars = "Bars: test users; bins with hardly any at either end are put together."
        figures[kind] = f"{caption} {bars}", draw_bins(found, kind)
    if any(run.curve for run in found.runs):
        caption = f"Validation {_watched(found)} and training loss, a line per run."
        kinds = "Losses of different kinds do not compare."
        figures["learning_curves"] = f"{caption} {kinds}", draw_curves(found)
    if without:
        where = "Not in every figure" if figures else "In no figure"
        lacks = "their files hold no results by popularity and history length"
        found.notes.append(f"{where}: {', '.join(without)}; {lacks}, as of earlier versions.")
    if any(run.seconds.get("train") for run in found.runs):
        caption = f"Test {found.main} against seconds of training (large: means), and per epoch."
        figures["training_cost"] = caption, draw_cost(found)
    return figures


def bin_label(row) -> str:
    """``0``, ``1``, ``2–3``, ``4–7``, …"""
    return str(row["from"]) if row["from"] == row["to"] else f"{row['from']}–{row['to']}"


def merge_small(rows, least=0.01) -> list[dict]:
    """Bins at either end with hardly any users, put together with their neighbors.

    A mean over three users would set the scale of the whole figure.

    ``rows``: see :func:`~recbole_llmemb.evaluation.groups.bins`.
    ``least``: share of all users that a bin at an end must have; also 10 users.
    """
    rows = list(rows)
    enough = min(max(10, least * sum(row["users"] for row in rows)), 100)
    while len(rows) > 2 and rows[0]["users"] < enough:
        rows[:2] = [_together(*rows[:2])]
    while len(rows) > 2 and rows[-1]["users"] < enough:
        rows[-2:] = [_together(*rows[-2:])]
    return rows


def _together(low, high) -> dict:
    users = low["users"] + high["users"]
    merged = {"from": low["from"], "to": high["to"], "users": users}
    for name in low.keys() - merged.keys():
        parts = [(row.get(name), row["users"]) for row in (low, high)]
        known = users and all(value is not None for value, _ in parts)
        merged[name] = sum(value * count for value, count in parts) / users if known else None
    return merged


def draw_bins(found, kind):
    """The main metric by ``item_popularity`` or ``history_length``."""
    by_group = [[merge_small(run.bins.get(kind, [])) for run in g.runs] for g in found.groups]
    shown = {row["from"]: row for runs in by_group for rows in runs for row in rows}
    firsts = sorted(shown)
    figure = new_figure(5, 4)
    axes = figure.subplots()
    behind = axes.twinx()
    users = [shown[first]["users"] for first in firsts]
    behind.bar(range(len(firsts)), users, color="0.5", alpha=0.25, width=0.8, zorder=0)
    behind.set_ylabel("test users", color="0.5")
    behind.tick_params(axis="y", colors="0.5")
    axes.set_zorder(behind.get_zorder() + 1)  # lines in front of the bars
    axes.patch.set_visible(False)
    for number, (group, runs) in enumerate(zip(found.groups, by_group)):
        points = {}
        for place, first in enumerate(firsts):
            bins = [row for rows in runs for row in rows if row["from"] == first]
            mean, std = mean_std([row.get(found.main) for row in bins])
            if mean is not None:
                points[place] = mean, std or float("nan")
        if points:
            means, spreads = zip(*points.values())
            look = {"capsize": 2, "markersize": 4, **style(number)}
            axes.errorbar(list(points), means, yerr=spreads, label=group.label, **look)
    labels = [bin_label(shown[first]) for first in firsts]
    axes.set_xticks(range(len(firsts)), labels, fontsize=9, rotation=40 if len(labels) > 5 else 0)
    axes.set_xlabel(_BINS[kind])
    axes.set_ylabel(f"test {found.main}")
    axes.set_ylim(bottom=0)
    legend(figure, axes)
    return figure


def draw_curves(found):
    """Validation score and training loss by epoch."""
    figure = new_figure(5, 6)
    upper, lower = figure.subplots(2, 1)
    for number, group in enumerate(found.groups):
        label = group.label
        for run in group.runs:
            if not run.curve:
                continue
            epochs = [row["epoch"] + 1 for row in run.curve]
            few = {"marker": ".", "markersize": 5} if len(epochs) < 30 else {"marker": ""}
            look = {**style(number), "linewidth": 1.2, **few}
            upper.plot(epochs, [row["valid_score"] for row in run.curve], label=label, **look)
            losses = [row["train_loss"] for row in run.curve]
            lower.plot(epochs, [None if None in each else sum(each) for each in losses], **look)
            label = None
    upper.set(ylabel=f"validation {_watched(found)}")
    lower.set(xlabel="epoch", ylabel="training loss, sum of an epoch")
    for axes in (upper, lower):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
    legend(figure, upper)
    return figure


def draw_cost(found):
    """Test score against seconds of training; seconds per epoch."""
    bars_height = 0.3 * len(found.groups) + 0.6
    figure = new_figure(5, 3.2 + bars_height)
    upper, lower = figure.subplots(2, 1, height_ratios=(3.2, bars_height))
    bars = []
    for number, group in enumerate(found.groups):
        look = style(number)
        points = [(run.seconds.get("train"), run.test[found.main]) for run in group.runs]
        points = [(seconds, score) for seconds, score in points if seconds and score is not None]
        if points:
            only = {"color": look["color"], "marker": look["marker"]}
            upper.scatter(*zip(*points), s=12, alpha=0.5, **only)
            x, y = (mean_std(each)[0] for each in zip(*points))
            upper.scatter(x, y, s=60, label=group.label, **only)
        mean, std = mean_std([run.seconds.get("train_per_epoch") for run in group.runs])
        if mean is not None:
            bars.append((group.label, mean, std or float("nan"), look["color"]))
    seconds = [run.seconds["train"] for run in found.runs if run.seconds.get("train")]
    if max(seconds) > 5 * min(seconds):
        upper.set_xscale("log")
        plain_log(upper.xaxis, min(seconds), max(seconds))
    upper.set(xlabel="seconds of training, with validation", ylabel=f"test {found.main}")
    upper.grid(alpha=0.25)
    legend(figure, upper)
    if bars:
        labels, means, spreads, colors = zip(*bars)
        lower.barh(labels, means, xerr=spreads, color=colors, capsize=2, height=0.6)
        lower.set_ylim(len(bars) - 0.5, -0.5)
    lower.set_xlabel("seconds per epoch")
    return figure


def _watched(found) -> str:
    """What validation was scored by, where all that is drawn agree on it."""
    names = {
        str(run.config.get("valid_metric", "score")).lower() for run in found.runs if run.curve
    }
    return names.pop() if len(names) == 1 else "score"


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
    text = open_dataset_items(file, config).read()
    if wanted is not None and wanted not in text.fields:
        told = f"--category_field is {wanted!r}; of {file} it must be {', '.join(text.fields)}."
        raise UserError(told, key="category_field")
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
        caption = f"{len(shown.after):,} items of {group.label} (seed {run.seed})"
        both = "" if shown.before is None else ", before and after adaptation"
        figures[name] = f"{caption}{both}.", draw_map(shown, method, group.label)
    found.notes += [f"No item map of {label}: {why}" for label, why in refused.items()]
    return figures


def draw_map(shown: ItemMap, method: str, title: str):
    """Before and after (columns), colored by category and by popularity (rows)."""
    stages = [("item embeddings", shown.after)]
    if shown.before is not None:
        stages = [("before: the table", shown.before), ("after adaptation", shown.after)]
    rows = 2 if shown.categories else 1
    figure = new_figure(5, 6.2 / len(stages) * rows + 1, "compressed")
    grid = figure.subplots(rows, len(stages), squeeze=False)
    for column, (words, vectors) in zip(grid.T, stages):
        points, how = flatten(vectors, method)
        for axes in column:
            bare(axes, points, words if axes is column[0] else "")
        if shown.categories:
            dots(column[0], points.numpy(), shown.categories)
        drawn = _by_popularity(column[-1], points.numpy(), shown.popularity)
        column[-1].set_xlabel(how.replace(", ", ",\n"), fontsize=9)
    bar = figure.colorbar(drawn, ax=grid[-1], location="bottom", label="training interactions")
    plain_log(bar.ax.xaxis, *drawn.get_clim())
    if shown.categories:
        legend(figure, grid[0, 0], title=f"{title}, by {shown.field}", markerscale=2)
    else:
        figure.suptitle(title, fontsize=10)
    return figure


def _by_popularity(axes, points, popularity):
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm

    order = np.argsort(popularity, kind="stable")  # popular items, the few, on top
    norm = LogNorm(1, max(2, int(popularity.max())))
    shades = ListedColormap(colormaps["viridis"](np.linspace(0.25, 0.9, 256)))
    counts = np.maximum(popularity[order], 1)
    return axes.scatter(*points[order].T, c=counts, norm=norm, cmap=shades, **DOTS)
