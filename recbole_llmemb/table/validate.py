"""What no embedding table may be, checked wherever one is read, written or matched."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from recbole_llmemb.core.errors import TableError, name_some

STORED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Rows looked at together when scanning: bounds the scan's own memory on large tables.
_ROWS_PER_SCAN = 65536


def check_tokens(tokens: Sequence[str], where: str) -> None:
    """Refuse tokens that a text file with one token per line cannot hold, and duplicates.

    ``tokens``: item tokens in row order.
    ``where``: what is being checked, as the error message should call it.
    """
    for row, token in enumerate(tokens):
        if not isinstance(token, str):
            raise TableError(
                f"{where}: the item token of row {row} is {token!r}, which is not text; "
                "give the tokens as strings, exactly as in the .item file."
            )
        if not token:
            raise TableError(
                f"{where}: the item token of row {row} is empty; every row needs the token "
                "of its item."
            )
        if "\n" in token or "\r" in token:
            raise TableError(
                f"{where}: the item token {token!r} of row {row} holds a line break, "
                "which an item token cannot; remove it."
            )
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice: dict[str, None] = {}
        for token in tokens:
            if token in seen:
                twice[token] = None
            seen.add(token)
        raise TableError(
            f"{where}: {len(twice)} item token(s) occur more than once: {name_some(twice)}; "
            "keep one row per item."
        )


def check_vectors(vectors: torch.Tensor, tokens: Sequence[str], where: str) -> None:
    """Refuse vectors that cannot stand for items.

    ``vectors``: supposed to be (n, D) floating point.
    ``tokens``: the n item tokens of the rows.
    ``where``: what is being checked, as the error message should call it.
    """
    if vectors.dim() != 2 or vectors.shape[1] == 0:
        raise TableError(
            f"{where}: the embeddings have shape {tuple(vectors.shape)}; "
            "they must be items × width, two dimensions."
        )
    if vectors.shape[0] == 0:
        raise TableError(f"{where}: the table has no rows; encode or import at least one item.")
    if vectors.dtype not in STORED_DTYPES:
        raise TableError(
            f"{where}: the embeddings are {vectors.dtype}; they must be one of "
            f"{', '.join(str(dtype).removeprefix('torch.') for dtype in STORED_DTYPES)}."
        )
    if vectors.shape[0] != len(tokens):
        raise TableError(
            f"{where}: there are {vectors.shape[0]} embedding rows but {len(tokens)} item "
            "tokens; every row needs the token of its item, in the same order."
        )
    bad: list[str] = []
    varied = False
    for start in range(0, vectors.shape[0], _ROWS_PER_SCAN):
        rows = vectors[start : start + _ROWS_PER_SCAN]
        broken = (~torch.isfinite(rows)).any(dim=1).nonzero().flatten().tolist()
        bad.extend(tokens[start + row] for row in broken)
        varied = varied or bool((rows != vectors[0]).any())
    if bad:
        raise TableError(
            f"{where}: {len(bad)} of {len(tokens)} items have NaN or infinity in their embedding: "
            f"{name_some(bad)}; make these rows finite or leave them out "
            "(an encoder in half precision may overflow: use float32 or bfloat16)."
        )
    if len(tokens) > 1 and not varied:
        raise TableError(
            f"{where}: all {len(tokens)} embeddings are equal, so items cannot be told apart; "
            "check what the encoder was given."
        )


def fingerprint_of(tokens: Sequence[str], vectors: torch.Tensor) -> str:
    """Short hash of tokens and vectors, row order and number type included."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{tuple(vectors.shape)} {vectors.dtype}\n".encode())
    digest.update("\n".join(tokens).encode())
    # As bytes: NumPy has no bfloat16.
    digest.update(vectors.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
