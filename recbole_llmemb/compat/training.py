"""What PyTorch and NumPy of today change under RecBole's trainers."""

from __future__ import annotations

import functools
import types
from typing import Any

from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.checkpoint import config_to_plain


def use_current_amp() -> None:
    """Point RecBole's trainers at ``torch.amp``.

    They call ``torch.cuda.amp.GradScaler`` at every epoch, on CPU too, and each
    time PyTorch warns that it is deprecated.
    """
    import torch
    from recbole.trainer import trainer

    if not hasattr(torch.amp, "GradScaler"):
        return
    current = types.ModuleType("amp")
    vars(current)["GradScaler"] = functools.partial(torch.amp.GradScaler, "cuda")
    vars(current)["autocast"] = functools.partial(torch.amp.autocast, "cuda")
    trainer.amp = current


def let_bars_fit() -> None:
    """Let progress bars be as wide as the terminal.

    RecBole makes them 100 columns wide, so that each step prints a line on narrower ones.
    """
    import recbole.trainer.trainer as trainer

    bar = trainer.tqdm
    trainer.tqdm = lambda *args, ncols=None, **settings: bar(*args, **settings)


def report_plain_metrics() -> None:
    """Let the evaluator return Python floats.

    It returns NumPy scalars, which NumPy 2 prints as ``np.float64(0.2333)`` in
    every log line and results table, and which plain files should not hold.
    """
    from recbole.evaluator import Evaluator

    evaluate = Evaluator.evaluate

    @functools.wraps(evaluate)
    def with_floats(self, dataobject):
        result = evaluate(self, dataobject)
        return type(result)((name, float(value)) for name, value in result.items())

    Evaluator.evaluate = with_floats


def keep_checkpoints_plain() -> None:
    """Make RecBole's checkpoints plain data, and load only such.

    Its trainers pickle the whole ``Config``; PyTorch 2.6 and later refuse to load
    that, and rightly, because unpickling runs whatever the file says.
    """
    from recbole.trainer import trainer

    trainer.torch = PlainTorch("torch")


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


class PlainTorch(types.ModuleType):
    """torch, whose ``save`` and ``load`` are those of :mod:`recbole_llmemb.core.checkpoint`."""

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)

    @staticmethod
    def save(state: dict[str, Any], path: Any, **_: Any) -> None:
        """Write what a trainer saves: ``Config`` as a dictionary, no modules."""
        import torch

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

    @staticmethod
    def load(path: Any, map_location: Any = "cpu", **_: Any) -> dict[str, Any]:
        """Read a checkpoint with ``weights_only=True``."""
        return checkpoint.load(path, map_location)
