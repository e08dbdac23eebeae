"""Stage 1 of LLMEmb: supervised contrastive fine-tuning (SCFT) of the encoder, with LoRA.

Nothing here imports transformers, peft or sentence-transformers before an adapter is really
trained, so that finding one in the cache costs nothing.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ScftJob", "ensure_adapter", "ensure_table", "job_from_config", "run_job"]


def __getattr__(name: str) -> Any:
    """Imported when it is first used: a command's options need the settings only."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recbole_llmemb.scft import job

    return getattr(job, name)
