"""Prompts as numbers: token ids, and codes for the places that vectors are put into.

A code of 0 or more is a token; :data:`PAD` is padding; ``slot(s)`` is the place of the s-th
vector of the row. Slot 0 is ``[UserOut]`` or ``[ItemOut]``, whose state is read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch

PAD = -1


def slot(number: Any) -> Any:
    """The code of a row's vector ``number`` (an int or an array)."""
    return -2 - number


@dataclass
class Prompts:
    """A batch of prompts, ready for the LLM."""

    tokens: torch.Tensor  # (b, L): 0 where there is padding or a slot
    mask: torch.Tensor  # (b, L): 1 where there is no padding
    places: torch.Tensor  # (n,): Where the slots lie in the flattened tokens
    # (n,): Which vector goes into each, in the flattened vectors ``(b · S, H)``.
    sources: torch.Tensor
    ends: torch.Tensor  # (b,): Where slot 0 lies in each row

    @classmethod
    def from_codes(cls, codes: torch.Tensor, n_slots: int, left: bool = False) -> Prompts:
        """Read codes ``(b, L)``, padded on the right, with up to ``n_slots`` slots in a row.

        On the CPU this waits for nothing. With ``left`` the padding comes before each prompt.
        """
        if left:
            padding = (codes == PAD).sum(1, keepdim=True)
            column = torch.arange(codes.shape[1], device=codes.device)
            codes = codes.gather(1, (column - padding) % codes.shape[1])
        places = (codes.flatten() < PAD).nonzero().squeeze(1)
        rows = torch.div(places, codes.shape[1], rounding_mode="floor")
        return cls(
            tokens=codes.clamp(min=0),
            mask=(codes != PAD).long(),
            places=places,
            sources=rows * n_slots + (slot(0) - codes.flatten()[places]),
            ends=(codes == slot(0)).long().argmax(1),
        )

    def columns(self, name: str) -> dict[str, torch.Tensor]:
        """As columns of an :class:`Interaction`, whose names begin with ``name``."""
        return {f"{name}{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_columns(cls, interaction: Any, name: str) -> Prompts:
        """What :meth:`columns` made."""
        return cls(**{field.name: interaction[f"{name}{field.name}"] for field in fields(cls)})

    def to(self, device: torch.device | str) -> Prompts:
        """The same on another device."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        return Prompts(**moved)


def fill(embeddings: torch.Tensor, prompts: Prompts, vectors: torch.Tensor) -> torch.Tensor:
    """Put vectors into the slots of embedded prompts, all with one scatter.

    ``embeddings`` (b, L, H): of ``prompts.tokens``.
    ``vectors`` (b, S, H): what goes into each row's slots 0 … S − 1; those without a slot are left
    out.
    Returns (b, L, H): Gradients flow to ``vectors``.
    """
    chosen = vectors.flatten(0, 1).index_select(0, prompts.sources).to(embeddings.dtype)
    flat = embeddings.flatten(0, 1).index_copy(0, prompts.places, chosen)
    return flat.view_as(embeddings)


def pad_rows(starts: torch.Tensor, lengths: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """Stretches of a flat array as rows, padded with :data:`PAD` on the right.

    Shapes: ``starts``, ``lengths`` (b,), ``flat`` (n,).
    Returns (b, longest).
    """
    offsets = torch.arange(int(lengths.max()))
    index = (starts.unsqueeze(1) + offsets).clamp_(max=len(flat) - 1)
    return flat[index].masked_fill_(offsets >= lengths.unsqueeze(1), PAD)
