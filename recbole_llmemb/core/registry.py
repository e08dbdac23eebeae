"""Parts by name: those of this package, and anybody's by import path."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from recbole_llmemb.core.errors import UserError, reason_of
from recbole_llmemb.core.files import asked_hash

__all__ = ["Registry", "trust"]

#: Keys that name one part; ``metrics`` names several, which checkpoints keep by the class alone.
KEYS = ("adapter", "item_embedding", "loss_type")
#: The form ``package.module:Name``, and a setting that has it.
PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
ImportPath = Annotated[str, StringConstraints(pattern=PATTERN)]


def is_import_path(value: Any) -> bool:
    """Whether a value has the form ``package.module:Name``."""
    return isinstance(value, str) and re.match(PATTERN, value) is not None


class Registry(dict[str, Any]):
    """What a configuration key may name: parts of this package, registered ones, import paths.

    Parameters
    ----------
    key : str
        The configuration key.
    base : type
        The class that parts from outside must be a subclass of.
    **parts
        Those of this package, by name.
    """

    def __init__(self, key: str, base: type, **parts: Any):
        super().__init__(parts)
        self.key, self.base = key, base

    def __missing__(self, name: str) -> Any:
        if not is_import_path(name):
            told = f"{self.key} is {name!r}; it must be one of {', '.join(map(repr, self))}, or "
            where = "where a class of yours is, as in mypackage.module:Name"
            raise UserError(f"{told}{where}.", key=self.key)
        return self.checked(imported(name, self.key), name)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or is_import_path(name)

    def register(self, name: str, part: type) -> type:
        """Let a part of yours go by a name, in this process."""
        self[name] = self.checked(part, name)
        return part

    def checked(self, part: Any, name: str) -> Any:
        """The part, if it is of the kind that is wanted."""
        if not (isinstance(part, type) and issubclass(part, self.base)):
            base = f"{self.base.__module__}.{self.base.__name__}"
            told = f"{self.key} is {name!r}, which is no subclass of {base}; give such a class."
            raise UserError(told, key=self.key)
        return part


def imported(path: str, key: str) -> Any:
    """What lies at an import path that somebody has typed: importing it runs its code."""
    module, _, name = path.partition(":")
    trust([path])  # who has typed it may read what was made with it
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # anything may happen in somebody else's code
        told = f"{key} is {path!r}, which cannot be imported ({reason_of(error)})"
        advice = "it must be a class on Python's path (PYTHONPATH), as in mypackage.module:Name"
        raise UserError(f"{told}; {advice}.", key=key) from error


_trusted: set[str] = set()


def trust(paths: Iterable[str]) -> None:
    """Let checkpoints name these import paths, in this process."""
    _trusted.update([paths] if isinstance(paths, str) else paths)


def refuse_untrusted(settings: Mapping[str, Any]) -> None:
    """Refuse settings out of a file that would have code of somebody's imported."""
    for key, path in import_paths_in(settings):
        if path not in _trusted:
            told = f"{key} is {path!r}, whose code a file cannot have run; if you trust it, say so "
            how = f"by --trust_remote_code, or recbole_llmemb.core.registry.trust([{path!r}])"
            raise UserError(f"{told}{how}.", key=key)


def code_digests(named: set[str], found: set[str], known: Iterable[str]) -> dict[str, str]:
    """Digests of the files of modules, by name, and of what these import that nobody installs.

    Of a package, all that is imported counts: where a class comes from, and what it calls.

    ``named``: what is installed counts by itself; ``found``: it counts not at all.
    ``known``: packages that count nowhere.
    """
    roots, left = set[str](), {_root(name) for name in named | found}
    nobodys = {*known, *sys.stdlib_module_names}
    while left := {name for name in left - nobodys - roots if not _is_installed(name)}:
        roots |= left
        left = {name for file in _files(left).values() for name in _imported_by(file)}
    files = _files(roots) | {name: _file_of(name) for name in named if _root(name) not in known}
    return {name: asked_hash({}, [file]) for name, file in sorted(files.items()) if file}


def _root(module: str) -> str:
    return module.partition(".")[0]


def _file_of(module: str) -> str | None:
    if module in sys.modules:
        return getattr(sys.modules[module], "__file__", None)
    with suppress(ImportError, ValueError):
        return getattr(importlib.util.find_spec(module), "origin", None)
    return None


def _is_installed(module: str) -> bool:
    return "-packages" in str(_file_of(module))  # site- and dist-


def _files(roots: set[str]) -> dict[str, str]:
    """Files of modules and of all that is imported of packages."""
    names = roots | {name for name in [*sys.modules] if _root(name) in roots}
    files = {name: _file_of(name) for name in names}
    return {name: file for name, file in files.items() if file and not _is_installed(name)}


def _imported_by(file: str) -> Iterator[str]:
    """The packages that a file of Python imports."""
    with suppress(OSError, SyntaxError, ValueError):
        for node in ast.walk(ast.parse(Path(file).read_bytes())):
            if isinstance(node, ast.Import):
                yield from (_root(one.name) for one in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                yield _root(node.module)


def import_paths_in(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys and import paths among settings, and among settings within them."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from import_paths_in(value)
        elif key in KEYS and is_import_path(value):
            yield key, value
