"""How often the host waits for the device: counted on a GPU, foreseen on a CPU."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


class Looks(TorchDispatchMode):
    """Notes each operation that a GPU could not go on from before the host has seen a value.

    Attributes
    ----------
    found : list of tuple
        Name of the operation, and the lines that asked for it.
    """

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made_here = func is torch.ops.aten.lift_fresh.default and args[0].numel()
        if made_here or _needs_values(func, args):
            self.found.append((str(func), _who_asked()))
        return func(*args, **(kwargs or {}))


def _needs_values(func, args):
    if torch.Tag.data_dependent_output in func.tags:
        return True
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    if func is torch.ops.aten.index.Tensor:  # of the shape of its indices, unless those are masks
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return True


def _who_asked():
    """The innermost lines of code that are not PyTorch's."""
    lines = [f for f in traceback.extract_stack() if f"{os.sep}torch{os.sep}" not in f.filename]
    return [f"{Path(line.filename).name}:{line.lineno}" for line in lines[-5:-2]]


def per_step(device: torch.device, train: Callable[[int], object], few: int, many: int) -> dict:
    """Waits, and copies that make the host wait, of a training step.

    Parameters
    ----------
    train : callable
        Trains as many steps as it is told.
    few, many : int
        The difference of two calls leaves out what is done once in each.
    """
    train(few)
    less, more = (_counted(device, lambda n=n: train(n)) for n in (few, many))
    names = ("waits/step", "copies/step")[: len(less)]
    return {name: (b - a) / (many - few) for name, a, b in zip(names, less, more)}


def _counted(device, work):
    if device.type != "cuda":
        with Looks() as looks:
            work()
        return (len(looks.found),)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
        torch.cuda.synchronize()
    events = [(event.key, event.count) for event in found.key_averages()]
    waits = sum(count for name, count in events if name in _WAITS)
    copies = sum(n for name, n in events if "Memcpy" in name and ("DtoH" in name or "Page" in name))
    return waits, copies
