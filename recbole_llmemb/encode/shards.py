"""Encoding that survives being killed: vectors are kept in shards until all are there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from tqdm import tqdm

from recbole_llmemb.core.errors import UserError

DEFAULT_SHARD_SIZE = 1024
_TENSOR = "vectors"


def encode_in_shards(
    texts: Sequence[str],
    encode: Callable[[Sequence[str]], torch.Tensor],
    work: Path,
    key: str,
    shard_size: int = DEFAULT_SHARD_SIZE,
    step: int = 128,
    describe: Callable[[int], str] = "text {}".format,
    lengths: Callable[[Sequence[str]], Sequence[int]] | None = None,
) -> tuple[torch.Tensor, int]:
    """Encode texts, keeping finished shards in a work directory.

    Texts are sorted by length, longest first: batches waste little padding, and one that does
    not fit into memory fails at once. Each shard is written beside and renamed, so that whatever
    has a shard's name is a whole shard; still it is checked before it is used again.

    ``texts``: n different texts.
    ``encode``: texts to (len, D). Not called when all shards are there.
    ``work``: directory of the shards; made if need be.
    ``key``: hash of everything the vectors depend on. Shards with another key are made anew.
    ``shard_size``: texts per shard: what a killed run loses at most.
    ``step``: texts per call of ``encode``.
    ``describe``: names text i in an error message.
    ``lengths``: lengths of texts as the encoder sees them, in tokens; by default in characters.
    Asked for once, as the order is kept with the shards.
    Returns ``vectors`` : (n, D), in the order of ``texts``.
    Returns ``encoded`` : How many texts were encoded now; the others were found.
    """
    _make(work)
    order = _order(texts, work, key, lengths)
    # Order and cut decide which texts a shard holds, so they are part of what it must match.
    key = f"{key}/{shard_size}/{_digest(torch.tensor(order))}"
    starts = range(0, len(order), shard_size)
    paths = [_path(work, number) for number in range(len(starts))]
    parts: list[torch.Tensor | None] = [
        _read_shard(path, key, rows=min(shard_size, len(order) - start))
        for path, start in zip(paths, starts, strict=True)
    ]
    found = sum(part.shape[0] for part in parts if part is not None)
    encoded = 0
    # disable=None: a progress bar for people, nothing in log files.
    with tqdm(
        total=len(order), initial=found, desc="encode", unit="text", disable=None
    ) as progress:
        for number, (path, start) in enumerate(zip(paths, starts, strict=True)):
            if parts[number] is not None:
                continue
            members = order[start : start + shard_size]
            parts[number] = _encode(texts, members, encode, step, describe, progress.update)
            encoded += len(members)
            _write_shard(path, key, parts[number])
    ordered = torch.cat([part for part in parts if part is not None])
    vectors = torch.empty_like(ordered)
    vectors[torch.tensor(order)] = ordered
    return vectors, encoded


def encode_shard(
    texts: Sequence[str],
    encode: Callable[[Sequence[str]], torch.Tensor],
    lengths: Callable[[Sequence[str]], Sequence[int]],
    step: int,
) -> torch.Tensor:
    """Encode the texts of one shard, sorted by length, and give them back in their own order.

    The parameters and errors are those of :func:`encode_in_shards`.
    """
    sizes = lengths(texts)
    order = sorted(range(len(texts)), key=lambda i: (-sizes[i], texts[i]))
    ordered = _encode(texts, order, encode, step, lambda i: f"of the text {texts[i]!r}")
    vectors = torch.empty_like(ordered)
    vectors[torch.tensor(order)] = ordered
    return vectors


class ShardFolder:
    """Shards that somebody else encodes, kept in a directory until all are there.

    ``work``: the directory; made if need be.
    ``count``: how many shards there are.
    ``key``, ``rows``: shard number to what the shard must match, and to its number of texts.
    """

    def __init__(
        self, work: Path, count: int, key: Callable[[int], str], rows: Callable[[int], int]
    ):
        _make(work)
        self._work, self._count, self._key, self.rows = work, count, key, rows

    def __len__(self) -> int:
        return self._count

    def has(self, shard: int) -> bool:
        """Whether the shard is there and whole."""
        return self._read(shard) is not None

    def get(self, shard: int) -> torch.Tensor:
        """(rows, D)."""
        vectors = self._read(shard)
        if vectors is None:
            raise UserError(
                f"The shard {_path(self._work, shard)} is missing or damaged; the same command "
                "encodes it again."
            )
        return vectors

    def put(self, shard: int, vectors: torch.Tensor) -> None:
        """Keep a shard."""
        _write_shard(_path(self._work, shard), self._key(shard), vectors)

    def _read(self, shard: int) -> torch.Tensor | None:
        return _read_shard(_path(self._work, shard), self._key(shard), self.rows(shard))


def pack(vectors: torch.Tensor) -> bytes:
    """Vectors as bytes, to be sent."""
    return save({_TENSOR: vectors})


def unpack(data: bytes) -> torch.Tensor:
    """What :func:`pack` packed."""
    return load(data)[_TENSOR]


def _encode(
    texts: Sequence[str],
    members: Sequence[int],
    encode: Callable[[Sequence[str]], torch.Tensor],
    step: int,
    describe: Callable[[int], str],
    progress: Callable[[int], object] = lambda number: None,
) -> torch.Tensor:
    """Vectors of some of the texts, ``step`` at a time."""
    blocks = []
    for begin in range(0, len(members), step):
        block = members[begin : begin + step]
        vectors = encode([texts[i] for i in block])
        _check_finite(vectors, block, describe)
        blocks.append(vectors)
        progress(len(block))
    return torch.cat(blocks)


def _make(work: Path) -> None:
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The work directory {work} cannot be made: {error}.") from error


def _path(work: Path, shard: int) -> Path:
    return work / f"shard-{shard:05d}.safetensors"


def _order(
    texts: Sequence[str],
    work: Path,
    key: str,
    lengths: Callable[[Sequence[str]], Sequence[int]] | None,
) -> list[int]:
    """Numbers of the texts, longest first; kept in the work directory when it costs something."""
    if lengths is None:
        return sorted(range(len(texts)), key=lambda i: (-len(texts[i]), texts[i]))
    path = work / "order.safetensors"
    kept = _read_shard(path, key, rows=len(texts))
    if kept is not None:
        return kept.flatten().tolist()
    sizes = lengths(texts)
    order = sorted(range(len(texts)), key=lambda i: (-sizes[i], texts[i]))
    _write_shard(path, key, torch.tensor(order).unsqueeze(1))
    return order


def _check_finite(
    vectors: torch.Tensor, block: Sequence[int], describe: Callable[[int], str]
) -> None:
    broken = (~torch.isfinite(vectors)).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise UserError(
            f"The encoder gives NaN or infinity for {len(broken)} texts, the first "
            f"{describe(block[broken[0]])}; use llm_dtype float32 or bfloat16."
        )


def _digest(vectors: torch.Tensor) -> str:
    data = vectors.contiguous().view(torch.uint8).numpy()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _write_shard(path: Path, key: str, vectors: torch.Tensor) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({_TENSOR: vectors}, str(fresh), {"key": key, "digest": _digest(vectors)})
        with open(fresh, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"The shard {path} cannot be written: {error}.") from error


def _read_shard(path: Path, key: str, rows: int) -> torch.Tensor | None:
    """The shard's vectors, or None when there is none that can be used."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = file.metadata() or {}
            vectors = file.get_tensor(_TENSOR)
    except (SafetensorError, OSError, ValueError):
        return None
    whole = (
        facts.get("key") == key
        and vectors.dim() == 2
        and vectors.shape[0] == rows
        and facts.get("digest") == _digest(vectors)
    )
    return vectors if whole else None
