"""Scores of items, from the states of a backbone and the embeddings of its items."""

from __future__ import annotations

import torch
import torch.nn.functional as F


class Ranking:
    """The part of :class:`~recbole_llmemb.models.llmemb.model.LLMEmbMixin` that scores items."""

    @property
    def item_bias(self):
        """A bias per item that the backbone adds to scores, or None."""
        return None

    def scores_of(self, states, items):
        """Scores of these items: states ``(n, d)``, items ``(n,)`` or ``(n, k)``."""
        states, embeddings = self.item_scores.lookup(states, self.scored_items, items)
        if items.dim() == 1:
            scores = (states * embeddings).sum(-1)
        else:
            scores = torch.einsum("nd,nkd->nk", states, embeddings.to(states.dtype))
        return scores if self.item_bias is None else scores + self.item_bias[items]

    @property
    def scored_items(self):
        """The layer whose embeddings of the items make their scores."""
        return self.item_embedding

    def _all_items(self):
        return self.scored_items.weight[: self.item_count]

    def candidate_scores(self, states, candidates):
        """Scores ``(b, c)`` of each row's candidate items ``(b, c)``."""
        return self.scores_of(states, candidates)

    def rank_candidates(self, interaction, candidates):
        """Scores ``(b, c)`` of each row's candidate items ``(b, c)``, from its history."""
        if self.own:
            return self.full_sort_predict(interaction).gather(1, candidates)
        return self.candidate_scores(self.sequence_output(interaction), candidates)

    def predict(self, interaction):
        """RecBole's scoring of one item per row, ``(b,)``."""
        items = interaction[self.ITEM_ID]
        if self.own:
            return self.full_sort_predict(interaction).gather(1, items.unsqueeze(1)).squeeze(1)
        return self.scores_of(self.sequence_output(interaction), items)

    def full_sort_predict(self, interaction):
        """RecBole's scoring of all items, ``(b, n_items)``."""
        if self.own:
            return super().full_sort_predict(self._fitted(interaction))
        states = self.sequence_output(interaction)
        states, items = self.item_scores.ranking_sides(states, self._all_items())
        return F.linear(states, items, self.item_bias)
