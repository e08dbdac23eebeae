"""The first line of RecBole's ``.inter`` file, read before RecBole stumbles over it."""

from __future__ import annotations

from pathlib import Path

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import first_line


def interaction_files(config) -> list[Path]:
    """Where a dataset's interactions are: one file, or those of ``benchmark_filename``."""
    folder, name = Path(config["data_path"]), config["dataset"]
    parts = config["benchmark_filename"]
    return (
        [folder / f"{name}.{part}.inter" for part in parts] if parts else [folder / f"{name}.inter"]
    )


def check_header(path, config) -> None:
    """Refuse a file whose first line does not name fields as ``name:type``.

    ``path``: RecBole's ``.inter`` file, which exists.
    ``config``: ``field_separator`` and ``encoding``.
    """
    separator = config["field_separator"] or "\t"
    try:
        line = first_line(path, config["encoding"])
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    if not line.strip():
        raise UserError(f"{path} has no first line that names its fields as name:type.")
    for column in line.split(separator):
        name, colon, kind = column.partition(":")
        if not (name and colon) or kind not in _TYPES:
            raise UserError(
                f"{path}: the first line must name the fields as name:type (of {_TYPES_TOLD}), but "
                f"{column[:40]!r} is not; check the file and field_separator ({separator!r})."
            )


_TYPES = ("token", "token_seq", "float", "float_seq")
_TYPES_TOLD = ", ".join(_TYPES)


def is_time(dataset, field) -> bool:
    """Whether a field of a dataset has numbers, which can order a sequence.

    RecBole takes tokens, too, and orders by the numbers that it gives them.
    """
    from recbole.utils import FeatureType

    return dataset.field2type.get(field) == FeatureType.FLOAT
