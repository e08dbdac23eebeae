"""One fine-tuning job, in one or more processes: from items to an adapter, never done twice."""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from recbole_llmemb.config.keys import values_of
from recbole_llmemb.core.artifacts import atomic_directory, build_or_load, files_in, require_free
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import asked_hash, file_digests, refuse_inputs, seal
from recbole_llmemb.core.imports import optional
from recbole_llmemb.encode.adapters import MANIFEST, WEIGHTS, find_adapter, read_manifest
from recbole_llmemb.encode.build_or_load import cache_directory
from recbole_llmemb.encode.build_or_load import ensure_table as build_table
from recbole_llmemb.encode.build_or_load import job_from_config as encode_job_from_config
from recbole_llmemb.encode.job import EncodeJob
from recbole_llmemb.records.items import ItemText, read_items
from recbole_llmemb.scft.settings import ScftSettings
from recbole_llmemb.scft.views import Views, split_items
from recbole_llmemb.table.format import library_versions

# The others wait while the first one waits for an adapter that somebody else is training.
_PATIENCE = timedelta(days=30)
_FILES = (MANIFEST, WEIGHTS, "adapter_config.json", "README.md")  # of an older one
_LIBRARIES = "peft", "datasets", "accelerate", "sentence_transformers.base.losses.gradcache"
_MOST_HELD_OUT = 1000
# Keys that decide the adapter, without scft_; precision is what "auto" means.
_IN_KEY = (
    "loss", "temperature", "drop_ratio", "steps", "batch_size", "learning_rate", "warmup_steps",
    "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "quantize", "holdout", "seed",
)  # fmt: skip


class Processes:
    """This process among those that train together.

    ``device``: ``auto``, ``cpu`` or ``cuda``, each process its own GPU; then where this one trains.
    ``count``: how many they are. ``cpu``: whether they train on the CPU.
    ``is_main``: whether this is the one that writes and reports.
    """

    def __init__(self, device: Any = None):
        kind, _, number = str(device or "auto").partition(":")
        if kind not in ("auto", "cpu", "cuda") or number not in ("", "0"):
            told = f"llm_device is {str(device)!r}; for scft it must be auto, cpu or cuda"
            raise UserError(f"{told} (CUDA_VISIBLE_DEVICES says which GPU).", key="llm_device")
        there = torch.cuda.is_available()
        if kind == "cuda" and not there:
            told = "llm_device is 'cuda', but PyTorch finds no GPU; set auto or cpu."
            raise UserError(told, key="llm_device")
        self.cpu = kind == "cpu" or not there
        self.count, self.is_main = 1, True
        self.device = torch.device("cpu") if self.cpu else torch.device("cuda", 0)
        if "LOCAL_RANK" in os.environ:  # both launchers set it
            accelerate = optional("accelerate", "finetune", "scft")
            self._state = accelerate.PartialState(cpu=self.cpu, timeout=_PATIENCE)
            self.count, self.is_main = self._state.num_processes, self._state.is_main_process
            self.device = self._state.device

    def precision(self, wanted: str) -> str:
        """What ``auto`` stands for here: bfloat16 where the GPU computes in it, else float32."""
        if wanted == "auto":
            if self.cpu or not torch.cuda.is_bf16_supported(including_emulation=False):
                return "float32"
            return "bfloat16"
        if wanted == "float16" and self.cpu:
            told = "scft_precision is 'float16', in which no CPU trains; set float32 or bfloat16."
            raise UserError(told, key="scft_precision")
        return wanted

    def broadcast(self, thing: Any) -> Any:
        """What the first process has, on all of them."""
        if self.count == 1:
            return thing
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([thing])[0]

    def barrier(self) -> None:
        """Until all of them are here."""
        if self.count > 1:
            self._state.wait_for_everyone()


