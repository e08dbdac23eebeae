"""What the metrics need from each evaluated batch, and whose row each line is.

RecBole's ``Collector`` gathers one line per evaluated row (``rec.topk``,
``rec.items``, ``rec.meanrank``). The group metrics also have to know each line's
user and target item, so :class:`GroupCollector` keeps them in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from recbole.evaluator.collector import Collector, DataStruct

ROW_KEYS = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")
"""Entries of the data struct with one line per evaluated row."""


@dataclass(frozen=True)
class EvalRows:
    """Whose line each line of ``rec.topk`` is."""

    user_id: torch.Tensor  # ``(n_rows,)``, RecBole's internal user ids
    item_id: torch.Tensor  # ``(n_rows,)``, the target item; -1 where a row has several targets
    length: torch.Tensor  # ``(n_rows,)``, length of the history the model was shown; 0 if unknown

    def __len__(self) -> int:
        return len(self.user_id)


class _PartsStruct(DataStruct):
    """A ``DataStruct`` that keeps the batches apart until they are asked for.

    RecBole's concatenates at every batch, which copies all earlier batches again.
    """

    def __init__(self):
        super().__init__()
        self.parts: dict[str, list[torch.Tensor]] = {}

    def update_tensor(self, name: str, value: torch.Tensor):
        self.parts.setdefault(name, []).append(value.detach())

    def take_parts(self) -> dict[str, torch.Tensor]:
        """Return the concatenated batches on the CPU and forget them."""
        joined = {name: torch.cat(values).cpu() for name, values in self.parts.items()}
        self.parts = {}
        return joined


@dataclass(frozen=True)
class CandidateScores:
    """Scores ``(b, c)`` of candidate items ``(b, c)``, in place of scores of all items."""

    scores: torch.Tensor
    items: torch.Tensor
    n_items: int  # Size of RecBole's item id space, padding included


class GroupCollector(Collector):
    """RecBole's ``Collector`` that also remembers users and targets, and is faster.

    With exactly one target per row, which is what leave-one-out gives sequential
    models, nothing of the size of the score matrix is allocated or sorted: one
    ``topk`` serves ``rec.items`` and ``rec.topk``, and the rank for GAUC is counted.
    The collected values are those of RecBole. Rows with several targets go
    RecBole's way.

    With ``exclude_history`` a target whose score is ``-inf`` is a miss: it is in no list, and
    GAUC ranks it below all candidates.

    ``rows`` holds the :class:`EvalRows` of the last :meth:`get_data_struct`
    (``None`` for value metrics such as AUC, where lines are not rankings).
    """

    def __init__(self, config):
        super().__init__(config)
        self.data_struct = _PartsStruct()
        self.user_field = config["USER_ID_FIELD"]
        self.length_field = config["ITEM_LIST_LENGTH_FIELD"]
        self.without_history = bool(config["exclude_history"])
        self.rows: EvalRows | None = None

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect one batch ranked over the whole catalog, or among :class:`CandidateScores`.

        ``scores_tensor``: ``(B, n_items)`` scores, ``-inf`` for what must not be recommended.
        ``interaction``: the batch: one line per row, or RecBole's one line per candidate.
        ``positive_u``, ``positive_i``: row number and item id of every target, ``(n_targets,)``
        each.
        """
        if isinstance(scores_tensor, CandidateScores):
            found = scores_tensor
            self.candidate_batch_collect(found.scores, found.items, interaction, found.n_items)
            return
        if scores_tensor.dim() != 2 or positive_u is None:
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        self._collect_rows(len(scores_tensor), interaction, positive_u, positive_i)
        if not _one_target_per_row(positive_u, len(scores_tensor)):
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            return
        target = positive_i.to(scores_tensor.device).unsqueeze(1)
        if self.register.need("rec.items") or self.register.need("rec.topk"):
            values, top = torch.topk(scores_tensor, max(self.topk), dim=-1)
            if self.without_history:  # a list that is not full ends in padding
                top = top.masked_fill(values == -torch.inf, 0)
            self._collect_top(top, top == target)
        if self.register.need("rec.meanrank"):
            self._collect_mean_rank(scores_tensor, scores_tensor.gather(1, target))
        if self.register.need("rec.score"):
            self.data_struct.update_tensor("rec.score", scores_tensor)
        if self.register.need("data.label"):
            self.data_struct.update_tensor("data.label", interaction[self.config["LABEL_FIELD"]])

    def candidate_batch_collect(self, scores, candidates, interaction, n_items):
        """Collect one batch ranked among sampled candidates, without a full matrix.

        The same values as :meth:`eval_batch_collect` gives on a ``(B, n_items)``
        matrix of ``-inf`` with the candidates' scores written into it. In
        particular a negative drawn twice counts once.

        ``scores``: ``(B, C)`` scores of the candidates.
        ``candidates``: ``(B, C)`` item ids, the target in column 0.
        ``interaction``: the batch, one line per row.
        ``n_items``: size of RecBole's item id space, padding included.
        """
        candidates = candidates.to(scores.device)
        k = max(self.topk)
        if self.register.need("rec.score") or candidates.size(1) < k:
            self._collect_as_matrix(scores, candidates, interaction, n_items)
            return
        target = candidates[:, :1]
        target_score = scores[:, :1]
        # In id order the target has no fixed place among equal scores: if it kept
        # column 0, a model that scores everything alike would look perfect.
        candidates, order = candidates.sort(dim=1)
        scores = scores.gather(1, order)
        repeated = torch.zeros_like(candidates, dtype=torch.bool)
        repeated[:, 1:] = candidates[:, 1:] == candidates[:, :-1]
        scores = scores.masked_fill(repeated, -torch.inf)
        if self.register.need("rec.items") or self.register.need("rec.topk"):
            top_scores, top = torch.topk(scores, k, dim=-1)
            unfilled = top_scores == -torch.inf
            if self.register.need("rec.items") and unfilled.any():
                # RecBole fills such lists up with items that were not candidates.
                self._collect_as_matrix(
                    scores, candidates, interaction, n_items, target, skip=repeated
                )
                return
            top = candidates.gather(1, top)
            self._collect_top(top, (top == target) & ~unfilled)
        self._collect_rows(len(scores), interaction, None, target.squeeze(1))
        if self.register.need("rec.meanrank"):
            # The column stands for all that was not scored.
            unscored = scores.new_full((len(scores), 1), -torch.inf)
            self._collect_mean_rank(torch.cat((scores, unscored), dim=1), target_score)
        if self.register.need("data.label"):
            self.data_struct.update_tensor("data.label", interaction[self.config["LABEL_FIELD"]])

    def get_data_struct(self):
        """Return what was collected as RecBole's ``DataStruct`` and start anew.

        Also sets :attr:`rows`. Entries that are no tensors (``data.num_items``,
        ``data.count_items``) pass as they are; RecBole 1.2.1 calls ``.cpu()`` on
        them and so fails for the catalogue metrics.
        """
        struct = DataStruct()
        for key, value in self.data_struct._data_dict.items():
            struct.set(key, value.cpu() if isinstance(value, torch.Tensor) else value)
        collected = self.data_struct.take_parts()
        columns = [collected.pop(key, None) for key in ("row.user", "row.item", "row.length")]
        self.rows = None if columns[0] is None else EvalRows(*columns)
        for key, value in collected.items():
            struct.set(key, value)
        return struct

    def _collect_top(self, top, is_target):
        if self.register.need("rec.items"):
            self.data_struct.update_tensor("rec.items", top)
        if self.register.need("rec.topk"):
            # Last column: the number of targets, as RecBole's top-k metrics expect.
            one = torch.ones_like(top[:, :1])
            self.data_struct.update_tensor("rec.topk", torch.cat((is_target.to(top.dtype), one), 1))

    def _collect_mean_rank(self, scores, target_score):
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
        self.data_struct.update_tensor(
            "rec.meanrank", torch.cat((rank, listed, torch.ones_like(rank)), dim=1)
        )

    def _collect_as_matrix(self, scores, candidates, interaction, n_items, target=None, skip=None):
        target = candidates[:, :1] if target is None else target
        full = scores.new_full((len(scores), n_items), -torch.inf)
        if skip is not None:
            # A repeated candidate must not overwrite its own score: send it to padding.
            candidates = candidates.masked_fill(skip, 0)
        full.scatter_(1, candidates, scores)
        rows = torch.arange(len(scores))
        self.eval_batch_collect(full, interaction, rows, target.squeeze(1))

    def _collect_rows(self, n_rows, interaction, positive_u, positive_i):
        users = interaction[self.user_field]
        lengths = (
            interaction[self.length_field]
            if self.length_field in interaction
            else torch.zeros_like(users)
        )
        if len(users) != n_rows:
            # RecBole's batches for sampled negatives: one line per candidate, all
            # lines of a user together, users distinct.
            users, counts = torch.unique_consecutive(users, return_counts=True)
            lengths = lengths[counts.cumsum(0) - counts]
        if len(users) != n_rows:
            raise ValueError(
                f"the batch has {n_rows} rows of scores but {len(users)} users to attach them to"
            )
        items = positive_i
        if positive_u is not None and not _one_target_per_row(positive_u, n_rows):
            items = torch.full((n_rows,), -1, dtype=positive_i.dtype, device=positive_i.device)
            items[positive_u] = positive_i
            items[torch.bincount(positive_u, minlength=n_rows) > 1] = -1
        self.data_struct.update_tensor("row.user", users)
        self.data_struct.update_tensor("row.item", items)
        self.data_struct.update_tensor("row.length", lengths)


def _one_target_per_row(positive_u: torch.Tensor, n_rows: int) -> bool:
    """Whether ``positive_u`` is ``0, 1, …, n_rows - 1``."""
    return len(positive_u) == n_rows and torch.equal(
        positive_u, torch.arange(n_rows, device=positive_u.device)
    )
