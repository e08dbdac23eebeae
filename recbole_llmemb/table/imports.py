"""Tables made elsewhere: NumPy, Parquet, RecBole's atomic files, and pickles where trusted.

Whatever the file, vectors come with item tokens: from the file itself, or from a text file with
one token per line in the order of the rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from recbole_llmemb.core.errors import TableError, name_some
from recbole_llmemb.core.files import lines_of
from recbole_llmemb.table.format import EmbeddingTable
from recbole_llmemb.table.restricted_pickle import load_arrays_pickle

_PICKLES = (".pkl", ".pickle")
_KNOWN = (".npy", ".npz", ".parquet", ".itememb", *_PICKLES)


def import_table(
    path: str | os.PathLike,
    tokens_path: str | os.PathLike | None = None,
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
    TableError
        When the file cannot be read as said, tokens and rows differ in number, or the table is
        not valid.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(f"There is no file {path} to import embeddings from.")
    suffix = path.suffix.lower()
    tokens = None if tokens_path is None else read_tokens_file(tokens_path)
    if suffix == ".npy":
        vectors = _load_numpy(path)
    elif suffix == ".npz":
        vectors, tokens = _from_npz(path, tokens)
    elif suffix == ".parquet":
        vectors, tokens = _from_parquet(path, tokens, token_column)
    elif suffix == ".itememb":
        vectors, tokens = _from_itememb(path, tokens)
    elif suffix in _PICKLES:
        vectors = load_arrays_pickle(path, allowed=allow_pickle_file)
    else:
        raise TableError(
            f"{path}: embeddings cannot be imported from a {suffix or 'suffix-less'} file; "
            f"the kinds known are {', '.join(_KNOWN)}."
        )
    if tokens is None:
        raise TableError(
            f"{path} holds vectors without item tokens; give a text file with one item token "
            "per line in the order of the rows (--tokens)."
        )
    table = EmbeddingTable(
        tokens=tokens,
        vectors=_as_tensor(vectors, path),
        manifest={"imported_from": path.name},
    )
    table.validate(where=str(path))
    return table


def read_tokens_file(path: str | os.PathLike) -> list[str]:
    """Item tokens of a text file, one per line."""
    try:
        lines = lines_of(path)
    except (OSError, ValueError) as error:
        raise TableError(f"The item tokens cannot be read from {path}: {error}.") from error
    if lines[-1] == "":
        lines.pop()
    return lines


def _as_tensor(vectors: np.ndarray, path: Path) -> torch.Tensor:
    vectors = np.asarray(vectors)
    if vectors.dtype.kind not in "fiu":
        raise TableError(f"{path}: the embeddings are of type {vectors.dtype}; numbers are needed.")
    kept = np.float16 if vectors.dtype == np.float16 else np.float32
    # Values beyond float32 become infinity here, which validation then names.
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(vectors, dtype=kept))


def _token_strings(values: Sequence, path: Path) -> list[str]:
    """Tokens as text: whole numbers without a decimal point, as an .item file has them."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise TableError(f"{path}: the item tokens have shape {array.shape}; a list is needed.")
    if array.dtype.kind == "f":
        raise TableError(
            f"{path}: the item tokens are floating-point numbers, which do not say how they are "
            "written in the .item file; store them as text."
        )
    if array.dtype.kind == "S":
        try:
            return [token.decode("utf-8") for token in array.tolist()]
        except UnicodeDecodeError as error:
            raise TableError(f"{path}: the item tokens are not in utf-8 ({error}).") from None
    return [str(token) for token in array.tolist()]


def _one_source(tokens: list[str] | None, path: Path) -> None:
    if tokens is not None:
        raise TableError(
            f"{path} holds its own item tokens; leave the tokens file out, so that there is no "
            "doubt which ones count."
        )


def _load_numpy(path: Path):
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TableError(f"{path} cannot be read as a NumPy file: {error}.") from error


def _from_npz(path: Path, tokens: list[str] | None) -> tuple[np.ndarray, list[str] | None]:
    from zipfile import BadZipFile

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise TableError(
            f"{path} cannot be read as a NumPy archive: {error} "
            "(tokens must be a text array, not an object array)."
        ) from error
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    lists = [name for name, array in arrays.items() if array.ndim == 1]
    if len(matrices) != 1 or len(lists) > 1:
        raise TableError(
            f"{path} holds the arrays {name_some(arrays)}; exactly one 2-D array of embeddings "
            "and at most one 1-D array of item tokens are needed."
        )
    if lists:
        _one_source(tokens, path)
        tokens = _token_strings(arrays[lists[0]], path)
    return arrays[matrices[0]], tokens


