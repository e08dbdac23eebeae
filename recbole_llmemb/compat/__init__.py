"""RecBole 1.2.1 beside current libraries.

RecBole's last release predates NumPy 2, PyTorch 2.6, pandas 3 and the ray of
today. :func:`apply` heals what breaks, one small function per break, each doing
nothing where its break is absent. Nothing of RecBole's files is changed.

Here is what RecBole imports that is no longer there; the rest has modules of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from recbole_llmemb.compat import datasets, reading, sampling, training
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.imports import StandIn

_applied = False
_lock = threading.RLock()


def apply() -> None:
    """Heal RecBole in this process; calling it again does nothing."""
    global _applied
    with _lock:
        if _applied:
            return
        try:
            importlib.import_module("recbole")
        except ModuleNotFoundError as error:
            if error.name not in (None, "recbole"):
                raise
            install = "run `pip install --no-deps recbole==1.2.1`, whose own pins are out of date"
            raise UserError(f"RecBole is not installed: {install}.") from None
        if _applied:  # by what waited for RecBole's import
            return
        restore_numpy_names()
        restore_sparse_update()
        restore_distutils_for_thop()
        spare_absent_libraries()
        defer_ray()
        let_hyperopt_draw()
        training.let_folders_exist()
        training.let_curves_end()
        reading.read_files_as_they_are()
        reading.check_numerical_features()
        datasets.fill_missing_values()
        datasets.name_filters_that_leave_nothing()
        datasets.tell_filtered_interactions()
        datasets.check_presplit_histories()
        datasets.refuse_columns_called_as_what_is_made()
        datasets.keep_times_exact()
        datasets.count_first_interactions()
        datasets.collect_catalog_metrics()
        datasets.compute_catalog_metrics()
        sampling.end_sampling()
        training.obey_use_gpu()
        training.use_current_amp()
        training.let_bars_fit()
        training.keep_notebooks_readable()
        training.report_plain_metrics()
        training.keep_checkpoints_plain()
        training.heal_started_processes()
        training.leave_pickles_alone()
        training.load_weights_only()
        training.switch_anomaly_detection_off()
        _applied = True


def restore_numpy_names() -> None:
    """Give NumPy 2 back the aliases that RecBole reads.

    ``Config.compatibility_settings`` reads ``np.float_``, ``np.complex_`` and
    ``np.unicode_``, and sets ``np.float`` and others only there, whereas
    ``recbole.data.interaction`` and the metrics read them even where no
    ``Config`` was ever built.
    """
    names = {
        "float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "bool": np.bool_,
        "int": np.int_, "float": np.float64, "complex": np.complex128, "object": np.object_,
        "str": np.str_, "long": np.int_, "unicode": np.str_,
    }  # fmt: skip
    for name, meaning in names.items():
        if name not in vars(np):  # getattr would warn about, or refuse, the old names
            setattr(np, name, meaning)


def restore_sparse_update() -> None:
    """Give SciPy's ``dok_matrix`` back the method with which graph models fill it.

    LightGCN, NGCF and others call ``_update``, private to SciPy and gone since 1.13.
    """
    from scipy.sparse import dok_matrix

    def _update(self, entries) -> None:
        """Set many entries, ``{(row, column): value}``, without checking them."""
        self._dict.update((at, self.dtype.type(value)) for at, value in entries.items())

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = _update


def restore_distutils_for_thop() -> None:
    """Let thop, with which RecBole counts operations, load on Python 3.12 and later.

    It asks ``distutils`` (gone since Python 3.12, unless setuptools happens to be
    there) to compare two version numbers at import and never again.
    """
    if importlib.util.find_spec("distutils") or not importlib.util.find_spec("thop"):
        return
    from packaging.version import Version

    version = types.ModuleType("distutils.version")
    vars(version)["LooseVersion"] = Version
    package = types.ModuleType("distutils")
    vars(package)["version"] = version
    with _stand_ins({"distutils": package, "distutils.version": version}):
        importlib.import_module("thop.profile")


def spare_absent_libraries() -> None:
    """Let a misspelt model name be called that where lightgbm or xgboost is absent.

    To look up a name, RecBole imports the package of its models that wrap other
    libraries, whose ``__init__`` imports both: the user who wrote ``SASRecc`` is
    told that there is no module named lightgbm. The package is put in place
    without running its ``__init__``; its models still load where their library is.
    """
    name = "recbole.model.exlib_recommender"
    present = [importlib.util.find_spec(library) for library in ("lightgbm", "xgboost")]
    if name not in sys.modules and not all(present):
        spec = importlib.util.find_spec(name)
        if spec:
            sys.modules[name] = importlib.util.module_from_spec(spec)


def defer_ray() -> None:
    """Import ``recbole.quick_start`` without ray, and ray only when tuning begins.

    ``recbole.quick_start`` imports ``ray.tune`` at once, which takes seconds,
    fails where ray is absent, and fails again with the old ray that RecBole pins.
    """
    # First everything else it needs, so that no other package sees the stand-in.
    for name in ("recbole.config", "recbole.data", "recbole.trainer", "recbole.utils"):
        importlib.import_module(name)
    if "recbole.quick_start.quick_start" not in sys.modules:
        ray = types.ModuleType("ray")
        tune = vars(ray)["tune"] = types.ModuleType("ray.tune")
        with _stand_ins({"ray": ray, "ray.tune": tune}):
            importlib.import_module("recbole.quick_start")
    vars(sys.modules["recbole.quick_start.quick_start"])["tune"] = _Tune()


def let_hyperopt_draw() -> None:
    """Let RecBole's exhaustive search run on hyperopt 0.2.7 and later.

    ``exhaustive_search`` hands hyperopt a ``RandomState``, of which hyperopt wants
    the method ``integers``, which only NumPy's newer generators have.
    """
    from recbole.trainer import hyper_tuning

    hyper_tuning.np = StandIn(np, random=types.SimpleNamespace(RandomState=_RandomState))


class _RandomState(np.random.RandomState):
    """Draws whole numbers under the new name, too."""

    integers = np.random.RandomState.randint


class _Tune:
    """``ray.tune``, imported when something of it is first used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and inspect ask for these; no reason to load ray
            raise AttributeError(name)
        try:
            tune = importlib.import_module("ray.tune")
        except ImportError as error:
            told = f"Hyper-parameter tuning needs ray, which cannot be imported ({error})"
            raise UserError(f"{told}: run `pip install 'recbole-llmemb[tune]'`.") from error
        return getattr(tune, name)

    def report(self, *arguments: Any, **metrics: Any) -> None:
        """Report metrics; RecBole passes keywords, ray takes a dictionary today.

        RecBole's ``objective_function`` reports to ray whoever calls it. Where nothing has
        imported ray there is nobody to report to, and its import would fail without ray and
        inside hyperopt, which has put something else in the place of standard output.
        """
        if "ray.tune" in sys.modules:
            report = self.__getattr__("report")
            report(*arguments) if arguments else report(metrics)


@contextlib.contextmanager
def _stand_ins(modules: dict[str, types.ModuleType]) -> Iterator[None]:
    """Put modules into ``sys.modules`` for a while; leave it afterwards as it was."""
    kept = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(kept)
