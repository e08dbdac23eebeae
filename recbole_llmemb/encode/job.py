"""One encoding job: from an item file to a table directory, resumable, never done twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from recbole_llmemb.encode.adapter import Adapter, find_adapter
from recbole_llmemb.encode.encoder import Encoder, check_options
from recbole_llmemb.encode.items import ItemText, read_items
from recbole_llmemb.encode.prompts import DEFAULT_INSTRUCTION, DEFAULT_MAX_CHARS, item_prompts
from recbole_llmemb.encode.shards import DEFAULT_SHARD_SIZE, encode_in_shards
from recbole_llmemb.encode.source import EncoderSource, find_encoder
from recbole_llmemb.errors import TableError, UserError
from recbole_llmemb.table.format import (
    EmbeddingTable,
    library_versions,
    looks_like_table,
    read_manifest,
)
from recbole_llmemb.table.publish import check_target
from recbole_llmemb.table.reduce import reduce_pca

DEFAULT_BATCH_SIZE = 32


@dataclass
class EncodeJob:
    """What to encode and how. See the configuration reference for the meaning of each field.

    Everything but ``batch_size``, ``device``, ``shard_size`` and ``trust_remote_code`` decides
    the vectors and is part of :attr:`key`.
    """

    item_file: Path
    encoder: str | None = None
    fields: Sequence[str] | None = None
    prompt: str | None = None
    value_max_chars: int | None = DEFAULT_MAX_CHARS
    id_field: str = "item_id"
    field_separator: str = "\t"
    encoding: str = "utf-8"
    pooling: str | None = None
    dtype: str = "float32"
    max_length: int | None = None
    normalize: bool = False
    trust_remote_code: bool = False
    adapter: str | os.PathLike | None = None
    pca_dim: int | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    device: Any = None
    shard_size: int = DEFAULT_SHARD_SIZE
    _prepared: _Prepared | None = field(default=None, init=False, repr=False, compare=False)

    def prepare(self) -> _Prepared:
        """Read the items and find the encoder, without loading it (once; later calls are free).

        Raises
        ------
        UserError
            When an option, the item file or the encoder's name is wrong.
        """
        if self._prepared is None:
            check_options(self.pooling, self.dtype)
            for name in ("batch_size", "shard_size"):
                if getattr(self, name) < 1:
                    raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
            items = read_items(
                self.item_file, self.fields, self.id_field, self.field_separator, self.encoding
            )
            instruction = DEFAULT_INSTRUCTION if self.prompt is None else self.prompt
            texts = item_prompts(items.attributes, instruction, self.value_max_chars)
            source = find_encoder(self.encoder)
            pooling, max_length, adapter = self.pooling, self.max_length, None
            if self.adapter:  # what it was trained with, unless told otherwise
                adapter = find_adapter(self.adapter)
                adapter.check(source.identity, source.name, pooling)
                pooling = pooling or adapter.manifest.get("pooling")
                max_length = max_length or adapter.manifest.get("max_length")
            self._prepared = _Prepared(
                items, instruction, texts, source, pooling, max_length, adapter
            )
        return self._prepared

    @property
    def key(self) -> str:
        """Hash of all the vectors depend on; two jobs with one key give one table."""
        ready = self.prepare()
        facts = {
            "texts": ready.texts_hash,
            "encoder": ready.source.identity,
            "pooling": ready.pooling or ready.source.own_pooling(),
            "dtype": self.dtype,
            "max_length": ready.max_length,
            "normalize": self.normalize,
            "pca_dim": self.pca_dim,
        }
        if ready.adapter:  # without one, as before there were any
            facts["adapter"] = ready.adapter.fingerprint
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=10).hexdigest()


@dataclass
class _Prepared:
    items: ItemText
    instruction: str
    texts: list[str]
    source: EncoderSource
    pooling: str | None = None
    max_length: int | None = None
    adapter: Adapter | None = None

    @property
    def texts_hash(self) -> str:
        """Hash of tokens and texts in file order."""
        pairs = json.dumps([self.items.tokens, self.texts], ensure_ascii=False)
        return hashlib.blake2b(pairs.encode(), digest_size=10).hexdigest()


@dataclass
class EncodeResult:
    """What :func:`run_job` did.

    Attributes
    ----------
    path : Path
        The table directory.
    rows, width : int
        Its size.
    unique : int
        Different texts among the items'.
    encoded : int
        Texts encoded by this run; the others were in shards of an interrupted one.
    cache_hit : bool
        Whether the table was there already.
    seconds : float
    """

    path: Path
    rows: int
    width: int
    unique: int
    encoded: int
    cache_hit: bool
    seconds: float


def run_job(
    job: EncodeJob,
    out: str | os.PathLike,
    overwrite: bool = False,
    report: Callable[[str], None] = print,
) -> EncodeResult:
    """Encode the items of a job into a table directory, unless it is there.

    Killed at any moment, the same call continues from the last finished shard. Two processes
    that want the same directory take turns, and the second finds the table of the first.

    Parameters
    ----------
    job : EncodeJob
        What to encode.
    out : path
        The table directory.
    overwrite : bool
        Replace a table of other inputs, or a damaged one, instead of refusing.
    report : callable
        Is given one line of text when something begins or ends.

    Raises
    ------
    UserError
        For anything in the job that cannot work.
    TableError
        When ``out`` holds something else and may not be replaced.
    """
    began = time.perf_counter()
    out = Path(out)
    ready = job.prepare()
    unique = list(dict.fromkeys(ready.texts))
    encoded = 0
    # Looked for before locking too: a cache that can only be read is still a cache.
    table = _find(job, out)
    hit = table is not None
    if not hit:
        with turn(out):
            table = _find(job, out)
            hit = table is not None
            if not hit:
                check_target(out, overwrite, looks_like_table)
                report(
                    f"table: building {out} ({len(ready.texts)} items, {len(unique)} different "
                    f"texts, encoder {ready.source.name})"
                )
                table, encoded = _build(job, ready, unique, out, report)
                table.save(out, overwrite=overwrite)
                for work in out.parent.glob(f".{out.name}.work-*"):
                    shutil.rmtree(work, ignore_errors=True)
    seconds = time.perf_counter() - began
    size = f"{len(table)} × {table.width}"
    report(f"table: {'cache hit' if hit else 'built'} {out} ({size}, {seconds:.1f} s)")
    return EncodeResult(out, len(table), table.width, len(unique), encoded, hit, seconds)


@contextlib.contextmanager
def turn(out: Path, what: str = "table") -> Iterator[None]:
    """Wait until no other process is making this directory. The lock dies with its process.

    Raises
    ------
    UserError
        When its folder cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out.parent / f".{out.name}.lock")
        lock.acquire()
    except OSError as error:
        raise UserError(f"The {what} {out} cannot be written: {error}.") from error
    try:
        yield
    finally:
        lock.release()


