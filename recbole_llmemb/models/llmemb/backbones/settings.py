"""What a backbone means for the configuration: defaults, and settings it cannot have."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path

import yaml

from recbole_llmemb.config.keys import draws_none
from recbole_llmemb.config.shared import TrainingSettings
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.registry import is_import_path
from recbole_llmemb.models.llmemb.parts import ADAPTERS, ITEM_EMBEDDINGS
from recbole_llmemb.models.llmemb.settings import ItemSettings
from recbole_llmemb.records.reader import open_records

# Fields that say what kind of item it is, under the names they go by.
_FEATURES = ("class", "categories", "category", "genres", "genre")
# Keys of scores that are a state times an item.
_OF_SCORES = (
    "item_similarity", "similarity_temperature", "learn_temperature", "popularity_adjustment",
    "softmax_negatives",
)  # fmt: skip


def backbones_defaults(model_class) -> dict:
    """RecBole's defaults of a model's backbone, and of the backbones that it extends."""
    import recbole
    from recbole.config import Config

    loader = Config._build_yaml_loader(None)  # which knows 1e-12 for a number
    folder = Path(recbole.__file__).parent / "properties" / "model"
    merged: dict = {}
    for base in reversed(model_class.__mro__):
        file = folder / f"{base.__name__}.yaml"
        if file.is_file():
            merged.update(yaml.load(file.read_text(encoding="utf-8"), Loader=loader) or {})
    return merged


def settle(values: dict, given: dict, model_class) -> None:
    """Fill in what depends on the backbone where nobody has asked for something else.

    ``values``: the configuration, changed in place: ``train_mode`` says ``sequence`` or ``prefix``.
    ``given``: what the user has set.
    ``model_class``: one of our models.
    """
    if values.get("train_mode") is None:
        values["train_mode"] = "sequence" if model_class.one_pass else "prefix"
    if given.get("loss_type") is None:
        if values.get("loss_type") not in model_class.losses:
            values["loss_type"] = model_class.losses[0]
        if draws_none(given.get("train_neg_sample_args", {})) and values["loss_type"] != "CE":
            if "CE" not in model_class.losses:
                why = f"compares targets with negatives ({' and '.join(model_class.losses)})"
                raise _unfit(values, "train_neg_sample_args", model_class, f"{why}; leave it out")
            values["loss_type"] = "CE"
            told = "train_neg_sample_args is empty, so loss_type is CE; set it for another."
            getLogger().warning(told)
    if given.get("train_stage") is None and "train_stage" in values:
        values["train_stage"] = "finetune"
    if values.get("transform") == "inverse_itemseq" and "transform" not in given:
        values["transform"] = None  # the model reverses histories itself, a batch at a time


def check_backbone(values: dict, model_class) -> None:
    """Refuse settings that a backbone cannot have, instead of ignoring them."""
    training = TrainingSettings.of(values)
    for parts in (ADAPTERS, ITEM_EMBEDDINGS):
        if is_import_path(values.get(parts.key)):
            parts[values[parts.key]]  # refused now, before anything is encoded for it
    if training.train_mode == "sequence" and not model_class.one_pass:
        why = "is not causal, or gives no output at every position; set train_mode: prefix"
        raise _unfit(values, "train_mode", model_class, why)
    plain = model_class.similarity and model_class.scores_are_products(values)
    theirs = plain and is_import_path(training.loss_type)
    if training.loss_type not in model_class.losses and not theirs:
        why = f"has a loss of its own that offers {' and '.join(model_class.losses)} only"
        raise _unfit(values, "loss_type", model_class, why)
    for key in () if plain else _OF_SCORES:
        field = ItemSettings.model_fields.get(key) or TrainingSettings.model_fields[key]
        if values.get(key, field.default) not in (None, field.default):
            why = "makes scores in a way of its own; leave it at its default"
            raise _unfit(values, key, model_class, why)
    own = getattr(model_class.Keys, "model_fields", {})
    few = "train_targets" not in own and training.train_targets != "every"
    causal = model_class.one_pass == "causal" and training.train_mode == "sequence"
    if few and not (causal and training.train_targets == "last"):
        why = "trains on every target, or in train_mode: sequence, if it is causal, on the last"
        raise _unfit(values, "train_targets", model_class, why)
    trims = training.prefix_trim and training.train_mode == "prefix"
    if trims and not model_class.is_padding_free(values):
        why = "does not give the same without the padding of its histories; set it to False"
        raise _unfit(values, "prefix_trim", model_class, why)
    if values.get("train_stage") not in (None, "finetune"):
        why = "can be fine-tuned only; let pre_model_path name a checkpoint of RecBole's own"
        raise _unfit(values, "train_stage", model_class, why)


def _unfit(values, key, model_class, why) -> UserError:
    shown = f"{key} is {values.get(key)!r}"
    return UserError(f"{shown}, but {model_class.__name__} {why}.", key=key)


def settle_features(values, given: dict, model_class) -> None:
    """For a backbone that reads fields of the items: choose them, and let them be loaded.

    ``values``: the configuration, with its ``data_path`` complete; changed in place.
    ``given``: what the user has set.
    ``model_class``: one of our models, or one of RecBole's that reads such fields.
    """
    key = "item_attribute" if "item_attribute" in values else "selected_features"
    name, item_id = model_class.__name__, values["ITEM_ID_FIELD"]
    file = Path(values["data_path"]) / f"{values['dataset']}.item"
    if not file.is_file():
        told = f"{name} reads fields of the items, but there is no {file}; take another model."
        raise UserError(told, where=file)
    separator, encoding = values["field_separator"], values.get("encoding")
    items = open_records(file, "atomic", delimiter=separator, encoding=encoding)
    kinds = {field: of for field, of in zip(items.columns, items.types) if field != item_id}
    wanted = given.get(key)
    if wanted is None:  # RecBole's default, if this dataset has it
        wanted = values[key] if isinstance(values[key], list) else [values[key]]
        if not set(wanted) <= set(kinds):
            wanted = [field for field in _FEATURES if field in kinds]
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(wanted, (list, tuple)) or any(not isinstance(one, str) for one in wanted):
        raise UserError(f"{key} is {wanted!r}; it must be a list of fields of {file}.", key=key)
    wanted = list(dict.fromkeys(wanted))
    missing = [field for field in wanted if field not in kinds]
    if missing or not wanted:
        what = f"has no field {missing[0]!r}" if missing else f"has none of {', '.join(_FEATURES)}"
        raise UserError(
            f"{name} reads fields of the items, but {file} {what}; "
            f"set {key} to what it has: {', '.join(kinds) or 'nothing'}.",
            key=key,
        )
    numbers = [field for field in wanted if kinds[field].startswith("float")]
    unread = numbers if key == "item_attribute" else []
    if any(base.__name__ == "SASRecF" for base in model_class.__mro__):
        unread = [field for field in numbers if kinds[field] == "float_seq"]
    if unread:
        raise UserError(
            f"{key} names {unread[0]}, of type {kinds[unread[0]]}, which {name} cannot read; leave "
            "it out, or take another backbone.",
            key=key,
        )
    # RecBole leaves out chosen fields with numbers unless numerical_features names them, too.
    named = [*(values.get("numerical_features") or []), *numbers]
    values["numerical_features"] = list(dict.fromkeys(named))
    values[key] = wanted[0] if key == "item_attribute" else wanted
    columns = values.get("load_col")
    if columns is not None and columns.get("item") != "*":  # which is all of them
        loaded = [*(columns.get("item") or [item_id]), *wanted]
        values["load_col"] = {**columns, "item": list(dict.fromkeys(loaded))}
