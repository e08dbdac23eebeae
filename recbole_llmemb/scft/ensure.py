"""The adapter a configuration asks for, trained if it is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.build_or_load import Overlay, cache_directory
from recbole_llmemb.encode.build_or_load import job_from_config as encode_job_from_config
from recbole_llmemb.scft.job import ScftJob, run_job

# Configuration key → field of the job, where the value is passed on as it is.
KEYS = {
    f"scft_{name}": name
    for name in (
        "loss", "temperature", "drop_ratio", "steps", "batch_size", "mini_batch_size",
        "learning_rate", "warmup_steps", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets",
        "precision", "quantize", "gradient_checkpointing", "holdout", "save_steps", "seed",
    )
}  # fmt: skip


def job_from_config(config: Mapping[str, Any]) -> ScftJob:
    """The fine-tuning job of a configuration."""
    # What is trained starts from the encoder itself.
    config = Overlay(config, llm_adapter=None, scft=False)
    text = encode_job_from_config(config)
    given = {name: config[key] for key, name in KEYS.items()}
    targets = given["lora_targets"]
    if isinstance(targets, str):
        given["lora_targets"] = [name.strip() for name in targets.strip("[] ").split(",")]
    values = {name: value for name, value in given.items() if value is not None}
    return ScftJob(text=text, device=text.device, **values)


def ensure_adapter(config: Mapping[str, Any], report: Callable[[str], None] = print) -> Path:
    """The directory of the adapter for ``scft: True``: found in the cache, or trained into it.

    ``config``: RecBole's Config or a dict; missing keys count as None.
    ``report``: is given one line of text saying what happens.
    """
    known = Overlay(config)
    for key in ("llm_adapter", "llm_table"):
        if known[key]:
            raise UserError(
                f"scft is set, which trains an adapter of its own, but {key} is {known[key]!r}; "
                "set only one of the two."
            )
    job = job_from_config(config)
    folder = cache_directory(config) / "adapters"
    processes = job.processes()
    key = job.key(processes.precision(job.precision), processes.count)
    name = f"{known['dataset']}-{job.text.settings.source.short_name}-{key[:12]}"
    return run_job(job, folder / name, report=report).path
