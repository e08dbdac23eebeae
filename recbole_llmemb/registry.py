"""Our models, at the places where RecBole looks for models, datasets and trainers.

RecBole finds everything by name: ``recbole.model.<kind>.<name in lower case>`` for the
model, ``recbole.data.dataset.<Model>Dataset`` and ``recbole.trainer.<Model>Trainer``.
Nothing in RecBole lists models, so filling these places is all it takes.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Registered model classes by name.
MODELS: dict[str, type] = {}


def is_ours(model: str) -> bool:
    """Whether this model name belongs to this package."""
    return model in MODELS


def register(model_class: type) -> type:
    """Make RecBole's own entry points know a model class of ours under its class name.

    Parameters
    ----------
    model_class : type
        A subclass of :class:`~recbole_llmemb.model.llmemb.LLMEmbMixin` and a RecBole
        sequential model.

    Returns
    -------
    type
        The class, so that this can be used as a decorator.
    """
    import recbole.data.dataset
    import recbole.model.sequential_recommender as models
    import recbole.trainer

    from recbole_llmemb.data.dataset import LazySequentialDataset
    from recbole_llmemb.trainer import LLMEmbTrainer

    name = model_class.__name__
    module_name = f"{models.__name__}.{name.lower()}"
    module = ModuleType(module_name, doc=model_class.__doc__)
    # RecBole asks importlib.util.find_spec first, which answers from sys.modules.
    module.__spec__ = ModuleSpec(module_name, loader=None)
    setattr(module, name, model_class)
    sys.modules[module_name] = module
    setattr(recbole.data.dataset, f"{name}Dataset", LazySequentialDataset)
    setattr(recbole.trainer, f"{name}Trainer", LLMEmbTrainer)
    MODELS[name] = model_class
    return model_class


def register_all() -> None:
    """Register every model of this package and hook our defaults and loaders in."""
    from recbole_llmemb import config
    from recbole_llmemb.data import hooks
    from recbole_llmemb.model.bert4rec import LLMEmbBERT4Rec
    from recbole_llmemb.model.gru4rec import LLMEmbGRU4Rec
    from recbole_llmemb.model.sasrec import LLMEmbSASRec

    for model_class in (LLMEmbSASRec, LLMEmbGRU4Rec, LLMEmbBERT4Rec):
        register(model_class)
    config.install()
    hooks.install()
