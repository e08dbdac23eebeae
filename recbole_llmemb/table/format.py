"""The table on disk: ``embeddings.safetensors``, ``items.txt`` and ``manifest.json``.

A reduced table has ``projection.safetensors`` too: how vectors of the source become its rows.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from recbole_llmemb.core.directories import atomic_directory
from recbole_llmemb.core.errors import TableError
from recbole_llmemb.table.validate import check_tokens, check_vectors, fingerprint_of

FORMAT_VERSION = 1
VECTORS_FILE = "embeddings.safetensors"
TOKENS_FILE = "items.txt"
MANIFEST_FILE = "manifest.json"
PROJECTION_FILE = "projection.safetensors"
TENSOR_NAME = "embeddings"

_VERSIONED = ("torch", "transformers", "sentence-transformers", "tokenizers", "safetensors")


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

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def width(self) -> int:
        """D, the length of one vector."""
        return self.vectors.shape[1]

    @property
    def fingerprint(self) -> str:
        """Short hash of tokens and vectors, equal exactly for equal tables."""
        return fingerprint_of(self.tokens, self.vectors)

    def validate(self, where: str = "embedding table") -> None:
        """Raise :class:`TableError` when this table cannot be used (see :mod:`.validate`)."""
        check_tokens(self.tokens, where)
        check_vectors(self.vectors, self.tokens, where)

    def save(self, directory: str | os.PathLike, overwrite: bool = False) -> Path:
        """Write the table so that ``directory`` holds all of it or nothing.

        Parameters
        ----------
        directory : path
            Where the table shall be. Must not exist, unless ``overwrite``.
        overwrite : bool
            Replace the table that is there. A directory that is no table is never replaced.

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
        manifest = {
            "format_version": FORMAT_VERSION,
            **self.manifest,
            "count": len(self.tokens),
            "width": self.width,
            "dtype": _dtype_name(vectors.dtype),
            "fingerprint": self.fingerprint,
        }
        with atomic_directory(directory, overwrite=overwrite, written=table_files) as fresh:
            save_file({TENSOR_NAME: vectors}, str(fresh / VECTORS_FILE))
            if self.projection is not None:
                save_file(self.projection, str(fresh / PROJECTION_FILE))
            with open(fresh / TOKENS_FILE, "w", encoding="utf-8", newline="") as file:
                file.writelines(token + "\n" for token in self.tokens)
            with open(fresh / MANIFEST_FILE, "w", encoding="utf-8") as file:
                json.dump(manifest, file, indent=2, ensure_ascii=False)
                file.write("\n")
        self.manifest = manifest
        return directory

    @classmethod
    def load(
        cls, directory: str | os.PathLike, expected_width: int | None = None
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
        where = f"table {directory}"
        if not directory.is_dir():
            raise TableError(
                f"There is no embedding table at {directory}; "
                "give a table directory, or leave llm_table empty to have one built."
            )
        for name in (VECTORS_FILE, TOKENS_FILE, MANIFEST_FILE):
            if not (directory / name).is_file():
                raise TableError(
                    f"{where}: {name} is missing; a table is a directory with {VECTORS_FILE}, "
                    f"{TOKENS_FILE} and {MANIFEST_FILE}: encode or import it again."
                )
        manifest = read_manifest(directory)
        vectors = _read_vectors(directory / VECTORS_FILE)
        tokens = _read_tokens(directory / TOKENS_FILE)
        if vectors.dim() == 2:
            _check_fit(manifest, vectors, tokens, where)
        table = cls(tokens, vectors, manifest, read_projection(directory))
        table.validate(where)
        if manifest.get("fingerprint") not in (None, table.fingerprint):
            raise TableError(
                f"{where}: the embeddings or the item tokens are not those the manifest was "
                f"written for ({TOKENS_FILE} reordered, or a file changed or damaged); "
                "encode or import it again."
            )
        if expected_width is not None and table.width != expected_width:
            raise TableError(
                f"{where}: the embeddings are {table.width} wide, but {expected_width} is "
                "expected; use the table this model was made with, or set llm_pca_dim to fit."
            )
        return table


def table_files(directory: Path) -> set[str]:
    """The files of a table; none where the directory holds others, or has no manifest."""
    names = {entry.name for entry in directory.iterdir()}
    known = {VECTORS_FILE, TOKENS_FILE, MANIFEST_FILE, PROJECTION_FILE}
    if not (MANIFEST_FILE in names and names <= known):
        return set()
    try:
        manifest = json.loads((directory / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError):
        return names  # damaged
    return names if isinstance(manifest, dict) and "format_version" in manifest else set()


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a table directory."""
    path = Path(directory) / MANIFEST_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError(
            f"The manifest {path} cannot be read ({error}); encode or import the table again."
        ) from error
    if not isinstance(manifest, dict):
        raise TableError(f"The manifest {path} is not a JSON object; encode the table again.")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise TableError(
            f"The manifest {path} has format version {manifest.get('format_version')!r}, "
            f"this version reads {FORMAT_VERSION}; encode or import the table again."
        )
    return manifest


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a text's embedding is."""
    versions = {}
    for name in _VERSIONED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _read_vectors(path: Path) -> torch.Tensor:
    try:
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            if names != [TENSOR_NAME]:
                raise TableError(
                    f"{path} holds the tensors {names}; a table has exactly one, {TENSOR_NAME!r}."
                )
            return file.get_tensor(TENSOR_NAME)
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(
            f"{path} is truncated or damaged ({error}); encode or import the table again."
        ) from error


def read_projection(directory: str | os.PathLike) -> dict[str, torch.Tensor] | None:
    """What a table was reduced with (:attr:`EmbeddingTable.projection`), if it was."""
    path = Path(directory) / PROJECTION_FILE
    if not path.is_file():
        return None
    try:
        found = load_file(str(path))
        return {name: found[name] for name in ("mean", "matrix")}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise TableError(
            f"{path} is truncated or damaged ({error}); reduce the table again."
        ) from error


def _read_tokens(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read as UTF-8 text ({error}).") from error
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return lines


def _check_fit(
    manifest: dict[str, Any], vectors: torch.Tensor, tokens: list[str], where: str
) -> None:
    """Compare what the manifest promises with what the files hold."""
    if len(tokens) != vectors.shape[0]:
        raise TableError(
            f"{where}: {TOKENS_FILE} names {len(tokens)} items but {VECTORS_FILE} has "
            f"{vectors.shape[0]} rows; the files do not belong together."
        )
    found = {
        "count": vectors.shape[0],
        "width": vectors.shape[1],
        "dtype": _dtype_name(vectors.dtype),
    }
    for key, value in found.items():
        if manifest.get(key) != value:
            raise TableError(
                f"{where}: the manifest says {key} {manifest.get(key)!r} but the embeddings have "
                f"{value!r}; the files do not belong together: encode or import the table again."
            )
