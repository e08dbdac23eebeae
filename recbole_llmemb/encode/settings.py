"""Keys of the item table: what is encoded, by which encoder, and where it is kept."""

from __future__ import annotations

from typing import Literal

from recbole_llmemb.config.keys import (
    BATCH,
    COUNT,
    NAME,
    SIZE,
    WHOLE,
    MaybeNames,
    Place,
    Settings,
    Text,
    Use,
    key,
)

TABLE, PLACE = Use.TABLE, Use.TABLE | Use.PLACE


class EncodeSettings(Settings):
    """The embedding table"""

    llm_table: Text = key(None, PLACE)
    """Directory of a table made by `recbole-llm encode`; empty: build it and keep it in the
    cache."""
    llm_encoder: Place = key("all-MiniLM-L6-v2", PLACE, **NAME)
    """Hugging Face id or path of the encoder, a sentence-transformers or a plain model."""
    llm_pooling: Literal["mean", "last"] | None = key(None, TABLE)
    """What a text's embedding is made of: 'mean' of the last hidden states, or the 'last' token's;
    empty: the encoder's own way (mean for a plain model)."""
    llm_adapter: Text = key(None, PLACE)
    """Directory of a LoRA adapter for the encoder, made by `recbole-llm scft` or peft; empty: the
    encoder as it is."""
    llm_dtype: Literal["float32", "float16", "bfloat16"] = key("float32", TABLE)
    """Number format of the encoder: float32, float16 or bfloat16."""
    llm_device: str = key("auto", Use.SPEED, **NAME)
    """Where to encode: auto, cpu, cuda, cuda:1, ..."""
    llm_batch_size: int = key(64, Use.SPEED, **BATCH)
    """Texts per encoder batch."""
    llm_max_length: int | None = key(None, TABLE, **COUNT)
    """Longest text in tokens; empty: the encoder's own limit."""
    llm_normalize: bool = key(False, TABLE)
    """Whether to scale the embeddings to length 1, besides what the encoder does itself."""
    llm_trust_remote_code: bool = key(False, TABLE | Use.TRUST)
    """Whether to run code that comes with the encoder. Off unless you trust it; a checkpoint does
    not keep it."""
    llm_pca_dim: int | None = key(None, Use.SETTLED, **SIZE)
    """Reduce the table to this width by PCA (the paper: 4096 to 1536); empty: keep it."""
    llm_cache_dir: Text = key(None, Use.MACHINE | Use.SHARED | Use.TRUST)
    """Where tables and teachers are kept; empty: $RECBOLE_LLMEMB_CACHE or
    ~/.cache/recbole-llmemb."""
    item_text_fields: MaybeNames = key(None, TABLE)
    """Fields of the .item file that make an item's text, in this order; empty: all of them."""
    item_prompt: str = key("The item has the following attributes: ", TABLE)
    """What stands before the attributes of an item."""
    item_value_max_chars: int = key(100, TABLE, **WHOLE)
    """Longer attribute values are cut here."""
