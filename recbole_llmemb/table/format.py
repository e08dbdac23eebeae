"""The table on disk: ``embeddings.safetensors``, ``items.txt`` and ``manifest.json``.

A reduced table has ``projection.safetensors`` too: how vectors of the source become its rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from recbole_llmemb.core.artifacts import atomic_directory
from recbole_llmemb.core.errors import TableError, explained, name_some, refuse_twice
from recbole_llmemb.core.files import content_of, damaged_file, file_digests, seal, unseal
from recbole_llmemb.records.values import wrong_token

FORMAT_VERSION = 1
VECTORS_FILE = "embeddings.safetensors"
TOKENS_FILE = "items.txt"
MANIFEST_FILE = "manifest.json"
PROJECTION_FILE = "projection.safetensors"
TENSOR_NAME = "embeddings"
_FILES = (VECTORS_FILE, TOKENS_FILE, MANIFEST_FILE)

Content = tuple[int, int | None, list[str]]  # Tokens and vectors by what changes with them

_AGAIN = "encode or import it again"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Rows looked at together when scanning: bounds the scan's own memory on large tables.
_ROWS_PER_SCAN = 65536


@dataclass
class EmbeddingTable:
    """One vector per item, and where the vectors come from.

    Attributes
    ----------
    tokens : list of str
        Item tokens, unique, in row order.
    vectors : torch.Tensor
        (n, D), float32, float16 or bfloat16.
    manifest : dict
        Plain data: encoder, revision, pooling, prompt, fields, dtype, hash of the texts, library
        versions. :meth:`save` adds format version, count, width, dtype and fingerprint.
    projection : dict of torch.Tensor, optional
        ``mean`` (S,) and ``matrix`` (S, D): a vector x of the table that this one was reduced
        from becomes (x − mean)·matrix.
    """

    tokens: list[str]
    vectors: torch.Tensor
    manifest: dict[str, Any] = field(default_factory=dict)
    projection: dict[str, torch.Tensor] | None = None
    # The content that was found valid, and the one that was hashed: both take reading all of it.
    _valid: Content | None = field(default=None, init=False, repr=False, compare=False)
    _hashed: tuple[Content, str] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.vectors = torch.as_tensor(self.vectors)  # NumPy's as they are

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def width(self) -> int:
        """D, the length of one vector."""
        return self.vectors.shape[1]

    @property
    def fingerprint(self) -> str:
        """Short hash of tokens and vectors, equal exactly for equal tables."""
        content = self._content()
        if self._hashed is None or self._hashed[0] != content:
            self._hashed = content, _fingerprint(self.tokens, self.vectors)
        return self._hashed[1]

    def _content(self) -> Content:
        # PyTorch counts changes in place, but not of tensors of inference mode.
        version = None if self.vectors.is_inference() else self.vectors._version
        return id(self.vectors), version, list(self.tokens)

    def validate(self, where: str = "embedding table", expected_width: int | None = None) -> None:
        """Raise :class:`TableError` when this table cannot be used.

        Parameters
        ----------
        where : str
            What it is, as the error message should call it.
        expected_width : int, optional
            Refuse a table of another width.
        """
        content = self._content()
        if self._valid != content:
            _check_tokens(self.tokens, where)
            _check_vectors(self.vectors, self.tokens, where)
            self._valid = content
        if expected_width is not None and self.width != expected_width:
            told = f"the embeddings are {self.width} wide, but {expected_width} is expected"
            advice = "use the table this model was made with, or set llm_pca_dim to fit"
            raise TableError(f"{where}: {told}; {advice}.", key="llm_pca_dim")

    def save(
        self, directory: str | os.PathLike[str], overwrite: bool = False, again: bool = False
    ) -> Path:
        """Write the table so that ``directory`` holds all of it or nothing.

        Parameters
        ----------
        directory : path
            Where the table shall be. Must not exist, unless ``overwrite``.
        overwrite : bool
            Replace the table that is there. A directory that is no table is never replaced.
        again : bool
            Take an equal table that is there for this one.

        Returns
        -------
        Path
            ``directory``.

        Raises
        ------
        TableError
            When the table is not valid, something is in the way, or it cannot be written.
        """
        directory = Path(directory)
        self.validate(where=f"table to be written to {directory}")
        vectors = self.vectors.detach().cpu().contiguous()
        written = {"format_version": FORMAT_VERSION}  # first, whatever was there
        hashed = {**_size(vectors), "fingerprint": self.fingerprint}
        manifest = {**written, **self.manifest, **written, **hashed}
        if self.projection is None:
            manifest.pop("digests", None)  # of the table that this one was made from
        with atomic_directory(
            directory, overwrite, table_files, again=again and _is_of(directory, manifest)
        ) as fresh:
            save_file({TENSOR_NAME: vectors}, str(fresh / VECTORS_FILE))
            if self.projection is not None:
                save_file(self.projection, str(fresh / PROJECTION_FILE))
                manifest["digests"] = file_digests(fresh, [PROJECTION_FILE])
            with open(fresh / TOKENS_FILE, "w", encoding="utf-8", newline="") as file:
                file.writelines(token + "\n" for token in self.tokens)
            (fresh / MANIFEST_FILE).write_text(seal(manifest), encoding="utf-8")
        self.manifest = manifest
        return directory

    @classmethod
    def load(
        cls, directory: str | os.PathLike[str], expected_width: int | None = None
    ) -> EmbeddingTable:
        """Read a table and check that its three files belong together.

        Parameters
        ----------
        directory : path
            A table directory.
        expected_width : int, optional
            Refuse a table of another width.

        Raises
        ------
        TableError
            When a file is missing, damaged or does not fit the others, or the table is not valid.
        """
        directory = Path(directory)
        if not directory.is_dir():
            advice = "give a table directory, or leave llm_table empty to have one built"
            told = f"There is no embedding table at {directory}; {advice}."
            raise TableError(told, where=directory)
        for name in _FILES:
            if not (directory / name).is_file():
                raise _unfit(directory, f"{name} is missing, one of its three files")
        manifest = read_manifest(directory)
        vectors = _read_tensors(directory / VECTORS_FILE, TENSOR_NAME)[TENSOR_NAME]
        tokens = read_tokens(directory)
        table = cls(tokens, vectors, manifest, read_projection(directory))
        table.validate(f"table {directory}", expected_width)
        for key, value in {**_size(vectors), "fingerprint": table.fingerprint}.items():
            if manifest.get(key) not in (None, value):
                why = f"{TOKENS_FILE} reordered, or a file changed or damaged"
                raise _unfit(directory, f"the manifest was written for another {key}: {why}")
        return table


def table_files(directory: Path) -> set[str]:
    """The files of a table; none where the directory holds others, or has no manifest."""
    names = {entry.name for entry in directory.iterdir()}
    if not {MANIFEST_FILE} <= names <= {*_FILES, PROJECTION_FILE}:
        return set()
    try:
        manifest = json.loads(content_of(directory / MANIFEST_FILE))
    except (OSError, ValueError):
        return names  # damaged
    # Of two, as one may be damaged.
    ours = isinstance(manifest, dict) and {"format_version", "fingerprint"} & manifest.keys()
    return names if ours else set()


def read_manifest(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a table directory."""
    path = Path(directory) / MANIFEST_FILE
    if path.parent.is_dir() and not os.path.lexists(path):
        raise TableError(f"{path.parent} has no {MANIFEST_FILE}: it is no table.", where=path)
    with _readable(path):
        manifest = unseal(content_of(path))
    if not isinstance(manifest, dict):
        raise _unfit(path, "the manifest is not a JSON object")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise _unfit(path, f"format version {version!r}, this version reads {FORMAT_VERSION}")
    return manifest


