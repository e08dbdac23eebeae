"""Ray, which only ``encode --ray`` imports: is it there, and how many workers fit."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from recbole_llmemb.errors import UserError

OLDEST_RAY = "2.43"
_INSTALL = "pip install 'recbole-llmemb[ray]'"
_OBJECT_STORE = 256 << 20
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True)
class Workers:
    """Who encodes.

    Attributes
    ----------
    number : int, optional
        Workers, each with an encoder; by default, and at most, as many as the cluster has room
        for.
    gpus : float, optional
        GPUs of each, maybe a fraction; by default one where the cluster has any.
    """

    number: int | None = None
    gpus: float | None = None

    def check(self, device: Any) -> None:
        """Refuse numbers that mean nothing, and devices, which are Ray's to give.

        Raises
        ------
        UserError
        """
        if self.number is not None and self.number < 1:
            raise UserError(f"--num_workers is {self.number}; it must be at least 1.")
        gpus = self.gpus or 0
        if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
            raise UserError(
                f"--gpus_per_worker is {self.gpus}; it must be a whole number or between 0 and 1."
            )
        if device not in (None, "", "auto", "cpu"):
            raise UserError(
                f"--device is {device!r}, but with --ray it is --gpus_per_worker that says what "
                "each worker gets; leave --device out."
            )
        if device == "cpu" and gpus:
            raise UserError(f"--device is cpu, but --gpus_per_worker is {self.gpus}; choose one.")

    def fit(self, nodes: list[dict[str, float]], device: Any) -> Workers:
        """These workers with every number filled in.

        Parameters
        ----------
        nodes : list of dict
            Resources of each node.

        Raises
        ------
        UserError
            When not one worker fits anywhere.
        """
        gpus = self.gpus
        if gpus is None:
            has_any = any(node.get("GPU", 0) >= 1 for node in nodes)
            gpus = 1 if has_any and device != "cpu" else 0
        room = sum(_fitting(node, gpus) for node in nodes)
        if not room:
            what = f"{gpus:g} GPUs and a CPU" if gpus else "a CPU"
            raise UserError(
                f"No node of the Ray cluster has {what} for a worker; ask for less "
                "(--gpus_per_worker) or add a node."
            )
        return Workers(min(self.number or room, room), gpus)


def _fitting(node: dict[str, float], gpus: float) -> int:
    room = int(node.get("CPU", 0))
    if not gpus:
        return room
    # A worker does not get half of one GPU and half of another.
    each = int(node.get("GPU", 0)) * int(1 / gpus) if gpus < 1 else int(node.get("GPU", 0) / gpus)
    return min(room, each)


def require_ray():
    """Import Ray with Ray Data, told to keep to itself.

    Returns
    -------
    module
        ``ray``.

    Raises
    ------
    UserError
        When it is absent, too old, or cannot be imported.
    """
    # As environment, so that Ray's own processes have it too.
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"--ray needs ray, which is not installed: {_INSTALL}.") from None
    if Version(version) < Version(OLDEST_RAY):
        raise UserError(f"ray {version} is too old, --ray needs {OLDEST_RAY}: {_INSTALL}.")
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"ray {version} cannot be imported ({reason}): {_INSTALL}.") from error
    return ray


@contextlib.contextmanager
def connected(ray: Any, number: int | None = None) -> Iterator[None]:
    """Have Ray inside the block: the one that runs in this process already, the cluster at
    ``RAY_ADDRESS``, or else one of our own, which ends with the block or with this process.

    Parameters
    ----------
    ray : module
    number : int, optional
        Workers that a Ray of our own must have room for.

    Raises
    ------
    UserError
        When there is no cluster at RAY_ADDRESS, or Ray does not start.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS is {address}, a connection from outside of the cluster; run the command "
            "on a node of it, with RAY_ADDRESS=auto."
        )
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        options["num_cpus"] = max(os.cpu_count() or 1, number or 1)
    _let_workers_find_us()
    try:
        ray.init(address=address, **options)
    except Exception as error:  # bare ones too, when a slow machine makes Ray lose patience
        reason = " ".join(str(error).split())[:200].rstrip(".")
        if address == "local":
            raise UserError(f"Ray does not start ({reason}).") from error
        raise UserError(
            f"No Ray at RAY_ADDRESS={address} ({reason}); check the address, and whether it asks "
            "for a token (RAY_AUTH_MODE=token)."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _let_workers_find_us() -> None:
    """Workers import this package by name, also out of a checkout that is not installed."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])
