"""Stage 1 of LLMEmb: supervised contrastive fine-tuning (SCFT) of the encoder, with LoRA.

Nothing here imports PyTorch before it is used, nor transformers, peft or sentence-transformers
before an adapter is really trained, so that finding one in the cache costs nothing.
"""

from recbole_llmemb.core.optional import lazy

__getattr__ = lazy(
    __name__, ensure="ensure_adapter job_from_config", job="ScftJob ScftResult run_job"
)
