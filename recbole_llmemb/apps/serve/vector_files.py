"""Vectors with their tokens, as files that other programs read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from recbole_llmemb.core.errors import UserError

FORMATS = ("safetensors", "parquet")
_NAME = "vectors"
_BEST = 10


def write(path: Path, tokens, vectors: torch.Tensor, what: str) -> None:
    """Write vectors ``(n, d)``: as one tensor, or as a column beside the tokens'.

    Shapes: ``vectors`` (n, d).
    ``path``: its suffix says which.
    ``tokens``: for Parquet; beside safetensors they are in a text file.
    ``what``: what the column of the tokens is called.
    """
    vectors = vectors.float().contiguous()
    if path.suffix == ".safetensors":
        save_file({_NAME: vectors}, str(path))
        return
    arrow, parquet = pyarrow()
    flat = arrow.array(vectors.flatten().numpy())
    column = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    names = arrow.array([str(token) for token in tokens], arrow.string())
    parquet.write_table(arrow.table({what: names, _NAME: column}), path)


def read(path: Path) -> torch.Tensor:
    """The vectors of a file that :func:`write` made, ``(n, d)``."""
    if path.suffix == ".safetensors":
        return load_file(str(path))[_NAME]
    _, parquet = pyarrow()
    column = parquet.read_table(path)[_NAME].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.copy()).view(len(column), -1)


def write_tokens(path: Path, tokens: Iterable[str]) -> None:
    """One token per line, in the order of the vectors."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.writelines(f"{token}\n" for token in tokens)


def write_index(path: Path, vectors: torch.Tensor, kind: str = "Flat") -> None:
    """A FAISS index by inner product over vectors ``(n, d)``."""
    library = faiss()
    rows = vectors.float().contiguous().numpy()
    try:
        index = library.index_factory(rows.shape[1], kind, library.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(rows)
        index.add(rows)
    except RuntimeError as error:
        text = " ".join(str(error).split()).rstrip(".")[-200:]
        raise UserError(
            f"FAISS makes no index {kind!r} of {len(rows)} vectors ({text}); give --index another "
            "name that its index_factory knows, such as Flat or HNSW32."
        ) from None
    library.write_index(index, str(path))


def search(path: Path, queries: torch.Tensor) -> torch.Tensor:
    """Rows of the best vectors in an index for each query, ``(b, k)`` with k at most 10."""
    index = faiss().read_index(str(path))
    found = index.search(queries.float().contiguous().numpy(), min(_BEST, index.ntotal))[1]
    return torch.from_numpy(found)


def pyarrow():
    """The library for Parquet files."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "Parquet files need pyarrow: pip install 'recbole-llmemb[parquet]'."
        ) from None
    return pyarrow, pyarrow.parquet


def faiss():
    """The library for indexes; as :func:`pyarrow`."""
    try:
        import faiss
    except ImportError:
        raise UserError("An index needs FAISS: pip install 'recbole-llmemb[faiss]'.") from None
    return faiss
