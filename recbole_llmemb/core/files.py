"""Files: whole or not at all, never in the place of what is read; and text read as it is."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_llmemb.core.errors import UserError, reason_of

AnyPath = str | os.PathLike[str]


@contextmanager
def atomic_file(path: AnyPath, key: str | None = None) -> Iterator[Path]:
    """Give the path of a fresh file beside ``path`` that takes its place when the block ends well.

    Something like ``/dev/stdout`` is given as it is.

    ``path``: its folder is made if there is none.
    ``key``: the option that names it.
    """
    if is_stream(path):
        yield Path(path)
        return
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)
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
        raise _unwritable(path, error, key) from error
    finally:
        if fresh is not None:
            fresh.unlink(missing_ok=True)


def _unwritable(path: AnyPath, error: OSError, key: str | None) -> UserError:
    advice = f"; give --{key} a file in a folder that can be written to" if key else ""
    reason = reason_of(error)
    return UserError(f"The file {path} cannot be written ({reason}){advice}.", key=key, where=path)


def is_stream(path: AnyPath) -> bool:
    """Whether a path is something like ``/dev/stdout``, which cannot be replaced."""
    path = Path(path)
    if path.parts[:2] == ("/", "dev") and path.parts[2:3] != ("shm",):  # which holds files
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def refuse_inputs(output: AnyPath | None, inputs: Iterable[AnyPath | None]) -> None:
    """Refuse an output that would replace what is read, under whatever name or link.

    ``output``: A file, or a folder.
    ``inputs``: files and folders; what does not exist (a name of the hub, for one) is passed over.
    """
    if not output or not os.path.exists(output):
        return
    for given in inputs:
        if given and os.path.exists(given) and _would_replace(output, given):
            raise UserError(
                f"{output} cannot be written: it is, or belongs with, what is read ({given}); give "
                "the output another place."
            )


def _would_replace(output: AnyPath, given: AnyPath) -> bool:
    if os.path.samefile(output, given):
        return True
    there, read, here = (Path(os.path.realpath(path)) for path in (output, given, "."))
    if there in read.parents:
        return True
    # A separator such as "/" or "." is no folder that somebody reads.
    return there.is_file() and read in there.parents and read not in (here, *here.parents)


# Settings that name where things go, or folders whose files are looked at by name.
_NOT_INPUTS = ("model", "dataset", "data_path", "checkpoint_dir", "llm_cache_dir")


def inputs_of(config: Any) -> list[AnyPath]:
    """What a run of this configuration may read: its data, and what its settings name."""
    data = Path(config["data_path"]).glob(f"{glob.escape(str(config['dataset']))}.*")
    found: list[AnyPath] = [file for file in data if file.suffix != ".json"]
    values = [value for key, value in config.final_config_dict.items() if key not in _NOT_INPUTS]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += value.values()
        elif isinstance(value, (list, tuple)):
            values += value
        elif isinstance(value, (str, os.PathLike)) and value:
            found.append(value)
    return found


def require_writable(path: AnyPath, key: str | None = None) -> None:
    """Refuse a file that :func:`atomic_file` could not write, before any work is done for it."""
    if is_stream(path):
        return
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise _unwritable(path, error, key) from error
    os.close(handle)
    os.unlink(name)


def text_encoding(encoding: str | None) -> str:
    """The encoding to read a text file with: UTF-8 may begin with a byte order mark."""
    encoding = encoding or "utf-8"
    plain = encoding.lower().replace("_", "-")
    return "utf-8-sig" if plain in ("utf-8", "utf8") else encoding


def lines_of(path: AnyPath, encoding: str | None = None) -> list[str]:
    """Lines of a text file without their ends; a lone carriage return is none."""
    with open(path, encoding=text_encoding(encoding), newline="\n") as file:
        return [line.removesuffix("\r") for line in file.read().split("\n")]


def first_line(path: AnyPath, encoding: str | None) -> str:
    """The first line of a text file, as :func:`lines_of` has it."""
    try:
        with open(path, encoding=text_encoding(encoding), newline="\n") as file:
            return file.readline().removesuffix("\n").removesuffix("\r")
    except (ValueError, LookupError) as error:
        raise UserError(wrong_encoding(path, encoding, error)) from None


def wrong_encoding(path: AnyPath, encoding: str | None, error: Exception) -> str:
    """A sentence for a file that cannot be decoded."""
    reason = " ".join(str(error).split()).rstrip(".")
    return (
        f"{path} cannot be read as {encoding or 'utf-8'} ({reason}); set encoding to that of the "
        "file, as in --encoding=latin-1."
    )


def hash_file(path: AnyPath, digest: Any) -> None:
    """Feed a file to a hash, part by part."""
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
