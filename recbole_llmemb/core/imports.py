"""When modules are imported: optional ones, names when they are used, and after RecBole."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any

from recbole_llmemb.core.errors import UserError

Action = Callable[[], None]
Runner = Callable[[ModuleType], None]


def optional(module: str, extra: str, who: str) -> ModuleType:
    """A module of a library that is not always installed, such as ``pyarrow.parquet``.

    ``extra``: the extra of this package that brings it.
    ``who``: what needs it, for the message.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == library
        why = "which is not installed" if missing else f"which cannot be imported ({error})"
        raise UserError(
            f"{who} needs {library}, {why}; run `pip install 'recbole-llmemb[{extra}]'`."
        ) from None


def lazy(package: str, **modules: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package, some names of which are imported when they are used.

    ``modules``: by module of the package, the names that lie in it.
    """
    where = {name: module for module, names in modules.items() for name in names.split()}

    def find(name: str) -> Any:
        if name in where:
            return getattr(importlib.import_module(f"{package}.{where[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def after_import(package: str, heal: Action, install: Action, own: str) -> None:
    """Run ``heal`` right after a package is first imported, then ``install``; now, if it was.

    ``install`` may import modules of ours that need the package. So it waits until none of ours is
    being imported: the one that asked for the package could not be imported by others yet.

    ``own``: our own package.
    """
    if package in sys.modules:
        heal()
        install()
    else:
        sys.meta_path.insert(0, _Waiting(package, heal, install, f"{own}."))


class _Waiting(MetaPathFinder):
    """Has others find the package and modules of ours, and learns when these have been run."""

    def __init__(self, package: str, heal: Action, install: Action, own: str) -> None:
        self.package, self.heal, self.install, self.own = package, heal, install, own
        self.running, self.healed = 0, False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.package and not name.startswith(self.own):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            vars(spec.loader)["exec_module"] = self._watched(name, spec.loader.exec_module)
        return spec

    def _watched(self, name: str, run: Runner) -> Runner:
        def exec_module(module: ModuleType) -> None:
            self.running += name != self.package
            try:
                run(module)
            finally:
                self.running -= name != self.package
            if name == self.package and not self.healed:
                self.heal()
                self.healed = True  # only now: what healing imports installs nothing
            if self.healed and not self.running and self in sys.meta_path:
                sys.meta_path.remove(self)
                self.install()

        return exec_module
