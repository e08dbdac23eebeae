"""One pass of a model over the rows it is evaluated on, and what the metrics need of each batch.

RecBole's ``Collector`` gathers one line per evaluated row (``rec.topk``, ``rec.items``,
``rec.meanrank``). The group metrics also have to know each line's user and target item, so
:class:`GroupCollector` keeps them in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.data import utils
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator.collector import Collector, DataStruct
from recbole.utils import EvaluatorType, get_gpu_usage, init_seed, set_color

from recbole_llmemb.core.checkpoint import no_numbers
from recbole_llmemb.core.devices import moved, preserve_random_state
from recbole_llmemb.core.terminal import progress_bar
from recbole_llmemb.evaluation.loaders import EXCLUDED


@dataclass(frozen=True)
class EvalRows:
    """Whose line each line of ``rec.topk`` is."""

    user_id: torch.Tensor  # ``(n_rows,)``, RecBole's internal user ids
    item_id: torch.Tensor  # ``(n_rows,)``, the target item; -1 where a row has several targets


@dataclass(frozen=True)
class CandidateScores:
    """Scores ``(b, c)`` of candidate items ``(b, c)``, in place of scores of all items."""

    scores: torch.Tensor
    items: torch.Tensor  # the target in column 0
    n_items: int  # Size of RecBole's item id space, padding included


class _PartsStruct(DataStruct):
    """A ``DataStruct`` that keeps the batches apart until they are asked for.

    RecBole's concatenates at every batch, which copies all earlier batches again.
    """

    def __init__(self):
        super().__init__()
        self.parts: dict[str, list[torch.Tensor]] = {}

    def update_tensor(self, name: str, value: torch.Tensor):
        self.parts.setdefault(name, []).append(value.detach())


class GroupCollector(Collector):
    """RecBole's ``Collector`` that also remembers users and targets, and is faster.

    With exactly one target per row, which is what leave-one-out gives sequential models, nothing of
    the size of the score matrix is allocated or sorted: one ``topk`` serves ``rec.items`` and
    ``rec.topk``, and the rank for GAUC is counted. The collected values are those of RecBole. Rows
    with several targets go RecBole's way.

    With ``exclude_history`` a target whose score is ``-inf`` is a miss: it is in no list, and
    GAUC ranks it below all candidates.

    ``rows`` holds the :class:`EvalRows` of the last :meth:`get_data_struct`
    (``None`` for value metrics such as AUC, where lines are not rankings).
    """

    def __init__(self, config):
        super().__init__(config)
        self.data_struct = _PartsStruct()
        self.without_history = bool(config["exclude_history"])
        self.rows: EvalRows | None = None

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect one batch ranked over the whole catalog, or among :class:`CandidateScores`.

        Candidates give the same values as a ``(B, n_items)`` matrix of ``-inf`` with their scores
        written into it. In particular a negative drawn twice counts once.

        ``scores_tensor``: ``(B, n_items)`` scores, ``-inf`` for what must not be recommended.
        ``interaction``: the batch: one line per row, or RecBole's one line per candidate.
        ``positive_u``, ``positive_i``: row number and item id of every target, ``(n_targets,)``
        each; of candidates they are known.
        """
        scores, items = scores_tensor, None
        if isinstance(scores_tensor, CandidateScores):
            found = scores_tensor
            positive_u, positive_i = torch.arange(len(found.items)), found.items[:, 0]
            scores, items = self._distinct(found)
        if scores.dim() != 2 or positive_u is None:
            super().eval_batch_collect(scores, interaction, positive_u, positive_i)
            return
        rows = torch.arange(len(scores), device=positive_u.device)
        if not torch.equal(positive_u, rows):
            items = _only_targets(rows, positive_u, positive_i)
            self._collect_rows(len(scores), interaction, items)
            super().eval_batch_collect(scores, interaction, positive_u, positive_i)
            return
        self._collect_rows(len(scores), interaction, positive_i)
        need, add = self.register.need, self.data_struct.update_tensor
        target = positive_i.to(scores.device).unsqueeze(1)
        if need("rec.items") or need("rec.topk"):
            values, top = torch.topk(scores, max(self.topk), dim=-1)
            top = top if items is None else items.gather(1, top)
            if self.without_history or items is not None:  # a list that is not full ends in padding
                top = top.masked_fill(values == -torch.inf, 0)
        if need("rec.items"):
            add("rec.items", top)
        if need("rec.topk"):
            # Last column: the number of targets, as RecBole's top-k metrics expect.
            hits = (top == target).to(top.dtype)
            add("rec.topk", torch.cat((hits, torch.ones_like(hits[:, :1])), 1))
        if need("rec.meanrank"):
            own = scores.gather(1, target) if items is None else found.scores[:, :1]
            if items is not None:  # one more column stands for all that was not scored
                scores = torch.cat((scores, torch.full_like(own, -torch.inf)), dim=1)
            add("rec.meanrank", self._mean_rank(scores, own))
        if need("rec.score"):
            add("rec.score", scores)
        if need("data.label"):
            add("data.label", interaction[self.config["LABEL_FIELD"]])

    def get_data_struct(self):
        """Return what was collected as RecBole's ``DataStruct`` and start anew.

        Also sets :attr:`rows`. Entries that are no tensors (``data.num_items``,
        ``data.count_items``) pass as they are; RecBole 1.2.1 calls ``.cpu()`` on
        them and so fails for the catalog metrics.
        """
        struct = DataStruct()
        for key, value in self.data_struct._data_dict.items():
            struct.set(key, value.cpu() if isinstance(value, torch.Tensor) else value)
        parts, self.data_struct.parts = self.data_struct.parts, {}
        collected = {key: torch.cat(values).cpu() for key, values in parts.items()}
        columns = [collected.pop(key, None) for key in ("row.user", "row.item")]
        self.rows = None if columns[0] is None else EvalRows(*columns)
        for key, value in collected.items():
            struct.set(key, value)
        return struct

    def _distinct(self, found):
        """Scores and items of candidates, each once; or scores of all items, if needed."""
        # In id order the target has no fixed place among equal scores: if it kept column 0, a model
        # that scores everything alike would look perfect.
        items, order = found.items.to(found.scores.device).sort(dim=1)
        again = torch.zeros_like(items, dtype=torch.bool)
        again[:, 1:] = items[:, 1:] == items[:, :-1]
        items = items.masked_fill(again, 0)
        scores = found.scores.gather(1, order).masked_fill(again, -torch.inf)
        k, need = max(self.topk), self.register.need
        whole = need("rec.score") or scores.shape[1] < k
        # RecBole fills lists that are too short up with items that were not candidates.
        if whole or (need("rec.items") and ((scores != -torch.inf).sum(1) < k).any()):
            full = scores.new_full((len(scores), found.n_items), -torch.inf)
            return full.scatter_(1, items, scores), None
        return scores, items

    def _mean_rank(self, scores, target_score):
        """RecBole's ``rec.meanrank`` for one target: rank, list length, targets.

        The average rank among equals is counted instead of read off a sorted matrix.
        """

        def count(mask):
            return mask.sum(1, keepdim=True, dtype=torch.int32)

        # Compared as it is, a NaN would be below nothing and so rank first.
        target_score = target_score.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        rank = count(scores > target_score).float() + 0.5 * (count(scores == target_score) + 1)
        listed = count(scores > scores.amin(1, keepdim=True))
        if self.without_history:  # a target that is no candidate comes after all that are
            missed = target_score == -torch.inf
            listed = listed + missed
            rank = torch.where(missed, listed.float(), rank)
        return torch.cat((rank, listed, torch.ones_like(rank)), dim=1)

    def _collect_rows(self, n_rows, interaction, items):
        users = interaction[self.config["USER_ID_FIELD"]]
        if len(users) != n_rows:
            # RecBole's batches for sampled negatives: one line per candidate, all
            # lines of a user together, users distinct.
            users = torch.unique_consecutive(users)
        self.data_struct.update_tensor("row.user", users)
        self.data_struct.update_tensor("row.item", items)


