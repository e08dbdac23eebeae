"""Stage 1 of LLMEmb: supervised contrastive fine-tuning (SCFT) of the encoder, with LoRA.

Nothing here imports transformers, peft or sentence-transformers before an adapter is really
trained, so that finding one in the cache costs nothing.
"""

from recbole_llmemb.scft.ensure import ensure_adapter, job_from_config
from recbole_llmemb.scft.job import ScftJob, ScftResult, run_job

__all__ = ["ScftJob", "ScftResult", "ensure_adapter", "job_from_config", "run_job"]
