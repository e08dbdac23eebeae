"""Where a search is kept: a folder, or an address such as ``s3://bucket/folder``."""

from __future__ import annotations

import json
import os
from pathlib import Path

from recbole_llmemb.core.errors import UserError

_RECORD = "search.json"


class Storage:
    """The place of one search, below where searches are kept.

    ``root``: A folder, or an address that pyarrow's file systems know.
    ``name``: of the search.
    """

    def __init__(self, root: str, name: str):
        from pyarrow import fs

        self.remote = "://" in str(root)
        self.root = str(root).rstrip("/") if self.remote else str(Path(root).expanduser().resolve())
        self.name = name
        self.path = f"{self.root}/{name}"
        try:
            if self.remote:
                self.files, self.folder = fs.FileSystem.from_uri(self.path)
            else:
                self.files, self.folder = fs.LocalFileSystem(), self.path
            self.files.create_dir(self.folder, recursive=True)
        except (OSError, ValueError, NotImplementedError) as error:
            text = " ".join(str(error).split())[:200].rstrip(".")
            raise UserError(
                f"The search cannot be kept in {self.path} ({text}); set --storage."
            ) from None

    def read(self) -> dict | None:
        """What the search that is kept here was begun with, or None."""
        from pyarrow import fs

        place = f"{self.folder}/{_RECORD}"
        if self.files.get_file_info(place).type == fs.FileType.NotFound:
            return None
        try:
            with self.files.open_input_stream(place) as handle:
                return json.loads(handle.read().decode())
        except (OSError, ValueError):
            raise UserError(f"{self.path}/{_RECORD} is damaged; begin another search.") from None

    def write(self, record: dict) -> None:
        """Keep what the search is begun with."""
        self.write_file(_RECORD, json.dumps(record, indent=2, default=str).encode())

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file of the search, whole or not at all."""
        place = f"{self.folder}/{name}"
        if self.remote:  # an object appears when it is complete
            with self.files.open_output_stream(place) as handle:
                handle.write(content)
            return
        beside = f"{place}.{os.getpid()}.tmp"
        with open(beside, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(beside, place)

    def first_file(self) -> str | None:
        """The name of something that is there, or None."""
        from pyarrow import fs

        found = self.files.get_file_info(fs.FileSelector(self.folder))
        return min((file.base_name for file in found), default=None)


def agree(place: Storage, record: dict, resume: bool) -> None:
    """See whether a search may begin, or go on, in its place."""
    earlier = place.read()
    if earlier is None:
        if name := place.first_file():
            raise UserError(
                f"{place.path} holds something else than a search ({name}), which its report might "
                "replace; give this one another --name."
            )
        return
    if not resume:
        raise UserError(
            f"There is a search in {place.path} already; continue it with --resume, or give "
            "this one another --name."
        )
    wanted = json.loads(json.dumps(record, default=str))
    for key, value in wanted.items():
        if earlier.get(key, value) != value:  # older searches noted less
            raise UserError(
                f"The search in {place.path} was begun with another {key}, so it cannot be "
                "continued with this one; give this one another --name."
            )


def can_resume(place: Storage) -> bool:
    """Whether a search got as far as its first trial."""
    from ray.tune import Tuner

    return Tuner.can_restore(place.path)
