"""What a trainer collects and computes of an evaluation: all rows, and groups of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from recbole.evaluator import Evaluator

from recbole_llmemb.evaluation.collector import GroupCollector
from recbole_llmemb.evaluation.details import RowDetails
from recbole_llmemb.evaluation.groups import Groups, group_results


class GroupEvaluator(Evaluator):
    """RecBole's evaluator, which also keeps the metrics of each group of the same rows."""

    def __init__(self, config, collector):
        super().__init__(config)
        self.collector = collector
        self.plain = Evaluator(config)
        self.groups = self.counts = self.latest = self.details = None
        self.keep_details = False

    def know_groups(self, config, train):
        """Tell tail and head items and short and long users apart, by the training split."""
        if hasattr(train, "training_counts"):
            items, users = self.counts = train.training_counts(train)
            self.groups = Groups.from_training(
                items, users, config["tail_item_threshold"], config["short_user_threshold"]
            )

    def evaluate(self, dataobject):
        rows = self.collector.rows
        self.latest = self.details = None
        if self.groups is not None and rows is not None:
            self.latest = group_results(self.plain, dataobject, rows, self.groups)
            if self.keep_details:
                self.details = RowDetails.of(self.plain, dataobject, rows, *self.counts)
        return super().evaluate(dataobject)


@dataclass
class Candidates:
    """Scores ``(b, c)`` of candidate items ``(b, c)``, in place of scores of all items."""

    scores: torch.Tensor
    items: torch.Tensor
    n_items: int


class Collector(GroupCollector):
    """Takes either form of scores."""

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        if isinstance(scores_tensor, Candidates):
            found = scores_tensor
            self.candidate_batch_collect(found.scores, found.items, interaction, found.n_items)
        else:
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
