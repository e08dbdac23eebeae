"""One pass of a model over the rows that it is evaluated on."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data import utils
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.utils import EvaluatorType, get_gpu_usage, init_seed, set_color
from tqdm import tqdm

from recbole_llmemb.evaluation.candidates import EXCLUDED
from recbole_llmemb.evaluation.collector import CandidateScores


def loader_like(loader, split, config):
    """A loader of a split like the test set's, with candidates from the run's seed."""
    # RecBole's own models are ranked against candidates from NumPy's numbers.
    init_seed(config["seed"], config["reproducibility"])
    sampler = getattr(loader, "_sampler", None)
    return utils.get_dataloader(config, "test")(config, split, sampler, shuffle=False)


@torch.no_grad()
def evaluate(config, model, loader, evaluator, show_progress=False) -> dict:
    """Rank the rows of a loader as RecBole's trainer does, and evaluate the ranking.

    ``evaluator``: with a collector, see :class:`~recbole_llmemb.evaluation.groups.GroupEvaluator`.
    Returns ``{metric: value}``.
    """
    model.eval()
    score = _full if isinstance(loader, FullSortEvalDataLoader) else _candidates
    batches = loader
    if show_progress:
        description = set_color("Evaluate   ", "pink")
        batches = tqdm(loader, total=len(loader), desc=description)
    for batch in batches:
        scores = score(config, model, batch, loader._dataset.item_num)
        if show_progress and config["device"].type == "cuda":
            memory = "GPU RAM: " + get_gpu_usage(config["device"])
            batches.set_postfix_str(set_color(memory, "yellow"))
        interaction, _, positive_u, positive_i = batch
        evaluator.collector.eval_batch_collect(scores, interaction, positive_u, positive_i)
    evaluator.collector.model_collect(model)
    return evaluator.evaluate(evaluator.collector.get_data_struct())


def _full(config, model, batch, n_items):
    """Scores of all items, ``(B, n_items)``, ``-inf`` for what must not be recommended."""
    interaction, history, _, _ = batch
    scores = model.full_sort_predict(interaction.to(config["device"])).float()
    scores = scores.view(-1, n_items)
    scores[:, 0] = -np.inf
    if history is not None:
        scores[tuple(_moved(part, scores.device) for part in history)] = -np.inf
    return scores


def _moved(numbers, device):
    """Row or column numbers where scores are, without waiting for these."""
    if device.type != "cuda":
        return numbers
    return numbers.pin_memory().to(device, non_blocking=True)


def _candidates(config, model, batch, n_items):
    """Scores of each row's candidates; of a matrix of all items with RecBole's own loader."""
    interaction, candidates, positive_u, _ = batch
    device = config["device"]
    if candidates is None or candidates.dim() != 2:
        size = config["eval_batch_size"]
        parts = [interaction[at : at + size] for at in range(0, len(interaction), size)]
        found = torch.cat([model.predict(part.to(device)).reshape(-1) for part in parts])
        if config["eval_type"] == EvaluatorType.VALUE:
            return found
        scores = found.new_full((int(positive_u[-1]) + 1, n_items), -np.inf)
        scores[candidates, interaction[config["ITEM_ID_FIELD"]]] = found
        return scores
    moved, candidates = interaction.to(device), candidates.to(device)
    scores = model.scores(moved, candidates).float()
    if EXCLUDED in moved:
        scores = scores.masked_fill(moved[EXCLUDED], -torch.inf)
    return CandidateScores(scores, candidates, n_items)
