"""Stage 1 of LLMEmb: supervised contrastive fine-tuning (SCFT) of the encoder, with LoRA.

What is named here is imported when it is first used; transformers, peft and sentence-transformers
only when an adapter is really trained, so that finding one in the cache costs nothing.
"""

from recbole_llmemb.core.imports import lazy

__all__ = ["ScftJob", "ensure_adapter", "ensure_table", "job_from_config", "run_job"]

__getattr__ = lazy(
    __name__,
    job="ScftJob ensure_adapter ensure_table job_from_config run_job",
    figure="check_figure draw",
)
