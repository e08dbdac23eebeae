"""What models are built of: what evaluation keeps, cheap dropout, formats of a frozen table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_LEVELS = 1 << 16
#: Tables wider than this come from LLMs, which compute in half precision to begin with.
WIDE = 1024


class EvalCache(nn.Module):
    """Something that evaluation computes once, and again only after a parameter changed.

    Fused optimizers do not count their changes in ``_version``, so every use that may lead to a
    gradient, and every change between training and evaluation, forgets it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: Any = None

    def get(self, tensors: Iterable[torch.Tensor], compute: Callable[[], Any]) -> Any:
        """What ``compute`` returns, which depends on these tensors and nothing else."""
        if torch.is_grad_enabled():
            self._kept = None
            return compute()
        tensors = tuple(tensors)
        key: list[Any] = [(t.data_ptr(), t._version, t.shape, t.dtype, t.device) for t in tensors]
        key += [torch.is_autocast_enabled(t.device.type) for t in tensors[:1]]
        if self._kept is None or self._kept[0] != key:
            # The tensors are kept, too, so that no other can come to lie at their address.
            self._kept = key, tensors, compute()
        return self._kept[2]

    def forget(self) -> None:
        """Compute it anew when it is asked for next."""
        self._kept = None

    def train(self, mode: bool = True) -> EvalCache:
        if mode != self.training:
            self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        # What evaluation computed is not worth copying or pickling.
        return {**self.__dict__, "_kept": None}


class BitDropout(nn.Dropout):
    """Dropout whose CPU masks are cut from 64-bit random numbers, 16 bits per element.

    The rate is rounded to a multiple of 2⁻¹⁶ and kept elements are scaled by the rate
    that is really used, so the expectation is exact. On other devices, and for rates
    of 0 and 1, this is ``nn.Dropout``.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        dropped = round(self.p * _LEVELS)
        if not self.training or input.device.type != "cpu" or dropped in (0, _LEVELS):
            return super().forward(input)
        words = torch.empty((input.numel() + 3) // 4, dtype=torch.int64)
        words.random_(torch.iinfo(torch.int64).min, None)
        bits = words.view(torch.int16)[: input.numel()].view(input.shape)
        keep = bits >= dropped - _LEVELS // 2
        return input * (keep * (_LEVELS / (_LEVELS - dropped))).to(input.dtype)


def use_fast_ops(model: nn.Module) -> None:
    """Replace dropout and GELU inside a model of RecBole, in place; parameters are untouched.

    On one core, dropout and GELU take about a third of a SASRec step: torch draws CPU dropout
    masks one by one, and RecBole writes GELU out in five passes. Random numbers are drawn in
    another way than by RecBole, so this is left out where a run has to repeat RecBole's numbers
    (``train_mode: prefix``).
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, BitDropout(child.p))
        gelu = getattr(module, "gelu", None)  # of RecBole's FeedForward
        if gelu is not None and getattr(module, "intermediate_act_fn", None) == gelu:
            # The same function, to rounding.
            module.intermediate_act_fn = F.gelu  # type: ignore[assignment]


def table_dtype(setting: str | None, width: int, device: torch.device | str) -> torch.dtype:
    """The format that ``llm_table_dtype`` means for a frozen table of this width.

    A wide table in float32 costs a training step more than the rest of the model together:
    its products are bound by arithmetic, which bfloat16 does several times faster where the
    device knows it. bfloat16 keeps 8 significant bits, as the LLM's own states do.

    ``setting``: the key's value; None leaves the choice to this function.
    """
    if setting:
        found: torch.dtype = getattr(torch, setting)
        return found
    wide = width > WIDE
    return torch.bfloat16 if wide and has_bfloat16_matmul(device) else torch.float32


def has_bfloat16_matmul(device: torch.device | str) -> bool:
    """Whether a device has instructions for products of bfloat16, rather than emulates them."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.device(device).type != "cpu":
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(probe()) for name in probes if (probe := getattr(torch.cpu, name, None)))
