"""A catalogue too large to hold its texts: what an item file says, read as a stream.

Tokens are held, and per item a digest of its text; of the texts themselves only those of one
shard at a time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.records.items import ItemFile, check_tokens

Prompt = Callable[[Mapping[str, str]], str]

# Rows between two places that are remembered, from which a reader can begin.
_STRIDE = 1024
_DIGEST = 16


def hash_lists(*lists: Iterable[str]) -> str:
    """Hash of ``json.dumps`` of lists of text, without making it."""
    digest = hashlib.blake2b(digest_size=10)
    for number, strings in enumerate(lists):
        digest.update(b", [" if number else b"[[")
        strings, first = iter(strings), True
        while part := list(itertools.islice(strings, 512)):
            text = json.dumps(part, ensure_ascii=False)[1:-1]
            digest.update((text if first else f", {text}").encode())
            first = False
        digest.update(b"]")
    digest.update(b"]")
    return digest.hexdigest()


@dataclass
class Catalogue:
    """The items of a file, n of them with u different texts, numbered as they first appear."""

    tokens: list[str]  # n item tokens, in file order
    texts_hash: str  # Hash of tokens and texts in file order
    bare: int  # Items without any text
    text_of: np.ndarray  # (n,) int64, the number of each item's text
    first_rows: np.ndarray  # (u,) int64, the row that has each text first; ascending
    digests: np.ndarray  # (u, 16) uint8, of each text
    places: list[int]  # Where every 1024th row begins

    @property
    def unique(self) -> int:
        """u, the number of different texts."""
        return len(self.first_rows)

    def span(self, start: int, stop: int, shard_size: int) -> dict[str, Any]:
        """What :func:`read_span` needs to read the shards ``start`` to ``stop``, as plain data."""
        rows = self.first_rows[start * shard_size : stop * shard_size]
        place = int(rows[0]) // _STRIDE
        return {
            "shard": start,
            "size": shard_size,
            # As text: a place in a file of some encodings is longer than 64 bits.
            "place": str(self.places[place]),
            # Counted from there.
            "rows": (rows - place * _STRIDE).astype(np.int64).tobytes(),
            "digests": self.digests[start * shard_size : stop * shard_size].tobytes(),
        }

    def shard_digest(self, shard: int, shard_size: int) -> str:
        """Hash of the texts of a shard, in order."""
        texts = self.digests[shard * shard_size : (shard + 1) * shard_size]
        return hashlib.blake2b(texts.tobytes(), digest_size=16).hexdigest()


def scan(file: ItemFile, prompt: Prompt) -> Catalogue:
    """Read an item file twice from end to end: its tokens, then its texts.

    ``prompt``: attributes to text.
    """
    tokens = [token for token, _ in file.rows()]
    check_tokens(tokens, file.path)
    digests, places, bare = bytearray(), [0], 0

    def texts() -> Iterator[str]:
        nonlocal bare
        rows = tqdm(file.rows(), "read", len(tokens), unit="item", disable=None, leave=False)
        for number, (_, attributes) in enumerate(rows, start=1):
            if number % _STRIDE == 0:
                places.append(file.place())
            bare += not attributes
            text = prompt(attributes)
            digests.extend(_digest(text))
            yield text

    texts_hash = hash_lists(tokens, texts())
    table = np.frombuffer(digests, dtype=np.uint8).reshape(-1, _DIGEST)
    if len(table) != len(tokens):
        raise _changed(file.path)
    text_of, first_rows = _number(table.view(np.uint64))
    return Catalogue(tokens, texts_hash, bare, text_of, first_rows, table[first_rows], places)


def read_span(file: ItemFile, prompt: Prompt, span: Mapping[str, Any]) -> Iterator[list[str]]:
    """The different texts of some shards that follow each other, shard by shard.

    ``prompt``: as for :func:`scan`.
    ``span``: from :meth:`Catalogue.span`.
    """
    wanted = np.frombuffer(span["rows"], dtype=np.int64)
    digests = np.frombuffer(span["digests"], dtype=np.uint8).reshape(-1, _DIGEST)
    size = span["size"]
    rows = enumerate(file.rows(int(span["place"])))
    for begin in range(0, len(wanted), size):
        texts, numbers = [], wanted[begin : begin + size].tolist()
        for number in numbers:
            attributes = next((row[1] for at, row in rows if at == number), None)
            if attributes is None:
                raise _changed(file.path)
            texts.append(prompt(attributes))
        if b"".join(map(_digest, texts)) != digests[begin : begin + size].tobytes():
            raise _changed(file.path)
        yield texts


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST).digest()


def _changed(path: Path) -> UserError:
    return UserError(f"The item file {path} changed while it was being read; start again.")


def _number(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number equal rows of (n, 2) alike, in order of first appearance."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal rows stay in file order
    ordered = digests[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    firsts = order[is_first]
    rank = np.empty(len(firsts), dtype=np.int64)
    rank[np.argsort(firsts)] = np.arange(len(firsts))
    text_of = np.empty(len(order), dtype=np.int64)
    text_of[order] = rank[np.cumsum(is_first) - 1]
    return text_of, np.sort(firsts)