def read_tokens(directory: str | os.PathLike[str]) -> list[str]:
    """The item tokens of a table directory, in row order."""
    path = Path(directory) / TOKENS_FILE
    with _readable(path):
        tokens = content_of(path).decode().replace("\r\n", "\n").split("\n")
    return tokens[:-1] if tokens[-1] == "" else tokens


def _is_of(directory: Path, manifest: dict[str, Any]) -> bool:
    """Whether a directory holds a table of the same vectors, made in the same way."""
    with contextlib.suppress(TableError):
        there = read_manifest(directory)
        return {**there, "digests": None} == {**manifest, "digests": None}
    return False


def read_projection(directory: str | os.PathLike[str]) -> dict[str, torch.Tensor] | None:
    """What a table was reduced with (:attr:`EmbeddingTable.projection`), if it was."""
    path, digests = Path(directory) / PROJECTION_FILE, read_manifest(directory).get("digests", {})
    if damaged_file(path.parent, digests):
        raise _unfit(path, "it is missing, truncated or damaged")
    return _read_tensors(path, "matrix", "mean") if path.is_file() else None


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a text's embedding is."""
    versions = {}
    for name in ("torch", "transformers", "sentence-transformers", "tokenizers", "safetensors"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _unfit(where: Path, what: str) -> TableError:
    return TableError(f"table {where}: {what}; {_AGAIN}.", where=where)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    damaged = f"{path} is truncated or damaged ({{reason}}); {_AGAIN}."
    closed = f"{path} cannot be read ({{reason}}); check its permissions."
    errors = SafetensorError, OSError, ValueError, RecursionError
    how: dict[str, Any] = {"kind": TableError, "where": path}
    with explained(damaged, *errors, **how), explained(closed, PermissionError, **how):
        yield


def _size(vectors: torch.Tensor) -> dict[str, Any]:
    """What a manifest says of vectors (n, D)."""
    count, width = vectors.shape
    return {"count": count, "width": width, "dtype": str(vectors.dtype).removeprefix("torch.")}


def _read_tensors(path: Path, *names: str) -> dict[str, torch.Tensor]:
    with _readable(path), safe_open(str(path), framework="pt") as file:
        if sorted(file.keys()) != list(names):
            raise _unfit(path, f"it holds the tensors {sorted(file.keys())}, not {list(names)}")
        return {name: file.get_tensor(name) for name in names}


# -- what no table may be, checked wherever one is read, written or matched ---------------


def _check_tokens(tokens: list[str], where: str) -> None:
    """Refuse tokens that a text file with one token per line cannot hold, and duplicates."""
    for row, token in enumerate(tokens):
        wrong = wrong_token(token) if isinstance(token, str) else f"is {token!r}, which is no text"
        if wrong:
            advice = "give strings, exactly as in the .item file"
            raise TableError(f"{where}: the item token of row {row} {wrong}; {advice}.")
    refuse_twice(tokens, where, "keep one row per item", TableError)


def _check_vectors(vectors: torch.Tensor, tokens: list[str], where: str) -> None:
    """Refuse vectors that cannot stand for items; they should be (n, D) floating point."""
    wrong = None
    if vectors.dim() != 2 or vectors.shape[1] == 0:
        shape = tuple(vectors.shape)
        wrong = f"the embeddings have shape {shape}; give (items, width), both at least 1"
    elif vectors.shape[0] == 0:
        wrong = "the table has no rows; encode or import at least one item"
    elif vectors.dtype not in _DTYPES:
        wrong = f"the embeddings are {vectors.dtype}; they must be one of {_DTYPES}"
    elif vectors.shape[0] != len(tokens):
        count = f"{vectors.shape[0]} embedding rows but {len(tokens)} item tokens"
        wrong = f"there are {count}; every row needs the token of its item"
    if wrong:
        raise TableError(f"{where}: {wrong}.")
    starts = range(0, len(vectors), _ROWS_PER_SCAN)
    parts = [vectors[start : start + _ROWS_PER_SCAN] for start in starts]
    finite = torch.cat([torch.isfinite(rows).all(dim=1) for rows in parts]).tolist()
    bad = [token for token, is_finite in zip(tokens, finite) if not is_finite]
    if bad:
        told = f"{where}: {len(bad)} of {len(tokens)} items have NaN or infinity in their embedding"
        advice = "leave them out, or encode in float32 or bfloat16: too large a number is infinity"
        raise TableError(f"{told}: {name_some(bad)}; {advice}.")
    if len(tokens) > 1 and not any((rows != vectors[0]).any() for rows in parts):
        told = f"{where}: all {len(tokens)} embeddings are equal, so items cannot be told apart"
        raise TableError(f"{told}; check what the encoder was given, and its max_length.")


def _fingerprint(tokens: list[str], vectors: torch.Tensor) -> str:
    """Short hash of tokens and vectors, row order and number type included."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{tuple(vectors.shape)} {vectors.dtype}\n".encode())
    digest.update("\n".join(tokens).encode())
    # As bytes: NumPy has no bfloat16.
    digest.update(vectors.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
