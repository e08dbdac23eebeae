"""Ray, for the commands that use it: is it there, and one to work with, here or on a cluster."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.version import Version

from recbole_llmemb.core.errors import UserError, reason_of
from recbole_llmemb.core.imports import optional

#: The first whose ``tune.report`` takes a dictionary and whose ``RunConfig`` is Tune's own.
MIN_RAY_VERSION = "2.43"
_SMALLEST_STORE = 256 << 20


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


@contextlib.contextmanager
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
        raise UserError(
            f"RAY_ADDRESS is {address}, a connection from outside of the cluster; run the command "
            "on a node of it, with RAY_ADDRESS=auto."
        )
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
        raise UserError(
            f"The Ray cluster at RAY_ADDRESS={address} cannot be reached ({reason}); check the "
            "address, and whether it asks for a token (RAY_AUTH_MODE=token)."
        ) from error
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
