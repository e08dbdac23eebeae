"""What is made once and then found: directories of tables, adapters, exports, and teachers.

They appear whole or not at all, and lose nothing but what was written for them.
"""

from __future__ import annotations

import errno
import filecmp
import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from recbole_llmemb.core.errors import TableError, explained
from recbole_llmemb.core.files import AnyPath, make_lasting, sync

Found = TypeVar("Found")

_SECONDS = 5.0  # of waiting, before it is said for whom
_NO_LOCKS = errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP


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
    """Wait until no other process is making ``out``. The lock dies with its process.

    Who holds it may ask for it again. On storage without locks work goes on without.
    """
    path = out.parent / f".{out.name}.lock"
    with explained(f"The {what} {out} cannot be written: {{reason}}.", OSError, where=out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass  # where there can be no file, a lock is waited for without end
    advice = f"its lock {path} cannot be opened: {{reason}}; move that away"
    with explained(f"The {what} {out} cannot be made, as {advice}.", OSError, where=path):
        lock = FileLock(path, is_singleton=True)
        try:
            _acquire(lock, path, f"{what} {out}")
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            getLogger().warning(f"{path.parent} knows no locks: start nothing twice at once there.")
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, what: str) -> None:
    try:
        lock.acquire(timeout=_SECONDS)
    except Timeout:
        holder = ""
        with suppress(OSError):
            holder = path.read_text(encoding="utf-8", errors="replace")[:200].strip()
        getLogger().warning(f"Waiting for {holder or 'another process'}, which makes the {what} …")
        lock.acquire()
    with suppress(OSError):  # for who waits
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")


@contextmanager
def atomic_directory(
    target: Path,
    overwrite: bool,
    written: Callable[[Path], Collection[str]],
    what: str = "an embedding table",
    again: bool = False,
) -> Iterator[Path]:
    """Yield a fresh directory beside ``target`` that becomes ``target`` when the block ends well.

    What is written reaches the disk before the rename, so that a crash leaves either no
    ``target``, or all of the old or the new one. When the block raises, nothing remains. Of two
    that write the same at once the first stays.

    ``overwrite``: whether a directory that is there may be replaced.
    ``written``: tells the files of a directory that were written as one of these, by their paths
    inside it; none where it is something else, which is never replaced. Files beside them stay.
    ``what``: what the directory holds, for messages.
    ``again``: whether what is there may be of this same call, which stays if it is equal.
    """
    require_free(target, overwrite or again, written, what)
    again = again or not os.path.lexists(target)
    unwritable = f"{target} cannot be written: {{reason}}."
    with explained(unwritable, OSError, SafetensorError, kind=TableError, where=target):
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            yield fresh
            for path in [*fresh.rglob("*"), fresh]:
                make_lasting(path)
            if again and _same(fresh, target, written):
                return
            require_free(target, overwrite, written, what)
            if target.exists():
                _keep_others(target, fresh, set(written(target)), what)
            try:
                _swap_in(fresh, target)
            except OSError:  # another has just put its own there
                if not (again and _same(fresh, target, written)):
                    raise
            sync(target.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def require_free(
    target: Path,
    overwrite: bool,
    written: Callable[[Path], Collection[str]],
    what: str = "an embedding table",
) -> None:
    """Refuse a target that is in the way of a new table (or of ``what`` it shall hold)."""
    if not os.path.lexists(target) and not _brought_back(target):
        return
    if target.is_symlink() or not target.is_dir():
        kind = "a link" if target.is_symlink() else "not a directory"
        raise TableError(f"{target} is {kind}; choose another place for {what}.")
    if not any(target.iterdir()):
        return
    if not written(target):
        told = f"{target} exists and holds something else than {what}"
        raise TableError(f"{told}; choose another place for it.")
    if not overwrite:
        told = f"{target} already holds {what}"
        raise TableError(f"{told}; choose another place, or have it replaced (--overwrite).")


def _same(fresh: Path, target: Path, written: Callable[[Path], Collection[str]]) -> bool:
    """Whether a directory holds, among others, exactly the files of a fresh one."""
    names = files_in(fresh)
    if not target.is_dir() or sorted(written(target)) != names:
        return False
    return not any(filecmp.cmpfiles(fresh, target, names, shallow=False)[1:])


def _keep_others(target: Path, fresh: Path, ours: set[str], what: str) -> None:
    """Put the files of ``target`` that nobody wrote for ``what`` into ``fresh`` too.

    A folder that cannot be looked into is an error: it would be lost with what is in it.
    """

    def passed_over(folder: str, names: list[str]) -> list[str]:
        here = Path(folder).relative_to(target)
        ignored = [name for name in names if is_ours(here / name)]
        for name in set(names) - set(ignored):
            old, new = target / here / name, fresh / here / name
            if os.path.lexists(new) and (old.is_symlink() or old.is_dir() > new.is_dir()):
                refuse(old)
        return ignored

    def refuse(old: AnyPath) -> None:
        told = f"{old} is in the way: it was not written as part of {what}; move it away."
        raise TableError(told)

    def is_ours(path: Path) -> bool:
        if (target / path).is_symlink() or not (target / path).is_dir():
            return path.as_posix() in ours
        inner = files_in(target / path)  # a folder in the place of a file may be somebody's
        return all((path / name).as_posix() in ours for name in inner) and (
            bool(inner) or path.as_posix() in ours
        )

    def keep(old: str, new: str) -> None:
        if os.path.lexists(new):
            refuse(old)
        try:
            os.link(old, new)
        except (OSError, NotImplementedError):  # where there are no such links
            shutil.copy2(old, new)

    # What was private stays so.
    shutil.copytree(
        target, fresh, symlinks=True, ignore=passed_over, copy_function=keep, dirs_exist_ok=True
    )


def files_in(folder: Path) -> list[str]:
    """The files of a folder, by their paths inside it."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def _swap_in(fresh: Path, target: Path) -> None:
    """Rename ``fresh`` to ``target``; a table that was there goes away only after being renamed."""
    if not target.exists():
        os.rename(fresh, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    try:
        os.rename(target, old / "table")
        os.rename(fresh, target)
    except BaseException:  # stopped by its user, for one
        if not os.path.lexists(target):
            os.rename(old / "table", target)
        raise
    finally:
        if os.path.lexists(target):
            shutil.rmtree(old, ignore_errors=True)


def _brought_back(target: Path) -> bool:
    """Undo a swap that was killed between its two renames; whether there was one."""
    for old in target.parent.glob(f".{glob.escape(target.name)}.????????.old/table"):
        os.rename(old, target)
        old.parent.rmdir()
        return True
    return False
