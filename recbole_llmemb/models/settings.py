"""Keys of models: of backbones; of LLMEmb's items and scores; and of LLM-SRec."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from recbole_llmemb.config import keys
from recbole_llmemb.config.fields import Field
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
    layer_norm_eps: float = key(None, ANY, **keys.POSITIVE)
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
    """Added to each variance in whitening, as a share of the mean one; 0: all are made equal."""
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
    """Width between an adapter's two layers; empty: half the table's; 0: as `adapter: none`."""
    adapter_dropout: float = key(0.0, **keys.SHARE)
    """Dropout of the hidden layer of `adapter: mlp`."""
    llm_init_std: float | None = key(None, **keys.POSITIVE)
    """With `adapter: none`, the standard deviation the table is brought to; empty: its own."""
    offset_decay: float | None = key(None, **keys.WEIGHT)
    """With `item_embedding: residual`, weight of the offsets' mean squared length; empty: 0."""
    item_learning_rate: float | None = key(None, **keys.WEIGHT)
    """Learning rate of IDs, offsets and a trained table; empty: learning_rate."""
    align_weight: float = key(0.01, **keys.WEIGHT)
    """Weight of the alignment with the teacher (alpha in the paper); 0: none, no teacher needed."""
    align_temperature: float = key(2.0, **keys.TEMPERATURE)
    """Temperature of the alignment (tau in the paper)."""
    align_items: Literal["distinct", "positions"] = "distinct"
    """Over each 'distinct' positive item of a batch, or all 'positions' (the authors' code)."""
    align_teacher: keys.Text = key("SASRec", Use.PLACE)
    """Who to align with: a RecBole model, trained once and cached, or a checkpoint or result."""
    align_teacher_unchecked: bool = key(False, Use.MACHINE)
    """Whether a checkpoint may be the teacher that was trained on another split or other data."""
    align_teacher_config: dict[Field, Any] | None = None
    """Configuration of a trained teacher where it should differ from this run's."""
    item_similarity: Literal["dot", "cosine"] = "dot"
    """How a state and an item make a score, in training and ranking: 'dot' product or 'cosine'."""
    similarity_temperature: float | None = key(None, **keys.TEMPERATURE)
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


