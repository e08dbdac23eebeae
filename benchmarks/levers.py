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
from recbole_llmemb.models.adapters import Whitening
from recbole_llmemb.models.contract import given_to
from recbole_llmemb.models.registry import model_class
from recbole_llmemb.plugin import register

LLMEmbSASRec = model_class("LLMEmbSASRec")
#: Share of the target's mass that goes to all items; weight of the contrast; items that are mixed.
SMOOTHED, CONTRAST, TAPS = 0.1, 0.1, 8
#: Temperature of an alignment of unit vectors.
UNIT = 0.1
#: Columns that are trained; how far an item may go, as a share of its length; groups of columns.
NULL_SPACE, BOUND, GROUPS = 64, 0.3, 4


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


@register
class LLMEmbNullSpaceSASRec(LLMEmbSASRec):
    """The first components stay as they are, the last are trained (AlphaFuse, 2504.19218)."""

    def adjust(self, config, dataset):
        super().adjust(config, dataset)
        trained = torch.arange(self.hidden_size) >= self.hidden_size - NULL_SPACE
        self.item_embedding.weight.register_hook(lambda given: given * trained.to(given.device))


@register
class LLMEmbBoundedSASRec(LLMEmbSASRec):
    """No item goes far from where its text puts it (Let It Go? Not Quite, 2507.19473)."""

    def adjust(self, config, dataset):
        super().adjust(config, dataset)
        self.register_buffer("start", self.item_embedding.weight.detach().clone())

    def loss_terms(self, interaction):
        self.hold()
        return super().loss_terms(interaction)

    def train(self, mode=True):
        if hasattr(self, "start"):
            self.hold()  # the last step of an epoch, too
        return super().train(mode)

    @torch.no_grad()
    def hold(self):
        """Put each item that has gone too far back to the bound, on the way that it went."""
        weight = self.item_embedding.weight
        gone = weight - self.start
        bound = BOUND * self.start.norm(dim=1, keepdim=True)
        share = bound / gone.norm(dim=1, keepdim=True).clamp(min=1e-12)
        weight.copy_(self.start + gone * share.clamp(max=1))


class TwoLayers(nn.Module):
    """One head of two hidden layers, of a table and of it in other groups: their sum."""

    def __init__(self, width, size):
        super().__init__()
        hidden = nn.Linear(width, size), nn.GELU(), nn.Linear(size, size), nn.GELU()
        self.head = nn.Sequential(*hidden, nn.Linear(size, size))

    def forward(self, rows):
        """``(n, 2 · width)`` to ``(n, size)``."""
        return sum(self.head(half) for half in rows.chunk(2, dim=-1))


@register
class LLMEmbTwiceWhitenedSASRec(LLMEmbSASRec):
    """A frozen table, whitened as a whole and in groups of columns (WhitenRec+, 2402.10602)."""

    def adjust(self, config, dataset):
        super().adjust(config, dataset)
        layer = self.item_embedding  # whose table is whitened by its settings
        raw = given_to(dataset, config, "table").rows()
        grouped = [Whitening(part, 1.0).of_table(part) for part in raw.chunk(GROUPS, dim=1)]
        layer.table = torch.cat([layer.table, *grouped], dim=1)
        layer.adapter = TwoLayers(raw.shape[1], self.hidden_size)


class OfUnitVectors(nn.Module):
    """An alignment of two views of the same items, whose vectors are made one long."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, teacher, adapted):
        """Both ``(k, d)``; products of the two are cosines / :data:`UNIT`."""
        return self.loss(*(F.normalize(each, dim=-1) / UNIT**0.5 for each in (teacher, adapted)))


@register
class LLMEmbUnitAlignedSASRec(LLMEmbSASRec):
    """The alignment of LLMEmb between unit vectors, targets and scores at one temperature."""

    def adjust(self, config, dataset):
        super().adjust(config, dataset)
        self.alignment = OfUnitVectors(losses.AlignmentLoss(1.0))


@register
class LLMEmbContrastAlignedSASRec(LLMEmbSASRec):
    """In place of the alignment each item is to find its own vector of the teacher's."""

    def adjust(self, config, dataset):
        super().adjust(config, dataset)
        self.alignment = OfUnitVectors(losses.InfoNCE(1.0))
