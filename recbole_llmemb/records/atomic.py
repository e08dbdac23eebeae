"""RecBole's atomic files: where a dataset has them, and their first line, which names fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_llmemb.core.errors import UserError

FIELD_TYPES = ("token", "token_seq", "float", "float_seq")


def interaction_files(config: Any) -> list[Path]:
    """Where a dataset's interactions are: one file, or those of ``benchmark_filename``."""
    folder, name = Path(config["data_path"]), config["dataset"]
    parts = config["benchmark_filename"]
    return (
        [folder / f"{name}.{part}.inter" for part in parts] if parts else [folder / f"{name}.inter"]
    )


def atomic_header(line: str, separator: str, path: Path) -> list[tuple[str, str]]:
    """Names and types of the fields that an atomic file's first line names."""
    found = []
    for column in line.split(separator):
        if (named := name_and_type(column)) is None:
            raise UserError(
                f"{path}: the first line must name the fields as name:type (of "
                f"{', '.join(FIELD_TYPES)}), but {column[:40]!r} is not; check the file and "
                f"field_separator ({separator!r}).",
                key="field_separator",
                where=path,
            )
        found.append(named)
    return found


def name_and_type(column: str) -> tuple[str, str] | None:
    """What a cell of a first line names, None where it is none of RecBole's."""
    name, _, kind = column.strip().partition(":")
    return (name, kind) if name and kind in FIELD_TYPES else None
