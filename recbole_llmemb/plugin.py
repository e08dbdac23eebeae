"""How RecBole finds us: models by name, our defaults, our loaders, and what models are given.

RecBole finds everything by name: ``recbole.model.<kind>.<name in lower case>`` for the
model, ``recbole.data.dataset.<Model>Dataset`` and ``recbole.trainer.<Model>Trainer``.
Nothing in RecBole lists models, so answering for these names is all it takes.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import recbole.data.dataset
import recbole.data.utils
import recbole.quick_start
import recbole.trainer
from recbole.utils import EvaluatorType, ModelType

from recbole_llmemb.config import recbole_config
from recbole_llmemb.core.imports import around
from recbole_llmemb.data import dataset as datasets
from recbole_llmemb.data import histories
from recbole_llmemb.data.dataset import LazySequentialDataset
from recbole_llmemb.data.histories import over_sampled
from recbole_llmemb.evaluation import metrics
from recbole_llmemb.evaluation.loaders import (
    LengthSortedFullSortEvalDataLoader,
    candidate_eval_loader,
    history_loader_of_recbole,
)
from recbole_llmemb.models import registry
from recbole_llmemb.models.registry import is_ours, llmemb, model_class, register
from recbole_llmemb.run import artifacts, schema  # noqa: F401  (every key is known from here)
from recbole_llmemb.run.restore import load_data_and_model
from recbole_llmemb.training import LLMEmbTrainer

__all__ = ["install", "llmemb", "register"]

_installed = False


def install() -> None:
    """Let RecBole find our models, defaults, loaders and artifacts; idempotent."""
    global _installed
    if _installed:
        return
    _installed = True
    # Before all others: a model that somebody registers anew is found, not the one before it.
    sys.meta_path.insert(0, _Finder)
    recbole.data.dataset.__getattr__ = _for_our_models("Dataset", LazySequentialDataset)
    recbole.trainer.__getattr__ = _for_our_models("Trainer", LLMEmbTrainer)
    recbole_config.install(registry, metrics)
    histories.install()
    _choose_loaders()
    _prepare_training()
    recbole.quick_start.load_data_and_model = load_data_and_model
    recbole.quick_start.quick_start.load_data_and_model = load_data_and_model


def _for_our_models(suffix, found):
    """``__getattr__`` of a module where RecBole looks for a class called as the model and so."""

    def look_up(name):
        if name.endswith(suffix) and is_ours(name.removesuffix(suffix)):
            return found
        raise AttributeError(name)

    return look_up


class _Finder:
    """Finds the module that RecBole expects one of our models in."""

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        """As :mod:`importlib` asks of everything in ``sys.meta_path``."""
        place, _, last = fullname.rpartition(".")
        known = place == registry.PLACE and registry.has_module(last)
        return ModuleSpec(fullname, loader=_Finder) if known else None

    @staticmethod
    def create_module(spec):
        """A module that is asked for the model by name: RecBole's names are case sensitive."""
        module = ModuleType(spec.name)
        module.__getattr__ = _model_of
        return module

    @staticmethod
    def exec_module(module):
        """There is nothing to run."""


def _model_of(name):
    if is_ours(name):
        return model_class(name)
    if name.lower().startswith(registry.PREFIX.lower()):
        raise registry.no_such_model(name)
    raise AttributeError(name)


def _choose_loaders():
    @around(recbole.data.utils, "get_dataloader")
    def chosen(original, config, phase):
        model = registry.find(config["model"])
        if model is not None and phase == "train":
            return model.train_loader(config)
        loader = _ranking_loader(config, phase, model) or original(config, phase)
        return over_sampled(loader) if model and config["user_sample"] else loader


def _ranking_loader(config, phase, model):
    """Our loader, for a model of ours or one of RecBole's whose ranking leaves histories out."""
    mode = "" if phase == "train" else config["eval_args"]["mode"][phase]
    if model is None:
        excludes = config["MODEL_TYPE"] == ModelType.SEQUENTIAL and config["exclude_history"]
        return history_loader_of_recbole if excludes and mode == "full" else None
    if config["eval_type"] == EvaluatorType.VALUE:
        return None  # AUC and its like score rows, they rank nothing
    if mode == "full":
        return LengthSortedFullSortEvalDataLoader
    return candidate_eval_loader if mode[:3] in ("uni", "pop") else None


def _prepare_training():
    @around(recbole.data.utils, "create_samplers")
    def provided(original, config, dataset, built_datasets):
        datasets.note_training_data(config, built_datasets)
        if getattr(dataset, "given", None) is None:  # else whoever prepares the data sees to it
            artifacts.provide(config, built_datasets[0])
        return original(config, dataset, built_datasets)
