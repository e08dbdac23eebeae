"""Tests whose body runs on a CPU and, where there is one, on a GPU; and what waits for either."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from benchmarks.gpu.waiting import Looks

if torch.cuda.is_available():
    # Once counted, the GPU stays there, also when RecBole hides it for a run on the CPU.
    torch.cuda.init()
    torch.cuda.device_count()
#: Parameters of the fixture ``device``.
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    """Where to compute; skips a GPU that is not there."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU, and PyTorch finds no CUDA device")
    return torch.device(request.param)


@pytest.fixture
def placed(device):
    """Settings of a run on the device."""
    on_gpu = device.type == "cuda"
    return {"use_gpu": on_gpu, "gpu_id": "0" if on_gpu else ""}


@contextmanager
def no_waits(device, known=()):
    """Fails if what runs inside makes the host wait for the device, or would on a GPU.

    On a GPU PyTorch itself says so. On a CPU it shows in the operations: values read, shapes that
    depend on values, numbers made on the host. ``known`` are those that a CPU alone does.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    with Looks() as looks:
        yield
    assert [func for func, _ in looks.found] == list(known), looks.found
