"""Files whose columns are not called as the configuration says."""

from __future__ import annotations

import functools

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import first_line


def name_missing_columns() -> None:
    """Say which columns a file has when those of users, items or times are not among them.

    RecBole loads the columns that it knows, none of them if need be, and fails later over
    what is missing, without naming the file or the setting.
    """
    from recbole.data.dataset import Dataset

    load_feat = Dataset._load_feat

    @functools.wraps(load_feat)
    def _load_feat(self, filepath, source):
        kind = getattr(source, "value", source)
        if kind == "inter" or self._get_load_and_unload_col(source)[0] != set():
            _check_columns(self.config, filepath, kind)
        return load_feat(self, filepath, source)

    Dataset._load_feat = _load_feat


def _check_columns(config, path, source):
    from recbole.utils import ModelType

    keys = {"inter": ["USER_ID_FIELD", "ITEM_ID_FIELD"], "user": ["USER_ID_FIELD"],
            "item": ["ITEM_ID_FIELD"]}.get(source, [])  # fmt: skip
    # Files that are split already may have histories instead of times.
    ordered = config["MODEL_TYPE"] == ModelType.SEQUENTIAL and not config["benchmark_filename"]
    if source == "inter" and ordered:
        keys.append("TIME_FIELD")
    header = first_line(path, config["encoding"])
    columns = [column.partition(":") for column in header.split(config["field_separator"])]
    found = [name for name, _, _ in columns]
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise UserError(f"{path} has two columns {twice[0]}; rename one of them.")
    missing = [key for key in keys if config[key] is not None and config[key] not in found]
    if missing:
        named = ", ".join(str(config[key]) for key in missing)
        raise UserError(
            f"{path} has the columns {', '.join(found)}, but no {named}; set "
            f"{', '.join(missing)} to what it is called (in all files alike), or rename it."
        )
    people_and_things = [config[key] for key in ("USER_ID_FIELD", "ITEM_ID_FIELD") if key in keys]
    for name, _, kind in columns:
        if name in people_and_things and kind != "token":
            raise UserError(
                f"{path}: {name} is of type {kind}, but users and items are tokens; write "
                f"{name}:token in the first line."
            )
