"""Running a job: from an item file to a table directory, resumable, never done twice."""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from recbole_llmemb.core.artifacts import build_or_load, require_free
from recbole_llmemb.core.checked import Checked
from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.core.files import asked_hash, refuse_inputs
from recbole_llmemb.core.terminal import progress_bar
from recbole_llmemb.encode import shards
from recbole_llmemb.encode.adapters import find_adapter
from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.pools import LocalPool, RayPool, longest_first
from recbole_llmemb.encode.settings import EncodeSettings, Workers
from recbole_llmemb.encode.source import EncoderSource, find_encoder
from recbole_llmemb.records.items import open_items
from recbole_llmemb.table.format import EmbeddingTable, library_versions, read_manifest, table_files
from recbole_llmemb.table.transform import reduce_pca


class EncodeJob(Checked):
    """What to encode and how: an item file, and the settings of a run.

    Everything but ``device``, ``shard_size`` and the settings that say how fast decides the vectors
    and is part of :attr:`key`.
    """

    item_file: Path | str
    settings: EncodeSettings = EncodeSettings()
    revision: str | None = None  # A commit of the hub; by default the newest
    id_field: str = "item_id"
    field_separator: str = Field(default="\t", min_length=1)
    encoding: str = "utf-8"
    pca_dim: int | None = Field(default=None, ge=1)
    device: Any = None
    shard_size: int = Field(default=1024, ge=1)

    @property
    def place(self) -> tuple[Any, ...]:
        """What :func:`~recbole_llmemb.records.items.open_items` takes."""
        fields = self.settings.item_text_fields
        return self.item_file, fields, self.id_field, self.field_separator, self.encoding

    @property
    def prompt(self) -> tuple[str, int]:
        """What :func:`~recbole_llmemb.encode.shards.item_prompt` takes beside attributes."""
        keys, text = self.settings, self.settings.item_prompt
        text = text.rstrip() + shards.LINE if keys.item_lines else text
        return text, keys.item_value_max_chars

    @cached_property
    def items(self) -> shards.Catalog:
        """The items, read once."""
        return shards.read_catalog(
            open_items(*self.place), lambda item: shards.item_prompt(item, *self.prompt)
        )

    @cached_property
    def source(self) -> EncoderSource:
        """The encoder, found but not loaded."""
        keys = self.settings
        return find_encoder(keys.llm_encoder, self.revision, keys.llm_trust_remote_code)

    @cached_property
    def encoder_options(self) -> dict[str, Any]:
        """What :class:`~recbole_llmemb.encode.encoder.Encoder` takes."""
        keys, adapter = self.settings, None
        pooling, max_length = keys.llm_pooling, keys.llm_max_length
        end_token = keys.llm_end_token
        if keys.llm_adapter:  # what it was trained with, unless told otherwise
            adapter = find_adapter(keys.llm_adapter)
            adapter.check(self.source, pooling)
            pooling = pooling or adapter.manifest.get("pooling")
            max_length = max_length or adapter.manifest.get("max_length")
            end_token = end_token or bool(adapter.manifest.get("end_token"))
        return {
            "source": self.source,
            "pooling": pooling,
            "dtype": keys.llm_dtype,
            "device": self.device,
            "max_length": max_length,
            "normalize": keys.llm_normalize,
            "batch_size": keys.llm_batch_size,
            "adapter": adapter,
            "end_token": end_token,
        }

    @property
    def key(self) -> str:
        """Hash of all the vectors depend on; two jobs with one key give one table."""
        options = self.encoder_options
        facts = {
            "texts": self.items.texts_hash,
            "encoder": self.source.identity,
            "pooling": options["pooling"] or self.source.own_pooling(),
            "dtype": options["dtype"],
            "max_length": options["max_length"],
            "normalize": options["normalize"],
            "pca_dim": self.pca_dim,
        }
        if adapter := options["adapter"]:  # without one, as before there were any
            facts["adapter"] = adapter.fingerprint
        if options["end_token"]:
            facts["end_token"] = True
        return asked_hash(facts)


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

    ``overwrite``: replace a table of other inputs, or a damaged one, instead of refusing.
    ``report``: is given one line of text when something begins or ends.
    ``workers``: encode with Ray, by these; the table is the same. By default in this process.
    """
    began = time.perf_counter()
    out = Path(out)
    if workers:
        workers.check(job.device)
    source, items, key = job.source, job.items, job.key
    work, encoded = out.parent / f".{out.name}.work-{key}", 0

    def build() -> EmbeddingTable:
        nonlocal encoded
        refuse_inputs(out, [job.item_file, source.location, job.settings.llm_adapter])
        if _made_by(out, key):
            report(f"table: {out} is damaged")
        require_free(out, overwrite, table_files)
        counts = f"{len(items.tokens)} items, {len(items.texts)} different texts"
        report(f"table: building {out} ({counts}, encoder {source.name})")
        if items.n_without_text:
            report(f"table: {items.n_without_text} items have no text and share one vector")
        vectors, encoded = _encode(job, key, work, report, workers)
        if old := len(items.texts) - encoded:
            report(f"table: {old} texts were encoded by an interrupted run")
        table = EmbeddingTable(items.tokens, vectors, manifest_of(job))
        if job.pca_dim:
            table = reduce_pca(table, job.pca_dim)
        table.save(out, overwrite=overwrite)
        for old_work in out.parent.glob(f".{glob.escape(out.name)}.work-*"):
            shutil.rmtree(old_work, ignore_errors=True)
        return table

    table, hit = build_or_load(lambda: find_table(out, key), build, out, "table")
    if hit:  # of whoever was killed before it could tidy up
        for left in (work, work.with_name(f"{work.name}-ray")):
            shutil.rmtree(left, ignore_errors=True)
    seconds = time.perf_counter() - began
    size = f"{len(table)} × {table.width}"
    report(f"table: {'cache hit' if hit else 'built'} {out} ({size}, {seconds:.1f} s)")
    return EncodeResult(out, len(table), table.width, len(items.texts), encoded, hit, seconds)


def find_table(out: Path, key: str | None = None) -> EmbeddingTable | None:
    """The table of a folder, when it is whole and made by the job of this key."""
    with suppress(TableError):
        if not key or _made_by(out, key):
            return EmbeddingTable.load(out)
    return None


def _made_by(out: Path, key: str) -> bool:
    """Whether a folder holds the table of a job, whole or not."""
    with suppress(TableError):
        return bool(read_manifest(out).get("inputs_hash") == key)
    return False


def _encode(
    job: EncodeJob, key: str, work: Path, report: Callable[[str], None], workers: Workers | None
) -> tuple[torch.Tensor, int]:
    """Vectors of all items, and how many texts were encoded for them now."""
    items, options, size = job.items, job.encoder_options, job.shard_size
    if workers:
        work = work.with_name(f"{work.name}-ray")  # other texts per shard than local ones have
        plan = shards.plan_in_file_order(items, work, key, size)
        encoded = shards.encode_resumably(plan, items, RayPool(options, workers, work, report))
    else:
        with closing(LocalPool(options)) as pool:
            plan = shards.plan_by_length(items.texts, pool.lengths, work, key, size)
            encoded = shards.encode_resumably(plan, items, pool)
    return shards.assemble(plan, items.text_of), encoded


def manifest_of(job: EncodeJob) -> dict[str, Any]:
    """What the table of a job says of itself; :func:`encode_new_items` reads it."""
    options, source, items, adapter = job.encoder_options, job.source, job.items, {}
    ends = {"end_token": True} if options["end_token"] else {}
    if used := options["adapter"]:
        adapter = {"adapter": {"path": str(used.path), "fingerprint": used.fingerprint}}
    instruction, value_max_chars = job.prompt
    return {
        "encoder": source.name,
        "revision": source.revision,
        "trust_remote_code": source.trusted,
        **adapter,
        "pooling": options["pooling"] or source.own_pooling() or "the encoder's own",
        "normalize": options["normalize"],
        "encoder_dtype": options["dtype"],
        "max_length": options["max_length"],
        **ends,
        "prompt": instruction,
        "fields": items.fields,
        "value_max_chars": value_max_chars,
        "texts_hash": items.texts_hash,
        "inputs_hash": job.key,
        "versions": library_versions(),
    }


def encode_new_items(
    table: str, attributes: Sequence[Mapping[str, str]], config: Mapping[str, Any]
) -> torch.Tensor:
    """Vectors of new items by a table's own encoder, prompt and fields, ``(m, D)``.

    ``table``: table directory; its manifest says how.
    ``attributes``: of each item, name to text.
    ``config``: for device, batch size and ``llm_trust_remote_code``.
    """
    manifest = read_manifest(table)
    if not manifest.get("encoder") or "prompt" not in manifest:
        told = f"The table {table} was imported, so how its vectors were made is not known"
        advice = "give the new items' vectors, as a table directory (recbole-llm encode --import)"
        raise UserError(f"{told}; {advice}.")
    fields = list(manifest.get("fields") or [])
    if not any(field in one for one in attributes for field in fields):
        told = "The new items have none of the fields that the table's text is made of"
        raise UserError(f"{told} ({', '.join(fields)}); name them so.")
    chosen = [{f: one[f] for f in fields if f in one} for one in attributes]
    texts = shards.item_prompts(chosen, manifest["prompt"], manifest.get("value_max_chars"))
    with (
        closing(_encoder_of(manifest, table, config)) as encoder,
        progress_bar(total=len(texts), desc="encode", unit="text", disable=None) as progress,
    ):
        return longest_first(encoder, texts, encoder.batch_size, progress.update).float()


def _encoder_of(manifest: Mapping[str, Any], table: str, config: Mapping[str, Any]) -> Encoder:
    """The encoder that made a table; refuses one, or an adapter, that has changed since."""
    settings, revision = EncodeSettings.of(config), str(manifest["revision"])
    # A commit of the hub; a directory's files are looked at where they are.
    commit = None if revision.startswith("files:") else revision
    # As the table was made, if the command says so, too; it may trust other things alone.
    made, trusted, adapter = manifest.get("trust_remote_code"), settings.llm_trust_remote_code, None
    if made and not trusted:
        told = f"The table {table} was encoded by code that comes with its encoder, so new items"
        raise UserError(f"{told} need it, too; give --trust_remote_code.", where=table)
    source = find_encoder(manifest["encoder"], commit, trusted and made is not False)
    if source.revision != revision:
        told = f"The encoder {manifest['encoder']!r} of the table {table} is not what it was"
        raise UserError(f"{told} ({source.revision}, then {revision}); put that one back.")
    if used := manifest.get("adapter"):
        adapter = find_adapter(used["path"])
        if adapter.fingerprint != used["fingerprint"]:
            told = f"The adapter {adapter.path} is not the one that the table was encoded with"
            which = f"fingerprint {adapter.fingerprint}, not {used['fingerprint']}"
            raise UserError(f"{told} ({which}); put that one back.")
    pooling = manifest.get("pooling")
    return Encoder(
        source,
        pooling=pooling if pooling in ("mean", "last") else None,
        dtype=manifest.get("encoder_dtype") or "float32",
        device=config["device"],
        max_length=manifest.get("max_length"),
        normalize=bool(manifest.get("normalize")),
        batch_size=settings.llm_batch_size,
        adapter=adapter,
        end_token=bool(manifest.get("end_token")),
    )
