"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recbole_llmemb.errors import UserError


@contextmanager
def appearing(path) -> Iterator[Path]:
    """Give the path of a fresh file beside ``path`` that takes its place when the block ends well.

    Something like ``/dev/stdout`` is given as it is.

    Parameters
    ----------
    path : path-like
        Its folder is made if there is none.

    Raises
    ------
    UserError
        It cannot be written.
    """
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)
    if path.parts[:2] == ("/", "dev"):
        yield path
        return
    fresh = None
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        fresh = Path(name)
        yield fresh
        with open(fresh, "rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(fresh, 0o666 & ~mask)
        os.replace(fresh, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"The file {path} cannot be written ({reason}).") from error
    finally:
        if fresh is not None:
            fresh.unlink(missing_ok=True)


def check_appears(path) -> None:
    """Refuse a file that :func:`appearing` could not write, before any work is done for it.

    Raises
    ------
    UserError
        It is a folder, or is in one that cannot be made or written to.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"The file {path} cannot be written ({reason}).") from error
    os.close(handle)
    os.unlink(name)
