"""The texts of a catalog: a prompt per item, equal ones once, in memory or on the disk.

The item prompt of LLMEmb (stage 1) is an instruction naming the domain, then the attributes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_llmemb.core.errors import explained
from recbole_llmemb.records.items import check_tokens

DEFAULT_INSTRUCTION = "The item has the following attributes:"
DEFAULT_MAX_CHARS = 100

# All items of which nothing is known share one text and so one vector: any text of their own
# (their token, say) would be noise that looks like knowledge.
NOTHING_KNOWN = "Nothing is known about this item."
_DIGEST = 16


def item_prompts(
    attributes: Sequence[Mapping[str, str]],
    instruction: str = DEFAULT_INSTRUCTION,
    value_max_chars: int | None = DEFAULT_MAX_CHARS,
) -> list[str]:
    """One prompt per item: ``<instruction> name is value; name is value; …``.

    Parameters
    ----------
    attributes : sequence of mapping
        Per item, attribute name to text, in the order they shall have.
    instruction : str
        What comes first, naming the domain; may be empty.
    value_max_chars : int, optional
        Longer values are cut to this many characters; None or 0 leaves them whole.

    Returns
    -------
    list of str
        Items without any attribute get :data:`NOTHING_KNOWN`, without the instruction.
    """
    return [item_prompt(item, instruction, value_max_chars) for item in attributes]


def item_prompt(
    attributes: Mapping[str, str],
    instruction: str = DEFAULT_INSTRUCTION,
    value_max_chars: int | None = DEFAULT_MAX_CHARS,
) -> str:
    """The prompt of one item; see :func:`item_prompts`."""
    pairs = [f"{name} is {value[: value_max_chars or None]}" for name, value in attributes.items()]
    if not pairs:
        return NOTHING_KNOWN
    instruction = instruction.strip()
    return (f"{instruction} " if instruction else "") + "; ".join(pairs)


class Spool(Sequence[str]):
    """Texts in a file without a name, which is gone when its process is.

    ``folder``: where, if it can be written; else where the system keeps such files.
    """

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._ends = array("q", [0])
        self._rows: np.ndarray | None = None

    def __del__(self):
        self._file.close()

    def append(self, text: str) -> None:
        """Add a text."""
        data = text.encode()
        with explained("The texts cannot be kept on the disk ({reason}); set TMPDIR.", OSError):
            self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def keep(self, rows: np.ndarray) -> Spool:
        """Leave out all texts but those of some rows, which are numbered anew."""
        self._rows = rows
        return self

    def __len__(self) -> int:
        return len(self._ends) - 1 if self._rows is None else len(self._rows)

    def __getitem__(self, number: Any) -> Any:
        row = range(len(self._ends) - 1)[number] if self._rows is None else self._rows[number]
        self._file.seek(self._ends[row])
        return self._file.read(self._ends[row + 1] - self._ends[row]).decode()


@dataclass
class Catalog:
    """The n items of a file with u different texts, numbered as they first appear."""

    tokens: list[str]  # n item tokens, in file order
    fields: list[str]  # The attributes that were read
    attributes: list[dict[str, str]]  # Of each item, name to text; none when spooled
    texts: Sequence[str]  # The u different ones
    text_of: np.ndarray  # (n,) int64, the number of each item's text
    digests: np.ndarray  # (u, 16) uint8, of the texts
    texts_hash: str  # Hash of tokens and texts in file order
    bare: int  # Items of which nothing is known

    @cached_property
    def prompts(self) -> list[str]:
        """The text of each item."""
        return [self.texts[number] for number in self.text_of.tolist()]

    def token_of(self, text: int) -> str:
        """The first item with a text."""
        return self.tokens[int(np.argmax(self.text_of == text))]


def read_catalog(
    file: Any, prompt: Callable[[Mapping[str, str]], str], spool: Path | None = None
) -> Catalog:
    """Read the items of a file, once.

    ``file``: of :func:`recbole_llmemb.records.items.open_items`.
    ``prompt``: attributes to text.
    ``spool``: keep the texts in this folder's file system, and no attributes.
    """
    tokens: list[str] = []
    attributes: list[dict[str, str]] = []
    texts: Any = [] if spool is None else Spool(spool)
    digests, bare = bytearray(), 0
    shown = True if spool is None else None
    for token, item in tqdm(file.rows(), "read", unit="item", disable=shown, leave=False):
        text = prompt(item)
        tokens.append(token)
        texts.append(text)
        digests += hashlib.blake2b(text.encode(), digest_size=_DIGEST).digest()
        bare += not item
        if spool is None:
            attributes.append(item)
    check_tokens(tokens, file.path)
    texts_hash = hash_lists(tokens, texts)
    table = np.frombuffer(digests, dtype=np.uint8).reshape(-1, _DIGEST)
    text_of, rows = _number(table.view(np.uint64))
    different = [texts[row] for row in rows] if spool is None else texts.keep(rows)
    return Catalog(
        tokens, file.fields, attributes, different, text_of, table[rows], texts_hash, bare
    )


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


def _number(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number equal rows of (n, 2) alike, in order of first appearance; and where that is."""
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
