"""The words of the prompts (section 4 of LLM-SRec), and what the dataset puts into them."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path

import numpy as np

from recbole_llmemb.config.shared import DataSettings
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.settings import EncodeSettings
from recbole_llmemb.models.llmsrec.settings import LLMSRecSettings

USER_START = "This user has made a series of purchases in the following order: "
USER_END = ". Based on this sequence of purchases, generate user representation token:"
ITEM_START = "The item title and item embedding are as follows: "
ITEM_END = ", then generate item representation token:"
NO_TITLE = "No title"

# Seconds since 1970 lie here from 1973 to 2128; positions in a sequence do not, nor years.
_SECONDS = (1e8, 5e9)


def history_text(number, title, date=None):
    """What stands before an item's ``[HistoryEmb]`` in a user prompt.

    ``number``: from 1, the oldest item shown.
    ``date``: ``YYYY-MM-DD``; without it the prompt says nothing of time.
    """
    time = f"Time: {date}, " if date else ""
    return f'{"," if number > 1 else ""}Item No.{number}, {time}"{title}"'


def item_text(title):
    """What stands before ``[HistoryEmb]`` in an item prompt."""
    return f'{ITEM_START}"{title}"'


def user_prompt(titles, dates=None):
    """A whole user prompt, with its slots in words (for reading, and for the reference).

    ``titles``, ``dates``: oldest first.
    """
    dates = dates or [None] * len(titles)
    shown = [
        history_text(number, title, date) + "[HistoryEmb]"
        for number, (title, date) in enumerate(zip(titles, dates), start=1)
    ]
    return USER_START + "".join(shown) + USER_END + "[UserOut]"


def item_prompt(title):
    """A whole item prompt, with its slots in words."""
    return item_text(title) + "[HistoryEmb]" + ITEM_END + "[ItemOut]"


def item_titles(config, dataset):
    """The title of each item id, cut to ``item_value_max_chars``; empty ones are :data:`NO_TITLE`.

    ``config``: ``item_title_field``; empty means ``title`` or the first of ``item_text_fields``.
    Returns by item id; the first, padding, is empty.
    """
    from recbole_llmemb.records.items import read_items

    data, encoded = DataSettings.of(config), EncodeSettings.of(config)
    path = Path(data.data_path) / f"{data.dataset}.item"
    chosen = LLMSRecSettings.of(config).item_title_field
    found = read_items(
        path,
        [chosen] if chosen else None,
        id_field=data.ITEM_ID_FIELD,
        field_separator=data.field_separator,
        encoding=data.encoding or "utf-8",
    )
    if not chosen:
        first = [name for name in encoded.item_text_fields or () if name in found.fields]
        chosen = next(iter([*(n for n in ("title",) if n in found.fields), *first]), None)
    if not chosen:
        raise UserError(
            f"{path} has no field called title; name the one with the items' titles by "
            f"item_title_field (it has {', '.join(found.fields)})."
        )
    cut = encoded.item_value_max_chars or None  # 0: nothing is cut
    titles = {t: a.get(chosen, NO_TITLE)[:cut] for t, a in zip(found.tokens, found.attributes)}
    tokens = dataset.field2id_token[dataset.iid_field]
    return ["", *(titles.get(str(token), NO_TITLE) for token in tokens[1:])]


def days_of(times):
    """Times in seconds (or milliseconds) since 1970 as whole days since then, ``int64``."""
    values = np.asarray(times, dtype=np.float64)
    if len(values) and np.abs(values).max() > 1e11:
        values = values / 1000
    return np.floor(values / 86_400).astype(np.int64)


def date_of(day):
    """``YYYY-MM-DD`` of a number from :func:`days_of`."""
    return str(np.datetime64(int(day), "D"))


def has_dates(config, dataset):
    """Whether prompts name dates: ``prompt_dates``, or whether the time field holds real times.

    A notice says so where it does not: positions in a sequence are not times.
    """
    if config["prompt_dates"] is not None:
        return bool(config["prompt_dates"])
    store = getattr(dataset, "sorted_interactions", None)
    if store is None or dataset.time_field not in store.fields:
        return False
    values = dataset.clock.times(store.fields[dataset.time_field].numpy())
    if len(values) and values.max() > 1e11:
        values = values / 1000
    low, high = _SECONDS
    real = len(values) > 0 and bool(values.min() >= low and values.max() <= high)
    if not real:
        getLogger().warning(
            f"{dataset.time_field} of {config['dataset']} holds no times in seconds since 1970, "
            "so prompts name no dates; prompt_dates: True or False says otherwise."
        )
    return real
