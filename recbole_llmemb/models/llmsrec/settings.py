"""Keys of LLM-SRec, and its own defaults of others: the sizes and the schedule of the paper."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from recbole_llmemb.config import keys
from recbole_llmemb.config.keys import Settings, Use, contradiction, key


class LLMSRecSettings(Settings):
    """LLM-SRec"""

    shared: ClassVar[bool] = False

    item_input: Literal["table", "text"] = key("table", Use.TABLE)
    """How items come before the LLM: 'table', their table row and CF vector, a slot each; 'text',
    the paper's prompts with titles."""
    missing_title: str = key("No title", Use.LATER, **keys.NAME)
    """What stands in prompts for a title that is missing."""
    item_title_field: keys.Text = None
    """Field of the .item file with the titles for the prompts; empty: 'title', or the first of
    item_text_fields."""
    prompt_dates: bool | None = None
    """Whether prompts name the dates of interactions; empty: where the time field holds real
    times."""
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
    """Number format of the LLM: float32, bfloat16 or float16; empty: bfloat16 on a GPU, else
    float32."""
    llm_quantize: Literal["8bit", "4bit"] | None = None
    """Load the LLM in '8bit' or '4bit' (bitsandbytes, on a GPU); empty: neither."""
    llm_padding_side: Literal["right", "left"] = "right"
    """Where prompts of a batch are padded: right, or left for decoders that want it."""
    llm_batch_size: int = key(64, **keys.BATCH)
    """Items per forward pass where the LLM reads the whole catalog (and texts per batch of the
    encoder)."""
    prefix_cache: float = key(4, **keys.WEIGHT)
    """Gigabytes for keys and values of the beginnings of item prompts (text form, decoders); none
    are kept where all take more."""

    align_teacher: str = key("SASRec", **keys.NAME)
    """The CF model: a RecBole sequential model, trained once and cached, or the path of a
    checkpoint."""
    align_teacher_config: dict[str, Any] | None = {"loss_type": "CE"}
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
    distill_temperature: float = key(0.1, **keys.POSITIVE)
    """Of the contrastive distillation."""
    uniformity_weight: float = key(1.0, **keys.WEIGHT)
    """Weight of the uniformity of users and of projected CF states; 0: none."""
    cosine_temperature: float | None = key(None, Use.LATER, **keys.POSITIVE)
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
    """Parts of a pass over the users; each counts as an epoch: for validation, learning_rate_decay,
    epochs and stopping_step."""
    epochs: int = key(10, **keys.WHOLE)
    """At most."""
    stopping_step: int = key(5, **keys.WHOLE)
    """Stop after this many validations without a better valid_metric."""
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
