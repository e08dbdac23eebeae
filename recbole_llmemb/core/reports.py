"""Reports: text and pages made from templates, and the folder of ``--out`` that they go to."""

from __future__ import annotations

import base64
import json
import os
import re
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import atomic_file
from recbole_llmemb.core.optional import optional

_IN_LATEX: dict[str, Any] = {
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "block_start_string": "<%",
    "block_end_string": "%>",
}


def render(package: str, template: str, **values: Any) -> str:
    """Text from a template in a package's folder ``templates``.

    What is filled into HTML is escaped. ``base.html.j2`` of this package, which pages extend, has
    the frame and the style, ``figure.html.j2`` a macro for figures. Templates of LaTeX, which is
    full of braces, have ``<< >>`` and ``<% %>`` in their place.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(__package__)]),
        autoescape=select_autoescape(["html.j2"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **(_IN_LATEX if template.endswith(".tex.j2") else {}),
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(template).render(**values)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


class OutFolder:
    """A folder for tables and figures; made before any work, so that it can refuse.

    ``folder``: made if it is not there; files of an earlier run in it are replaced, no others.
    ``listing``: the file that lists those: its first ``files`` with a list of names, in JSON or in
    a comment (:func:`comment`).
    """

    def __init__(self, folder: str | os.PathLike[str], listing: str) -> None:
        self.folder, self.listing = Path(folder), listing
        self._check([listing])
        optional("matplotlib", "figures", "--out")
        self._write({f".probe-{uuid.uuid4().hex}": b""})[0].unlink()

    def write(self, contents: dict[str, bytes]) -> list[Path]:
        """Write each file, by its path inside the folder; returns where they are."""
        self._check(contents)
        stale = self._listed() - set(contents)
        files = self._write(contents)
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        return files

    def _write(self, contents: dict[str, bytes]) -> list[Path]:
        for name, content in contents.items():
            with atomic_file(self.folder / name) as fresh:
                fresh.write_bytes(content)
        return [self.folder / name for name in contents]

    def _listed(self) -> set[str]:
        """The files of an earlier run that are there."""
        try:
            text = (self.folder / self.listing).read_text(encoding="utf-8")
            found = re.search(r"\bfiles\"?: (\[.*?\])", text, re.DOTALL)
            names = json.loads(found[1] if found else "[]")
        except (OSError, ValueError, TypeError):
            return set()
        return {name for name in names if isinstance(name, str) and self._is_inside(name)}

    def _is_inside(self, name: str) -> bool:
        """Whether a name is of a file below the folder, whatever links there are."""
        path, folder = Path(os.path.realpath(self.folder / name)), os.path.realpath(self.folder)
        return Path(folder) in path.parents

    def _check(self, names: Iterable[str]) -> None:
        listed = self._listed()
        for name in names:
            if name not in listed and os.path.lexists(self.folder / name):
                raise UserError(
                    f"{self.folder / name} was there before and is not of an earlier run of this "
                    "command, so it is not replaced; move it away, or give --out another folder.",
                    key="out",
                    where=self.folder / name,
                )


def comment(names: Iterable[str]) -> str:
    """The list of files that a page carries."""
    return f"<!-- files: {json.dumps(sorted(names))} -->"
