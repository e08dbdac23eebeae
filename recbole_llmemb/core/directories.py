"""Directories that appear whole or not at all, and lose nothing but what was written for them."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from recbole_llmemb.core.errors import TableError


@contextmanager
def atomic_directory(
    target: Path,
    overwrite: bool,
    written: Callable[[Path], Collection[str]],
    what: str = "an embedding table",
) -> Iterator[Path]:
    """Yield a fresh directory beside ``target`` that becomes ``target`` when the block ends well.

    What is written reaches the disk before the rename, so that a crash leaves either no
    ``target``, or all of the old or the new one. When the block raises, nothing remains.

    ``target``: the directory to appear.
    ``overwrite``: whether a directory that is there may be replaced.
    ``written``: tells the files of a directory that were written as one of these, by their paths
    inside it; none where it is something else, which is never replaced. Files beside them stay.
    ``what``: what the directory holds, for messages.
    """
    require_free(target, overwrite, written, what)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise TableError(f"{target} cannot be written: {error}.") from error
    try:
        yield fresh
        # mkdtemp and safetensors make private files; a table is as readable as any other file.
        allowed = ~_umask()
        os.chmod(fresh, 0o777 & allowed)
        for path in fresh.rglob("*"):
            os.chmod(path, (0o777 if path.is_dir() else 0o666) & allowed)
            _sync(path)
        _sync(fresh)
        require_free(target, overwrite, written, what)
        if target.exists():
            _keep_others(target, fresh, set(written(target)), what)
        _swap_in(fresh, target)
        _sync(target.parent)
    except (OSError, SafetensorError) as error:
        raise TableError(f"{target} cannot be written: {error}.") from error
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
        raise TableError(f"{target} is not a directory; choose another place for {what}.")
    if not any(target.iterdir()):
        return
    if not written(target):
        raise TableError(
            f"{target} exists and holds something else than {what}; choose another place for it."
        )
    if not overwrite:
        raise TableError(
            f"{target} already holds {what}; choose another place, "
            "or ask for it to be overwritten (--overwrite)."
        )


def _keep_others(target: Path, fresh: Path, ours: set[str], what: str) -> None:
    """Put the files of ``target`` that nobody wrote for ``what`` into ``fresh`` too."""
    folders = []
    for walked, inner, names in os.walk(target, onerror=_raise):
        folder = Path(walked)
        here = folder.relative_to(target)
        folders.append((folder, fresh / here))
        links = [name for name in inner if os.path.islink(folder / name)]
        if not (inner or names):
            (fresh / here).mkdir(parents=True, exist_ok=True)
        for name in [*names, *links]:
            old, new = folder / name, fresh / here / name
            if (here / name).as_posix() in ours:
                continue
            if os.path.lexists(new):
                raise TableError(
                    f"{old} is in the way: it was not written as part of {what}; move it away."
                )
            new.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(old, new, follow_symlinks=False)
            except (OSError, NotImplementedError):  # where there are no such links
                shutil.copy2(old, new, follow_symlinks=False)
    for old, new in reversed(folders):  # what was private stays so
        if new.is_dir():
            shutil.copymode(old, new)


def _raise(error: OSError) -> None:
    """A folder that cannot be looked into would be lost with what is in it."""
    raise error


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """Flush a file or directory to disk, where the system can (Windows cannot for directories)."""
    flags = os.O_RDONLY
    if os.name == "nt":
        if path.is_dir():
            return
        flags = os.O_RDWR
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
