"""What items are called, to be shown beside their tokens."""

from __future__ import annotations

from pathlib import Path

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.records.items import read_items

_NAMES = ("title", "name")


def item_titles(config, field: str | None = None) -> dict[str, str]:
    """Titles by item token, from the dataset's ``.item`` file.

    ``field``: empty: ``item_title_field``, else a field called title or name, or ending so, else
    the first one that the model's text is made of.
    Returns without items that have none; empty where there is no item file.
    """
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    if not path.is_file():
        if field:
            raise UserError(f"There is no {path}, so items have no {field!r}; leave --title_field.")
        return {}
    found = read_items(
        path,
        id_field=config["ITEM_ID_FIELD"] or "item_id",
        field_separator=config["field_separator"] or "\t",
        encoding=config["encoding"] or "utf-8",
    )
    chosen = field or config["item_title_field"] or _title_field(found.fields, config)
    if field and field not in found.fields:
        raise UserError(
            f"{path} has no field {field!r}; set --title_field to one of "
            f"{', '.join(found.fields) or 'none'}."
        )
    pairs = zip(found.tokens, found.attributes)
    return {token: attributes[chosen] for token, attributes in pairs if chosen in attributes}


def title_of(attributes: dict[str, str], config) -> str:
    """The title among an item's attributes; empty where there is none."""
    field = config["item_title_field"] or _title_field(list(attributes), config)
    return attributes.get(field, "")


def _title_field(fields, config):
    for name in _NAMES:
        for field in fields:
            if field.lower() == name or field.lower().endswith(f"_{name}"):
                return field
    used = [field for field in config["item_text_fields"] or () if field in fields]
    return next(iter([*used, *fields]), "")
