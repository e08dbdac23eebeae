"""One encoding job: from an item file to a table directory, resumable, never done twice."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llmemb.core.artifacts import build_lock
from recbole_llmemb.core.directories import require_free
from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.core.files import refuse_inputs
from recbole_llmemb.encode.adapter import find_adapter
from recbole_llmemb.encode.encoder import check_options
from recbole_llmemb.encode.item_stream import Catalogue, scan
from recbole_llmemb.encode.local import encode_locally
from recbole_llmemb.encode.prepared import Prepared
from recbole_llmemb.encode.prompts import (
    DEFAULT_INSTRUCTION,
    DEFAULT_MAX_CHARS,
    item_prompt,
    item_prompts,
)
from recbole_llmemb.encode.shards import DEFAULT_SHARD_SIZE
from recbole_llmemb.encode.source import find_encoder
from recbole_llmemb.encode.workers import Workers
from recbole_llmemb.records.items import ItemText, open_items, read_items
from recbole_llmemb.table.format import (
    EmbeddingTable,
    library_versions,
    read_manifest,
    table_files,
)
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
    _prepared: Prepared | None = field(default=None, init=False, repr=False, compare=False)

    def prepare(self, streamed: bool = False) -> Prepared:
        """Read the items and find the encoder, without loading it (once; later calls are free).

        ``streamed``: do not hold the texts, but a
        :class:`~recbole_llmemb.encode.item_stream.Catalogue`.
        """
        if self._prepared is None or (self._prepared.catalogue is not None) != streamed:
            check_options(self.pooling, self.dtype)
            for name in ("batch_size", "shard_size"):
                if getattr(self, name) < 1:
                    raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
            if self.max_length is not None and self.max_length < 1:
                raise UserError(f"max_length is {self.max_length}; it must be at least 1.")
            if (self.value_max_chars or 0) < 0:
                raise UserError(
                    f"value_max_chars is {self.value_max_chars}; it must not be negative."
                )
            if not self.field_separator:
                raise UserError("field_separator is empty; give what stands between two fields.")
            source = find_encoder(self.encoder)
            pooling, max_length, adapter = self.pooling, self.max_length, None
            if self.adapter:  # what it was trained with, unless told otherwise
                adapter = find_adapter(self.adapter)
                adapter.check(source.identity, source.name, pooling)
                pooling = pooling or adapter.manifest.get("pooling")
                max_length = max_length or adapter.manifest.get("max_length")
            read = self._scan if streamed else self._read
            self._prepared = Prepared(
                *read(), self.instruction, source, pooling, max_length, adapter
            )
        return self._prepared

    @property
    def instruction(self) -> str:
        """What stands before the attributes."""
        return DEFAULT_INSTRUCTION if self.prompt is None else self.prompt

    @property
    def place(self) -> tuple:
        """What :func:`~recbole_llmemb.records.items.open_items` needs to know."""
        return self.item_file, self.fields, self.id_field, self.field_separator, self.encoding

    def _read(self) -> tuple[ItemText, list[str], None]:
        items = read_items(*self.place)
        return items, item_prompts(items.attributes, self.instruction, self.value_max_chars), None

    def _scan(self) -> tuple[ItemText, list[str], Catalogue]:
        file = open_items(*self.place)
        found = scan(file, lambda item: item_prompt(item, self.instruction, self.value_max_chars))
        return ItemText(found.tokens, [], file.fields), [], found

    @property
    def key(self) -> str:
        """Hash of all the vectors depend on; two jobs with one key give one table."""
        ready = self._prepared or self.prepare()
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
class EncodeResult:
    """What :func:`run_job` did."""

    path: Path  # The table directory
    rows: int  # rows, width: Its size
    width: int
    unique: int  # Different texts among the items'
    encoded: int  # Texts encoded by this run; the others were in shards of an interrupted one
    cache_hit: bool  # Whether the table was there already
    seconds: float


def run_job(
    job: EncodeJob,
    out: str | os.PathLike,
    overwrite: bool = False,
    report: Callable[[str], None] = print,
    workers: Workers | None = None,
) -> EncodeResult:
    """Encode the items of a job into a table directory, unless it is there.

    Killed at any moment, the same call continues from the last finished shard. Two processes
    that want the same directory take turns, and the second finds the table of the first.

    ``job``: what to encode.
    ``out``: the table directory.
    ``overwrite``: replace a table of other inputs, or a damaged one, instead of refusing.
    ``report``: is given one line of text when something begins or ends.
    ``workers``: encode with Ray, by these; the table is the same. By default in this process.
    """
    began = time.perf_counter()
    out = Path(out)
    ready = job.prepare(streamed=workers is not None)
    encoded = 0
    # Looked for before locking too: a cache that can only be read is still a cache.
    table = _find(job, out)
    hit = table is not None
    if not hit:
        with build_lock(out, "table"):
            table = _find(job, out)
            hit = table is not None
            if not hit:
                adapter = ready.adapter and ready.adapter.path
                refuse_inputs(out, [job.item_file, ready.source.location, adapter])
                require_free(out, overwrite, table_files)
                report(
                    f"table: building {out} ({len(ready.items.tokens)} items, {ready.unique} "
                    f"different texts, encoder {ready.source.name})"
                )
                table, encoded = _build(job, ready, out, report, workers)
                table.save(out, overwrite=overwrite)
                for work in out.parent.glob(f".{glob.escape(out.name)}.work-*"):
                    shutil.rmtree(work, ignore_errors=True)
    seconds = time.perf_counter() - began
    size = f"{len(table)} × {table.width}"
    report(f"table: {'cache hit' if hit else 'built'} {out} ({size}, {seconds:.1f} s)")
    return EncodeResult(out, len(table), table.width, ready.unique, encoded, hit, seconds)


def _find(job: EncodeJob, out: Path) -> EmbeddingTable | None:
    """The table of this very job, when it is there and whole."""
    try:
        if read_manifest(out).get("inputs_hash") != job.key:
            return None
        return EmbeddingTable.load(out)
    except TableError:
        return None


def _build(
    job: EncodeJob,
    ready: Prepared,
    out: Path,
    report: Callable[[str], None],
    workers: Workers | None,
) -> tuple[EmbeddingTable, int]:
    if ready.bare:
        report(f"table: {ready.bare} items have no text and share one vector")
    if workers is None:
        work = out.parent / f".{out.name}.work-{job.key}"
        vectors, encoded = encode_locally(job, ready, work, report)
    else:
        from recbole_llmemb.encode.ray_encode import encode_with_ray

        # Other texts per shard than local ones have.
        work = out.parent / f".{out.name}.work-{job.key}-ray"
        vectors, encoded = encode_with_ray(job, ready, work, report, workers)
    if encoded < ready.unique:
        report(f"table: {ready.unique - encoded} texts were encoded by an interrupted run")
    table = EmbeddingTable(ready.items.tokens, vectors, _manifest(job, ready))
    return (reduce_pca(table, job.pca_dim) if job.pca_dim else table), encoded


def _manifest(job: EncodeJob, ready: Prepared) -> dict[str, Any]:
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
