"""Old names of modules, with a warning: they go with the next release."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings

# Those that the documentation named. Saved searches name "tune".
_MOVED = {
    "checkpoint": "core.checkpoint and config.recbole_config",
    "config.plain": "config.recbole_config",
    "convert": "apps.convert",
    "data.hooks": "plugin",
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
    "pipeline": "run.stages",
    "registry": "plugin",
    "report": "apps.compare",
    "report.users": "run.per_user",
    "results": "run.result",
    "serve": "apps.serve",
    "serve.fare": "apps.serve.new_item_report",
    "teacher": "run.teacher",
    "trainer": "training.trainer",
    "tune": "apps.tune",
    "tune.by_optuna": "apps.tune.tuning",
    "tune.progress": "apps.tune.tuning",
}
_PACKAGE = "recbole_llmemb."


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.startswith(_PACKAGE) and _new_name(name[len(_PACKAGE) :]):
            return importlib.machinery.ModuleSpec(name, self)
        return None

    def exec_module(self, module):
        old, new = module.__name__, _new_name(module.__name__[len(_PACKAGE) :])
        warnings.warn(f"{old} is now {_PACKAGE}{new}", DeprecationWarning, stacklevel=2)
        found = [importlib.import_module(_PACKAGE + name) for name in new.split(" and ")]
        for each in found if len(found) > 1 else ():  # what was in one module is in several
            vars(module).update({k: v for k, v in vars(each).items() if not k.startswith("__")})
        sys.modules[old] = module if len(found) > 1 else found[0]


def _new_name(old):
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
