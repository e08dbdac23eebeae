"""A catalog from texts to vectors: a prompt per item, and shards that survive being killed.

The item prompt of LLMEmb (stage 1) is an instruction naming the domain, then the attributes. Equal
texts are kept once, on the disk; vectors are kept in shards until all are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.files import atomic_file
from recbole_llmemb.core.terminal import progress_bar
from recbole_llmemb.records.items import ItemFile, check_tokens

DEFAULT_INSTRUCTION = "The item has the following attributes:"
DEFAULT_MAX_CHARS = 100

# All items of which nothing is known share one text and so one vector: any text of their own
# (their token, say) would be noise that looks like knowledge.
NOTHING_KNOWN = "Nothing is known about this item."
_TENSOR = "vectors"


#: What an instruction ends in whose attributes are on a line of their own.
LINE = " \n "


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
        What comes first, naming the domain; may be empty. Where it ends in :data:`LINE`, ``;`` in
        values becomes ``.``, so that it stands between attributes only.
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
    cut = {name: value[: value_max_chars or None] for name, value in attributes.items()}
    if instruction.endswith(LINE):
        plain = {ord(";"): ".", ord("\n"): " "}
        pairs = [f"{name} is {value.translate(plain)}" for name, value in cut.items()]
        return instruction + "; ".join(pairs) if pairs else NOTHING_KNOWN
    pairs = [f"{name} is {value}" for name, value in cut.items()]
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
        with suppress(OSError):  # over a full disk, which was told when it was written to
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
    check_tokens(tokens, file)
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


@dataclass
class Plan:
    """Which texts are encoded together, and the folder that keeps their vectors."""

    work: Path
    shards: list[np.ndarray]  # The numbers of the texts of each, in the order of its rows
    keys: list[str]  # What tells the shard of these texts from that of others

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.work / f"shard-{number:05d}.safetensors"

    def load(self, number: int) -> torch.Tensor | None:
        """The vectors of a shard, or None when there are none that can be used."""
        return _read(self.path(number), self.keys[number], len(self.shards[number]))


def plan_by_length(
    texts: Sequence[str], lengths: Callable[[Sequence[str]], Sequence[int]],
    work: Path, key: str, size: int,
) -> Plan:  # fmt: skip
    """Longest texts first: batches waste little padding, and one too large fails at once.

    ``lengths``: of texts in tokens. Asked for once: the order is kept in ``work``.
    ``key``: hash of everything the vectors depend on.
    ``size``: texts per shard: what a killed run loses at most.
    """
    path = work / "order.safetensors"
    kept = _read(path, key, rows=len(texts))
    if kept is None:
        sizes = lengths(texts)
        longest = sorted(range(len(texts)), key=lambda i: (-sizes[i], texts[i]))
        kept = torch.tensor(longest).unsqueeze(1)
        _write(path, key, kept)
    order = kept.flatten()
    # Order and cut decide which texts a shard holds, so they are part of what it must match.
    shards = _cut(order.numpy(), size)
    return Plan(work, shards, [f"{key}/{size}/{_digest(order)}"] * len(shards))


def plan_in_file_order(catalog: Catalog, work: Path, key: str, size: int) -> Plan:
    """Texts as they stand in the file, where they need not be held to be sorted."""
    shards = _cut(np.arange(len(catalog.texts)), size)
    hashes = [hashlib.blake2b(catalog.digests[one].tobytes(), digest_size=16) for one in shards]
    return Plan(work, shards, [f"{key}/{size}/{one.hexdigest()}" for one in hashes])


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def encode_resumably(plan: Plan, catalog: Catalog, pool: Any) -> int:
    """Have a pool encode the shards that are not there yet.

    A shard is written beside and renamed, so that whatever has its name is whole; still it is
    checked before it is used.

    ``pool``: see :mod:`recbole_llmemb.encode.pools`.
    Returns how many texts were encoded now.
    """
    total = len(plan.shards)
    missing = [number for number in range(total) if plan.load(number) is None]
    encoded = sum(len(plan.shards[number]) for number in missing)
    if not missing:
        return 0

    def texts_of(number: int) -> list[str]:
        return [catalog.texts[i] for i in plan.shards[number].tolist()]

    texts = len(catalog.texts)
    done = texts - encoded
    with (
        pool.running(len(missing), total),
        # disable=None: a progress bar for people, nothing in log files.
        progress_bar(
            total=texts, initial=done, desc="encode", unit="text", disable=None
        ) as progress,
    ):
        for number, vectors in pool.encode(missing, texts_of, progress.update):
            _check_finite(vectors, plan.shards[number], catalog)
            _write(plan.path(number), plan.keys[number], vectors)
    return encoded


def assemble(plan: Plan, text_of: np.ndarray) -> torch.Tensor:
    """The vectors of all items, in their order, without holding the table in memory.

    ``text_of``: (n,) int64, the number of each item's text.
    Returns (n, D), mapped from a file: the system takes its memory back at need.
    """
    bounds = np.cumsum([0, *map(len, plan.shards)])
    place_of = np.empty(bounds[-1], dtype=np.int64)
    place_of[np.concatenate(plan.shards)] = np.arange(bounds[-1])
    place_of = place_of[text_of]
    items = np.argsort(place_of, kind="stable")
    starts = np.searchsorted(place_of[items], bounds)
    table: Any = None
    for number in range(len(plan.shards)):
        vectors = plan.load(number)
        if vectors is None:
            told = f"The shard {plan.path(number)} is missing or damaged"
            raise UserError(f"{told}; the same command encodes it again.", where=plan.path(number))
        if table is None:
            dtype, width = vectors.dtype, vectors.shape[1]
            table = _mapped(plan.work / "table.raw", len(text_of), width * vectors.element_size())
        rows = items[starts[number] : starts[number + 1]]
        table[rows] = vectors.view(torch.uint8).numpy()[place_of[rows] - bounds[number]]
    table.flush()
    return torch.from_numpy(table).view(dtype)


def _mapped(path: Path, rows: int, width: int) -> np.ndarray:
    """Bytes that are mapped from a file."""
    with explained(f"{path} cannot be written: {{reason}}.", OSError, where=path):
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is told here; later it would kill
                os.posix_fallocate(file.fileno(), 0, rows * width)
            file.truncate(rows * width)
        return np.memmap(path, dtype=np.uint8, mode="r+", shape=(rows, width))


def _check_finite(vectors: torch.Tensor, numbers: np.ndarray, catalog: Catalog) -> None:
    broken = (~torch.isfinite(vectors)).any(dim=1).nonzero().flatten().tolist()
    if broken:
        token = catalog.token_of(int(numbers[broken[0]]))
        told = f"The encoder gives NaN or infinity for {len(broken)} texts, the first of item"
        raise UserError(f"{told} {token!r}; use llm_dtype float32 or bfloat16.", key="llm_dtype")


def _digest(vectors: torch.Tensor) -> str:
    data = vectors.contiguous().view(torch.uint8).numpy()
    return hashlib.blake2b(data.data, digest_size=16).hexdigest()


def _write(path: Path, key: str, vectors: torch.Tensor) -> None:
    sentence = f"The shard {path} cannot be written: {{reason}}."
    with explained(sentence, SafetensorError, where=path), atomic_file(path) as fresh:
        save_file({_TENSOR: vectors}, str(fresh), {"key": key, "digest": _digest(vectors)})


def _read(path: Path, key: str, rows: int) -> torch.Tensor | None:
    """What :func:`_write` wrote, or None when it is not whole or of something else."""
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = file.metadata() or {}
            vectors = file.get_tensor(_TENSOR)
    except (SafetensorError, OSError, ValueError):
        return None
    same = facts.get("key") == key and vectors.dim() == 2 and len(vectors) == rows
    return vectors if same and facts.get("digest") == _digest(vectors) else None
