"""What an order test found, as a table for people, as JSON, Markdown and a figure."""

from __future__ import annotations

import json

from tabulate import tabulate

from recbole_llmemb.core.drawing import COLORS, new_figure, png

_COLUMNS = ("", "ranking", "metric", "true order", "shuffled", "relative drop")
_FILES = ["order.json", "order.md", "order.png"]


def rows_of(found):
    """Cells of the table, one line per checkpoint, ranking and metric."""
    rows = []
    for order in found:
        for metric, values in order.summary().items():
            spread = "" if values["std"] is None else f" ± {values['std']:.4f}"
            drop = "-" if values["drop"] is None else f"{values['drop']:.1%}"
            shuffled = "-" if values["mean"] is None else f"{values['mean']:.4f}{spread}"
            rows.append(
                [order.name, order.ranking, metric, f"{values['true']:.4f}", shuffled, drop]
            )
    return rows


def to_text(found) -> str:
    """The table for a terminal; what repeats from line to line is left out."""
    rows, before = [], [None] * 2
    for row in rows_of(found):
        shown = ["" if row[:2] == before else cell for cell in row[:2]]
        rows.append([*shown, *row[2:]])
        before = row[:2]
    align = ("left", "left", "left", "right", "right", "right")
    return tabulate(rows, _COLUMNS, tablefmt="simple", disable_numparse=True, colalign=align)


def to_markdown(found) -> str:
    """The same as Markdown, with what was done below it."""
    align = ("left", "left", "left", "right", "right", "right")
    table = tabulate(
        rows_of(found), _COLUMNS, tablefmt="pipe", disable_numparse=True, colalign=align
    )
    return f"{table}\n\n{told(found)}\n"


def told(found) -> str:
    """What was done, in words."""
    first = found[0]
    what = "all items" if first.last is None else f"the last {first.last} items"
    users = sorted({f"{order.users:,}" for order in found})
    tested = f"Test set of {first.dataset}, {' or '.join(users)} users"
    if not first.seeds:
        return f"{tested}; histories as they are."
    return (
        f"{tested}; {what} of each history "
        f"shuffled {len(first.seeds)} times (seeds {first.seeds[0]} to {first.seeds[-1]}), "
        "mean and standard deviation over these."
    )


def to_json(found) -> str:
    """All numbers: ``{"tests": [...]}``, see :class:`Order`.

    ``files`` are those of ``--out``.
    """
    tests = [{**vars(order), "summary": order.summary()} for order in found]
    return json.dumps({"files": _FILES, "tests": tests}, indent=2, allow_nan=False) + "\n"


def draw(found, metric=None):
    """True and shuffled order side by side, a panel for each ranking.

    ``metric``: the first NDCG by default, or the first of all.
    """
    metrics = list(found[0].true)
    metric = metric or next((m for m in metrics if m.startswith("ndcg")), metrics[0])
    modes = list(dict.fromkeys(order.ranking for order in found))
    most = max(sum(order.ranking == mode for order in found) for mode in modes)
    figure = new_figure(max(3.6, 1.0 + 1.3 * most) * len(modes), 3.8)
    for axes, mode in zip(figure.subplots(1, len(modes), squeeze=False)[0], modes):
        shown = [order for order in found if order.ranking == mode]
        values = [order.summary()[metric] for order in shown]
        places = range(len(shown))
        axes.bar(
            [p - 0.2 for p in places],
            [v["true"] for v in values],
            0.38,
            color=COLORS[0],
            label="true order",
        )
        axes.bar(
            [p + 0.2 for p in places],
            [v["mean"] or 0 for v in values],
            0.38,
            yerr=[v["std"] or 0 for v in values],
            capsize=3,
            color=COLORS[1],
            label="shuffled",
        )
        for place, value in zip(places, values):
            if value["drop"] is not None:
                height = value["mean"] + (value["std"] or 0)
                axes.annotate(
                    f"{-value['drop']:+.0%}",
                    (place + 0.2, height),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
        axes.set_xticks(list(places), [order.name for order in shown], fontsize=8)
        axes.set_title(mode.replace("full", "full ranking"), fontsize=10)
        axes.set_ylabel(metric.upper())
        axes.margins(y=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8)
    return figure


def contents_of(found) -> dict[str, bytes]:
    """The files of ``--out``: all numbers, the table, the figure."""
    data = [to_json(found).encode(), to_markdown(found).encode(), png(draw(found))]
    return dict(zip(_FILES, data))
