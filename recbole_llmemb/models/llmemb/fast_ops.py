"""Faster ways through RecBole's layers: dropout and GELU on a CPU, attention on a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.layers import MultiHeadAttention
from torch import nn

_LEVELS = 1 << 16


class BitDropout(nn.Dropout):
    """Dropout whose CPU masks are cut from 64-bit random numbers, 16 bits per element.

    The rate is rounded to a multiple of 2⁻¹⁶ and kept elements are scaled by the rate
    that is really used, so the expectation is exact. On other devices, and for rates
    of 0 and 1, this is ``nn.Dropout``.
    """

    def forward(self, input):
        dropped = round(self.p * _LEVELS)
        if not self.training or input.device.type != "cpu" or dropped in (0, _LEVELS):
            return super().forward(input)
        words = torch.empty((input.numel() + 3) // 4, dtype=torch.int64)
        words.random_(torch.iinfo(torch.int64).min, None)
        bits = words.view(torch.int16)[: input.numel()].view(input.shape)
        keep = bits >= dropped - _LEVELS // 2
        return input * (keep * (_LEVELS / (_LEVELS - dropped))).to(input.dtype)


class FusedAttention(MultiHeadAttention):
    """RecBole's attention, on a GPU by PyTorch's fused kernels; the parameters are the same.

    RecBole writes the scores to memory and reads them again four times.
    """

    def forward(self, input_tensor, attention_mask):
        """``(b, w, d)`` and RecBole's additive mask to ``(b, w, d)``."""
        if not input_tensor.is_cuda:
            return super().forward(input_tensor, attention_mask)
        return self.fused(input_tensor, attention_mask)

    def fused(self, states, mask):
        """As :meth:`forward`, on any device."""
        shape = (*states.shape[:2], self.num_attention_heads, self.attention_head_size)
        parts = [part(states).view(shape) for part in (self.query, self.key, self.value)]
        query, key, value = (part.transpose(1, 2) for part in parts)
        rate = self.attn_dropout.p if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, mask.to(query.dtype), rate)
        found = self.out_dropout(self.dense(found.transpose(1, 2).flatten(2)))
        return self.LayerNorm(found + states)


def use_fast_ops(model: nn.Module) -> None:
    """Replace dropout, GELU and attention inside a model of RecBole, in place.

    On one core, dropout and GELU take about a third of a SASRec step: torch draws CPU dropout
    masks one by one, and RecBole writes GELU out in five passes. Parameters are untouched, but
    random numbers are drawn in another way than by RecBole, so this is left out where a run has
    to repeat RecBole's numbers (``train_mode: prefix``).
    """
    for module in list(model.modules()):
        if type(module) is MultiHeadAttention:
            module.__class__ = FusedAttention
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, BitDropout(child.p))
        gelu = getattr(module, "gelu", None)  # of RecBole's FeedForward
        if gelu is not None and getattr(module, "intermediate_act_fn", None) == gelu:
            # The same function, to rounding.
            module.intermediate_act_fn = F.gelu  # type: ignore[assignment]
