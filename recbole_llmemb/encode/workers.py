"""The workers of ``encode --ray``: how many fit, and the Ray they run on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from recbole_llmemb.core import cluster
from recbole_llmemb.core.errors import UserError

_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True)
class Workers:
    """Who encodes."""

    # Workers, each with an encoder; by default, and at most, as many as the cluster has room for.
    number: int | None = None
    # GPUs of each, maybe a fraction; by default one where the cluster has any.
    gpus: float | None = None

    def check(self, device: Any) -> None:
        """Refuse numbers that mean nothing, and devices, which are Ray's to give."""
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

        ``nodes``: resources of each node.
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


def require_ray() -> Any:
    """Ray with Ray Data, see :func:`recbole_llmemb.core.cluster.require_ray`."""
    return cluster.require_ray("encode --ray", "ray.data", "ray", _QUIET)
