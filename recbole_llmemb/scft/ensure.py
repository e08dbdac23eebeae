"""The adapter a configuration asks for, trained if it is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recbole_llmemb.config.keys import values_of
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.build_or_load import cache_directory
from recbole_llmemb.encode.build_or_load import job_from_config as encode_job_from_config
from recbole_llmemb.scft.job import ScftJob, run_job
from recbole_llmemb.scft.settings import ScftSettings


def job_from_config(config: Mapping[str, Any]) -> ScftJob:
    """The fine-tuning job of a configuration."""
    # What is trained starts from the encoder itself.
    text = encode_job_from_config({**values_of(config), "llm_adapter": None})
    values = {name.removeprefix("scft_"): value for name, value in ScftSettings.of(config)}
    del values["scft"]
    return ScftJob(text=text, device=text.device, **values)


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
    key = job.key(processes.precision(job.precision), processes.count)
    name = f"{values['dataset']}-{job.text.settings.source.short_name}-{key[:12]}"
    return run_job(job, folder / name, report=report).path
