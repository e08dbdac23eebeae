"""Shards put together in the order of the items, without holding the table in memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.shards import ShardFolder


def assemble(shards: ShardFolder, text_of: np.ndarray, shard_size: int, work: Path) -> torch.Tensor:
    """The vectors of all items.

    ``shards``: all there.
    ``text_of``: (n,) int64, the number of each item's text.
    ``shard_size``: texts per shard, which hold them in the order of their numbers.
    ``work``: directory for the file that the result is mapped from.
    Returns (n, D). The system takes its memory back when it needs it.
    """
    items = np.argsort(text_of, kind="stable")
    bounds = np.searchsorted(text_of[items], np.arange(0, len(shards) + 1) * shard_size)
    table = None
    for shard in range(len(shards)):
        vectors = shards.get(shard)
        if table is None:
            dtype, width = vectors.dtype, vectors.shape[1]
            shape = (len(text_of), width * vectors.element_size())
            table = _file(work / "table.raw", shape)
        rows = items[bounds[shard] : bounds[shard + 1]]
        table[rows] = vectors.view(torch.uint8).numpy()[text_of[rows] - shard * shard_size]
    table.flush()
    return torch.from_numpy(table).view(dtype)


def _file(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Bytes that are mapped from a file."""
    try:
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is told here; later it would kill
                os.posix_fallocate(file.fileno(), 0, shape[0] * shape[1])
            file.truncate(shape[0] * shape[1])
        return np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}.") from error
