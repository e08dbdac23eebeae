"""What the dataset puts into the prompts: titles and dates."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path

import numpy as np

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.llmsrec.prompts import NO_TITLE

# Seconds since 1970 lie here from 1973 to 2128; positions in a sequence do not, nor years.
_SECONDS = (1e8, 5e9)


def item_titles(config, dataset):
    """The title of each item id, cut to ``item_value_max_chars``; empty ones are ``NO_TITLE``.

    ``config``: ``item_title_field``; empty means ``title`` or the first of ``item_text_fields``.
    Returns by item id; the first, padding, is empty.
    """
    from recbole_llmemb.records.items import read_items

    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    chosen = config["item_title_field"]
    found = read_items(
        path,
        [chosen] if chosen else None,
        id_field=config["ITEM_ID_FIELD"],
        field_separator=config["field_separator"],
        encoding=config["encoding"] or "utf-8",
    )
    if not chosen:
        fields = ["title", *(config["item_text_fields"] or ())]
        chosen = next((name for name in fields if name in found.fields), None)
    if not chosen:
        raise UserError(
            f"{path} has no field called title; name the one with the items' titles by "
            f"item_title_field (it has {', '.join(found.fields)}).",
            key="item_title_field",
            where=path,
        )
    cut = config["item_value_max_chars"] or None  # 0: nothing is cut
    titles = {t: a.get(chosen, NO_TITLE)[:cut] for t, a in zip(found.tokens, found.attributes)}
    tokens = dataset.field2id_token[dataset.iid_field]
    return ["", *(titles.get(str(token), NO_TITLE) for token in tokens[1:])]


def dates_of(times):
    """``YYYY-MM-DD`` of times ``(…)`` in seconds (or milliseconds) since 1970."""
    days = np.floor(_in_seconds(times) / 86_400).astype(np.int64)
    return days.astype("datetime64[D]").astype(str)


def has_dates(config, dataset):
    """Whether prompts name dates: ``prompt_dates``, or whether the time field holds real times.

    A notice says so where it does not: positions in a sequence are not times.
    """
    if config["prompt_dates"] is not None:
        return bool(config["prompt_dates"])
    store = getattr(dataset, "sorted_interactions", None)
    if store is None or dataset.time_field not in store.fields:
        return False
    times = _in_seconds(dataset.time_scaling.times(store.fields[dataset.time_field].numpy()))
    low, high = _SECONDS
    real = times.size > 0 and bool(times.min() >= low and times.max() <= high)
    if not real:
        getLogger().warning(
            f"{dataset.time_field} of {config['dataset']} holds no times in seconds since 1970, "
            "so prompts name no dates; prompt_dates: True or False says otherwise."
        )
    return real


def _in_seconds(times):
    times = np.asarray(times, dtype=np.float64)
    return times / 1000 if times.size and np.abs(times).max() > 1e11 else times
