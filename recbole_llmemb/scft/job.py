"""One fine-tuning job: from an item file to an adapter directory, resumable, never done twice."""

from __future__ import annotations

import glob
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llmemb.config.keys import values_of
from recbole_llmemb.core.artifacts import atomic_directory, build_or_load, files_in, require_free
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import refuse_inputs
from recbole_llmemb.encode.adapter import MANIFEST, WEIGHTS, read_manifest
from recbole_llmemb.encode.build_or_load import cache_directory
from recbole_llmemb.encode.build_or_load import ensure_table as build_table
from recbole_llmemb.encode.build_or_load import job_from_config as encode_job_from_config
from recbole_llmemb.scft.options import ScftJob
from recbole_llmemb.scft.settings import ScftSettings
from recbole_llmemb.table.format import library_versions

_FILES = (MANIFEST, WEIGHTS, "adapter_config.json", "README.md")  # of an older one


@dataclass
class ScftResult:
    """What :func:`run_job` did."""

    path: Path  # The adapter directory
    # What its ``scft.json`` holds; ``before`` and ``after`` have the measures of the held-out
    # items, None without any.
    manifest: dict
    cache_hit: bool  # Whether the adapter was there already
    seconds: float


def run_job(
    job: ScftJob,
    out: str | Path,
    overwrite: bool = False,
    resume: bool = True,
    report: Callable[[str], None] = print,
) -> ScftResult:
    """Fine-tune an encoder into an adapter directory, unless it is there.

    Killed at any moment, the same call continues from the last checkpoint, and on a CPU ends
    with the same adapter. Two calls that want the same directory take turns. Under torchrun or
    ``accelerate launch`` all processes make the call.

    ``job``: what to fine-tune.
    ``out``: the adapter directory.
    ``overwrite``: replace an adapter of other inputs instead of refusing.
    ``resume``: continue an interrupted run of the same job.
    ``report``: is given one line of text when something begins or ends.
    """
    began = time.perf_counter()
    out = Path(out)
    ready, source = job.prepare(), job.text.settings.source
    processes = job.processes()
    if not processes.first:
        report = _nothing
    precision = processes.precision(job.settings.scft_precision)
    key = job.key(precision, processes.count)
    work = out.parent / f".{out.name}.work-{key}"

    def train() -> tuple[Callable[[Path], None], dict]:
        from recbole_llmemb.scft.training import train  # only now: it loads libraries

        return train(job, processes, precision, work, report)

    def build() -> dict:
        """Of the first process, when it has the lock."""
        refuse_inputs(out, [job.text.item_file, source.location])
        require_free(out, overwrite, _written, "an adapter")
        if not resume:
            shutil.rmtree(work, ignore_errors=True)
        report(
            f"scft: training {out} ({len(ready.train.items):,} items, "
            f"{len(ready.held.items):,} held out, encoder {source.name})"
        )
        processes.tell(None)
        save, facts = train()
        manifest = _manifest(job, precision, processes.count, key) | facts
        with atomic_directory(out, overwrite, _written, "an adapter") as fresh:
            save(fresh)
            manifest["files"] = [*files_in(fresh), MANIFEST]
            text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
            (fresh / MANIFEST).write_text(text, encoding="utf-8")
        for old in out.parent.glob(f".{glob.escape(out.name)}.work-*"):
            shutil.rmtree(old, ignore_errors=True)
        return processes.tell(manifest)

    if processes.first:
        manifest, hit = build_or_load(lambda: _find(key, out), build, out, "adapter")
        if hit:
            processes.tell(manifest)
    else:  # the first looks and locks for all: what it has found, or nothing, and then training
        manifest = processes.tell(None)
        hit = manifest is not None
        if not hit:
            train()
            manifest = processes.tell(None)
    seconds = time.perf_counter() - began
    report(f"scft: {'cache hit' if hit else 'trained'} {out} ({seconds:.1f} s)")
    return ScftResult(out, manifest, hit, seconds)


def _nothing(line: str) -> None:
    pass


def _written(path: Path) -> list[str]:
    """The files of an adapter, as its manifest lists them; none where there is none."""
    manifest = read_manifest(path)
    return [] if manifest is None else manifest.get("files", _FILES)


def _find(key: str, out: Path) -> dict | None:
    """The manifest of this very job's adapter, when it is there."""
    manifest = read_manifest(out)
    return manifest if manifest and manifest.get("inputs_hash") == key else None


def _manifest(job: ScftJob, precision: str, processes: int, key: str) -> dict:
    source = job.text.settings.source
    return {
        "format_version": 1,
        "encoder": source.name,
        "revision": source.revision,
        "encoder_identity": source.identity,
        "pooling": job.text.pooling or source.own_pooling(),
        "max_length": job.text.max_length,
        "prompt": job.text.instruction,
        "fields": job.text.items.fields,
        "value_max_chars": job.text.value_max_chars,
        **job.facts(precision),
        "processes": processes,
        "items": {
            "train": len(job.prepare().train.items),
            "held_out": len(job.prepare().held.items),
        },
        "inputs_hash": key,
        "versions": library_versions(),
    }


def job_from_config(config: Mapping[str, Any]) -> ScftJob:
    """The fine-tuning job of a configuration."""
    # What is trained starts from the encoder itself.
    text = encode_job_from_config({**values_of(config), "llm_adapter": None})
    return ScftJob(text, ScftSettings.of(config), text.device)


def ensure_adapter(config: Mapping[str, Any], report: Callable[[str], None] = print) -> Path:
    """The directory of the adapter for ``scft: True``: found in the cache, or trained into it.

    ``config``: RecBole's Config or a dict; missing keys have their defaults.
    ``report``: is given one line of text saying what happens.
    """
    values = values_of(config)
    for key in ("llm_adapter", "llm_table"):
        if values.get(key):
            raise UserError(
                f"scft is set, which trains an adapter of its own, but {key} is {values[key]!r}; "
                "set only one of the two.",
                key=key,
            )
    job = job_from_config(config)
    folder = cache_directory(config) / "adapters"
    processes = job.processes()
    key = job.key(processes.precision(job.settings.scft_precision), processes.count)
    name = f"{values['dataset']}-{job.text.settings.source.short_name}-{key[:12]}"
    return run_job(job, folder / name, report=report).path


def ensure_table(config: Mapping[str, Any], report: Callable[[str], None] = print) -> Path:
    """The directory of the table a configuration asks for, of an adapted encoder with ``scft``.

    Parameters and errors are those of :func:`recbole_llmemb.encode.ensure_table`.
    """
    if values_of(config).get("scft"):
        adapter = str(ensure_adapter(config, report))
        config = {**values_of(config), "llm_adapter": adapter, "scft": False}
    return build_table(config, report)
