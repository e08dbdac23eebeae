"""What a process computes on and draws from: devices, and generators of random numbers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from recbole_llmemb.core.errors import UserError, explained


def random_state() -> dict[str, Any]:
    """State of torch (CPU and GPUs), NumPy and Python as plain data, fit for a checkpoint."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "python": [version, list(words), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` gave."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Leave the generators as they were, so that a side job does not change a run's numbers."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


@contextmanager
def preserve_cuda_visible_devices() -> Iterator[None]:
    """Undo what a configuration does to CUDA_VISIBLE_DEVICES.

    RecBole sets it to ``gpu_id``: whatever is started afterwards would see that GPU only.
    """
    kept = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        yield
    finally:
        if kept is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = kept


def usable_device(name: str, key: str) -> torch.device:
    """The device of a name, if this machine has it; ``key``: the setting that names it."""
    sentence = f"{key} {name!r} cannot be used ({{reason}}); choose auto or cpu."
    with explained(sentence, RuntimeError, AssertionError, NotImplementedError, key=key):
        if name == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=name)
        return torch.device(name)


def fits(rows: int, width: int, dtype: torch.dtype, device: torch.device | str) -> bool:
    """Whether the free memory of a GPU can hold a table ``(rows, width)``; a CPU is not asked."""
    if torch.device(device).type != "cuda":
        return True
    return rows * width * dtype.itemsize <= torch.cuda.mem_get_info(device)[0]


def refuse_too_large(rows: int, width: int, dtype: torch.dtype, device: torch.device | str) -> None:
    """Refuse a table ``(rows, width)`` that the memory of a GPU cannot hold."""
    if not fits(rows, width, dtype, device):
        free, size = torch.cuda.mem_get_info(device)[0], rows * width * dtype.itemsize
        raise UserError(
            f"The table takes {size / 2**30:,.1f} GiB ({rows:,} rows, {width:,} wide, "
            f"{str(dtype).removeprefix('torch.')}), but {device} has {free / 2**30:,.1f} GiB free; "
            "set llm_pca_dim, llm_table_dtype: bfloat16, or use_gpu: False.",
            key="llm_table_dtype",
        )
