"""Where RecBole chooses a data loader, ours for our models."""

from __future__ import annotations

import recbole.data.utils as recbole_data
from recbole.utils import EvaluatorType, ModelType

from recbole_llmemb.data import lazy, trained_on
from recbole_llmemb.plugin import is_ours, model_class


def install():
    """Let ``recbole.data.data_preparation`` use our loaders for our models; idempotent."""
    trained_on.install()
    original = recbole_data.get_dataloader
    if getattr(original, "knows_llmemb", False):
        return

    def get_dataloader(config, phase):
        if not is_ours(config["model"]):
            return _loader_of_recbole(config, phase) or original(config, phase)
        own = getattr(model_class(config["model"]), "own_loader", None)
        if own is not None:
            return own(config, phase, lambda: _our_loader(config, phase) or original(config, phase))
        loader = _our_loader(config, phase) or original(config, phase)
        shuffles = phase == "train" and config["shuffle_train"]
        return _on_shuffled_sequences(loader) if shuffles else loader

    get_dataloader.knows_llmemb = True
    recbole_data.get_dataloader = get_dataloader
    lazy.install()


def _loader_of_recbole(config, phase):
    from recbole_llmemb.evaluation.full_ranking import history_loader_of_recbole

    sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    if phase == "train" or not (sequential and config["exclude_history"]):
        return None
    return history_loader_of_recbole if config["eval_args"]["mode"][phase] == "full" else None


def _our_loader(config, phase):
    from recbole_llmemb.data.loaders import ClozeTrainDataLoader, SequenceTrainDataLoader
    from recbole_llmemb.data.prefixes import PrefixTrainDataLoader, TrimmedTrainDataLoader
    from recbole_llmemb.evaluation.candidates import candidate_eval_loader
    from recbole_llmemb.evaluation.full_ranking import LengthSortedFullSortEvalDataLoader

    if phase == "train":
        if config["train_mode"] == "prefix":
            return TrimmedTrainDataLoader if config["prefix_trim"] else PrefixTrainDataLoader
        cloze = model_class(config["model"]).cloze
        return ClozeTrainDataLoader if cloze else SequenceTrainDataLoader
    if config["eval_type"] == EvaluatorType.VALUE:
        return None  # AUC and its like score rows, they rank nothing
    mode = config["eval_args"]["mode"][phase]
    if mode == "full":
        return LengthSortedFullSortEvalDataLoader
    return candidate_eval_loader if mode[:3] in ("uni", "pop") else None


def _on_shuffled_sequences(loader):
    from recbole_llmemb.data.histories import with_shuffled_sequences

    def shuffled(config, dataset, sampler, shuffle=False):
        dataset = with_shuffled_sequences(dataset, config["seed"])
        return loader(config, dataset, sampler, shuffle=shuffle)

    return shuffled
