"""The state of every random number generator a run draws from, as plain data."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def get_state() -> dict[str, Any]:
    """State of torch (CPU and GPUs), NumPy and Python, fit for a checkpoint."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "python": [version, list(words), gauss],
    }


def set_state(state: dict[str, Any]) -> None:
    """Put back what :func:`get_state` gave."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


@contextmanager
def preserve() -> Iterator[None]:
    """Leave the generators as they were, so that a side job does not change a run's numbers."""
    state = get_state()
    try:
        yield
    finally:
        set_state(state)
