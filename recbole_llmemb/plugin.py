"""Our models, at the places where RecBole looks for models, datasets and trainers.

RecBole finds everything by name: ``recbole.model.<kind>.<name in lower case>`` for the
model, ``recbole.data.dataset.<Model>Dataset`` and ``recbole.trainer.<Model>Trainer``.
Nothing in RecBole lists models, so filling these places is all it takes. A model over a
backbone of RecBole is made when somebody looks for it; :func:`llmemb` makes one over any
other.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from recbole_llmemb.core.errors import UserError

PREFIX = "LLMEmb"
_PLACE = "recbole.model.sequential_recommender"

#: Registered model classes by name; those over RecBole's backbones once they were looked for.
MODELS: dict[str, type] = {}


def is_ours(model: str) -> bool:
    """Whether this model name belongs to this package."""
    return model in MODELS or _backbone(model) is not None


def names() -> list[str]:
    """The models that there are: over RecBole's backbones, and registered ones."""
    from recbole_llmemb.models.llmemb.backbones import BACKBONES

    ours = [PREFIX + name for name, traits in BACKBONES.items() if not traits.refused]
    return ours + [name for name in MODELS if name not in ours]


def model_class(name: str) -> type:
    """The class of one of our models, by its name."""
    from recbole_llmemb.models.llmemb.backbones import BACKBONES

    if name in MODELS:
        return MODELS[name]
    backbone = _backbone(name)
    if backbone is None:
        raise UserError(f"There is no model {name!r}; {_nearest(name)}.")
    refused = BACKBONES[backbone].refused
    if refused:
        raise UserError(
            f"{name} cannot be had: {backbone} cannot read items from a table, because {refused}; "
            "take another model (the documentation's page on backbones lists them)."
        )
    module = importlib.import_module(f"{_PLACE}.{backbone.lower()}")
    return _make(getattr(module, backbone), BACKBONES[backbone])


def llmemb(backbone: type) -> type:
    """Give a sequential model an item table: the model ``LLMEmb<its name>``.

    Parameters
    ----------
    backbone : type
        A RecBole sequential model that reads its items through ``self.item_embedding``. Its
        ``forward`` has arguments called as in RecBole's models (``item_seq``,
        ``item_seq_len``, ``user``). With the attribute ``causal = True`` it is trained at
        every position unless told otherwise.

    Returns
    -------
    type
        A class that RecBole takes where it takes a model, and knows by name from now on.

    Raises
    ------
    UserError
        Not a sequential model, one that cannot be served, or a name that is taken.
    """
    from recbole.model.abstract_recommender import SequentialRecommender

    from recbole_llmemb.models.llmemb.backbones import BACKBONES, Traits

    if not (isinstance(backbone, type) and issubclass(backbone, SequentialRecommender)):
        shown = getattr(backbone, "__name__", repr(backbone))
        raise UserError(f"{shown} is no sequential model of RecBole; give such a class.")
    name = PREFIX + backbone.__name__
    if backbone.__name__ in BACKBONES:
        if backbone.__module__.startswith(f"{_PLACE}."):
            return model_class(name)
        raise UserError(f"{name} is a model already; give the class {backbone} another name.")
    if getattr(MODELS.get(name), "backbone", None) is backbone:
        return MODELS[name]
    return _make(backbone, Traits(causal=getattr(backbone, "causal", None)), known=False)


def _make(backbone, traits, known=True):
    base = _base(traits)
    name = PREFIX + backbone.__name__
    contents = {
        "__doc__": f"{backbone.__name__} over an LLM item table (LLMEmb §3.3).",
        "__module__": f"{_PLACE}.{name.lower()}",
        "backbone": backbone,
        "features": traits.features,
        "losses": traits.losses,
        "similarity": traits.similarity,
        "causal": traits.causal,
        "trims": {"always": True, "never": False}.get(traits.trims, traits.trims),
        "known": known,
    }
    return register(type(name, (base, backbone), contents))


def _base(traits):
    from recbole_llmemb.models.llmemb.model import LLMEmbMixin

    if not traits.kind:
        return LLMEmbMixin
    module = "bert4rec" if traits.kind == "BERT4RecModel" else "special"
    return getattr(
        importlib.import_module(f"recbole_llmemb.models.llmemb.backbones.{module}"), traits.kind
    )


def _backbone(name):
    """RecBole's sequential model that a name of ours stands for, or None."""
    from recbole_llmemb.models.llmemb.backbones import BACKBONES

    backbone = str(name).removeprefix(PREFIX)
    return backbone if str(name) == PREFIX + backbone and backbone in BACKBONES else None


def _nearest(name):
    offered = names()
    by_lower = {one.lower(): one for one in offered}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=3)
    if not near:
        return "the documentation's page on backbones lists those there are"
    return "take " + " or ".join(by_lower[one] for one in near)


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
    import recbole.data.dataset
    import recbole.trainer

    from recbole_llmemb.data.dataset import LazySequentialDataset
    from recbole_llmemb.training.trainer import LLMEmbTrainer

    name = model_class.__name__
    module_name = f"{_PLACE}.{name.lower()}"
    module = ModuleType(module_name, doc=model_class.__doc__)
    # RecBole asks importlib.util.find_spec first, which answers from sys.modules.
    module.__spec__ = ModuleSpec(module_name, loader=_Finder)
    module.__getattr__ = _no_such_model
    setattr(module, name, model_class)
    sys.modules[module_name] = module
    setattr(recbole.data.dataset, f"{name}Dataset", LazySequentialDataset)
    trainer = getattr(model_class, "trainer_class", LLMEmbTrainer)
    setattr(recbole.trainer, f"{name}Trainer", trainer)
    MODELS[name] = model_class
    return model_class


def _no_such_model(name):
    """What a model's module says of other names: RecBole's names are case sensitive."""
    if name.lower().startswith(PREFIX.lower()):
        raise UserError(f"There is no model {name!r}; {_nearest(name)}.")
    raise AttributeError(name)


class _Finder:
    """Finds the module of a model that nobody has asked for yet, and makes it when loaded."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        """As :mod:`importlib` asks of everything in ``sys.meta_path``."""
        place, _, last = fullname.rpartition(".")
        if place != _PLACE or not last.startswith(PREFIX.lower()):
            return None
        return ModuleSpec(fullname, loader=_Finder) if _by_lower(last) else None

    @staticmethod
    def create_module(spec):
        """The module, with the model in it."""
        model_class(_by_lower(spec.name.rpartition(".")[2]))
        return sys.modules[spec.name]

    @staticmethod
    def exec_module(module):
        """It is complete."""


def _by_lower(name):
    from recbole_llmemb.models.llmemb.backbones import BACKBONES

    return {(PREFIX + backbone).lower(): PREFIX + backbone for backbone in BACKBONES}.get(name)


def register_all() -> None:
    """Let our models be found, and hook our defaults and loaders in; idempotent."""
    from recbole import quick_start

    from recbole_llmemb.config import recbole_config as config
    from recbole_llmemb.data import hooks
    from recbole_llmemb.models.llmsrec.model import LLMSRec
    from recbole_llmemb.run.restore import load_data_and_model

    quick_start.load_data_and_model = load_data_and_model
    quick_start.quick_start.load_data_and_model = load_data_and_model
    register(LLMSRec)
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
    config.install()
    hooks.install()
