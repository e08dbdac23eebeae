"""What RecBole does to the process it runs in, and PyTorch and NumPy of today to its trainers."""

from __future__ import annotations

import functools
import logging
import os
import sys
import types
from typing import Any

import torch

from recbole_llmemb.compat.changes import StandIn, around
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.checkpoint import config_to_plain
from recbole_llmemb.core.terminal import in_notebook, progress_bar


def obey_use_gpu() -> None:
    """Let ``use_gpu: False`` keep a run on the CPU, as RecBole's documentation says.

    ``Config`` looks at ``gpu_id`` only, which is empty for the CPU.
    """
    from recbole.config import Config

    @around(Config, "_init_device")
    def of_use_gpu(init_device, self):
        if self.final_config_dict.get("use_gpu") is False:
            self.final_config_dict["gpu_id"] = ""
        init_device(self)


def let_folders_exist() -> None:
    """Let RecBole make a folder that another process makes at the same moment.

    ``ensure_dir`` looks whether ``log/``, ``log_tensorboard/`` or the folder of the
    checkpoints is there and then makes it, so that one of two runs that start together
    in one place fails with ``FileExistsError``.
    """
    from recbole.utils import utils

    # Its modules hold the function itself, so it is given another inside.
    utils.ensure_dir.__code__ = _ensure_dir.__code__


def _ensure_dir(dir_path):
    os.makedirs(dir_path, exist_ok=True)


def switch_anomaly_detection_off() -> None:
    """Undo what ``recbole.model.sequential_recommender.sine`` does when it is imported.

    It calls ``torch.autograd.set_detect_anomaly(True)`` at module level, and the package
    imports all its models at once: every training step of every model in the process then
    records a stack trace per operation and checks every gradient for NaN. Somebody who
    had anomaly detection on before keeps it.
    """
    before = torch.is_anomaly_enabled()
    import recbole.model.sequential_recommender  # noqa: F401

    torch.autograd.set_detect_anomaly(before)


def use_current_amp() -> None:
    """Point RecBole's trainers at ``torch.amp``.

    They call ``torch.cuda.amp.GradScaler`` at every epoch, on CPU too, and each
    time PyTorch warns that it is deprecated.
    """
    from recbole.trainer import trainer

    trainer.amp = types.SimpleNamespace(
        GradScaler=functools.partial(torch.amp.GradScaler, "cuda"),
        autocast=functools.partial(torch.amp.autocast, "cuda"),
    )


def let_bars_fit() -> None:
    """Let progress bars be as wide as the terminal.

    RecBole makes them 100 columns wide, so that each step prints a line on narrower ones.
    """
    import recbole.trainer.trainer as trainer

    trainer.tqdm = lambda *args, ncols=None, **settings: progress_bar(*args, **settings)


def keep_notebooks_readable() -> None:
    """In a notebook: log on standard output, and the 200 lines of a configuration in the file only.

    Standard error, on which RecBole logs, has a red ground there.
    """
    import recbole.utils.logger as module
    from recbole.config import Config

    class Handler(logging.StreamHandler):
        def __init__(self) -> None:
            super().__init__(sys.stdout if in_notebook() else None)

        def filter(self, record: logging.LogRecord) -> Any:
            return super().filter(record) and not (in_notebook() and isinstance(record.msg, Config))

    module.logging = StandIn(logging, StreamHandler=Handler)


def report_plain_metrics() -> None:
    """Let the evaluator return Python floats.

    It returns NumPy scalars, which NumPy 2 prints as ``np.float64(0.2333)`` in
    every log line and results table, and which plain files should not hold.
    """
    from recbole.evaluator import Evaluator

    @around(Evaluator, "evaluate")
    def with_floats(evaluate, self, dataobject):
        result = evaluate(self, dataobject)
        return type(result)((name, float(value)) for name, value in result.items())


def keep_checkpoints_plain() -> None:
    """Make RecBole's checkpoints plain data, and load only such.

    Its trainers pickle the whole ``Config``; PyTorch 2.6 and later refuse to load
    that, and rightly, because unpickling runs whatever the file says.
    """
    from recbole.trainer import trainer

    trainer.torch = PLAIN_TORCH


def heal_started_processes() -> None:
    """Let the processes that RecBole starts for several devices import this package first.

    A process that is spawned imports the module of the function that it is to run, and no more.
    """
    from recbole.quick_start import quick_start

    run = quick_start.run_recboles
    run.__module__ = __name__
    globals()[run.__name__] = run


def __getattr__(name: str) -> Any:
    """What such a process is to run: there once RecBole was imported, and healed."""
    if name != "run_recboles":
        raise AttributeError(name)
    import recbole.quick_start  # noqa: F401

    return globals()[name]


def _save(state: dict[str, Any], path: Any, **_: Any) -> None:
    """Write what a trainer saves: ``Config`` as a dictionary, no modules."""
    state = dict(state)
    if "config" in state:
        state["config"] = config_to_plain(state["config"])
    # DIN and others list submodules here, whose weights state_dict has already.
    state["other_parameter"] = {
        key: value
        for key, value in (state.get("other_parameter") or {}).items()
        if not isinstance(value, torch.nn.Module)
    }
    checkpoint.save(state, path)


def _load(path: Any, map_location: Any = "cpu", **_: Any) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``."""
    return checkpoint.load(path, map_location)


#: torch, which saves and loads as :mod:`recbole_llmemb.core.checkpoint` does.
PLAIN_TORCH = StandIn(torch, save=_save, load=_load)
