"""RecBole 1.2.1 beside current libraries.

RecBole's last release predates NumPy 2, PyTorch 2.6, pandas 3 and the ray of
today. :func:`apply` heals what breaks, one small function per break, each doing
nothing where its break is absent. Nothing of RecBole's files is changed.
"""

from __future__ import annotations

import importlib
import threading

from recbole_llmemb.compat import datasets, imports, reading, training
from recbole_llmemb.core.errors import UserError

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
            raise UserError(
                "RecBole is not installed: run `pip install --no-deps recbole==1.2.1` (without "
                "--no-deps pip refuses it, for its own pins are out of date)."
            ) from None
        if _applied:  # by what waited for RecBole's import
            return
        imports.restore_numpy_names()
        imports.restore_sparse_update()
        imports.restore_distutils_for_thop()
        imports.spare_absent_libraries()
        imports.defer_ray()
        imports.let_hyperopt_draw()
        training.let_folders_exist()
        reading.read_files_as_they_are()
        datasets.fill_missing_values()
        datasets.check_numerical_features()
        datasets.tell_filtered_interactions()
        datasets.check_presplit_histories()
        datasets.keep_times_exact()
        datasets.count_first_interactions()
        datasets.collect_catalog_metrics()
        datasets.compute_catalog_metrics()
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
