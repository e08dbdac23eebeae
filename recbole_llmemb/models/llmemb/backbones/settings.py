"""What a backbone means for the configuration: defaults, and settings it cannot have."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path

import yaml

from recbole_llmemb.config.shared import TrainingSettings
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.registry import is_import_path
from recbole_llmemb.core.text import first_line
from recbole_llmemb.models.llmemb.parts import ADAPTERS, ITEM_EMBEDDINGS
from recbole_llmemb.models.llmemb.settings import ItemSettings

# Fields that say what kind of item it is, under the names they go by.
_FEATURES = ("class", "categories", "category", "genres", "genre")
# Keys of scores that are a state times an item.
_OF_SCORES = (
    "item_similarity", "similarity_temperature", "learn_temperature", "popularity_adjustment"
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
        _settle_loss(values, given, model_class)
    if given.get("train_stage") is None and "train_stage" in values:
        values["train_stage"] = "finetune"
    if values.get("transform") == "inverse_itemseq" and "transform" not in given:
        values["transform"] = None  # the model reverses histories itself, a batch at a time


def draws_none(settings) -> bool:
    """Whether settings say that no negatives are drawn, by which RecBole means cross-entropy."""
    args = settings.get("train_neg_sample_args", {})
    args = args.get("distribution", "") if isinstance(args, dict) else args
    return args is None or str(args).lower() == "none"


def _settle_loss(values, given, model_class):
    """The loss without negatives, where the user has named none."""
    args = values.get("train_neg_sample_args")
    if not draws_none(given) or values["loss_type"] == "CE":
        return
    if "CE" not in model_class.losses:
        raise UserError(
            f"train_neg_sample_args is {args}, but {model_class.__name__} compares targets with "
            f"sampled negatives ({' and '.join(model_class.losses)}); leave it out."
        )
    values["loss_type"] = "CE"
    getLogger().warning("train_neg_sample_args is empty, so loss_type is CE; set it for another.")


def check_backbone(values: dict, model_class) -> None:
    """Refuse settings that a backbone cannot have, instead of ignoring them."""
    training, name = TrainingSettings.of(values), model_class.__name__
    for parts in (ADAPTERS, ITEM_EMBEDDINGS):
        if is_import_path(values.get(parts.key)):
            parts[values[parts.key]]  # refused now, before anything is encoded for it
    if training.train_mode == "sequence" and not model_class.one_pass:
        raise UserError(
            f"{name} is not causal (or gives no output at every position), so a pass over a "
            "whole sequence would show it its targets; set train_mode: prefix.",
            key="train_mode",
        )
    own_loss = is_import_path(training.loss_type) and model_class.similarity
    if training.loss_type not in model_class.losses and not own_loss:
        raise UserError(
            f"loss_type is {training.loss_type!r}, but {name} has a loss of its own that offers "
            f"{' and '.join(model_class.losses)} only; set loss_type: {model_class.losses[0]}.",
            key="loss_type",
        )
    if not model_class.similarity:
        for key in _OF_SCORES:
            field = ItemSettings.model_fields.get(key) or TrainingSettings.model_fields[key]
            if values.get(key, field.default) not in (None, field.default):
                raise UserError(
                    f"{key} is {values[key]!r}, but {name} makes scores in a way of its own; "
                    f"leave {key} at its default.",
                    key=key,
                )
    trims = training.prefix_trim and training.train_mode == "prefix"
    if trims and not model_class.is_padding_free(values):
        raise UserError(
            f"prefix_trim is on, but {name} does not give the same without the padding of "
            "its histories; set prefix_trim: False.",
            key="prefix_trim",
        )
    if values.get("train_stage") not in (None, "finetune"):
        raise UserError(
            f"train_stage is {values['train_stage']!r}, but {name} offers fine-tuning only; "
            "pre-train RecBole's own model, name its checkpoint in pre_model_path, and leave "
            "train_stage out.",
            key="train_stage",
        )


def settle_features(values, given: dict, model_class) -> None:
    """For a backbone that reads fields of the items: choose them, and let them be loaded.

    ``values``: the configuration, with its ``data_path`` complete; changed in place.
    ``given``: what the user has set.
    ``model_class``: one of our models, or one of RecBole's that reads such fields.
    """
    key = "item_attribute" if "item_attribute" in values else "selected_features"
    name = model_class.__name__
    file = Path(values["data_path"]) / f"{values['dataset']}.item"
    try:
        header = first_line(file, values.get("encoding"))
    except OSError:
        raise UserError(
            f"{name} reads fields of the items, but there is no {file}; take another model."
        ) from None
    columns = (column.partition(":") for column in header.split(values["field_separator"]))
    kinds = {field: kind for field, _, kind in columns if field != values["ITEM_ID_FIELD"]}
    fields = list(kinds)
    wanted = given.get(key)
    if wanted is None:  # RecBole's default, if this dataset has it
        default = values[key] if isinstance(values[key], list) else [values[key]]
        has_it = set(default) <= set(fields)
        wanted = default if has_it else [field for field in _FEATURES if field in fields]
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(wanted, (list, tuple)) or any(not isinstance(one, str) for one in wanted):
        raise UserError(f"{key} is {wanted!r}; it must be a list of fields of {file}.")
    wanted = list(dict.fromkeys(wanted))
    missing = [field for field in wanted if field not in fields]
    if missing or not wanted:
        what = f"has no field {missing[0]!r}" if missing else f"has none of {', '.join(_FEATURES)}"
        raise UserError(
            f"{name} reads fields of the items, but {file} {what}; "
            f"set {key} to what it has: {', '.join(fields) or 'nothing'}."
        )
    _settle_numbers(values, key, {field: kinds[field] for field in wanted}, model_class)
    values[key] = wanted[0] if key == "item_attribute" else wanted
    columns = values.get("load_col")
    if columns is not None and columns.get("item") != "*":  # which is all of them
        loaded = list(columns.get("item") or [values["ITEM_ID_FIELD"]])
        loaded += [field for field in wanted if field not in loaded]
        values["load_col"] = {**columns, "item": loaded}


def _settle_numbers(values, key, kinds, model_class):
    """RecBole leaves out chosen fields with numbers unless numerical_features names them, too."""
    for field, kind in kinds.items():
        counted = kind == "float_seq" and "SASRecF" in [
            base.__name__ for base in model_class.__mro__
        ]
        if counted or (kind.startswith("float") and key == "item_attribute"):
            raise UserError(
                f"{key} names {field}, of type {kind}, which {model_class.__name__} cannot read; "
                "leave it out" + (", or take GRU4RecF or FDSA for a backbone." if counted else ".")
            )
    named = list(values.get("numerical_features") or [])
    numbers = [field for field, kind in kinds.items() if kind.startswith("float")]
    values["numerical_features"] = named + [field for field in numbers if field not in named]
