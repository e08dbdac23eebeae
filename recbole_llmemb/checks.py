"""Settings that cannot work, refused before anything is read or trained.

RecBole takes its own as they come, and fails over them late and obscurely.
"""

from __future__ import annotations

import re

from recbole_llmemb.errors import UserError
from recbole_llmemb.variants import check_variant

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
    "epochs": 0, "stopping_step": 0, "eval_step": 0, "seed": 0, "metric_decimal_place": 0,
    "train_batch_size": 1, "eval_batch_size": 1, "MAX_ITEM_LIST_LENGTH": 1,
    "hidden_size": 1, "embedding_size": 1, "inner_size": 1,
    "n_layers": 1, "n_heads": 1, "num_layers": 1,
    "scft_steps": 1, "scft_batch_size": 2, "scft_mini_batch_size": 1, "scft_warmup_steps": 0,
    "scft_lora_rank": 1, "scft_save_steps": 1, "scft_seed": 0, "holdout_seed": 0,
}  # fmt: skip
_NOT_NEGATIVE = ("learning_rate", "weight_decay", "align_weight", "llm_whiten", "offset_decay",
                 "popularity_adjustment",
                 "item_learning_rate", "scft_learning_rate", "scft_lora_alpha")  # fmt: skip
_RATES = ("hidden_dropout_prob", "attn_dropout_prob", "dropout_prob", "mask_ratio", "ft_ratio",
          "adapter_dropout", "scft_drop_ratio", "scft_lora_dropout", "scft_holdout")  # fmt: skip
_POSITIVE = ("align_temperature", "similarity_temperature", "llm_init_std", "scft_temperature")
_SWITCHES = ("llm_freeze", "llm_normalize", "llm_trust_remote_code", "resume", "enable_amp",
             "prefix_trim", "show_progress", "shuffle", "learn_temperature",
             "scft", "scft_gradient_checkpointing", "save_users", "shuffle_train")  # fmt: skip
# RecBole's changes of histories in training, and the setting each cannot do without.
_TRANSFORMS = {"mask_itemseq": "mask_ratio", "crop_itemseq": "crop_eta",
               "reorder_itemseq": "reorder_beta", "inverse_itemseq": None,
               "user_defined": None}  # fmt: skip
#: RecBole's metrics that look at no list's first K.
WITHOUT_CUTOFF = {"gauc", "auc", "mae", "rmse", "logloss"}


def is_number(value) -> bool:
    """Whether a setting is a number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check(config) -> None:
    """Refuse impossible values of our keys, and of RecBole's, each in one sentence.

    Parameters
    ----------
    config : mapping
        Anything with ``config[key]``, None where a key is not set.

    Raises
    ------
    UserError
        Naming the key, the value and what it may be.
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
    for key in ("clip_grad_norm", "align_teacher_config", "train_neg_sample_args"):
        if config[key] is not None and not isinstance(config[key], dict):
            raise UserError(f"{key} is {config[key]!r}; it must be a dictionary, or empty.")
    size, heads = config["hidden_size"], config["n_heads"]
    if size and heads and size % heads:
        raise UserError(
            f"hidden_size is {size} and n_heads {heads}; it must be a multiple of the latter."
        )
    _check_transform(config)
    _check_valid_metric(config)
    _check_mode(config)
    _check_negatives(config)


def check_numbers(config) -> None:
    """Refuse numbers and switches that are none; as :func:`check`."""
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


def _check_transform(config):
    chosen = config["transform"]
    if chosen is None:
        return
    if chosen not in _TRANSFORMS:
        raise UserError(
            f"transform is {chosen!r}; it must be one of {', '.join(map(repr, _TRANSFORMS))}, "
            "or empty."
        )
    needed = _TRANSFORMS[chosen]
    if needed and config[needed] is None:
        raise UserError(
            f"transform is {chosen!r}, but {needed} is empty; give it, such as {needed}: 0.2."
        )


def _check_valid_metric(config):
    from recbole.evaluator import metric_types

    metrics, cutoffs, chosen = config["metrics"], config["topk"], config["valid_metric"]
    metrics = [metrics] if isinstance(metrics, str) else metrics
    cutoffs = [cutoffs] if isinstance(cutoffs, int) else cutoffs
    if not (isinstance(metrics, list) and isinstance(cutoffs, list) and chosen):
        return  # RecBole says what is wrong with these
    if any(str(name).lower() not in metric_types for name in metrics) or min(cutoffs) < 1:
        return
    plain = [name for name in metrics if str(name).lower() in WITHOUT_CUTOFF]
    offered = [f"{name}@{k}" for name in metrics if name not in plain for k in cutoffs] + plain
    if str(chosen).lower() not in [name.lower() for name in offered]:
        raise UserError(
            f"valid_metric is {chosen!r}, which metrics and topk do not give; "
            f"it must be one of {', '.join(offered)}."
        )


def check_mode(mode) -> None:
    """Refuse a way of ranking (``mode`` of ``eval_args``) that RecBole does not have.

    Parameters
    ----------
    mode : str
        ``full``, ``uniNNN``, ``popNNN`` or ``labeled``.

    Raises
    ------
    UserError
        Also for no candidates at all, among which every target is the best.
    """
    if not re.fullmatch(r"full|labeled|(uni|pop)0*[1-9][0-9]*", str(mode)):
        raise UserError(
            f"mode is {mode!r}; it must be full, or uniNNN or popNNN for NNN sampled items (uni99)."
        )


def _check_mode(config):
    args = config["eval_args"]
    found = args.get("mode") if isinstance(args, dict) else None
    for mode in found.values() if isinstance(found, dict) else [found]:
        if mode not in (None, "none"):
            check_mode(mode)


def _check_negatives(config):
    if config["loss_type"] not in ("BPR", "BCE"):
        return
    args = config["train_neg_sample_args"] or {}
    count = args.get("sample_num", 1)
    drawn = args and args.get("distribution", "uniform") not in (None, "none", "None")
    if not drawn or not isinstance(count, int) or count < 1:
        raise UserError(
            f"loss_type {config['loss_type']} compares targets with sampled negatives, but "
            f"train_neg_sample_args is {args or None}; give it a distribution ('uniform' or "
            "'popularity') and a sample_num of at least 1, or set loss_type: CE."
        )


def _check_not_offered(config):
    if config["benchmark_filename"]:
        raise UserError(
            "benchmark_filename names files that are split already, which these models do not "
            "read; give all interactions in one .inter file and split them with eval_args."
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
