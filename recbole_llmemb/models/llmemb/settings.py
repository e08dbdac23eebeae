"""Keys of items and scores: the adapter, the alignment and the similarity; and of backbones."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from recbole_llmemb.config import keys
from recbole_llmemb.config.keys import Settings, Use, contradiction, key
from recbole_llmemb.core.registry import ImportPath

ANY = Use.ANY
#: A learned temperature stays between these.
TEMPERATURES = (0.01, 10.0)


class BackboneSettings(Settings):
    """The backbone, of whose keys many models of RecBole's have the same"""

    n_layers: int = key(None, ANY, **keys.LAYERS)
    """The number of transformer layers."""
    n_heads: int = key(None, ANY, **keys.LAYERS)
    """The number of attention heads."""
    num_layers: int = key(None, ANY, **keys.LAYERS)
    """The number of GRU layers."""
    hidden_size: int = key(None, ANY, **keys.SIZE)
    """The size of hidden states and item embeddings."""
    embedding_size: int = key(None, ANY, **keys.SIZE)
    """The size of item embeddings."""
    inner_size: int = key(None, ANY, **keys.SIZE)
    """The inner size of the feed-forward layers."""
    hidden_dropout_prob: float = key(None, ANY, **keys.SHARE)
    """The dropout of hidden states."""
    attn_dropout_prob: float = key(None, ANY, **keys.SHARE)
    """The dropout of attention scores."""
    dropout_prob: float = key(None, ANY, **keys.SHARE)
    """The dropout of input embeddings."""
    hidden_act: Literal["gelu", "relu", "swish", "tanh", "sigmoid"] = key(None)
    """The activation of the feed-forward layers."""
    layer_norm_eps: float = key(None, **keys.POSITIVE)
    """A value added to the denominator for numerical stability."""
    initializer_range: float = key(None, ANY, **keys.WEIGHT)
    """The standard deviation of initial weights."""

    @model_validator(mode="after")
    def _check(self) -> BackboneSettings:
        if self.hidden_size and self.n_heads and self.hidden_size % self.n_heads:
            raise contradiction(self, "n_heads", "hidden_size", "it must divide that")
        return self