def _from_parquet(
    path: Path, tokens: list[str] | None, token_column: str | None
) -> tuple[np.ndarray, list[str] | None]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise TableError(
            f"{path}: reading Parquet needs pyarrow; install it (pip install pyarrow)."
        ) from error
    try:
        frame = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path} cannot be read as a Parquet file: {error}.") from error

    def is_list(column: pa.Field) -> bool:
        kind = column.type
        return (
            pa.types.is_list(kind)
            or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind)
        )

    if token_column is None:
        named = [name for name in ("item_id", "item", "token") if name in frame.column_names]
        texts = [
            column.name
            for column in frame.schema
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        ]
        token_column = named[0] if named else texts[0] if len(texts) == 1 else None
    elif token_column not in frame.column_names:
        raise TableError(
            f"{path} has no column {token_column!r}; it has {name_some(frame.column_names)}."
        )
    if token_column is not None:
        _one_source(tokens, path)
        column = frame.column(token_column)
        if column.null_count:
            raise TableError(f"{path}: {column.null_count} item tokens are missing (null).")
        tokens = _token_strings(column.to_pylist(), path)

    rest = [column for column in frame.schema if column.name != token_column]
    lists = [column.name for column in rest if is_list(column)]
    numbers = [
        column.name
        for column in rest
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
    ]
    if len(lists) == 1:
        return _stack(frame.column(lists[0]).to_pylist(), tokens, path), tokens
    if lists or not numbers:
        raise TableError(
            f"{path} has the columns {name_some(frame.column_names)}; either one column of lists "
            "or numeric columns are needed beside the item tokens."
        )
    return np.stack([frame.column(name).to_numpy() for name in numbers], axis=1), tokens


def _from_itememb(path: Path, tokens: list[str] | None) -> tuple[np.ndarray, list[str]]:
    _one_source(tokens, path)
    try:
        lines = lines_of(path)
    except (OSError, ValueError) as error:
        raise TableError(f"{path} cannot be read as UTF-8 text: {error}.") from error
    header = [name.rpartition(":") for name in (lines[0] if lines else "").split("\t")]
    kinds = [kind for _, _, kind in header]
    ids = [i for i, kind in enumerate(kinds) if kind == "token"]
    sequences = [i for i, kind in enumerate(kinds) if kind == "float_seq"]
    floats = [i for i, kind in enumerate(kinds) if kind == "float"]
    if not ids or len(sequences) > 1 or not (sequences or floats):
        raise TableError(
            f"{path}: the first line must name a token field and one float_seq field (or float "
            f"fields), tab-separated, such as 'iid:token<TAB>item_emb:float_seq'; "
            f"it is {(lines[0] if lines else '')[:80]!r}."
        )
    tokens, rows = [], []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        values = line.split("\t")
        if len(values) != len(header):
            raise TableError(
                f"{path}, line {number}: {len(values)} fields where the first line names "
                f"{len(header)}; the file is damaged or truncated."
            )
        tokens.append(values[ids[0]])
        try:
            numbers = values[sequences[0]].split() if sequences else [values[i] for i in floats]
            rows.append(np.array([float(value) for value in numbers], dtype=np.float32))
        except ValueError as error:
            raise TableError(f"{path}, line {number}: {error}.") from error
    return _stack(rows, tokens, path), tokens


def _stack(rows: Sequence, tokens: list[str] | None, path: Path) -> np.ndarray:
    """(n, D) from n vectors, naming the items whose vector has another width than most."""
    widths = [0 if row is None else len(row) for row in rows]
    if not rows:
        raise TableError(f"{path} holds no vectors.")
    usual = max(set(widths), key=widths.count)
    odd = [i for i, width in enumerate(widths) if width != usual]
    if odd:
        names = [tokens[i] if tokens and i < len(tokens) else f"row {i}" for i in odd]
        raise TableError(
            f"{path}: {len(odd)} of {len(rows)} vectors are not {usual} wide like the others: "
            f"{name_some(names)} (the first has {widths[odd[0]]})."
        )
    try:
        filled = [[np.nan if value is None else value for value in row] for row in rows]
        return np.array(filled, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise TableError(f"{path}: the vectors are not of numbers ({error}).") from None
