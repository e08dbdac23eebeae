"""Settings that cannot work, refused before anything is read or trained.

RecBole takes its own as they come, and fails over them late and obscurely.
"""

from __future__ import annotations

from recbole_llmemb.config.recbole_checks import check_dictionary, check_recboles, is_number
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.llmemb.variants import check_variant

CHOICES = {
    "item_embedding": ("table", "id", "both", "residual"),
    "adapter": ("linear", "mlp", "none", "whitening"),
    "item_similarity": ("dot", "cosine"),
    "train_mode": ("sequence", "prefix"),
    "loss_type": ("CE", "BPR", "BCE"),
    "llm_pooling": ("mean", "last"),
    "llm_table_dtype": ("float32", "bfloat16", "float16"),
    "llm_missing": ("error", "mean", "zero"),
    "align_items": ("distinct", "positions"),
    "negative_excludes": ("history", "target"),
    "amp_dtype": ("bfloat16", "float16"),
    "scft_loss": ("soft", "infonce"),
    "scft_precision": ("auto", "float32", "bfloat16", "float16"),
    "scft_quantize": (4, 8),
    "holdout_targets": ("last", "all"),
    "hidden_act": ("gelu", "relu", "swish", "tanh", "sigmoid"),
}
_WHOLE = {
    "adapter_hidden_size": 0, "sequence_stride": 1, "llm_pca_dim": 1,
    "llm_batch_size": 1, "llm_max_length": 1, "item_value_max_chars": 0, "worker": 0,
    "epochs": 0, "stopping_step": 0, "eval_step": 0, "seed": 0, "metric_decimal_place": 0,
    "train_batch_size": 1, "eval_batch_size": 1, "MAX_ITEM_LIST_LENGTH": 1,
    "hidden_size": 1, "embedding_size": 1, "inner_size": 1,
    "n_layers": 1, "n_heads": 1, "num_layers": 1,
    "scft_steps": 1, "scft_batch_size": 2, "scft_mini_batch_size": 1, "scft_warmup_steps": 0,
    "scft_lora_rank": 1, "scft_save_steps": 1, "scft_seed": 0, "holdout_seed": 0,
}  # fmt: skip
_NOT_NEGATIVE = ("initializer_range", "learning_rate", "weight_decay", "align_weight",
                 "llm_whiten", "offset_decay", "popularity_adjustment",
                 "item_learning_rate", "scft_learning_rate", "scft_lora_alpha")  # fmt: skip
_RATES = ("hidden_dropout_prob", "attn_dropout_prob", "dropout_prob", "mask_ratio", "ft_ratio",
          "adapter_dropout", "scft_drop_ratio", "scft_lora_dropout", "scft_holdout")  # fmt: skip
_POSITIVE = (
    "layer_norm_eps",
    "align_temperature",
    "similarity_temperature",
    "llm_init_std",
    "scft_temperature",
)
_SWITCHES = ("llm_freeze", "llm_normalize", "llm_trust_remote_code", "resume", "enable_amp",
             "prefix_trim", "show_progress", "shuffle", "learn_temperature",
             "scft", "scft_gradient_checkpointing", "save_users", "shuffle_train",
             "align_teacher_unchecked")  # fmt: skip


#: Names and paths, which stay text though they look like numbers.
TEXTS = ("llm_table", "llm_encoder", "llm_adapter", "llm_device", "llm_cache_dir", "item_prompt",
         "align_teacher", "llm_model", "item_title_field", "result_json", "checkpoint_dir",
         "data_path", "dataset", "state", "encoding", "field_separator", "seq_separator",
         "USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "RATING_FIELD", "LABEL_FIELD",
         "NEG_PREFIX", "LIST_SUFFIX", "ITEM_LIST_LENGTH_FIELD", "model", "config_files",
         "name", "storage", "space", "wandb_project",
         "user_inter_num_interval", "item_inter_num_interval")  # fmt: skip


