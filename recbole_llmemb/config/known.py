"""Which keys there are: those that a model reads, those of others, and what has no effect."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from logging import getLogger
from typing import Any

from recbole_llmemb.config.keys import declared
from recbole_llmemb.config.values import recbole_folder
from recbole_llmemb.core.errors import UserError, nearest

# What RecBole's code reads without having a default for it.
_WITHOUT_DEFAULT = {
    "model", "dataset", "config_files", "benchmark_filename", "seq_len", "preload_weight",
    "encoding", "eta", "beta", "tail_ratio", "contrast", "sim", "token_num_threshold",
    "xgb_early_stopping_rounds", "exclude_history", "use_filter", "has_residual", "norm", "cin",
    "feature_num", "verbose", "MASK_ITEM_SEQ",
}  # fmt: skip
# What ``run_recboles`` tells each of its processes, who then wait for one another.
_OF_PROCESSES = {"local_rank", "world_size", "nproc", "ip", "port", "offset", "group_offset"}
#: Keys of RecBole before 1.2, or that it sets itself, by what to set; "": nothing is to be set.
_TODAY = {
    "eval_args": "eval_setting",
    "eval_args (split: {'RS': [0.8, 0.1, 0.1]})": "split_ratio",
    "eval_args (split: {'LS': 'valid_and_test'})": "leave_one_num",
    "eval_args (group_by)": "group_by_user",
    "eval_args (mode)": "eval_neg_sample_args valid_neg_sample_args test_neg_sample_args",
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
_TYPED = ("preset", "protocol", "config_files", "result_json", "seeds")
# What RecBole reads inside two of its dictionaries.
_INSIDE = {
    "eval_args": ("split", "group_by", "order", "mode"),
    "train_neg_sample_args": ("distribution", "sample_num", "alpha", "dynamic", "candidate_num"),
}


def known_keys(config: Any) -> set[str]:
    """Keys that mean something to the model of a configuration, which has its defaults at least."""
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
            told = f"--{key} is a key of other models, which {model} does not read"
            advice = "leave it out, or give it to a teacher by align_teacher_config"
            raise UserError(f"{told}; {advice}.", key=key)
        near = nearest(key, known, 1)
        hint = f"; did you mean --{near[0]}?" if near else "; see the configuration reference."
        raise UserError(f"--{key} is not a configuration key{hint}", key=key)


def _advice(key: str) -> str:
    """What to do instead of setting a key of an older RecBole."""
    new = OLD[key]
    return f"a key of older RecBoles: {f'set {new} instead' if new else 'leave it out'}"


def tell_strange(given: Mapping[str, Any], known: set[str], own_code: bool = False) -> None:
    """Warn of keys that have no effect.

    Those of other models are no mistake: one file often serves several. ``own_code`` may read any.
    """
    warn, strange = getLogger().warning, sorted(given.keys() - known)
    everything = known | keys_of_any_model() | _OF_PROCESSES if strange else known
    for key in strange:
        shown = key if key.strip() and key.isprintable() else repr(key)
        outer = [one for one, parts in _INSIDE.items() if key in parts]
        near = [] if key in everything else nearest(key, everything, 1, 0.85)
        if key in OLD:
            warn(f"{key} has no effect: it is {_advice(key)}.")
        elif outer and (key not in everything or key == "order"):
            warn(f"{key} has no effect here: set it inside {outer[0]}.")
        elif near:
            warn(f"{shown} is no configuration key: {near[0]} is meant?")
        elif key not in everything and not own_code:
            within = known.intersection(given[key] if isinstance(given[key], dict) else ())
            advice = f": set {', '.join(sorted(within))} outside of it" if within else ""
            warn(f"{shown} is no configuration key and has no effect{advice}.")


def warn_of_keys(config: Any, own_code: bool) -> None:
    """Say which keys of files, dictionaries and the command line have no effect; refuse such parts.

    ``own_code``: whether code of somebody's own takes part, see :func:`tell_strange`.
    """
    given = {key: one for key, one in config.external_config_dict.items() if isinstance(key, str)}
    if "MODEL_TYPE" in given:  # what else RecBole finds out itself, it finds out in spite of files
        told = "MODEL_TYPE is no setting but follows from the model; leave it out."
        raise UserError(told, key="MODEL_TYPE")
    for key, value in given.items():  # even logs make floats of them
        if isinstance(value, int) and abs(value) > 1e300:
            told = f"{key} has {len(f'{value:x}')} digits (in hexadecimal); write a smaller number."
            raise UserError(told, key=key)
    for key in given:
        if key in _TYPED and (key in config.file_config_dict or key in config.variable_config_dict):
            told = f"{key} has no effect among settings: it is an option of the command line"
            raise UserError(f"{told}, and of execute; give --{key} there.", key=key)
        outer, point, inner = key.partition(".")
        if point and outer in _INSIDE:
            raise UserError(f"{key} has no effect; set {inner} inside {outer}.", key=outer)
    waiting = {"local_rank"} if own_code else _OF_PROCESSES  # which that code may call so
    for key in sorted(waiting & config.file_config_dict.keys()):
        told = f"{key} is not for files: RecBole's run_recboles tells its processes"
        raise UserError(f"{told}; leave it out.", key=key)
    known = known_keys(config)
    tell_strange(given, known, own_code)
    for key, parts in _INSIDE.items():
        value = given.get(key)
        for part in value if isinstance(value, dict) else ():
            if part not in parts:
                advice = "set it beside" if part in known else f"{', '.join(parts)} are in"
                raise UserError(f"{key}.{part} has no effect; {advice} {key}.", key=key)


def keys_of_any_model() -> set[str]:
    """Keys for which RecBole or this package has a default, whatever the model."""
    found, folder = {name for name, _ in declared()} | _WITHOUT_DEFAULT, recbole_folder()
    files = (folder / "properties").rglob("*.yaml") if folder else ()
    for file in (f for f in files if not f.stem.endswith("url")):  # of data sets to be fetched
        found.update(re.findall(r"^(\w+) *:", file.read_text(encoding="utf-8"), re.MULTILINE))
    return found
