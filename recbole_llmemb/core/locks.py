"""Processes that want to make the same directory take turns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from recbole_llmemb.core.errors import UserError


@contextlib.contextmanager
def turn(out: Path, what: str = "table") -> Iterator[None]:
    """Wait until no other process is making this directory. The lock dies with its process."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out.parent / f".{out.name}.lock")
        lock.acquire()
    except OSError as error:
        raise UserError(f"The {what} {out} cannot be written: {error}.") from error
    try:
        yield
    finally:
        lock.release()
