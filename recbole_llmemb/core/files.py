"""Files: whole or not there, never in the place of what is read; text that is read; digests."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from recbole_llmemb.core.errors import DamagedError, TwiceError, UserError, explained, reason_of

AnyPath = str | os.PathLike[str]
#: The letters that no file and no name can hold: NUL, and halves of characters.
NO_TEXT = re.compile("[\0\ud800-\udfff]")
_QUOTED = r'"((?:[^"]|"")*)"'
_ENTRY = {
    ",": re.compile(rf'\s*(?:{_QUOTED}|([^",\s][^,]*)?)\s*(?:,|$)'),
    " ": re.compile(rf'\s*(?:{_QUOTED}|([^"\s]\S*)?)(?:\s+|$)'),
}
# Settings that name where things go, or folders whose files are looked at by name.
_NOT_INPUTS = ("model", "dataset", "data_path", "checkpoint_dir", "llm_cache_dir")


def at_home(text: str) -> str:
    """A path as a shell would have it: of ``--out=~/x`` it has left the tilde."""
    return os.path.expanduser(text) if text.startswith("~/") else text


def text_encoding(encoding: str | None) -> str:
    """The encoding to read a text file with: UTF-8 may begin with a byte order mark."""
    encoding = encoding or "utf-8"
    plain = encoding.lower().replace("_", "-")
    return "utf-8-sig" if plain in ("utf-8", "utf8") else encoding


def content_of(path: AnyPath) -> bytes:
    """What a small file holds; a pipe or a device has no end, and is refused as no file."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "it is no file", os.fspath(path))
    return Path(path).read_bytes()


def tree(folder: Path) -> list[Path]:
    """All that libraries find below a folder, in order: links are followed, to each folder once."""
    found, seen, left = [], {folder.resolve()}, [folder]
    while left:
        for path in sorted(left.pop().iterdir()):
            found.append(path)
            if path.is_dir() and (real := path.resolve()) not in seen:
                seen.add(real)
                left.append(path)
    return sorted(found)


def refuse_endless(folder: Path) -> None:
    """Refuse a folder for libraries to read that has pipes or devices in it."""
    for path in tree(folder):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is no file; take it out of {folder}.", where=path)


def lines_of(path: AnyPath) -> list[str]:
    """Lines of a text file without their ends; a lone carriage return is none."""
    if not (os.path.isfile(path) or os.fspath(path).startswith("/dev/fd/")):  # as <(…) is
        content_of(path)  # which raises what is wrong
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        return [line.removesuffix("\r") for line in file.read().split("\n")]


def wrong_encoding(path: AnyPath, encoding: str | None, error: Exception) -> str:
    """A sentence for a file that cannot be decoded."""
    likely = "latin-1"
    with contextlib.suppress(OSError), open(path, "rb") as file:
        likely = "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else likely
    told = f"{path} cannot be read as {encoding or 'utf-8'} ({reason_of(error)})"
    return f"{told}; set encoding to that of the file, as in --encoding={likely}."


def split_tokens(text: str, separator: str = ",", where: str = "the list") -> list[str]:
    """The entries of a list, which may hold any character.

    As in a csv file: an entry that holds the separator, or begins with a quote, stands in double
    quotes, in which a quote is written twice.

    ``separator``: A blank stands for any run of white space.
    ``where``: what to call the text in a message.
    Returns without empty ones, and without the blanks around entries that have no quotes.
    """
    found, at = [], 0
    while at < len(text):
        entry = _ENTRY[separator].match(text, at)
        if entry is None:
            after = "a comma" if separator == "," else "a blank"
            told = f"In {where}, the quote that begins {text[at:].strip()[:40]} has no end"
            raise UserError(f"{told} with {after} after it; write quotes inside an entry twice.")
        quoted, plain = entry.groups()
        token = (plain or "").strip() if quoted is None else quoted.replace('""', '"')
        found += [token] if token else []
        at = entry.end()
    return found


@contextmanager
def atomic_file(path: AnyPath, key: str | None = None) -> Iterator[Path]:
    """Give the path of a fresh file beside ``path`` that takes its place when the block ends well.

    Something like ``/dev/stdout`` is given as it is.

    ``path``: its folder is made if there is none.
    ``key``: the option that names it.
    """
    if is_stream(path):
        try:
            with _read_by_somebody(path):
                yield Path(path)
        except OSError as error:  # one of writing does not say of which file
            if error.filename:
                raise
            raise OSError(error.errno or errno.EIO, reason_of(error), os.fspath(path)) from error
        return
    with _writing(path, key):
        target, fresh = _beside(path)
        try:
            yield fresh
            make_lasting(fresh)
            os.replace(fresh, target)
        finally:
            fresh.unlink(missing_ok=True)


