"""Models by name, those over RecBole's backbones made when they are asked for; and what each
means for the configuration: defaults, and settings that it cannot have.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import AbstractContextManager
from logging import getLogger
from pathlib import Path
from typing import Any

import recbole
import yaml
from recbole.config import Config
from recbole.data.transform import UserDefinedTransform
from recbole.evaluator.register import metrics_dict
from recbole.model.abstract_recommender import SequentialRecommender

from recbole_llmemb.config.keys import draws_none
from recbole_llmemb.config.shared import TrainingSettings
from recbole_llmemb.config.values import recboles_models
from recbole_llmemb.core.errors import FAILURES, UserError, explained, nearest
from recbole_llmemb.core.registry import code_digests, import_paths_in, is_import_path
from recbole_llmemb.models.llmemb.backbones import BACKBONES, NAMES, PREFIX, BackboneSpec, special
from recbole_llmemb.models.llmemb.model import LLMEmbMixin
from recbole_llmemb.models.llmemb.parts import ADAPTERS, ITEM_EMBEDDINGS
from recbole_llmemb.models.llmsrec.model import LLMSRec
from recbole_llmemb.models.settings import ItemSettings
from recbole_llmemb.records.reader import open_records

#: Where RecBole looks for sequential models, each in a module called as it is in small letters.
PLACE = "recbole.model.sequential_recommender"
#: Model classes by name; those over RecBole's backbones once they were asked for.
MODELS: dict[str, type] = {"LLMSRec": LLMSRec}
# Models over RecBole's backbones, served or not, by name.
_OVER = {PREFIX + name: name for name in BACKBONES}
# What a backbone's class may say of itself.
_SAID = ("one_pass", "padding_free", "losses", "products", "size_key")
# Packages whose classes are nobody's own.
_KNOWN = ("recbole", "recbole_llmemb")
# Fields that say what kind of item it is, under the names they go by.
_FEATURES = ("class", "categories", "category", "genres", "genre")
# Keys of scores that are a state times an item.
_OF_SCORES = (
    "item_similarity", "similarity_temperature", "learn_temperature", "popularity_adjustment",
    "softmax_negatives",
)  # fmt: skip


def is_ours(model: str) -> bool:
    """Whether this model name belongs to this package."""
    return model in MODELS or model in _OVER


def names() -> list[str]:
    """The models that there are: over RecBole's backbones, and registered ones."""
    return list(dict.fromkeys([*NAMES, *MODELS]))


def find(model: str) -> Any:
    """The class of a model of this package; None for any other."""
    return model_class(model) if is_ours(model) else None


def has_module(name: str) -> bool:
    """Whether a model's module is called so: its name in small letters."""
    return name in {model.lower() for model in (*MODELS, *_OVER)}


def model_class(name: str) -> Any:
    """The class of one of our models, by its name."""
    if name in MODELS:
        return MODELS[name]
    if name not in _OVER:
        raise no_such_model(name)
    backbone = _OVER[name]
    spec = BACKBONES[backbone]
    if spec.unsupported:
        told = f"There is no {name}: {backbone} is no backbone, as {spec.unsupported}"
        raise UserError(f"{told}; the documentation's page on backbones lists those there are.")
    module = importlib.import_module(f"{PLACE}.{backbone.lower()}")
    return _make(getattr(module, backbone), spec)


def look_up(model):
    """The class of a model of ours, refusing one that there is not; anything else as it is.

    ``model``: A class is registered, so that RecBole knows it by name too.
    """
    if isinstance(model, str) and model.lower().startswith(PREFIX.lower()):
        return model_class(model)
    if isinstance(model, type) and hasattr(model, "backbone"):
        return register(model)
    return model


