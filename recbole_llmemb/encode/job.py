"""Running a job: from an item file to a table directory, resumable, never done twice."""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from recbole_llmemb.core.artifacts import build_or_load, require_free
from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.core.files import refuse_inputs
from recbole_llmemb.encode.options import EncodeJob, Workers
from recbole_llmemb.encode.pools import LocalPool, RayPool, longest_first
from recbole_llmemb.encode.settings import EncodeSettings
from recbole_llmemb.encode.shards import (
    assemble,
    encode_resumably,
    plan_by_length,
    plan_in_file_order,
)
from recbole_llmemb.encode.texts import item_prompts
from recbole_llmemb.table.format import (
    EmbeddingTable,
    library_versions,
    read_manifest,
    table_files,
)
from recbole_llmemb.table.reduce import reduce_pca


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
    if workers:
        workers.check(job.device)
    made = job.settings
    items = job.prepare(spool=out.parent if workers else None)
    encoded = 0

    def find() -> EmbeddingTable | None:
        return find_table(out, inputs_hash=job.key)

    def build() -> EmbeddingTable:
        nonlocal encoded
        refuse_inputs(out, [job.item_file, made.source.location, job.adapter])
        require_free(out, overwrite, table_files)
        report(
            f"table: building {out} ({len(items.tokens)} items, {len(items.texts)} different "
            f"texts, encoder {made.source.name})"
        )
        if items.bare:
            report(f"table: {items.bare} items have no text and share one vector")
        vectors, encoded = _encode(job, out, report, workers)
        if encoded < len(items.texts):
            old = len(items.texts) - encoded
            report(f"table: {old} texts were encoded by an interrupted run")
        table = EmbeddingTable(items.tokens, vectors, manifest_of(job))
        if job.pca_dim:
            table = reduce_pca(table, job.pca_dim)
        table.save(out, overwrite=overwrite)
        for work in out.parent.glob(f".{glob.escape(out.name)}.work-*"):
            shutil.rmtree(work, ignore_errors=True)
        return table

    table, hit = build_or_load(find, build, out, "table")
    seconds = time.perf_counter() - began
    size = f"{len(table)} × {table.width}"
    report(f"table: {'cache hit' if hit else 'built'} {out} ({size}, {seconds:.1f} s)")
    return EncodeResult(out, len(table), table.width, len(items.texts), encoded, hit, seconds)


def find_table(out: Path, **facts: Any) -> EmbeddingTable | None:
    """The table of a folder, when it is whole and its manifest has these entries."""
    try:
        manifest = read_manifest(out)
        if any(manifest.get(name) != fact for name, fact in facts.items()):
            return None
        return EmbeddingTable.load(out)
    except TableError:
        return None


def _encode(
    job: EncodeJob, out: Path, report: Callable[[str], None], workers: Workers | None
) -> tuple[torch.Tensor, int]:
    """Vectors of all items, and how many texts were encoded for them now."""
    items, key = job.items, job.key
    work = out.parent / f".{out.name}.work-{key}"
    if workers:
        work = work.with_name(f"{work.name}-ray")  # other texts per shard than local ones have
        plan = plan_in_file_order(items, key, job.shard_size)
        encoded = encode_resumably(plan, items, RayPool(job.settings, workers, work, report), work)
    else:
        pool = LocalPool(job.settings)
        try:
            plan = plan_by_length(items.texts, pool.lengths, work, key, job.shard_size)
            encoded = encode_resumably(plan, items, pool, work)
        finally:
            pool.close()
    return assemble(plan, items.text_of, work), encoded


def manifest_of(job: EncodeJob) -> dict[str, Any]:
    """What the table of a job says of itself; :func:`encode_new_items` reads it."""
    made, items = job.settings, job.items
    adapter = {}
    if made.adapter:
        facts = {"path": str(made.adapter.path), "fingerprint": made.adapter.fingerprint}
        adapter = {"adapter": facts}
    return {
        "encoder": made.source.name,
        "revision": made.source.revision,
        **adapter,
        "pooling": made.pooling or made.source.own_pooling() or "the encoder's own",
        "normalize": job.normalize,
        "encoder_dtype": job.dtype,
        "max_length": made.max_length,
        "prompt": job.instruction,
        "fields": items.fields,
        "value_max_chars": job.value_max_chars,
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
        raise UserError(
            f"The table {table} was imported, so how its vectors were made is not known; give the "
            "new items' vectors, made in the same way, as a table directory (recbole-llm encode "
            "--import)."
        )
    fields = list(manifest.get("fields") or [])
    if not any(field in one for one in attributes for field in fields):
        raise UserError(
            f"The new items have none of the fields that the table's text is made of "
            f"({', '.join(fields)}); name them so."
        )
    job = _job_of(manifest, table, config)
    chosen = [{f: one[f] for f in fields if f in one} for one in attributes]
    texts = item_prompts(chosen, job.instruction, job.value_max_chars)
    pool = LocalPool(job.settings)
    try:
        with tqdm(total=len(texts), desc="encode", unit="text", disable=None) as progress:
            return longest_first(pool.encoder, texts, job.batch_size, progress.update).float()
    finally:
        pool.close()


def _job_of(manifest: Mapping[str, Any], table: str, config: Mapping[str, Any]) -> EncodeJob:
    """The job that made a table; refuses an encoder or an adapter that has changed since."""
    revision, used = str(manifest["revision"]), manifest.get("adapter") or {}
    pooling, settings = manifest.get("pooling"), EncodeSettings.of(config)
    job = EncodeJob(
        item_file=table,
        encoder=manifest["encoder"],
        # A commit of the hub; a directory's files are looked at where they are.
        revision=None if revision.startswith("files:") else revision,
        prompt=manifest["prompt"],
        value_max_chars=manifest.get("value_max_chars"),
        pooling=pooling if pooling in ("mean", "last") else None,
        dtype=manifest.get("encoder_dtype") or "float32",
        max_length=manifest.get("max_length"),
        normalize=bool(manifest.get("normalize")),
        adapter=used.get("path"),
        batch_size=settings.llm_batch_size,
        device=config["device"],
        trust_remote_code=settings.llm_trust_remote_code,
    )
    found, adapter = job.settings.source, job.settings.adapter
    if found.revision != revision:
        raise UserError(
            f"The encoder {manifest['encoder']!r} of the table {table} is not what it was "
            f"({found.revision}, then {revision}); put that one back."
        )
    if adapter and adapter.fingerprint != used["fingerprint"]:
        raise UserError(
            f"The adapter {adapter.path} is not the one that the table was encoded with "
            f"(fingerprint {adapter.fingerprint}, not {used['fingerprint']}); put that one back."
        )
    return job
