"""Searches for the best settings, with Ray Tune.

``from recbole_llmemb.apps.tune import search, trainable`` is all that a script needs.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Literal

from recbole_llmemb.core.checked import Checked, option

__all__ = ["search", "trainable"]

_WHERE = {"search": "searching", "trainable": "trial", "final_table": "report"}


class SearchOptions(Checked):
    """Options of a search."""

    num_samples: int = option(8, "trials", ge=1)
    max_concurrent: int | None = option(None, "trials at a time (default: as many as fit)", ge=1)
    cpus_per_trial: int = option(1, "CPUs and threads of a trial", ge=1)
    gpus_per_trial: float = option(
        0, "GPUs of a trial, 0.5 for two trials on one (default: 0)", ge=0
    )
    scheduler: Literal["asha", "none"] = option("asha", "asha: stop trials that are behind")
    grace_epochs: int | None = option(
        None, "epochs before which asha stops nothing (default: epochs / 10)", ge=1
    )
    search: Literal["random", "optuna"] = option("random", "or optuna's TPE")
    metric: str | None = option(
        None, 'such as ndcg@10 or "tail_items ndcg@10" (default: valid_metric)'
    )
    storage: str | Path = option("tune", "where searches are kept: a folder or s3://bucket/folder")
    name: str | None = option(
        None, "of the search, below storage (default: MODEL-DATASET)",
        pattern=r"^[^/\\]*[^/\\.][^/\\]*$", wanted="a name, not a path",
    )  # fmt: skip
    resume: bool = option(False, "continue a search that was interrupted")


# The terminal is ours; a search that is killed at any moment finds on disk what it had a second
# before; results without a score (failed trials) are no error; and Ctrl-C ends a search, which is
# not to be taken for a whole one.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


def require_ray():
    """Ray with Ray Tune, see :func:`recbole_llmemb.core.devices.require_ray`."""
    from recbole_llmemb.core import devices  # which loads torch

    return devices.require_ray("recbole-llm tune", "ray.tune", "tune", _ENVIRONMENT)


def __getattr__(name):
    # Ray and RecBole take seconds to import: only for those who ask for them.
    if name in _WHERE:
        require_ray()
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