def llmemb(backbone: type) -> type:
    """Give a sequential model an item table: the model ``LLMEmb<its name>``.

    Parameters
    ----------
    backbone : type
        A RecBole sequential model that reads its items through ``self.item_embedding``. Its
        ``forward`` has arguments called as in RecBole's models (``item_seq``,
        ``item_seq_len``, ``user``). Its attributes ``products``, ``one_pass``, ``padding_free``
        and ``size_key`` say what it can do; without them the safe case is assumed.
        :func:`recbole_llmemb.testing.verify_backbone` finds out which hold.

    Returns
    -------
    type
        A class that RecBole takes where it takes a model, and knows by name from now on.

    Raises
    ------
    UserError
        Not a sequential model, one that cannot be served, or a name that is taken.
    """
    if not (isinstance(backbone, type) and issubclass(backbone, SequentialRecommender)):
        shown = getattr(backbone, "__name__", repr(backbone))
        raise UserError(f"{shown} is no sequential model of RecBole; give such a class.")
    name = PREFIX + backbone.__name__
    if backbone.__name__ in BACKBONES:
        if backbone.__module__.startswith(f"{PLACE}."):
            return model_class(name)
        raise UserError(f"{name} is a model already; give the class {backbone} another name.")
    if getattr(MODELS.get(name), "backbone", None) is backbone:
        return MODELS[name]
    return _make(backbone, _declared(backbone))


def register(model_class: type) -> type:
    """Make RecBole's own entry points know a model class of ours under its class name.

    Parameters
    ----------
    model_class : type
        A subclass of :class:`~recbole_llmemb.models.llmemb.model.LLMEmbMixin` and a RecBole
        sequential model.

    Returns
    -------
    type
        The class, so that this can be used as a decorator.
    """
    MODELS[model_class.__name__] = model_class
    return model_class


def own_code_explained(config) -> AbstractContextManager[None]:
    """Where somebody's own code takes part: says in a sentence what went wrong, and where.

    As that code may return anything, the error may come up later, in this package's.
    """
    own = own_parts(config)
    told = f"Training with {' and '.join(own)} fails: {{reason}} ({{place}})"
    return explained(f"{told}; mend that code.", *FAILURES if own else ())


def own_parts(config) -> list[str]:
    """What of somebody's own takes part: the model or its backbone, and what has an import path."""
    model = config.model_class
    kinds = model, getattr(model, "backbone", model)
    own = [kind.__name__ for kind in kinds if kind.__module__.partition(".")[0] not in _KNOWN]
    own += [path for _, path in import_paths_in(config.final_config_dict)]
    return list(dict.fromkeys(own))


def own_code(config) -> dict[str, str]:
    """Digests of the files of somebody's own model, adapter, items, loss and metrics, by module.

    See :func:`~recbole_llmemb.core.registry.code_digests`.
    """
    model = config.model_class
    known = [model, getattr(model, "backbone", model)]  # by its name
    known += [metrics_dict.get(str(name).lower()) for name in config["metrics"] or ()]
    named = set()
    for _, path in import_paths_in(config.final_config_dict):
        name, _, part = path.partition(":")
        named |= {name, getattr(getattr(sys.modules.get(name), part, None), "__module__", name)}
    return code_digests(named, {one.__module__ for one in known if one}, _KNOWN)


def no_such_model(name: str) -> UserError:
    """An error that names those that are called almost so."""
    near = " or ".join(nearest(name, [*names(), *recboles_models()]))
    advice = f"take {near}" if near else "the documentation's page on backbones lists them"
    return UserError(f"There is no model {name!r}; {advice}.", key="model")


def _declared(backbone) -> BackboneSpec:
    """What somebody's own class says of itself."""
    earlier = "causal" if getattr(backbone, "causal", False) else ""  # as earlier releases had it
    one_pass = getattr(backbone, "one_pass", earlier)
    products = getattr(backbone, "products", bool(one_pass))
    if one_pass not in ("", "causal") or (one_pass and not products):
        told = f"{backbone.__name__} says one_pass = {one_pass!r}; it may be 'causal' in a model of"
        raise UserError(f"{told} yours whose scores are products (products = True), or empty.")
    losses = BackboneSpec.losses if products else ("CE", "BPR")
    said: dict[str, Any] = dict(zip(_SAID, (one_pass, False, losses, products, "")))
    return BackboneSpec(**{name: getattr(backbone, name, said[name]) for name in _SAID})