@dataclass
class ScftJob:
    """What to fine-tune, and how."""

    text: EncodeJob
    settings: ScftSettings
    log_dir: Path = Path("log_tensorboard")

    @cached_property
    def processes(self) -> Processes:
        """Who trains."""
        return Processes(self.text.device)

    @property
    def precision(self) -> str:
        """What it is trained in on this machine."""
        return self.processes.precision(self.settings.scft_precision)

    @cached_property
    def items(self) -> ItemText:
        """The items, read once."""
        return read_items(*self.text.place)

    @cached_property
    def views(self) -> tuple[Views, Views]:
        """Views of the items to train on, and of those held out."""
        text, keys = self.text, self.settings
        if all(len(item) < 2 for item in self.items.attributes):
            told = f"No item of {text.item_file} has two of {', '.join(self.items.fields)}"
            advice = "name more fields (item_text_fields), or do without scft"
            raise UserError(f"{told}, so its two views would be equal; {advice}.")
        seed, share = keys.scft_seed, keys.scft_holdout
        train, held = split_items(self.items.attributes, share, _MOST_HELD_OUT, seed)
        if len(train) < 2:
            told = f"{text.item_file} leaves {len(train)} item to train on, which has no contrast"
            raise UserError(f"{told}; give more items or a smaller scft_holdout.")
        how = *text.prompt, keys.scft_drop_ratio, seed
        return Views(train, *how), Views(held, *how)

    @property
    def batch_per_process(self) -> int:
        """Items of a step on one process: fewer than asked for when there are not as many."""
        most = len(self.views[0].items) // self.processes.count
        return min(self.settings.scft_batch_size, max(2, most))

    @property
    def key(self) -> str:
        """Hash of all the adapter depends on; two jobs with one key give one adapter."""
        options, (instruction, value_max_chars) = self.text.encoder_options, self.text.prompt
        facts = {
            "items": [list(map(list, item.items())) for item in self.items.attributes],
            "instruction": instruction,
            "value_max_chars": value_max_chars,
            "encoder": self.text.source.identity,
            "pooling": options["pooling"] or self.text.source.own_pooling(),
            "max_length": options["max_length"],
            "batch": [self.batch_per_process, self.processes.count],
            **self.facts(),
            **self.ends,
        }
        return asked_hash(facts)

    @property
    def ends(self) -> dict[str, bool]:
        """Whether texts are read with an end token alone; nothing where they are not."""
        return {"end_token": True} if self.text.settings.llm_end_token else {}

    def facts(self) -> dict[str, Any]:
        """What was asked for, for the manifest."""
        given = {name: getattr(self.settings, f"scft_{name}") for name in _IN_KEY}
        return {**given, "precision": self.precision}


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
    out, processes, key = Path(out), job.processes, job.key
    work = out.parent / f".{out.name}.work-{key}"
    if not processes.is_main:
        report = _nothing

    def train() -> tuple[Callable[[Path], None], dict]:
        for library in _LIBRARIES:
            optional(library, "finetune", "scft")
        from recbole_llmemb.scft.training import train  # only now: it loads libraries

        return train(job, work, report)

    def build() -> dict:
        """Of the first process, when it has the lock."""
        source, (learned, held) = job.text.source, job.views
        refuse_inputs(out, [job.text.item_file, source.location])
        if of_this_job(read_manifest(out)):
            report(f"scft: {out} is damaged")
        require_free(out, overwrite, _written, "an adapter")
        if not resume:
            shutil.rmtree(work, ignore_errors=True)
        report(
            f"scft: training {out} ({len(learned.items):,} items, {len(held.items):,} held out, "
            f"encoder {source.name})"
        )
        processes.broadcast(None)
        save, facts = train()
        manifest = _manifest(job, key) | facts
        with atomic_directory(out, overwrite, _written, "an adapter") as fresh:
            save(fresh)
            manifest["digests"] = file_digests(fresh, files_in(fresh))
            manifest["files"] = [*manifest["digests"], MANIFEST]
            (fresh / MANIFEST).write_text(seal(manifest), encoding="utf-8")
        for old in out.parent.glob(f".{glob.escape(out.name)}.work-*"):
            shutil.rmtree(old, ignore_errors=True)
        return processes.broadcast(manifest)

    def of_this_job(manifest: dict | None) -> bool:
        return manifest is not None and manifest.get("inputs_hash") == key

    def find() -> dict | None:
        manifest = read_manifest(out)
        with suppress(UserError):  # what is damaged is none
            if of_this_job(manifest):
                find_adapter(out)
                return manifest
        return None

    if processes.is_main:
        manifest, hit = build_or_load(find, build, out, "adapter")
        if hit:
            shutil.rmtree(work, ignore_errors=True)  # of whoever was killed before it tidied up
            processes.broadcast(manifest)
    else:  # the first looks and locks for all: what it has found, or nothing, and then training
        manifest = processes.broadcast(None)
        hit = manifest is not None
        if not hit:
            train()
            manifest = processes.broadcast(None)
    seconds = time.perf_counter() - began
    report(f"scft: {'cache hit' if hit else 'trained'} {out} ({seconds:.1f} s)")
    return ScftResult(out, manifest, hit, seconds)