class LLMSRecSettings(Settings):
    """LLM-SRec"""

    shared: ClassVar[bool] = False

    item_input: Literal["table", "text"] = key("table", Use.TABLE)
    """How items come before the LLM: 'table', their table row and CF vector, a slot each; 'text',
    the paper's prompts with titles."""
    missing_title: str = key("No title", Use.LATER, **keys.NAME)
    """What stands in prompts for a title that is missing."""
    item_title_field: keys.Text = None
    """The titles' field for prompts; empty: 'title', or the first of item_text_fields."""
    prompt_dates: bool | None = None
    """Whether prompts name dates; empty: where the time field holds real times."""
    history_items: int = key(10, **keys.SIZE)
    """Items of a history that the LLM reads, the last ones; the CF model reads up to
    MAX_ITEM_LIST_LENGTH, and so does the LLM with causal_pass."""
    causal_pass: bool = key(False, Use.LATER)
    """Whether the LLM reads each sequence once, an item in one slot, and each next item is told
    from all others, as SASRec is trained (table form); no slot sees later ones, of encoders
    neither."""

    llm_model: keys.Text = key(None, Use.PLACE)
    """Hugging Face id or path of the LLM, an encoder or a decoder; empty: llm_encoder."""
    llm_model_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """float32, bfloat16 or float16 for the LLM; empty: bfloat16 on a GPU, else float32."""
    llm_quantize: Literal["8bit", "4bit"] | None = None
    """Load the LLM in '8bit' or '4bit' (bitsandbytes, on a GPU); empty: neither."""
    llm_padding_side: Literal["right", "left"] = "right"
    """Where prompts of a batch are padded: right, or left for decoders that want it."""
    llm_batch_size: int = key(64, **keys.BATCH)
    """Items per pass of the LLM over the whole catalog (and texts per batch of the encoder)."""
    prefix_cache: float = key(4, **keys.WEIGHT)
    """Gigabytes for keys and values of the beginnings of item prompts (text form, decoders); none
    are kept where all take more."""

    align_teacher: str = key("SASRec", **keys.NAME)
    """The CF model: a RecBole model, trained once and cached, or a checkpoint or result."""
    align_teacher_config: dict[Field, Any] | None = {"loss_type": "CE"}
    """Configuration of a trained CF model where it should differ from its own defaults."""
    cf_standardize: bool = key(True, Use.LATER)
    """Whether the CF model's item embeddings are brought to mean 0 and standard deviation 1."""
    cf_dropout: bool = key(False, Use.LATER)
    """Whether the CF model drops out in training, though it is frozen."""
    hidden_size: int = key(64, **keys.SIZE)
    """Size of the CF model's item embeddings and states where it is trained here."""

    head_hidden_size: int = key(2048, **keys.SIZE)
    """Width inside the user and the item head."""
    representation_size: int = key(128, **keys.SIZE)
    """Size of user and item representations."""
    input_dropout: float = key(0.0, Use.LATER, ge=0, lt=1)
    """Dropout of what the trained networks read (with causal_pass)."""
    llm_whiten: float = key(1.0, **keys.WEIGHT)
    """Whiten the table, to columns of this standard deviation (table form); 0: take it as it is."""

    loss_type: Literal["CE"] = "CE"
    """Cross-entropy of the next item against the candidates; there is no other."""
    negative_items: int = key(3, **keys.SIZE)
    """Random items beside the next one among a user's candidates."""
    in_batch_negatives: bool = False
    """Whether the next items of the batch's other users are candidates too."""
    distill_weight: float = key(1.0, was="align_weight", **keys.WEIGHT)
    """Weight of the distillation; 0: none."""
    distill_loss: Literal["mse", "contrastive"] = "mse"
    """'mse' of unit vectors, or 'contrastive' over the batch (an ablation of the paper)."""
    distill_temperature: float = key(0.1, **keys.TEMPERATURE)
    """Of the contrastive distillation."""
    uniformity_weight: float = key(1.0, **keys.WEIGHT)
    """Weight of the uniformity of users and of projected CF states; 0: none."""
    cosine_temperature: float | None = key(None, Use.LATER, **keys.TEMPERATURE)
    """Scores are cosines divided by this; empty: they are dot products."""
    cf_score_weight: float = key(0.0, Use.LATER, **keys.WEIGHT)
    """Weight of the CF model's scores beside the LLM's in every ranking, both brought to the same
    spread over the items; 0: none."""

    train_targets: Literal["one", "last", "every"] = "one"
    """What of each user makes an epoch: 'one' target drawn anew, the 'last' one, or 'every' one."""
    train_batch_size: int = key(20, **keys.BATCH)
    """Users per step."""
    eval_batch_size: int = key(256, **keys.BATCH)
    """Users per evaluation batch."""
    learning_rate: float = key(0.0001, **keys.WEIGHT)
    """Of Adam, in the first epoch."""
    learning_rate_decay: float = key(0.95, **keys.POSITIVE)
    """What it is multiplied by after each epoch."""
    epoch_parts: int = key(1, Use.LATER, ge=1, le=1000)
    """Parts of a pass over the users, each an epoch to validation, decay and stopping_step."""
    epochs: int = key(10, **keys.WHOLE)
    """At most."""
    stopping_step: int = key(5, **keys.WHOLE)
    """Stop after one validation more than this many in a row without a better valid_metric."""
    user_sample: int | None = key(None, **keys.COUNT)
    """Train on and evaluate this many users only, the same ones in every run; empty: all."""

    @model_validator(mode="after")
    def _check(self) -> LLMSRecSettings:
        if self.causal_pass and self.item_input != "table":
            raise contradiction(self, "causal_pass", "item_input", "set item_input: table")
        if self.causal_pass and (self.train_targets == "one" or self.epoch_parts > 1):
            other = "train_targets" if self.train_targets == "one" else "epoch_parts"
            advice = "a pass has all targets of its users; set train_targets: every, epoch_parts: 1"
            raise contradiction(self, "causal_pass", other, advice)
        return self
