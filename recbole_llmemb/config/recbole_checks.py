"""RecBole's own settings: those that cannot work, refused before it fails over them."""

from __future__ import annotations

import math
import re

from recbole_llmemb.core.errors import UserError

# RecBole's changes of histories in training, and the setting each cannot do without.
_TRANSFORMS = {"mask_itemseq": "mask_ratio", "crop_itemseq": "eta",
               "reorder_itemseq": "beta", "inverse_itemseq": None,
               "user_defined": None}  # fmt: skip
_CLIPPING = {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}
_NUMBER = r"\s*-?(inf|[0-9.]+(e[+-]?[0-9]+)?)\s*"
_INTERVAL = rf"[\[(]{_NUMBER},{_NUMBER}[\])]"
#: RecBole's metrics that look at no list's first K.
WITHOUT_CUTOFF = {"gauc", "auc", "mae", "rmse", "logloss"}


def check_recboles(config) -> None:
    """Refuse settings of RecBole's that cannot work, whatever the model.

    ``config``: anything with ``config[key]``, None where a key is not set.
    """
    for key in ("clip_grad_norm", "train_neg_sample_args", "eval_args", "load_col", "val_interval"):
        if config[key] is not None:
            check_dictionary(config, key)
    for key in ("data_path", "checkpoint_dir"):
        if not config[key]:
            raise UserError(f"{key} is empty; name a folder.")
    parts = config["benchmark_filename"]
    if parts is not None and not (isinstance(parts, (list, tuple)) and len(parts) == 3):
        raise UserError(
            f"benchmark_filename is {parts!r}; it must name three parts of the dataset, such as "
            "[train, valid, test], or be empty."
        )
    _check_clipping(config)
    _check_columns(config)
    _check_intervals(config)
    _check_transform(config)
    _check_valid_metric(config)
    _check_mode(config)
    _check_split(config)
    _check_negatives(config)


def is_number(value) -> bool:
    """Whether a setting is a number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_dictionary(config, key) -> None:
    """Refuse a value that is no dictionary; as :func:`check_recboles`."""
    if not isinstance(config[key], dict):
        raise UserError(f"{key} is {config[key]!r}; it must be a dictionary, or empty.")


def _check_clipping(config):
    chosen = config["clip_grad_norm"]
    if chosen and not (set(chosen) <= _CLIPPING and is_number(chosen.get("max_norm"))):
        raise UserError(
            f"clip_grad_norm is {chosen!r}; it must be of the form {{'max_norm': 5.0}}, perhaps "
            "with norm_type."
        )


def _check_columns(config):
    for file, names in (config["load_col"] or {}).items():
        if names is not None and not isinstance(names, list):
            raise UserError(
                f"load_col.{file} is {names!r}; it must be a list of the file's fields, or empty."
            )
    for key in ("LIST_SUFFIX", "NEG_PREFIX"):  # which tell fields from what is made of them
        if config[key] == "":
            raise UserError(f"{key} is empty; give it a few letters.")


def _check_intervals(config):
    """RecBole tells the log only that it leaves out an interval which it cannot read."""
    asked = {key: config[key] for key in ("user_inter_num_interval", "item_inter_num_interval")}
    asked |= {f"val_interval.{key}": text for key, text in (config["val_interval"] or {}).items()}
    for key, text in asked.items():
        if text is None or (isinstance(text, list) and "val_interval" in key):  # of the values
            continue
        parts = str(text).split(";")
        if not all(re.fullmatch(_INTERVAL, part.strip()) for part in parts):
            raise UserError(f"{key} is {text!r}; it must be an interval such as '[5,inf)'.")


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
    share = config[needed] if needed else 0
    if not (is_number(share) and 0 <= share <= 1):
        raise UserError(
            f"{needed} is {share!r}; with transform: {chosen} it must be a number between 0 and 1."
        )


def _check_valid_metric(config):
    from recbole.evaluator import metric_types

    metrics, cutoffs, chosen = config["metrics"], config["topk"], config["valid_metric"]
    metrics = [metrics] if isinstance(metrics, str) else metrics
    cutoffs = [cutoffs] if isinstance(cutoffs, int) else cutoffs
    for key, value in (("metrics", metrics), ("topk", cutoffs)):
        if value is not None and not (isinstance(value, (list, tuple)) and value):
            raise UserError(f"{key} is {config[key]!r}; it must be a list of at least one.")
    if any(not isinstance(k, int) for k in cutoffs or ()):
        raise UserError(f"topk is {config['topk']!r}; it must be whole numbers.")
    if not (metrics and cutoffs and chosen):
        return
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

    ``mode``: ``full``, ``uniNNN``, ``popNNN`` or ``labeled``.
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


def _check_split(config):
    """RecBole fails late over ways to split that it does not have, and over any two parts."""
    args = config["eval_args"]
    split = args.get("split") if isinstance(args, dict) else None
    if split is None:
        return
    if not (isinstance(split, dict) and len(split) == 1 and set(split) <= {"LS", "RS", "TS"}):
        raise UserError(
            f"eval_args.split is {split!r}; it must be of the form {{'LS': 'valid_and_test'}} or "
            "{'RS': [0.8, 0.1, 0.1]}."
        )
    ((kind, how),) = split.items()
    if kind == "LS":
        if how not in ("valid_and_test", "valid_only", "test_only"):
            raise UserError(
                f"eval_args.split is {split!r}; LS must be valid_and_test, valid_only or test_only."
            )
        return
    three = isinstance(how, list) and len(how) == 3
    if not (three and all(is_number(share) and 0 <= share < math.inf for share in how) and how[0]):
        raise UserError(
            f"eval_args.split is {split!r}; {kind} takes three shares, of training, validation and "
            "test, such as [0.8, 0.1, 0.1]; 0 leaves out validation or test."
        )


def _check_negatives(config):
    if config["loss_type"] not in ("BPR", "BCE"):
        return
    args = config["train_neg_sample_args"] or {}
    count, alpha = args.get("sample_num", 1), args.get("alpha", 1.0)
    drawn = args and args.get("distribution", "uniform") not in (None, "none", "None")
    if drawn and not is_number(alpha):
        raise UserError(f"train_neg_sample_args.alpha is {alpha!r}; it must be a number.")
    if not drawn or not isinstance(count, int) or count < 1:
        raise UserError(
            f"loss_type {config['loss_type']} compares targets with sampled negatives, but "
            f"train_neg_sample_args is {args if drawn else None}; give it a distribution "
            "('uniform' or 'popularity') and a sample_num of at least 1, or set loss_type: CE."
        )