class ItemSettings(Settings):
    """The adapter and the alignment (RAT, section 3.3 of the LLMEmb paper)"""

    llm_whiten: float = key(0.2, **keys.WEIGHT)
    """Whiten the table before the adapter, to columns of this standard deviation; 0: take it as it
    is (the paper). Without effect on `adapter: none`."""
    llm_whiten_ridge: float = key(0.0, Use.LATER, **keys.WEIGHT)
    """How much whitening leaves small directions small: added to each variance, as a share of the
    mean one; 0: all are made equal."""
    llm_missing: Literal["error", "mean", "zero"] = "error"
    """Items without a row: 'error' refuses them, 'mean' and 'zero' fill them."""
    llm_freeze: bool = True
    """Whether the table stays as it is during training."""
    llm_table_dtype: Literal["float32", "bfloat16", "float16"] | None = key(None, Use.SETTLED)
    """What a frozen table is kept and multiplied in: float32, bfloat16 or float16; empty: bfloat16
    for tables wider than 1,024 where the device computes in it, else float32."""
    llm_table_device: Literal["auto", "cpu", "device"] = key("auto", Use.MACHINE)
    """Where a frozen table is kept: on the 'device' that computes, or in the memory of the 'cpu',
    from which each step gets its rows; 'auto': there where it does not fit on the device."""
    item_embedding: Literal["table", "id", "both", "residual"] | ImportPath = key(
        "table", Use.TABLE
    )
    """'table': adapted LLM table; 'id': the backbone's own learned layer, under the same training;
    'both': their sum; 'residual': the table plus a learned offset per item that starts at zero; or
    where a layer of yours is, `mypackage.module:Name`."""
    adapter: Literal["linear", "mlp", "none", "whitening"] | ImportPath = "linear"
    """From the table to the model: 'linear' (the paper), 'mlp' (a hidden layer with GELU), 'none'
    (the table's principal components as they are) or 'whitening' (these, uncorrelated and of equal
    spread); or where a module of yours is, `mypackage.module:Name`."""
    adapter_hidden_size: int | None = key(None, ge=0, le=2**16)
    """Width between the two layers of an adapter; empty: half the table's; 0: no adapter, as
    `adapter: none`."""
    adapter_dropout: float = key(0.0, **keys.SHARE)
    """Dropout of the hidden layer of `adapter: mlp`."""
    llm_init_std: float | None = key(None, **keys.POSITIVE)
    """With `adapter: none`, bring the table to this standard deviation over all its numbers; empty:
    as it is."""
    offset_decay: float | None = key(None, **keys.WEIGHT)
    """With `item_embedding: residual`, weight of the mean squared length of a step's offsets in the
    loss; empty: 0."""
    item_learning_rate: float | None = key(None, **keys.WEIGHT)
    """Learning rate of what is learned per item (IDs, offsets, a trained table); empty:
    learning_rate."""
    align_weight: float = key(0.01, **keys.WEIGHT)
    """Weight of the alignment with the teacher (alpha in the paper); 0: none, no teacher needed."""
    align_temperature: float = key(2.0, **keys.POSITIVE)
    """Temperature of the alignment (tau in the paper)."""
    align_items: Literal["distinct", "positions"] = "distinct"
    """Over which of a batch's positive items: each 'distinct' one once, or every one of the
    'positions' (the authors' code)."""
    align_teacher: keys.Text = key("SASRec", Use.PLACE)
    """Who to align with: a RecBole model, trained once and cached, or the path of a checkpoint."""
    align_teacher_unchecked: bool = key(False, Use.MACHINE)
    """Whether a checkpoint may be the teacher that was trained on another split or other data than
    this run's."""
    align_teacher_config: dict[str, Any] | None = None
    """Configuration of a trained teacher where it should differ from this run's."""
    item_similarity: Literal["dot", "cosine"] = "dot"
    """How a state and an item make a score: 'dot' product or 'cosine'; the same in training and
    ranking."""
    similarity_temperature: float | None = key(None, **keys.POSITIVE)
    """What a score is divided by; empty: 0.07 for cosine, 1 for dot."""
    learn_temperature: bool = False
    """Whether the temperature is learned, from that value, between 0.01 and 10."""

    @property
    def learns_adapter(self) -> bool:
        """Whether a layer with parameters stands between the table and the model."""
        if self.adapter in ("linear", "mlp"):
            return self.adapter_hidden_size != 0
        return self.adapter not in ("none", "whitening")

    @model_validator(mode="after")
    def _check(self) -> ItemSettings:
        kind, adapter, hidden = self.item_embedding, self.adapter, self.adapter_hidden_size
        (low, high), tau = TEMPERATURES, self.similarity_temperature
        if self.offset_decay and kind != "residual":
            raise contradiction(self, "offset_decay", "item_embedding", "set that to residual")
        if self.learn_temperature and tau is not None and not low <= tau <= high:
            advice = f"a learned one must begin between {low} and {high}"
            raise contradiction(self, "similarity_temperature", "learn_temperature", advice)
        if kind == "id":
            return self
        if kind in ("both", "residual") and not self.learns_adapter and not self.llm_freeze:
            advice = "a trained table needs an adapter there, so set llm_freeze: True"
            raise contradiction(self, "item_embedding", "llm_freeze", advice)
        if self.llm_table_device == "cpu" and not self.llm_freeze:
            advice = "a trained table stays on the device"
            raise contradiction(self, "llm_table_device", "llm_freeze", advice)
        if adapter == "mlp" and hidden == 0:
            raise contradiction(self, "adapter_hidden_size", "adapter", "give it a hidden layer")
        if adapter in ("none", "whitening") and hidden:
            raise contradiction(self, "adapter_hidden_size", "adapter", "leave it empty")
        if self.adapter_dropout and adapter != "mlp":
            raise contradiction(self, "adapter_dropout", "adapter", "set it to 0, or adapter: mlp")
        if self.llm_whiten_ridge and self.llm_whiten == 0:
            raise contradiction(self, "llm_whiten_ridge", "llm_whiten", "nothing is whitened")
        if adapter == "whitening" and self.llm_whiten == 0:
            raise contradiction(self, "llm_whiten", "adapter", "give it a standard deviation")
        if self.llm_init_std and (adapter in ("mlp", "whitening") or self.learns_adapter):
            advice = "it is for adapter: none, and llm_whiten sets the spread for the others"
            raise contradiction(self, "llm_init_std", "adapter", advice)
        return self
