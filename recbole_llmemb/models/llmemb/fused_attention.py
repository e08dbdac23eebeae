"""RecBole's attention by PyTorch's fused kernels."""

from __future__ import annotations

import torch.nn.functional as F
from recbole.model.layers import MultiHeadAttention
from torch import nn


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


def fuse_attention(model: nn.Module) -> None:
    """Let RecBole's attention inside a model be :class:`FusedAttention`, which adds no state.

    Random numbers are drawn in another way than by RecBole.
    """
    for module in model.modules():
        if type(module) is MultiHeadAttention:
            module.__class__ = FusedAttention
