"""What RecBole does to its process and files, and PyTorch and NumPy of today to its trainers."""

from __future__ import annotations

import ast
import contextlib
import functools
import logging
import os
import sys
import types
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.checkpoint import config_to_plain
from recbole_llmemb.core.errors import FAILURES, UserError, explained
from recbole_llmemb.core.imports import StandIn, around
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


def let_curves_end() -> None:
    """End the thread that writes a run's curves with the run; RecBole leaves one for each.

    A curve that can no longer be written, as its folder is gone or the disk full, stops no run.
    """
    from torch.utils.tensorboard import SummaryWriter

    @around(SummaryWriter, "_get_file_writer")
    def ending(get_file_writer, self):
        fresh = self.file_writer is None
        writer = get_file_writer(self)
        if fresh:
            records = writer.event_writer._async_writer._writer
            for name in ("write", "flush", "close"):
                setattr(records, name, _forgiving(getattr(records, name)))
            weakref.finalize(self, writer.close)
        return writer


def _forgiving(write):
    def forgiving(*arguments):
        with contextlib.suppress(OSError):
            write(*arguments)

    return forgiving


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
    """Let the evaluator return Python floats, and refuse what no metric may give.

    It returns NumPy scalars, which NumPy 2 prints as ``np.float64(0.2333)`` in
    every log line and results table, and which plain files should not hold. A metric that gives a
    value by the name of another takes its place there.
    """
    from recbole.evaluator import Evaluator
    from recbole.evaluator.register import metric_types

    def evaluate(self, dataobject):
        result = OrderedDict()
        for metric in self.metrics:
            told = f"metrics: {type(self.metric_class[metric]).__name__}"
            failed = f"{told} fails: {{reason}} ({{place}}); mend it."
            with explained(failed, *FAILURES, key="metrics"):
                found = self.metric_class[metric].calculate_metric(dataobject)
                found = {name: float(value) for name, value in found.items()}
            kinds = {name.partition("@")[0].lower() for name in found}
            if taken := sorted((kinds & metric_types.keys()) - {metric}):
                advice = f"call what it gives {metric}, as in {metric}@10"
                raise UserError(f"{told} gives {taken[0]}, another's; {advice}.", key="metrics")
            result.update(found)
        return result

    Evaluator.evaluate = evaluate


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
    """Write what a trainer saves: ``Config`` as a dictionary, no modules; tokens by their ids."""
    state = dict(state)
    for name, tokens in getattr(state.get("config"), "tokens", {}).items():
        state.setdefault(name, [str(token) for token in tokens])
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


def leave_pickles_alone() -> None:
    """Read data from its files, never from pickles of datasets and loaders, and write none.

    ``create_dataset`` and ``load_split_dataloaders`` unpickle a file in ``checkpoint_dir`` (or
    ``dataset_save_path``, ``dataloaders_save_path``) as soon as one of the name lies there:
    whoever wrote it has code run, and a pickle of another split or of an older file is taken
    for today's data.
    """
    from recbole.data import utils
    from recbole.data.dataset import Dataset

    # Modules and scripts hold these functions themselves; what they look up is given another.
    utils.os = StandIn(os, path=StandIn(os.path, exists=_is_never_there))
    utils.save_split_dataloaders.__code__ = _save_no_loaders.__code__
    Dataset.save = _save_no_dataset


def _is_never_there(path: Any) -> bool:
    """Whether RecBole shall unpickle this file."""
    if os.path.exists(path):
        why = "as it is a pickle, which can run any code and may be of other data"
        logging.getLogger().warning(f"{path} is not read, {why}; the dataset's own files are.")
    return False


def _save_no_loaders(config, dataloaders):
    from logging import getLogger  # as it runs among other names

    getLogger().warning(
        "save_dataloaders is passed over: it would keep pickles, which can run code."
    )


def _save_no_dataset(self) -> None:
    """In the place of ``Dataset.save``."""
    logging.getLogger().warning("save_dataset is passed over: a pickle can run any code.")


def load_weights_only() -> None:
    """Let models of RecBole read the files and names that their settings give as data.

    Pre-trained weights (``pre_model_path``, ``pretrain_path``, ``warm_up``, …) are read as
    checkpoints are, KD_DAGFM's ``teacher`` is one of its three networks and not an expression,
    LDiffRec's ``item_emb.npy`` holds numbers, and so do the choices of a search's file.
    """
    from recbole.model.abstract_recommender import AbstractRecommender
    from recbole.trainer import hyper_tuning

    vars(hyper_tuning).setdefault("eval", ast.literal_eval)

    @around(AbstractRecommender, "__init__")
    def with_safe_names(build, self, *arguments: Any, **options: Any) -> None:
        for kind in type(self).__mro__:
            for name, stand_in in _STAND_INS.get(kind.__name__, {}).items():
                if kind.__module__.startswith("recbole.model."):
                    setattr(sys.modules[kind.__module__], name, stand_in)
        build(self, *arguments, **options)


def _load_numbers(path: Any, **_: Any) -> np.ndarray:
    """In the place of ``numpy.load`` for LDiffRec."""
    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as an array of numbers: {error}.") from None


def _network(name: str) -> type:
    """In the place of ``eval`` for KD_DAGFM's ``teacher``."""
    from recbole.model.context_aware_recommender import kd_dagfm

    networks = ("CrossNet", "CIN", "DAGFM")
    if name not in networks:
        raise UserError(f"teacher is {name!r}; it must be one of {', '.join(networks)}.")
    return getattr(kd_dagfm, name)


# What the modules of these models of RecBole find instead of torch, NumPy and Python's eval.
_PLAIN_TORCH = {"torch": PLAIN_TORCH}
_STAND_INS: dict[str, dict[str, Any]] = {
    "S3Rec": _PLAIN_TORCH,
    "ConvNCF": _PLAIN_TORCH,
    "NAIS": _PLAIN_TORCH,
    "NeuMF": _PLAIN_TORCH,
    "RaCT": _PLAIN_TORCH,
    "KD_DAGFM": {**_PLAIN_TORCH, "eval": _network},
    "LDiffRec": {"np": StandIn(np, load=_load_numbers)},
}
