"""Where a search is kept: a folder, or an address such as ``s3://bucket/folder``."""

from __future__ import annotations

import json
from pathlib import Path

from pyarrow import fs

from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.files import atomic_file

_RECORD = "search.json"


class Storage:
    """The place of one search, below where searches are kept.

    ``root``: a folder, or an address that pyarrow's file systems know.
    ``name``: of the search.
    """

    def __init__(self, root: str | Path, name: str):
        self.remote = "://" in str(root)
        self.root = str(root).rstrip("/") if self.remote else str(Path(root).expanduser().resolve())
        self.name = name
        self.path = f"{self.root}/{name}"
        told = f"The search cannot be kept in {self.path} ({{reason}}); set --storage."
        failures = (OSError, ValueError, NotImplementedError)
        with explained(told, *failures, key="storage", where=self.path):
            if self.remote:
                self.files, self.folder = fs.FileSystem.from_uri(self.path)
            else:
                self.files, self.folder = fs.LocalFileSystem(), self.path
            self.files.create_dir(self.folder, recursive=True)

    def read(self) -> dict | None:
        """What the search that is kept here was begun with, or None."""
        place, file = f"{self.folder}/{_RECORD}", f"{self.path}/{_RECORD}"
        if self.files.get_file_info(place).type == fs.FileType.NotFound:
            return None
        told = f"{file} is damaged ({{reason}}); begin another search."
        with explained(told, OSError, ValueError, where=file):
            return json.loads(self.files.open_input_stream(place).read().decode())

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
        with atomic_file(place) as fresh:
            fresh.write_bytes(content)

    def require_same_search(self, record: dict, resume: bool) -> None:
        """Refuse to begin over what is here, or to go on with another search."""
        earlier, wrong = self.read(), ""
        if earlier is None:
            found = self.files.get_file_info(fs.FileSelector(self.folder))
            if found:
                first = min(file.base_name for file in found)
                wrong = f"{self.path} holds something else than a search ({first});"
        elif not resume:
            wrong = f"There is a search in {self.path} already; continue it with --resume, or"
        else:
            wanted = json.loads(json.dumps(record, default=str))
            # Older searches noted less.
            others = [key for key in wanted if earlier.get(key, wanted[key]) != wanted[key]]
            if others:
                begun = f"The search in {self.path} was begun with another {others[0]}"
                wrong = f"{begun}, so it cannot go on;"
        if wrong:
            raise UserError(f"{wrong} give this one another --name.", key="name", where=self.path)
