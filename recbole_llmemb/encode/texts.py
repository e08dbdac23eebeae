"""The texts of a catalog: a prompt per item, equal ones once, on the disk.

The item prompt of LLMEmb (stage 1) is an instruction naming the domain, then the attributes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_llmemb.core.errors import explained
from recbole_llmemb.core.terminal import progress_bar
from recbole_llmemb.records.items import ItemFile, check_tokens

DEFAULT_INSTRUCTION = "The item has the following attributes:"
DEFAULT_MAX_CHARS = 100

# All items of which nothing is known share one text and so one vector: any text of their own
# (their token, say) would be noise that looks like knowledge.
NOTHING_KNOWN = "Nothing is known about this item."


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
    """Texts in a temporary file without a name, which is gone when its process is."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._ends = array("q", [0])

    def __del__(self) -> None:
        self._file.close()

    def append(self, text: str) -> None:
        """Add a text."""
        data = text.encode()
        with explained("The texts cannot be kept on the disk ({reason}); set TMPDIR.", OSError):
            self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number):
        row = range(len(self))[number]
        self._file.seek(self._ends[row])
        return self._file.read(self._ends[row + 1] - self._ends[row]).decode()


@dataclass
class Catalog:
    """The n items of a file with u different texts, numbered as they first appear."""

    tokens: list[str]  # n item tokens, in file order
    fields: list[str]  # The attributes that were read
    texts: Sequence[str]  # The u different ones
    text_of: np.ndarray  # (n,) int64, the number of each item's text
    digests: np.ndarray  # (u, 16) uint8, of the texts
    texts_hash: str  # Hash of tokens and texts in file order
    n_without_text: int  # Items of which nothing is known

    def token_of(self, text: int) -> str:
        """The first item with a text."""
        return self.tokens[int(np.argmax(self.text_of == text))]


def read_catalog(file: ItemFile, prompt: Callable[[Mapping[str, str]], str]) -> Catalog:
    """Read the items of a file, once; their texts are not held in memory.

    ``prompt``: attributes to text.
    """
    tokens, texts, n_without_text = [], Spool(), 0
    numbers: dict[bytes, int] = {}  # By digest of a text
    text_of = array("q")
    for token, item in progress_bar(file.rows(), "read", unit="item", disable=None, leave=False):
        text = prompt(item)
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        number = numbers.setdefault(digest, len(numbers))
        if number == len(texts):
            texts.append(text)
        tokens.append(token)
        text_of.append(number)
        n_without_text += not item
    digests = np.frombuffer(b"".join(numbers), dtype=np.uint8).reshape(-1, 16)
    del numbers
    check_tokens(tokens, file.path)
    texts_hash = hash_lists(tokens, (texts[number] for number in text_of))
    return Catalog(
        tokens, file.fields, texts, np.array(text_of), digests, texts_hash, n_without_text
    )


def hash_lists(*lists: Iterable[str]) -> str:
    """Hash of ``json.dumps`` of lists of text, without making it."""
    digest = hashlib.blake2b(digest_size=10)
    encode = json.JSONEncoder(ensure_ascii=False).encode
    for number, strings in enumerate(lists):
        digest.update(b", [" if number else b"[[")
        for place, text in enumerate(strings):
            digest.update(((", " if place else "") + encode(text)).encode())
        digest.update(b"]")
    digest.update(b"]")
    return digest.hexdigest()