def _only_targets(rows, positive_u, positive_i):
    """The target of each row, -1 where there are several."""
    items = torch.full_like(rows, -1)
    items[positive_u] = positive_i
    items[torch.bincount(positive_u, minlength=len(rows)) > 1] = -1
    return items


def loader_like(loader, split, config):
    """A loader of a split like the test set's, with candidates from the run's seed."""
    # RecBole's own models are ranked against candidates from NumPy's numbers.
    init_seed(config["seed"], config["reproducibility"])
    sampler = getattr(loader, "_sampler", None)
    return utils.get_dataloader(config, "test")(config, split, sampler, shuffle=False)


def under_a_bar(loader, what, device, shown):
    """The batches of a loader, under a bar like RecBole's if one is to be shown."""
    title = set_color(what, "pink")
    bar = progress_bar(loader, desc=title, disable=not shown)
    for batch in bar:
        yield batch
        if shown and device.type == "cuda":
            bar.set_postfix_str(set_color(f"GPU RAM: {get_gpu_usage(device)}", "yellow"))


@torch.no_grad()
def evaluate(config, model, loader, evaluator, show_progress=False, checked=False) -> dict:
    """Rank the rows of a loader as RecBole's trainer does, and evaluate the ranking.

    ``checked``: warn of a model whose scores are others each time.
    ``evaluator``: with a collector, see :class:`~recbole_llmemb.evaluation.groups.GroupEvaluator`.
    Returns ``{metric: value}``.
    """
    model.eval()
    score = _full if isinstance(loader, FullSortEvalDataLoader) else _candidates
    broken: Any = False
    for batch in under_a_bar(loader, "Evaluate   ", config["device"], show_progress):
        scores = score(config, model, batch, loader._dataset.item_num)
        largest = getattr(scores, "scores", scores).max()  # NaN, if there is one
        broken |= largest.isnan() | largest.isposinf()
        interaction, _, positive_u, positive_i = batch
        if checked:
            checked = _warn_of_chance(config, model, interaction[:4])
        evaluator.collector.eval_batch_collect(scores, interaction, positive_u, positive_i)
    if broken:
        raise no_numbers("The model's scores")
    evaluator.collector.model_collect(model)
    return evaluator.evaluate(evaluator.collector.get_data_struct())


def _warn_of_chance(config, model, interaction):
    with preserve_random_state():
        given = [interaction.to(config["device"]) for _ in range(2)]
        first, second = (model.full_sort_predict(each) for each in given)
    if (first - second).abs().max() > 1e-2 * first.abs().max().clamp(min=1):
        told = f"{config['model']} gives other scores each time that it is evaluated, so its"
        advice = "checkpoint will give other results; let it draw numbers in training alone"
        getLogger().warning(f"{told} {advice} (self.training).")


def _full(config, model, batch, n_items):
    """Scores of all items, ``(B, n_items)``, ``-inf`` for what must not be recommended."""
    interaction, history, _, _ = batch
    scores = model.full_sort_predict(interaction.to(config["device"])).float()
    scores = scores.view(-1, n_items)
    scores[:, 0] = -np.inf
    if history is not None:
        scores[tuple(moved(part, scores.device) for part in history)] = -np.inf
    return scores


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
    interaction, candidates = interaction.to(device), candidates.to(device)
    scores = model.scores(interaction, candidates).float()
    if EXCLUDED in interaction:
        scores = scores.masked_fill(interaction[EXCLUDED], -torch.inf)
    return CandidateScores(scores, candidates, n_items)