def check(config) -> None:
    """Refuse impossible values of our keys, and of RecBole's, each in one sentence.

    ``config``: anything with ``config[key]``, None where a key is not set.
    """
    from recbole_llmemb.evaluation.groups import check_threshold

    check_common(config)
    check_choices(config)
    for key in ("tail_item_threshold", "short_user_threshold"):
        if config[key] is not None:
            check_threshold(key, config[key])
    share = config["holdout_items"]
    if share is not None and not (is_number(share) and 0 <= share < 1):
        raise UserError(
            f"holdout_items is {share!r}; it must be a share of the items, such as 0.1, or empty."
        )
    check_variant(config)
    stride, length = config["sequence_stride"], config["MAX_ITEM_LIST_LENGTH"]
    if stride and length and stride > length:
        raise UserError(
            f"sequence_stride is {stride}, longer than MAX_ITEM_LIST_LENGTH {length}, "
            "so some positions would never be trained on; make it at most that."
        )
    _check_not_offered(config)


def check_choices(config) -> None:
    """Refuse values that are none of those our keys may have; as :func:`check`."""
    for key, allowed in CHOICES.items():
        if config[key] is not None and config[key] not in allowed:
            raise UserError(
                f"{key} is {config[key]!r}; it must be one of {', '.join(map(repr, allowed))}."
            )
    for key in _POSITIVE:
        value = config[key]
        if value is not None and not (is_number(value) and value > 0):
            raise UserError(f"{key} is {value!r}; it must be a positive number.")


def check_common(config) -> None:
    """Refuse what no model can work with, ours or RecBole's; as :func:`check`."""
    check_numbers(config)
    if config["align_teacher_config"] is not None:
        check_dictionary(config, "align_teacher_config")
    size, heads = config["hidden_size"], config["n_heads"]
    if size and heads and size % heads:
        raise UserError(
            f"hidden_size is {size} and n_heads {heads}; it must be a multiple of the latter."
        )
    check_recboles(config)


def check_numbers(config) -> None:
    """Refuse numbers, switches and texts that are none; as :func:`check`."""
    for key, least in _WHOLE.items():
        value = config[key]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least):
            raise UserError(f"{key} is {value!r}; it must be a whole number of at least {least}.")
    for key in _NOT_NEGATIVE:
        value = config[key]
        if value is not None and not (is_number(value) and value >= 0):
            raise UserError(f"{key} is {value!r}; it must be a number that is not negative.")
    for key in _RATES:
        value = config[key]
        if value is not None and not (is_number(value) and 0 <= value <= 1):
            raise UserError(f"{key} is {value!r}; it must be a number between 0 and 1.")
    for key in _SWITCHES:
        if config[key] is not None and not isinstance(config[key], bool):
            raise UserError(f"{key} is {config[key]!r}; it must be True or False.")
    for key in TEXTS:
        if config[key] is not None and not isinstance(config[key], str):
            raise UserError(f"{key} is {config[key]!r}; it must be text, in quotes if need be.")
    fields = config["item_text_fields"]
    if fields is not None and not isinstance(fields, (str, list, tuple)):
        raise UserError(f"item_text_fields is {fields!r}; it must be a list of fields, or empty.")
    if (config["seed"] or 0) >= 2**32:
        raise UserError(f"seed is {config['seed']}; it must be less than 2**32.")


def _check_not_offered(config):
    if config["benchmark_filename"] and config["holdout_items"]:
        raise UserError(
            "holdout_items takes items out of interactions that are split afterwards, which those "
            "of benchmark_filename are already; leave one of the two empty."
        )
    if config["save_dataloaders"] or config["dataloaders_save_path"]:
        raise UserError(
            "save_dataloaders and dataloaders_save_path keep loaders as pickles, which are not "
            "read here; leave them off, as the loaders of these models take no time to build."
        )
    args = config["train_neg_sample_args"] or {}
    if args.get("dynamic") and config["train_mode"] == "sequence":
        raise UserError(
            "train_neg_sample_args.dynamic needs a score for every candidate before each step, "
            "which train_mode: sequence does not offer; set dynamic: False or train_mode: prefix."
        )