def _nothing(line: str) -> None:
    pass


def _written(path: Path) -> list[str]:
    """The files of an adapter, as its manifest lists them; none where there is none."""
    manifest, names = read_manifest(path), files_in(path)
    if manifest is None and MANIFEST in names and set(names) <= set(_FILES):
        return names  # damaged
    return [] if manifest is None else manifest.get("files", _FILES)


def _manifest(job: ScftJob, key: str) -> dict[str, Any]:
    options, source, (train, held) = job.text.encoder_options, job.text.source, job.views
    instruction, value_max_chars = job.text.prompt
    return {
        "format_version": 1,
        "encoder": source.name,
        "revision": source.revision,
        "encoder_identity": source.identity,
        "pooling": options["pooling"] or source.own_pooling(),
        "max_length": options["max_length"],
        "prompt": instruction,
        "fields": job.items.fields,
        "value_max_chars": value_max_chars,
        **job.facts(),
        **job.ends,
        "processes": job.processes.count,
        "items": {"train": len(train.items), "held_out": len(held.items)},
        "inputs_hash": key,
        "versions": library_versions(),
    }


def job_from_config(config: Mapping[str, Any]) -> ScftJob:
    """The fine-tuning job of a configuration."""
    # What is trained starts from the encoder itself.
    text = encode_job_from_config({**values_of(config), "llm_adapter": None})
    return ScftJob(text, ScftSettings.of(config))


def ensure_adapter(config: Mapping[str, Any], report: Callable[[str], None] = print) -> Path:
    """The directory of the adapter for ``scft: True``: found in the cache, or trained into it.

    ``config``: RecBole's Config or a dict; missing keys have their defaults.
    ``report``: is given one line of text saying what happens.
    """
    values = values_of(config)
    for key in ("llm_adapter", "llm_table"):
        if values.get(key):
            told = f"scft is set, but {key} is {values[key]!r}; set only one of the two."
            raise UserError(told, key=key)
    job = job_from_config(config)
    name = f"{values['dataset']}-{job.text.source.short_name}-{job.key[:12]}"
    # A damaged adapter in the cache is replaced: nobody but this function puts adapters there.
    out = cache_directory(config) / "adapters" / name
    return run_job(job, out, overwrite=True, report=report).path


def ensure_table(config: Mapping[str, Any], report: Callable[[str], None] = print) -> Path:
    """The directory of the table a configuration asks for, of an adapted encoder with ``scft``.

    Parameters and errors are those of :func:`recbole_llmemb.encode.ensure_table`.
    """
    if values_of(config).get("scft"):
        adapter = str(ensure_adapter(config, report))
        config = {**values_of(config), "llm_adapter": adapter, "scft": False}
    return build_table(config, report)
