"""What is made once and then found: tables, adapters, teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from recbole_llmemb.core.errors import explained

Found = TypeVar("Found")


def build_or_load(
    find: Callable[[], Found | None], build: Callable[[], Found], out: Path, what: str
) -> tuple[Found, bool]:
    """What ``find`` finds, else what ``build`` makes; and whether it was there.

    Processes that want the same one take turns: the second finds what the first made. It is
    looked for before locking too, because a cache that can only be read is still a cache.

    ``out``: where it is, or will be.
    """
    found = find()
    if found is not None:
        return found, True
    with build_lock(out, what):
        found = find()
        return (build(), False) if found is None else (found, True)


@contextmanager
def build_lock(out: Path, what: str) -> Iterator[None]:
    """Wait until no other process is making ``out``. The lock dies with its process."""
    with explained(f"The {what} {out} cannot be written: {{reason}}.", OSError, where=out):
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out.parent / f".{out.name}.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
