"""Keys of the item table: what is encoded, by which encoder, and where it is kept; and who encodes
with Ray."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from recbole_llmemb.config import keys
from recbole_llmemb.config.keys import Settings, Use, key
from recbole_llmemb.core.checked import Checked, option
from recbole_llmemb.core.errors import UserError

TABLE, PLACE = Use.TABLE, Use.TABLE | Use.PLACE


class EncodeSettings(Settings):
    """The embedding table"""

    llm_table: keys.Text = key(None, PLACE)
    """Directory of a table made by `recbole-llm encode`; empty: build it into the cache."""
    llm_encoder: keys.Place = key("all-MiniLM-L6-v2", PLACE, **keys.NAME)
    """Hugging Face id or path of the encoder, a sentence-transformers or a plain model."""
    llm_pooling: Literal["mean", "last"] | None = key(None, TABLE)
    """What a text's embedding is made of: 'mean' of the last hidden states, or the 'last' token's;
    empty: the encoder's own way (mean for a plain model)."""
    llm_adapter: keys.Text = key(None, PLACE)
    """Directory of a LoRA adapter for the encoder, made by `recbole-llm scft` or peft; or empty."""
    llm_dtype: Literal["float32", "float16", "bfloat16"] = key("float32", TABLE)
    """Number format of the encoder: float32, float16 or bfloat16."""
    llm_device: str = key("auto", Use.SPEED, **keys.NAME)
    """Where to encode: auto, cpu, cuda, cuda:1, ..."""
    llm_batch_size: int = key(64, Use.SPEED, **keys.BATCH)
    """Texts per encoder batch."""
    llm_max_length: int | None = key(None, TABLE, **keys.COUNT)
    """Longest text in tokens; empty: the encoder's own limit."""
    llm_end_token: bool = key(False, TABLE | Use.LATER)
    """Whether texts are read without a token before them and with the end token after them (as by
    the LLMEmb authors), whatever the encoder's own way is."""
    llm_normalize: bool = key(False, TABLE)
    """Whether to scale the embeddings to length 1, besides what the encoder does itself."""
    llm_trust_remote_code: bool = key(False, TABLE | Use.TRUST)
    """Whether to run code that comes with the encoder, if you trust it; no checkpoint keeps it."""
    llm_pca_dim: int | None = key(None, Use.SETTLED, **keys.SIZE)
    """Reduce the table to this width by PCA (the paper: 4096 to 1536); empty: keep it."""
    llm_cache_dir: keys.Text = key(None, Use.MACHINE | Use.SHARED | Use.TRUST)
    """Where tables and teachers lie; empty: $RECBOLE_LLMEMB_CACHE or ~/.cache/recbole-llmemb."""
    item_text_fields: keys.MaybeNames = key(None, TABLE)
    """Fields of the .item file that make an item's text, in this order; empty: all of them."""
    item_prompt: str = key("The item has the following attributes: ", TABLE)
    """What stands before the attributes of an item."""
    item_lines: bool = key(False, TABLE | Use.LATER)
    """Whether attributes begin on a line of their own, with '.' for ';' in their values (as by the
    LLMEmb authors)."""
    item_value_max_chars: int = key(100, TABLE, **keys.WHOLE)
    """Longer attribute values are cut here; 0: none is."""


_RAY = "on a cluster"


class Workers(Checked):
    """Who encodes with Ray."""

    number: int | None = option(
        None, "encoders, at most (default: as many as fit)", ge=1, name="num_workers", group=_RAY
    )
    gpus: float | None = option(
        None, "may be a fraction (default: 1 if there are GPUs)", ge=0, le=1024,
        name="gpus_per_worker", group=_RAY,
    )  # fmt: skip

    @field_validator("gpus", mode="after")
    @classmethod
    def _whole_or_part(cls, gpus: float | None) -> float | None:
        if gpus and gpus > 1 and gpus != int(gpus):
            told = f"--gpus_per_worker is {gpus}; it must be a whole number or between 0 and 1."
            raise UserError(told, key="gpus")
        return gpus

    def check(self, device: Any) -> None:
        """Refuse devices, which are Ray's to give."""
        if device not in (None, "", "auto", "cpu"):
            told = f"--device is {device!r}, but with --ray it is --gpus_per_worker that says"
            raise UserError(f"{told} what each worker gets; leave --device out.", key="device")
        if device == "cpu" and self.gpus:
            told = f"--device is cpu, but --gpus_per_worker is {self.gpus}; choose one."
            raise UserError(told, key="device")

    def allocate(self, nodes: list[dict[str, float]], device: Any) -> Workers:
        """These workers with every number filled in.

        ``nodes``: resources of each node.
        """
        gpus = self.gpus
        if gpus is None:
            has_any = any(node.get("GPU", 0) >= 1 for node in nodes)
            gpus = 1 if has_any and device != "cpu" else 0
        room = sum(_fitting(node, gpus) for node in nodes)
        if not room:
            what = f"{gpus:g} GPUs and a CPU" if gpus else "a CPU"
            told = f"No node of the Ray cluster has {what} for a worker"
            raise UserError(f"{told}; ask for less (--gpus_per_worker) or add a node.")
        return Workers(number=min(self.number or room, room), gpus=gpus)


def _fitting(node: dict[str, float], gpus: float) -> int:
    room = int(node.get("CPU", 0))
    if not gpus:
        return room
    # A worker does not get half of one GPU and half of another.
    each = int(node.get("GPU", 0)) * int(1 / gpus) if gpus < 1 else int(node.get("GPU", 0) / gpus)
    return min(room, each)
