"""The folder of ``--out``: refused before any work, its files whole or not there."""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path

from recbole_llmemb.core.drawing import check_matplotlib
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import atomic_file


class OutFolder:
    """A folder for tables and figures; made before any work, so that it can refuse.

    ``folder``: made if it is not there; files of an earlier run in it are replaced, no others.
    ``listing``: the file that lists those: its first ``files`` with a list of names, in JSON or in
    a comment (:func:`comment`).
    """

    def __init__(self, folder, listing):
        self.folder, self.listing = Path(folder), listing
        self._check([listing])
        check_matplotlib("--out")
        self._write({f".probe-{uuid.uuid4().hex}": b""})[0].unlink()

    def write(self, contents: dict[str, bytes]) -> list[Path]:
        """Write each file, by its path inside the folder; returns where they are."""
        self._check(contents)
        stale = self._listed() - set(contents)
        files = self._write(contents)
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        return files

    def _write(self, contents):
        files = [self.folder / name for name in contents]
        for file, content in zip(files, contents.values()):
            with atomic_file(file) as fresh:
                fresh.write_bytes(content)
        return files

    def _listed(self) -> set[str]:
        """The files of an earlier run that are there."""
        try:
            text = (self.folder / self.listing).read_text(encoding="utf-8")
            names = json.loads(re.search(r"\bfiles\"?: (\[.*?\])", text, re.DOTALL)[1])
        except (OSError, ValueError, TypeError):
            return set()
        return {name for name in names if isinstance(name, str) and self._is_inside(name)}

    def _is_inside(self, name) -> bool:
        """Whether a name is of a file below the folder, whatever links there are."""
        path, folder = Path(os.path.realpath(self.folder / name)), os.path.realpath(self.folder)
        return Path(folder) in path.parents

    def _check(self, names) -> None:
        listed = self._listed()
        for name in names:
            if name not in listed and os.path.lexists(self.folder / name):
                raise UserError(
                    f"{self.folder / name} was there before and is not of an earlier run of this "
                    "command, so it is not replaced; move it away, or give --out another folder."
                )


def comment(names) -> str:
    """The list of files that a page carries."""
    return f"<!-- files: {json.dumps(sorted(names))} -->"
