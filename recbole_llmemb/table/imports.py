"""Tables made elsewhere: NumPy, Parquet, RecBole's atomic files, and pickles where trusted.

Whatever the file, vectors come with item tokens: from the file itself, or from a text file with
one token per line in the order of the rows.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_llmemb.core.errors import TableError, explained, name_some
from recbole_llmemb.core.files import lines_of
from recbole_llmemb.core.imports import optional
from recbole_llmemb.records.reader import FIELD_TYPES, open_records
from recbole_llmemb.table.format import EmbeddingTable

_PANDAS_INDEX = re.compile(r"__index_level_\d+__$")  # a column that pandas adds of its own
# What the names of types begin with in Parquet.
_LISTS = ("list<", "large_list<", "fixed_size_list<")
_NUMBERS = ("int", "uint", "halffloat", "float", "double")


def import_table(
    path: str | os.PathLike[str],
    tokens_path: str | os.PathLike[str] | None = None,
    allow_pickle_file: bool = False,
    token_column: str | None = None,
) -> EmbeddingTable:
    """Read vectors made elsewhere.

    Parameters
    ----------
    path : path
        By suffix: ``.npy`` (n, D), ``.npz`` (one 2-D array, and the tokens as a 1-D array unless
        ``tokens_path``), ``.parquet`` (a token column and either one column of lists or numeric
        columns), ``.itememb`` (RecBole atomic file: a ``token`` and a ``float_seq`` field, or
        ``float`` fields), ``.pkl`` (a NumPy array or a list of vectors).
    tokens_path : path, optional
        One item token per line, in the order of the rows. Required for ``.npy`` and ``.pkl``.
    allow_pickle_file : bool
        Read a pickle. Only arrays and plain lists are admitted, and still a pickle is for files
        whose origin is trusted.
    token_column : str, optional
        The token column of a Parquet file; by default ``item_id``, ``item``, ``token`` or the
        only column that is neither numeric nor lists.

    Returns
    -------
    EmbeddingTable
        float32 (float16 stays as it is), with ``imported_from`` in its manifest.

    Raises
    ------
    UserError
        When the file cannot be read as said, tokens and rows differ in number, or the table is
        not valid. Mostly a :class:`TableError`, which is one.
    """
    path = Path(path)
    if not path.is_file():
        told = f"{path} is a folder, and" if path.is_dir() else f"There is no file {path}:"
        advice = "embeddings are imported from a file (a table is used as it is: llm_table)"
        raise TableError(f"{told} {advice}.", where=path)
    suffix = path.suffix.lower()
    if token_column is not None and suffix != ".parquet":
        raise _unusable(
            path, "only a Parquet file has a token column; leave it out", "token_column"
        )
    tokens = None if tokens_path is None else _read_tokens(tokens_path)
    found: Sequence[Any] | NDArray[Any] | None = None
    if suffix == ".npy":
        with _readable(path, "NumPy file"), open(path, "rb") as file:
            vectors = np.load(file, allow_pickle=False)
            if file.read(1):
                raise ValueError("more follows than its first lines say")
    elif suffix == ".npz":
        vectors, found = _from_npz(path)
    elif suffix == ".parquet":
        vectors, found = _from_parquet(path, tokens, token_column)
    elif suffix == ".itememb":
        vectors, found = _from_itememb(path)
    elif suffix in (".pkl", ".pickle"):
        vectors = _from_pickle(path, allow_pickle_file)
    else:
        said = f"embeddings cannot be imported from a {suffix or 'suffix-less'} file"
        raise _unusable(path, f"{said}, only from .npy, .npz, .parquet, .itememb, .pkl and .pickle")
    if found is not None and tokens is not None:
        raise _unusable(path, "it holds its own item tokens; leave the tokens file out", "tokens")
    tokens = tokens if found is None else _token_strings(found, path)
    if tokens is None:
        advice = "give a file with one per line, in the order of the rows (--tokens)"
        raise _unusable(path, f"it holds vectors without item tokens; {advice}", "tokens")
    table = EmbeddingTable(tokens, _as_tensor(vectors, path), {"imported_from": path.name})
    table.validate(where=str(path) if tokens_path is None else f"{path} ({tokens_path})")
    return table


def _read_tokens(path: str | os.PathLike[str]) -> list[str]:
    advice = "give a text file in UTF-8 with a token per line"
    sentence = f"The item tokens cannot be read from {path} ({{reason}}); {advice}."
    with explained(sentence, OSError, ValueError, kind=TableError, key="tokens", where=path):
        lines = lines_of(path)
    return lines[:-1] if lines[-1] == "" else lines


def _unusable(path: Path, what: str, key: str | None = None) -> TableError:
    return TableError(f"{path}: {what}.", key=key, where=path)


def _readable(path: Path, kind: str) -> AbstractContextManager[None]:
    sentence = f"{path} cannot be read as a {kind} ({{reason}})."
    # Damaged files raise almost anything.
    return explained(sentence, Exception, kind=TableError, where=path)


def _as_tensor(vectors: NDArray[Any], path: Path) -> torch.Tensor:
    vectors = np.asarray(vectors)
    if vectors.dtype.kind not in "fiu":
        raise _unusable(path, f"the embeddings are of type {vectors.dtype}; numbers are needed")
    kept = np.float16 if vectors.dtype == np.float16 else np.float32
    # Values beyond float32 become infinity here, which validation then names.
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(vectors, dtype=kept))


def _token_strings(values: Sequence[Any] | NDArray[Any], path: Path) -> list[str]:
    """Tokens as text: whole numbers without a decimal point, as an .item file has them."""
    array = np.asarray(values)
    wrong = None
    if array.ndim != 1:
        wrong = f"have shape {array.shape}; a list is needed"
    elif array.dtype.kind == "f":
        wrong = "are floating-point numbers; store them as text, as in the .item file"
    if wrong:
        raise _unusable(path, f"the item tokens {wrong}")
    if array.dtype.kind == "S":
        sentence = f"{path}: the item tokens are not in utf-8 ({{reason}})."
        with explained(sentence, UnicodeDecodeError, kind=TableError, where=path):
            return [token.decode("utf-8") for token in array.tolist()]
    return [str(token) for token in array.tolist()]


def _from_npz(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    kind = "NumPy archive (tokens must be a text array, not an object array)"
    with _readable(path, kind), np.load(path, allow_pickle=False) as file:
        arrays = {name: np.asarray(file[name]) for name in file.files}  # others are bytes
    matrices = [array for array in arrays.values() if array.ndim == 2]
    lists = [array for array in arrays.values() if array.ndim == 1]
    if len(matrices) != 1 or len(lists) > 1:
        needed = "exactly one 2-D array of embeddings and at most one 1-D array of item tokens"
        raise _unusable(path, f"it holds the arrays {name_some(arrays)}; {needed} are needed")
    return matrices[0], lists[0] if lists else None


def _from_parquet(
    path: Path, tokens: list[str] | None, token_column: str | None
) -> tuple[NDArray[Any], list[Any] | None]:
    pq = optional("pyarrow.parquet", "parquet", f"Reading {path}")
    with _readable(path, "Parquet file"):
        frame = pq.read_table(path)
    kinds = {column.name: str(column.type) for column in frame.schema}
    kinds = {name: kind for name, kind in kinds.items() if not _PANDAS_INDEX.match(name)}
    if token_column is None:
        named = [name for name in ("item_id", "item", "token") if name in kinds]
        if len(named) > 1:
            what = f"{' and '.join(named)} each could be the item tokens; say which"
            raise _unusable(path, f"{what} (--token_column)", "token_column")
        texts = [name for name, kind in kinds.items() if kind in ("string", "large_string")]
        token_column = named[0] if named else texts[0] if len(texts) == 1 else None
    elif token_column not in kinds:
        what = f"it has no column {token_column!r}; it has {name_some(kinds)}"
        raise _unusable(path, what, "token_column")
    found = None
    if token_column is not None:
        kinds.pop(token_column)
        column = frame.column(token_column)
        if column.null_count:
            missing = f"{column.null_count} item tokens are missing (null)"
            raise _unusable(path, f"{missing}; fill them, or leave these rows out", "token_column")
        found = column.to_pylist()
    lists = [name for name, kind in kinds.items() if kind.startswith(_LISTS)]
    numbers = [name for name, kind in kinds.items() if kind.startswith(_NUMBERS)]
    if len(lists) == 1:
        rows = frame.column(lists[0]).to_numpy()
        return _stacked(rows, found or tokens, path), found
    if lists or not numbers:
        needed = "either one column of lists or numeric columns are needed beside the item tokens"
        raise _unusable(path, f"it has the columns {name_some(frame.column_names)}; {needed}")
    if len({name.rstrip("0123456789") for name in numbers}) > 1:
        told = f"{path}: vectors are made of all numeric columns, {name_some(numbers, 20)}"
        getLogger().warning(f"{told}; take out what is no part of them.")
    return np.stack([frame.column(name).to_numpy() for name in numbers], axis=1), found


def _from_itememb(path: Path) -> tuple[NDArray[Any], list[str]]:
    file = open_records(path, "atomic")
    of = {kind: [n for n, k in zip(file.columns, file.types) if k == kind] for kind in FIELD_TYPES}
    sequences, floats = of["float_seq"], of["float"]
    if not of["token"] or len(sequences) > 1 or not (sequences or floats):
        needed = "a token field and one float_seq field (or float fields)"
        example = "'iid:token<TAB>item_emb:float_seq'"
        raise _unusable(path, f"the first line must name {needed}, such as {example}")
    tokens, rows = [], []
    for number, (token, *cells) in file.rows([of["token"][0], *(sequences or floats)]):
        told = f"{path}, line {number}: {{reason}}; mend it, or leave the line out."
        with explained(told, ValueError, kind=TableError, where=path):
            numbers = cells[0].split() if sequences else cells
            if wrong := [cell for cell in cells if "_" in cell or not cell.isascii()]:
                raise ValueError(f"no numbers: {wrong[0]!r:.60}")  # which Python would read
            rows.append(np.array([float(value) for value in numbers], dtype=np.float32))
        tokens.append(token)
    return _stacked(rows, tokens, path), tokens


def _stacked(
    rows: Sequence[Any] | NDArray[Any], tokens: Sequence[str] | None, path: Path
) -> NDArray[Any]:
    """Vectors as (n, D), a number that is missing being NaN; they must be of one width."""
    sentence = f"{path}: the vectors are not of numbers ({{reason}})."
    with explained(sentence, ValueError, TypeError, kind=TableError, where=path):
        arrays = [np.atleast_1d(np.asarray([] if r is None else r, np.float32)) for r in rows]
    if not arrays:
        raise _unusable(path, "it holds no vectors")
    widths = np.array([len(array) for array in arrays])
    usual = np.bincount(widths).argmax()
    odd = np.flatnonzero(widths != usual).tolist()
    if odd:
        names = [tokens[i] if tokens and i < len(tokens) else f"row {i}" for i in odd]
        said = f"{len(odd)} of {len(widths)} vectors are not {usual} wide like the others"
        raise _unusable(path, f"{said}: {name_some(names)} ({names[0]} has {widths[odd[0]]})")
    return np.stack(arrays)


# All that a pickled NumPy array refers to, over NumPy 1 and 2; first what lies in numpy.core, which
# is numpy._core now.
_OF_CORE = {("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer")}
_ADMITTED = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _ArraysOnly(pickle.Unpickler):
    """Unpickling can run any code a file asks for; this admits what arrays are made of."""

    def find_class(self, module: str, name: str) -> Any:
        package, _, leaf = module.rpartition(".")
        if package in ("numpy.core", "numpy._core") and (leaf, name) in _OF_CORE:
            # NumPy 2 only forwards what NumPy 1 wrote, with a warning; NumPy 1 knows no _core.
            core = "_core" if hasattr(np, "_core") else "core"
            module = f"numpy.{core}.{leaf}"
        elif (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is no array")
        return super().find_class(module, name)


def _from_pickle(path: Path, allowed: bool) -> NDArray[Any]:
    """The LLMEmb authors' pickles: one NumPy array, or a list of vectors, without item tokens."""
    if not allowed:
        said = "it is a pickle, which can run code; if you trust where it comes from, say so"
        raise _unusable(path, f"{said} (--i-trust-this-pickle), or convert it to .npy")
    advice = "only arrays are admitted, but prefer .npy or .npz files"
    warnings.warn(f"Reading the pickle {path}: {advice}.", UserWarning, stacklevel=3)
    sentence = f"{path} was not read as a pickled array ({{reason}})."
    with (
        explained(sentence, Exception, kind=TableError, where=path),  # damaged ones raise anything
        open(path, "rb") as file,
    ):
        loaded = _ArraysOnly(file).load()
    if isinstance(loaded, (list, tuple)):
        return _stacked(loaded, None, path)
    if not isinstance(loaded, np.ndarray):
        raise _unusable(path, f"it holds a {type(loaded).__name__}; an array of numbers is needed")
    return loaded
