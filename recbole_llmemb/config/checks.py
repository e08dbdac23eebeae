"""What is refused of a configuration, or told: values that cannot be, and keys nothing reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from logging import getLogger
from typing import Any

from recbole_llmemb.config.keys import Use, declared, sections_of
from recbole_llmemb.config.shared import TrainingSettings
from recbole_llmemb.config.values import recbole_folder
from recbole_llmemb.core.errors import UserError, nearest

# What RecBole's code reads without having a default for it.
_WITHOUT_DEFAULT = {
    "model", "dataset", "config_files", "benchmark_filename", "seq_len", "preload_weight",
    "encoding", "eta", "beta", "tail_ratio", "contrast", "sim", "valid_neg_sample_args",
    "test_neg_sample_args", "token_num_threshold", "xgb_early_stopping_rounds", "exclude_history",
}  # fmt: skip
#: Keys of RecBole before 1.2 by what to set today; "": nothing has taken their place.
_TODAY = {
    "eval_args": "eval_setting",
    "eval_args (split: {'RS': [0.8, 0.1, 0.1]})": "split_ratio",
    "eval_args (split: {'LS': 'valid_and_test'})": "leave_one_num",
    "eval_args (group_by)": "group_by_user",
    "eval_args (mode)": "eval_neg_sample_args",
    "train_neg_sample_args": "neg_sampling",
    "train_neg_sample_args (sample_num)": "training_neg_sample_num",
    "train_neg_sample_args (distribution)": "training_neg_sample_distribution",
    "user_inter_num_interval": "min_user_inter_num max_user_inter_num",
    "item_inter_num_interval": "min_item_inter_num max_item_inter_num",
    "val_interval": "lowest_val highest_val equal_val not_equal_val",
    "unused_col": "drop_filter_field drop_preload_weight",
    "alias_of_user_id or alias_of_item_id": "fields_in_same_space",
    "": "real_time_process",
}
OLD = {old: today for today, keys in _TODAY.items() for old in keys.split()}
# What RecBole reads inside two of its dictionaries.
_INSIDE = {
    "eval_args": ("split", "group_by", "order", "mode"),
    "train_neg_sample_args": ("distribution", "sample_num", "alpha", "dynamic", "candidate_num"),
}


def check(values: Mapping[str, Any], model_class: type | None = None) -> None:
    """Refuse impossible values, each in one sentence.

    ``values``: the configuration as given, before RecBole fills in the rest.
    ``model_class``: of ours; without, the keys count that RecBole's own models read.
    """
    only = None if model_class else Use.ANY
    for section in sections_of(model_class):
        section.of(values, only)
    TrainingSettings.of(values, only).check_negatives(values.get("loss_type", ""))


def known_keys(config: Any) -> set[str]:
    """Keys that mean something to a model.

    ``config``: of that model, at least as far as its defaults.
    """
    listed = {key for keys in config.parameters.values() for key in keys}
    own = getattr(config.model_class, "Keys", None)
    listed |= set(own.model_fields) if own else set()
    return listed | set(config.internal_config_dict) | _WITHOUT_DEFAULT


def refuse_keys(keys: Iterable[str], known: set[str], model: str | None = None) -> None:
    """Refuse keys that somebody typed and that mean nothing, to a model or to any."""
    for key in keys:
        if key in OLD:
            raise UserError(f"--{key} is {_advice(key)}.", key=key)
        if key in known:
            continue
        if model and key in keys_of_any_model():
            raise UserError(
                f"--{key} is a key of other models, which {model} does not read; leave it out, or "
                "give it to a teacher by align_teacher_config.",
                key=key,
            )
        near = nearest(key, known, 1)
        hint = f"; did you mean --{near[0]}?" if near else "; see the configuration reference."
        raise UserError(f"--{key} is not a configuration key{hint}", key=key)


def _advice(key: str) -> str:
    """What to do instead of setting a key of an older RecBole."""
    new = OLD[key]
    return f"a key of older RecBoles: {f'set {new} instead' if new else 'leave it out'}"


def warn_of_keys(config: Any) -> None:
    """Say which keys of files, dictionaries and the command line have no effect.

    Those of other models are no mistake: one file often serves several.
    """
    given = {key: one for key, one in config.external_config_dict.items() if isinstance(key, str)}
    known, warn = known_keys(config), getLogger().warning
    strange = sorted(given.keys() - known)
    everything = known | keys_of_any_model() if strange else known
    for key in strange:
        if key in OLD:
            warn(f"{key} has no effect: it is {_advice(key)}.")
            continue
        near = [] if key in everything else nearest(key, everything, 1, 0.85)
        if near:
            warn(f"{key} is no configuration key: {near[0]} is meant?")
    for key, parts in _INSIDE.items():
        value = given.get(key)
        for part in value if isinstance(value, dict) else ():
            if part not in parts and part in known:
                warn(f"{part} has no effect inside {key}: set it beside {key}.")
            elif part not in parts:
                warn(f"{key}.{part} has no effect: {key} is made of {', '.join(parts)}.")


def keys_of_any_model() -> set[str]:
    """Keys for which RecBole or this package has a default, whatever the model."""
    found, folder = {name for name, _ in declared()} | _WITHOUT_DEFAULT, recbole_folder()
    for file in (folder / "properties").rglob("*.yaml") if folder else ():
        found.update(re.findall(r"^(\w+) *:", file.read_text(encoding="utf-8"), re.MULTILINE))
    return found
