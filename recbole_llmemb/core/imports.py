"""When modules are imported: optional ones, names when used, after RecBole, and by old names; and
how those of others are changed."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from functools import partial, wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any

from recbole_llmemb.core.errors import UserError

Action = Callable[[], None]
Function = Callable[..., Any]
Runner = Callable[[ModuleType], None]
# Those that the documentation named. Saved searches name "tune".
_MOVED = {
    "apps.serve.new_item_report": "apps.serve.recommendations",
    "checkpoint": "core.checkpoint and config.recbole_config",
    "config.plain": "config.recbole_config",
    "convert": "apps.convert",
    "data.batching": "data.windows",
    "data.hooks": "plugin",
    "data.negatives": "data.loaders",
    "encode.workers": "encode.settings",
    "errors": "core.errors",
    "model": "models",
    "model.backbones": "models.llmemb.backbones",
    "model.backbones.bert4rec": "models.llmemb.backbones.special",
    "model.backbones.examine": "testing",
    "model.item_embedding": "models.llmemb.item_embedding",
    "model.item_layer": "models.llmemb.parts",
    "model.llmemb": "models.llmemb.model",
    "model.offsets": "models.llmemb.item_embedding",
    "models.scoring": "models.losses",
    "pipeline": "run.stages",
    "registry": "plugin",
    "report": "apps.compare",
    "report.users": "run.per_user",
    "results": "run.result",
    "serve": "apps.serve",
    "serve.fare": "apps.serve.recommendations",
    "teacher": "run.teacher",
    "trainer": "training",
    "training.trainer": "training",
    "tune": "apps.tune",
    "tune.by_optuna": "apps.tune.tuning",
    "tune.progress": "apps.tune.tuning",
}
_PACKAGE = "recbole_llmemb."


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
        install = f"run `pip install 'recbole-llmemb[{extra}]'`"
        raise UserError(f"{who} needs {library}, {why}; {install}.") from None


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


def around(owner: Any, name: str) -> Callable[[Function], Function]:
    """Let ``function(inner, …)`` be called instead of ``inner``, which ``owner`` has under a name.

    ``owner``: a class or module.
    """

    def put(function: Function) -> Function:
        inner = getattr(owner, name)

        @wraps(inner)
        def changed(*arguments: Any, **options: Any) -> Any:
            return function(inner, *arguments, **options)

        setattr(owner, name, changed)
        return function

    return put


class StandIn(ModuleType):
    """A module as some other module finds it: with other things under some names."""

    def __init__(self, module: ModuleType, **changed: Any) -> None:
        super().__init__(module.__name__)
        vars(self).update(changed, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def after_import(package: str, heal: Action, install: Action, own: str) -> None:
    """Run ``heal`` right after a package is first imported, then ``install``; now, if it was.

    ``install`` may import modules of ours that need the package. So it waits until none of ours is
    being imported: the one that asked for the package could not be imported by others yet.
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


class _Moved(MetaPathFinder, Loader):
    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        if name.startswith(_PACKAGE) and _new_name(name[len(_PACKAGE) :]):
            return ModuleSpec(name, self)
        return None

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, _new_name(module.__name__[len(_PACKAGE) :]) or ""
        warnings.warn(f"{old} is now {_PACKAGE}{new}", DeprecationWarning, stacklevel=2)
        found = [importlib.import_module(_PACKAGE + name) for name in new.split(" and ")]
        package = hasattr(found[0], "__path__")
        if len(found) == 1 and not package:
            sys.modules[old] = found[0]
            return
        # What was in one module is in several; and an import of what lies below a package puts its
        # last name into it, which may mean something else in the package of today.
        for each in found:
            vars(module).update({k: v for k, v in vars(each).items() if not k.startswith("__")})
        if package:
            vars(module).update(__path__=[], __getattr__=partial(getattr, found[0]))


def _new_name(old: str) -> str | None:
    """Where a module is now: what is listed, and what lies below it; None if it never moved."""
    if old in _MOVED:
        return _MOVED[old]
    parent, _, leaf = old.rpartition(".")
    above = _new_name(parent) if parent else None
    return f"{above}.{leaf}" if above else None


def know_old_names() -> None:
    """Let ``import recbole_llmemb.<old name>`` give the module that it is now."""
    # Before the others, to whom a package moved as a whole has its modules twice.
    sys.meta_path.insert(0, _Moved())
