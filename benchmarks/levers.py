"""What others found that makes a sequence model better, as models: LLMEmbSASRec and one thing more.

    import benchmarks.levers  # then --model=LLMEmbSmoothedSASRec and so on

Each is what a model of one's own may look like; ``benchmarks.levers_study`` trains them.
"""

from __future__ import annotations

from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from recbole_llmemb.models import losses
from recbole_llmemb.models.registry import model_class
from recbole_llmemb.plugin import register

LLMEmbSASRec = model_class("LLMEmbSASRec")
#: Share of the target's mass that goes to all items; weight of the contrast; items that are mixed.
SMOOTHED, CONTRAST, TAPS = 0.1, 0.1, 8


def smoothed(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of targets ``(n,)`` against sampled items ``(n, k)``, its labels smoothed."""
    # A sampled item that is the target has -inf; finite, it adds a constant and no gradient.
    scores = torch.cat([positive.unsqueeze(1), negative], dim=1).clamp(min=-1e4)
    right = torch.zeros_like(positive, dtype=torch.long)
    return F.cross_entropy(scores, right, label_smoothing=SMOOTHED)


@register
class LLMEmbSmoothedSASRec(LLMEmbSASRec):
    """Label smoothing."""

    def _sampled_softmax(self, states, targets):
        with mock.patch.object(losses, "sampled_cross_entropy", smoothed):
            return super()._sampled_softmax(states, targets)


@register
class LLMEmbTwicePassedSASRec(LLMEmbSASRec):
    """Each history is told from the batch's others under other dropout (DuoRec, 2110.05730)."""

    def loss_terms(self, interaction):
        terms = super().loss_terms(interaction)
        if self.training:
            first, second = (F.normalize(self.states(interaction), dim=-1) for _ in range(2))
            same = torch.arange(len(first), device=first.device)
            alike = first @ second.T / 0.07
            terms["contrast"] = CONTRAST * F.cross_entropy(alike, same)
        return terms


@register
class LLMEmbFilteredSASRec(LLMEmbSASRec):
    """A causal filter over the last items, one per dimension, that starts as the identity."""

    def adjust(self, config, dataset):
        super().adjust(config, dataset)
        self.filter = nn.Conv1d(self.hidden_size, self.hidden_size, TAPS, groups=self.hidden_size)
        nn.init.zeros_(self.filter.weight)
        nn.init.zeros_(self.filter.bias)
        self.trm_encoder.register_forward_pre_hook(self._mix)

    def _mix(self, _, inputs):
        embedded, *others = inputs
        before = F.pad(embedded.transpose(1, 2), (TAPS - 1, 0))
        return embedded + self.filter(before).transpose(1, 2), *others
