"""Keys of fine-tuning an encoder before it makes the item table."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import WrapValidator

from recbole_llmemb.config import keys
from recbole_llmemb.config.keys import Settings, Use, key


def _as_given(value: Any, check: Any) -> Any:
    check(value)
    return value


# A whole number stays one: adapters in the cache are named by what was given.
Number = Annotated[float, WrapValidator(_as_given)]
TABLE = Use.TABLE


class ScftSettings(Settings):
    """Fine-tuning the encoder before (SCFT, section 3.2 of the LLMEmb paper)"""

    scft: bool = key(False, TABLE)
    """Whether a run fine-tunes the encoder on the items first; the adapter is kept in the cache."""
    scft_loss: Literal["soft", "infonce"] = key("soft", TABLE)
    """'soft' targets (the authors' code), or 'infonce': the other view against the batch's."""
    scft_temperature: Number = key(3.0, TABLE, **keys.TEMPERATURE)
    """Where the learned temperature starts (tau in the paper)."""
    scft_drop_ratio: Number = key(0.4, TABLE, **keys.SHARE)
    """Share of an item's attributes that each view drops."""
    scft_steps: int = key(4000, TABLE, **keys.COUNT)
    """Training steps (the authors', for 7 billion weights; far fewer do for a small encoder)."""
    scft_batch_size: int = key(64, TABLE, **{**keys.BATCH, "ge": 2})
    """Items per step and process."""
    scft_mini_batch_size: int | None = key(None, TABLE, **keys.BATCH)
    """Views embedded at a time, where a batch does not fit into memory (GradCache); empty: all."""
    scft_learning_rate: Number = key(0.0002, TABLE, **keys.POSITIVE)
    """Of AdamW, falling linearly to 0."""
    scft_warmup_steps: int = key(0, TABLE, **keys.WHOLE)
    """Steps over which the learning rate rises first."""
    scft_lora_rank: int = key(8, TABLE, ge=1, le=2**12)
    """Rank of the adapter."""
    scft_lora_alpha: Number = key(32, TABLE, **keys.POSITIVE)
    """Scale of the adapter, over its rank."""
    scft_lora_dropout: Number = key(0.1, TABLE, ge=0, lt=1)
    """Dropout before the adapter."""
    scft_lora_targets: keys.MaybeNames = key(None, TABLE)
    """Names of the linear layers to adapt; empty: every attention and MLP projection."""
    scft_precision: Literal["auto", "float32", "bfloat16", "float16"] = key("auto", TABLE)
    """float32, bfloat16 or float16; auto: bfloat16 on a GPU that has it, else float32."""
    scft_quantize: Literal[4, 8] | None = key(None, TABLE)
    """Bits of the frozen weights, 4 or 8 (GPU, needs bitsandbytes); empty: scft_precision."""
    scft_gradient_checkpointing: bool = key(False, TABLE)
    """Whether to compute activations twice to save memory."""
    scft_holdout: Number = key(0.1, TABLE, **keys.SHARE)
    """Share of items, at most 1,000 of them, kept out of training to measure it."""
    scft_save_steps: int = key(200, TABLE, **keys.COUNT)
    """Steps between checkpoints and measurements."""
    scft_seed: int = key(2020, TABLE, **keys.SEED)
    """Of fine-tuning; runs of other seeds share the adapter."""
