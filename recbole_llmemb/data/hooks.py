"""Where RecBole chooses a data loader, ours for our models."""

from __future__ import annotations

import recbole.data.utils as recbole_data
from recbole.utils import EvaluatorType

from recbole_llmemb.errors import UserError
from recbole_llmemb.registry import MODELS, is_ours


def install():
    """Let ``recbole.data.data_preparation`` use our loaders for our models; idempotent."""
    original = recbole_data.get_dataloader
    if getattr(original, "knows_llmemb", False):
        return

    def get_dataloader(config, phase):
        if not is_ours(config["model"]):
            return original(config, phase)
        return _our_loader(config, phase) or original(config, phase)

    get_dataloader.knows_llmemb = True
    recbole_data.get_dataloader = get_dataloader


def _our_loader(config, phase):
    from recbole_llmemb.data.loaders import ClozeTrainDataLoader, SequenceTrainDataLoader
    from recbole_llmemb.evaluation.fullsort import LengthSortedFullSortEvalDataLoader
    from recbole_llmemb.evaluation.negatives import candidate_eval_loader

    if phase == "train":
        if config["train_mode"] == "prefix":
            return None
        model = MODELS[config["model"]]
        if model.causal:
            return SequenceTrainDataLoader
        if model.extra_rows:  # a mask: there is a cloze task to train on instead
            return ClozeTrainDataLoader
        raise UserError(
            f"{config['model']} is not causal, so a pass over a whole sequence would show it its "
            "targets; set train_mode: prefix."
        )
    if config["eval_type"] == EvaluatorType.VALUE:
        return None  # AUC and its like score rows, they rank nothing
    mode = config["eval_args"]["mode"][phase]
    if mode == "full":
        return LengthSortedFullSortEvalDataLoader
    return candidate_eval_loader if mode[:3] in ("uni", "pop") else None