def _make(backbone, spec):
    name = PREFIX + backbone.__name__
    base = getattr(special, f"{backbone.__name__}Model", LLMEmbMixin)
    contents = {key: getattr(spec, key) for key in _SAID} | {
        "__doc__": f"{backbone.__name__} over an LLM item table (LLMEmb §3.3).",
        "__module__": f"{PLACE}.{name.lower()}",
        "backbone": backbone,
        "reads": base.reads | ({"item_fields"} if spec.item_fields else set()),
        "similarity": spec.products,
    }
    return register(type(name, (base, backbone), contents))


# -- what a model means for the configuration --------------------------------------------


def backbones_defaults(model_class) -> dict:
    """RecBole's defaults of a model's backbone, and of the backbones that it extends."""
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
    undefined = UserDefinedTransform.__call__.__module__ == UserDefinedTransform.__module__
    if training.transform == "user_defined" and undefined:  # which makes nothing of a batch
        advice = "give recbole.data.transform.UserDefinedTransform a __call__, or leave it out"
        told = "transform is 'user_defined', but nobody has defined it"
        raise UserError(f"{told}; {advice}.", key="transform")
    wrong = {}
    if training.train_mode == "sequence" and not model_class.one_pass:
        wrong["train_mode"] = "is not causal at every position; set train_mode: prefix"
    plain = model_class.similarity and model_class.scores_are_products(values)
    theirs = plain and is_import_path(training.loss_type)
    if training.loss_type not in model_class.losses and not theirs:
        wrong["loss_type"] = f"has a loss of its own that offers {' and '.join(model_class.losses)}"
    for key in () if plain else _OF_SCORES:
        field = ItemSettings.model_fields.get(key) or TrainingSettings.model_fields[key]
        if values.get(key, field.default) not in (None, field.default):
            wrong[key] = "makes scores in a way of its own; leave it at its default"
    own = getattr(model_class.Keys, "model_fields", {})
    few = "train_targets" not in own and training.train_targets != "every"
    causal = model_class.one_pass == "causal" and training.train_mode == "sequence"
    if few and not (causal and training.train_targets == "last"):
        wrong["train_targets"] = "trains on every target, or, causal in sequence mode, on the last"
    trims = training.prefix_trim and training.train_mode == "prefix"
    if trims and not model_class.is_padding_free(values):
        wrong["prefix_trim"] = "does not give the same without padding; set it to False"
    if values.get("train_stage") not in (None, "finetune"):
        wrong["train_stage"] = "can be fine-tuned only; name a checkpoint by pre_model_path"
    for key, fewest in getattr(model_class, "fewest", {}).items():
        if values[key] < fewest:
            wrong[key] = f"needs at least {fewest}"
    for key, why in wrong.items():
        raise _unfit(values, key, model_class, why)


def _unfit(values, key, model_class, why) -> UserError:
    shown = f"{key} is {values.get(key)!r}"
    return UserError(f"{shown}, but {model_class.__name__} {why}.", key=key)


def settle_features(values, given: dict, model_class) -> None:
    """For a backbone that reads fields of the items: choose them, and let them be loaded.

    ``values``: the configuration, with its ``data_path`` complete; changed in place.
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
        if item_id in missing:
            what = f"knows {item_id!r} as the item itself"
        told = f"{name} reads fields of the items, but {file} {what}"
        has = ", ".join(kinds) or "nothing"
        raise UserError(f"{told}; set {key} to what it has: {has}.", key=key)
    numbers = [field for field in wanted if kinds[field].startswith("float")]
    unread = numbers if key == "item_attribute" else []
    if any(base.__name__ == "SASRecF" for base in model_class.__mro__):
        unread = [field for field in numbers if kinds[field] == "float_seq"]
    if unread:
        told = f"{key} names {unread[0]}, of type {kinds[unread[0]]}, which {name} cannot read"
        raise UserError(f"{told}; leave it out, or take another backbone.", key=key)
    # RecBole leaves out chosen fields with numbers unless numerical_features names them, too.
    named = [*(values.get("numerical_features") or []), *numbers]
    values["numerical_features"] = list(dict.fromkeys(named))
    values[key] = wanted[0] if key == "item_attribute" else wanted
    columns = values.get("load_col")
    if columns is not None and columns.get("item") != "*":  # which is all of them
        loaded = [*(columns.get("item") or [item_id]), *wanted]
        values["load_col"] = {**columns, "item": list(dict.fromkeys(loaded))}
