"""Settings of LLM-SRec that cannot work, refused before anything is read."""

from __future__ import annotations

from recbole_llmemb.config.recbole_checks import is_number
from recbole_llmemb.core.errors import UserError

CHOICES = {
    "item_input": ("table", "text"),
    "train_targets": ("one", "last", "every"),
    "distill_loss": ("mse", "contrastive"),
    "llm_model_dtype": ("float32", "bfloat16", "float16"),
    "llm_quantize": ("8bit", "4bit"),
    "llm_padding_side": ("right", "left"),
    "loss_type": ("CE",),
}
_WHOLE = ("history_items", "negative_items", "head_hidden_size", "representation_size",
          "user_sample")  # fmt: skip
_POSITIVE = ("distill_temperature", "learning_rate_decay")
_NOT_NEGATIVE = ("uniformity_weight", "prefix_cache")
_SWITCHES = ("in_batch_negatives", "prompt_dates")


def check_settings(config) -> None:
    """Refuse impossible values of the keys of LLM-SRec, each in one sentence.

    ``config``: anything with ``config[key]``, None where a key is not set.
    """
    for key, allowed in CHOICES.items():
        if config[key] is not None and config[key] not in allowed:
            raise UserError(
                f"{key} is {config[key]!r}; for LLMSRec it must be "
                f"{' or '.join(map(repr, allowed))}."
            )
    for key in _WHOLE:
        value = config[key]
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if value is not None and not whole:
            raise UserError(f"{key} is {value!r}; it must be a whole number of at least 1.")
    for key in _POSITIVE + _NOT_NEGATIVE:
        value = config[key]
        fits = is_number(value) and (value > 0 or (value == 0 and key in _NOT_NEGATIVE))
        if value is not None and not fits:
            kind = "positive number" if key in _POSITIVE else "number that is not negative"
            raise UserError(f"{key} is {value!r}; it must be a {kind}.")
    for key in _SWITCHES:
        if config[key] is not None and not isinstance(config[key], bool):
            raise UserError(f"{key} is {config[key]!r}; it must be True or False.")
    if not config["align_teacher"]:
        raise UserError(
            "align_teacher is empty, but LLMSRec reads its histories through a CF model; name a "
            "RecBole model or give a checkpoint."
        )