@contextmanager
def _read_by_somebody(path: AnyPath) -> Iterator[None]:
    """Refuse a pipe that nobody reads, which would be waited for without end."""
    kept = None
    if stat.S_ISFIFO(os.stat(path).st_mode):
        try:
            kept = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            raise OSError(errno.ENXIO, "it is a pipe that nobody reads", os.fspath(path)) from error
    try:
        yield
    finally:
        if kept is not None:
            os.close(kept)


def require_writable(path: AnyPath, key: str | None = None) -> None:
    """Refuse a file that :func:`atomic_file` could not write, before any work is done for it."""
    if not is_stream(path):
        with _writing(path, key):
            _beside(path)[1].unlink()


def _writing(path: AnyPath, key: str | None) -> AbstractContextManager[None]:
    advice = f"; give --{key} a file in a folder that can be written to" if key else ""
    sentence = f"The file {path} cannot be written ({{reason}}){advice}."
    return explained(sentence, OSError, key=key, where=path)


def _beside(path: AnyPath) -> tuple[Path, Path]:
    """The file that a path means, links followed, and an empty one beside it."""
    target = Path(os.path.realpath(path) if os.path.islink(path) else path)
    if target.is_dir():
        raise IsADirectoryError(21, "it is a directory")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(errno.ENOTDIR, f"{target.parent} is no folder") from None
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(handle)
    return target, Path(name)


def make_lasting(path: Path) -> None:
    """Let a temporary file or directory be as readable as any other, and reach the disk."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, (0o777 if path.is_dir() else 0o666) & ~mask)
    sync(path)


def sync(path: Path) -> None:
    """Flush a file or directory to disk, where the system can (Windows cannot for directories)."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
            told = f"{output} cannot be written: it is, or belongs with, what is read ({given})"
            raise UserError(f"{told}; give the output another place.")


def _would_replace(output: AnyPath, given: AnyPath) -> bool:
    there, read, here = (Path(os.path.realpath(path)) for path in (output, given, "."))
    if os.path.samefile(output, given) or there in read.parents:
        return True
    # A separator such as "/" or "." is no folder that somebody reads.
    return there.is_file() and read in there.parents and read not in (here, *here.parents)


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


def sealed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that tell whether they are as they were: their ``sha256`` is of all the rest."""
    facts = json.loads(json.dumps(facts))
    return {**facts, "sha256": _digest_of(facts)}


def seal(facts: Mapping[str, Any]) -> str:
    """JSON of :func:`sealed` facts."""
    return json.dumps(sealed(facts), indent=2, ensure_ascii=False) + "\n"


def unseal(text: str | bytes, **options: Any) -> Any:
    """What :func:`seal` was given; ValueError where it is damaged, or has a key twice.

    JSON without ``sha256``, of an earlier version or of others, is taken as it is.
    """
    facts = json.loads(text, object_pairs_hook=once, **options)
    json.dumps(facts, ensure_ascii=False).encode()  # escapes may be halves of characters
    if isinstance(facts, dict) and facts:
        # Under another name: the name was damaged.
        name = "sha256" if "sha256" in facts else next(reversed(facts))
        rest = {key: value for key, value in facts.items() if key != name}
        if (facts[name] == _digest_of(rest)) != (name == "sha256"):
            raise ValueError("it was changed or damaged after it was written, says its sha256")
        facts = rest if name == "sha256" else facts
    return facts


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, each key of which is there once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise TwiceError(f"two values for {max(names, key=names.count)!r}")
    return found


def _digest_of(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def file_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The sha256 of files of a folder, by their names."""
    found = {}
    for name in names:
        digest = hashlib.sha256()
        hash_file(folder / name, digest)
        found[name] = digest.hexdigest()
    return found


def damaged_file(folder: Path, digests: Any) -> Path | None:
    """The first file that is not what :func:`file_digests` saw, None where all are."""
    if not isinstance(digests, Mapping):
        return folder
    for name, was in digests.items():
        file = folder / str(name)
        if not file.is_file() or file_digests(folder, [name])[name] != was:
            return file
    return None


def refuse_damaged(folder: Path, digests: Any, advice: str, key: str | None = None) -> None:
    """Refuse a folder with a file that is not what :func:`file_digests` saw."""
    if damaged := damaged_file(folder, digests):
        told = f"{damaged} is damaged, as it is not what was written; {advice}."
        raise DamagedError(told, key=key, where=damaged)


def asked_hash(asked: Any, files: Iterable[AnyPath | None] = ()) -> str:
    """What tells plain data, and files and folders by name and content, from any other."""
    digest = hashlib.blake2b(json.dumps(asked, default=str).encode(), digest_size=10)
    for given in (Path(file) for file in files if file):
        inner = sorted(given.rglob("*")) if given.is_dir() else [given]
        for file in inner:
            digest.update(f"\n{file.name}\n".encode())
            if file.is_file():
                hash_file(file, digest)
    return digest.hexdigest()


def hash_file(path: AnyPath, digest: Any) -> None:
    """Feed a file to a hash, part by part."""
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    except OSError as error:  # one of reading does not say of which file
        error.filename = error.filename or os.fspath(path)
        raise
