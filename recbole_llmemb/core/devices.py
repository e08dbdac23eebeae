"""What a process computes on and draws from: devices, generators of random numbers, and a Ray."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packaging.version import Version

from recbole_llmemb.core.errors import UserError, explained, reason_of
from recbole_llmemb.core.imports import optional

#: The first whose ``tune.report`` takes a dictionary and whose ``RunConfig`` is Tune's own.
MIN_RAY_VERSION = "2.43"
_SMALLEST_STORE = 256 << 20


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


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device. A GPU gets it from pinned memory, behind what it still computes."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fits(rows: int, width: int, dtype: torch.dtype, device: torch.device | str) -> bool:
    """Whether the free memory of a GPU can hold a table ``(rows, width)``; a CPU is not asked."""
    if torch.device(device).type != "cuda":
        return True
    return rows * width * dtype.itemsize <= torch.cuda.mem_get_info(device)[0]


def refuse_too_large(rows: int, width: int, dtype: torch.dtype, device: torch.device | str) -> None:
    """Refuse a table ``(rows, width)`` that the memory of a GPU cannot hold."""
    if not fits(rows, width, dtype, device):
        free, size = torch.cuda.mem_get_info(device)[0], rows * width * dtype.itemsize
        needed, there = (f"{count / 2**30:,.1f} GiB" for count in (size, free))
        told = f"The table ({rows:,} rows, {width:,} wide) takes {needed}, but {device} has {there}"
        advice = "set llm_pca_dim, llm_table_dtype: bfloat16, or use_gpu: False"
        raise UserError(f"{told} free; {advice}.", key="llm_table_dtype")


# -- Ray, for the commands that use it --------------------------------------------------


def require_ray(who: str, library: str, extra: str, environment: dict[str, str]) -> Any:
    """Import Ray and one of its libraries, told first to keep to itself.

    ``who``: what needs it, for the message: a command or an option.
    ``library``: such as ``ray.tune``.
    ``extra``: the extra of this package that brings it.
    ``environment``: how the library is to behave, beside Ray not sending usage statistics. As
    environment, so that Ray's own processes have it too.
    Returns ``ray``, with ``library`` imported.
    """
    install = f"run `pip install 'recbole-llmemb[{extra}]'`"
    for key, value in {"RAY_USAGE_STATS_ENABLED": "0", **environment}.items():
        os.environ.setdefault(key, value)
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{who} needs ray, which is not installed; {install}.") from None
    if Version(version) < Version(MIN_RAY_VERSION):
        raise UserError(f"ray {version} is too old, {who} needs {MIN_RAY_VERSION}; {install}.")
    optional(library, extra, who)
    return optional("ray", extra, who)


@contextmanager
def connected(ray: Any, memory: int = 0, cpus: int | None = None) -> Iterator[str]:
    """Have Ray running inside the block.

    A Ray that runs in this process already is used and left running. ``RAY_ADDRESS`` is
    connected to. Else one is started, which ends with the block, or with this process, however
    that ends.

    ``memory``: bytes that the object store of a Ray of our own must hold. Ray's own choice is a
    third of the machine's memory, which workers need more.
    ``cpus``: workers that a Ray of our own must have room for, when they are more than the CPUs.
    Yields where it is, in words: ``this machine`` or ``cluster at ADDRESS``.
    """
    given = os.environ.get("RAY_ADDRESS")
    address = given if given and given != "local" else None
    place = f"cluster at {address}" if address else "this machine"
    if ray.is_initialized():
        yield place
        return
    if address and address.startswith("ray://"):
        told = f"RAY_ADDRESS is {address}, a connection from outside of the cluster"
        raise UserError(f"{told}; run the command on a node of it, with RAY_ADDRESS=auto.")
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Without "local", Ray takes one that somebody started here before.
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    options["address"] = address or "local"
    if not address:
        options |= {"include_dashboard": False}
        options |= {"object_store_memory": max(_SMALLEST_STORE, memory)}
        if cpus:
            options["num_cpus"] = max(os.cpu_count() or 1, cpus)
        os.environ.setdefault("RAY_worker_niceness", "0")  # workers are what is wanted, as a run is
    _let_workers_find_us()
    try:
        _start(ray, options, tries=1 if address else 2)
    except Exception as error:  # Ray has no kind of its own for this
        reason = reason_of(error)
        if not address:
            raise UserError(f"Ray does not start ({reason}).") from error
        told = f"The Ray cluster at RAY_ADDRESS={address} cannot be reached ({reason})"
        advice = "check the address, and whether it asks for a token (RAY_AUTH_MODE=token)"
        raise UserError(f"{told}; {advice}.") from error
    try:
        yield place
    finally:
        ray.shutdown()


def _start(ray: Any, options: dict[str, Any], tries: int) -> None:
    """Ray waits half a minute for itself to start, which a busy machine may take."""
    for left in reversed(range(tries)):
        try:
            ray.init(**options)
            return
        except Exception:
            ray.shutdown()
            if not left:
                raise


def _let_workers_find_us() -> None:
    """Workers import this package by name, also out of a checkout that is not installed."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])
