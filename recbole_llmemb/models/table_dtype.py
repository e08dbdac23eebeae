"""In which number format a frozen table is kept and multiplied."""

from __future__ import annotations

import torch

#: Tables wider than this come from LLMs, which compute in half precision to begin with.
WIDE = 1024


def table_dtype(setting, width, device):
    """The format that ``llm_table_dtype`` means for a frozen table.

    A wide table in float32 costs a training step more than the rest of the model together:
    its products are bound by arithmetic, which bfloat16 does several times faster where the
    device knows it. bfloat16 keeps 8 significant bits, as the LLM's own states do.

    ``setting``: the key's value; None leaves the choice to this function.
    ``width``: D, the columns of the table.
    ``device``: where the model runs.
    """
    if setting:
        return getattr(torch, setting)
    wide = width > WIDE
    return torch.bfloat16 if wide and multiplies_bfloat16(device) else torch.float32


def multiplies_bfloat16(device) -> bool:
    """Whether a device has instructions for products of bfloat16, rather than emulates them."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.device(device).type != "cpu":
        return False
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(probe() for name in probes if (probe := getattr(torch.cpu, name, None)))
