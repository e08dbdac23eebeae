"""Ray itself: one of our own on this machine, or the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from recbole_llmemb.errors import UserError

_MEGABYTE = 1 << 20


@contextlib.contextmanager
def connected(ray, shared_bytes: int = 0, report=print):
    """Have Ray running inside the block.

    A Ray that runs already is used and left running. ``RAY_ADDRESS`` is connected to. Else
    one is started, which ends with the block, or with this process, however that ends.

    Parameters
    ----------
    ray : module
    shared_bytes : int
        What the object store of a Ray of our own must hold, twice.
    report : callable

    Raises
    ------
    UserError
        There is no cluster at RAY_ADDRESS, or Ray does not start.
    """
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told by trial
    options = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    address = os.environ.get("RAY_ADDRESS")
    if address and address != "local":
        options.pop("include_dashboard")
    else:
        options["address"] = "local"  # else Ray takes one that somebody started here before
        _let_workers_find_us()
        os.environ.setdefault("RAY_worker_niceness", "0")  # trials are what is wanted, as a run is
        # Ray's own choice is a third of the machine's memory, which trials need more.
        options["object_store_memory"] = max(200 * _MEGABYTE, 2 * shared_bytes + 100 * _MEGABYTE)
    try:
        _start(ray, options, tries=1 if address else 2)
    except Exception as error:  # Ray has no kind of its own for this
        text = " ".join(str(error).split())[:200].rstrip(".")
        if address:
            raise UserError(
                f"The Ray cluster at RAY_ADDRESS={address} cannot be reached ({text}); check the "
                "address, and whether it asks for a token (RAY_AUTH_MODE=token)."
            ) from error
        raise UserError(f"Ray does not start ({text}).") from error
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        cpus = int(ray.cluster_resources().get("CPU", 0))
        gpus = int(ray.cluster_resources().get("GPU", 0))
        place = f"cluster at {address}" if address else "this machine"
        count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
        extra = f", {gpus} GPUs" if gpus else ""
        report(f"ray {ray.__version__}: {place}, {count}, {cpus} CPUs{extra}")
        yield
    finally:
        ray.shutdown()


def _start(ray, options, tries):
    """Ray waits half a minute for itself to start, which a busy machine may take."""
    for left in reversed(range(tries)):
        try:
            ray.init(**options)
            return
        except Exception:
            ray.shutdown()
            if not left:
                raise


def _let_workers_find_us():
    """Workers import this package by name, also out of a checkout that is not installed."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, paths)])


@contextlib.contextmanager
def visible_gpus_kept():
    """Undo what a configuration does to CUDA_VISIBLE_DEVICES.

    RecBole sets it to ``gpu_id``: a Ray that is started afterwards would see that GPU only.
    """
    kept = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        yield
    finally:
        if kept is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = kept
