"""Models by name: those over RecBole's backbones, made when they are asked for, and others."""

from __future__ import annotations

import importlib
from typing import Any

from recbole.model.abstract_recommender import SequentialRecommender

from recbole_llmemb.config.values import recboles_models
from recbole_llmemb.core.errors import UserError, nearest
from recbole_llmemb.models.llmemb.backbones import BACKBONES, NAMES, PREFIX, BackboneSpec, special
from recbole_llmemb.models.llmemb.model import LLMEmbMixin
from recbole_llmemb.models.llmsrec.model import LLMSRec

#: Where RecBole looks for sequential models, each in a module called as it is in small letters.
PLACE = "recbole.model.sequential_recommender"
#: Model classes by name; those over RecBole's backbones once they were asked for.
MODELS: dict[str, type] = {"LLMSRec": LLMSRec}
# Models over RecBole's backbones, served or not, by name.
_OVER = {PREFIX + name: name for name in BACKBONES}
# What a backbone's class may say of itself.
_SAID = ("one_pass", "padding_free", "losses", "products", "size_key")


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
        raise UserError(
            f"There is no {name}: {backbone} is not supported as a backbone, as "
            f"{spec.unsupported}; the documentation's page on backbones lists those that are."
        )
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


def no_such_model(name: str) -> UserError:
    """An error that names those that are called almost so."""
    near = " or ".join(nearest(name, [*names(), *recboles_models()]))
    advice = (
        f"take {near}" if near else "the documentation's page on backbones lists those there are"
    )
    return UserError(f"There is no model {name!r}; {advice}.", key="model")


def _declared(backbone) -> BackboneSpec:
    """What somebody's own class says of itself."""
    earlier = "causal" if getattr(backbone, "causal", False) else ""  # as earlier releases had it
    one_pass = getattr(backbone, "one_pass", earlier)
    products = getattr(backbone, "products", bool(one_pass))
    if one_pass not in ("", "causal") or (one_pass and not products):
        raise UserError(
            f"{backbone.__name__} says one_pass = {one_pass!r}; a model of your own may say "
            "'causal', if its scores are products of a state and item_embedding (products = True)."
        )
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
