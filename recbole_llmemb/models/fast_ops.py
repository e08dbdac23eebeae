"""Cheaper forms of two things every transformer of RecBole spends its time on.

On one core, dropout and GELU take about a third of a SASRec step: torch draws CPU
dropout masks one by one, and RecBole writes GELU out in five passes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.layers import FeedForward
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


def quicken(model: nn.Module) -> None:
    """Replace dropout and GELU inside a model, in place; parameters are untouched.

    Random numbers are drawn in another way than by RecBole, so this is left out where
    a run has to repeat RecBole's numbers (``train_mode: prefix``).
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, BitDropout(child.p))
        if isinstance(module, FeedForward) and module.intermediate_act_fn == module.gelu:
            module.intermediate_act_fn = F.gelu  # the same function, to rounding