def _find(job: EncodeJob, out: Path) -> EmbeddingTable | None:
    """The table of this very job, when it is there and whole."""
    try:
        if read_manifest(out).get("inputs_hash") != job.key:
            return None
        return EmbeddingTable.load(out)
    except TableError:
        return None


def _build(
    job: EncodeJob, ready: _Prepared, unique: list[str], out: Path, report: Callable[[str], None]
) -> tuple[EmbeddingTable, int]:
    token_of = dict(zip(ready.texts, ready.items.tokens, strict=True))
    bare = sum(not attributes for attributes in ready.items.attributes)
    if bare:
        report(f"table: {bare} items have no text and share one vector")
    encoder = _LazyEncoder(job, ready)
    try:
        vectors, encoded = encode_in_shards(
            unique,
            encoder,
            work=out.parent / f".{out.name}.work-{job.key}",
            key=job.key,
            shard_size=job.shard_size,
            # One batch, as the library would sort a call's texts again by another length; with
            # several devices, some batches for each.
            step=job.batch_size * (4 if "," in str(job.device) else 1),
            describe=lambda i: f"of item {token_of[unique[i]]!r}",
            lengths=encoder.lengths,
        )
    finally:
        encoder.close()
    if encoded < len(unique):
        report(f"table: {len(unique) - encoded} texts were encoded by an interrupted run")
    row_of = {text: row for row, text in enumerate(unique)}
    table = EmbeddingTable(
        tokens=ready.items.tokens,
        vectors=vectors[[row_of[text] for text in ready.texts]],
        manifest=_manifest(job, ready),
    )
    return (reduce_pca(table, job.pca_dim) if job.pca_dim else table), encoded


def _manifest(job: EncodeJob, ready: _Prepared) -> dict[str, Any]:
    adapter = {}
    if ready.adapter:
        facts = {"path": str(ready.adapter.path), "fingerprint": ready.adapter.fingerprint}
        adapter = {"adapter": facts}
    return {
        "encoder": ready.source.name,
        "revision": ready.source.revision,
        **adapter,
        "pooling": ready.pooling or ready.source.own_pooling() or "the encoder's own",
        "normalize": job.normalize,
        "encoder_dtype": job.dtype,
        "max_length": ready.max_length,
        "prompt": ready.instruction,
        "fields": ready.items.fields,
        "value_max_chars": job.value_max_chars,
        "texts_hash": ready.texts_hash,
        "inputs_hash": job.key,
        "versions": library_versions(),
    }


class _LazyEncoder:
    """An encoder that is loaded at its first text: a job whose shards are all there needs none."""

    def __init__(self, job: EncodeJob, ready: _Prepared):
        self._job, self._ready, self._encoder = job, ready, None

    def __call__(self, texts: Sequence[str]):
        return self._loaded().encode(texts)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return self._loaded().lengths(texts)

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            job, ready = self._job, self._ready
            self._encoder = Encoder(
                ready.source,
                pooling=ready.pooling,
                dtype=job.dtype,
                device=job.device,
                max_length=ready.max_length,
                normalize=job.normalize,
                batch_size=job.batch_size,
                trust_remote_code=job.trust_remote_code,
                adapter=ready.adapter,
            )
        return self._encoder

    def close(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
