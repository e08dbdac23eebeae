"""The words of the prompts (section 4 of LLM-SRec), and their codes.

A prompt is a row of codes: 0 or more is a token, :data:`PAD` is padding, and ``slot(s)`` is the
place of the row's vector s. Slot 0 is ``[UserOut]`` or ``[ItemOut]``, whose state is read.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import torch

USER_START = "This user has made a series of purchases in the following order: "
USER_END = ". Based on this sequence of purchases, generate user representation token:"
ITEM_START = "The item title and item embedding are as follows: "
ITEM_END = ", then generate item representation token:"
NO_TITLE = "No title"

PAD = -1


def history_text(number: int, title: str, date: str | None = None) -> str:
    """What stands before an item's ``[HistoryEmb]`` in a user prompt.

    ``number``: from 1, the oldest item shown.
    ``date``: ``YYYY-MM-DD``; without it the prompt says nothing of time.
    """
    begin = USER_START if number == 1 else ","
    time = f"Time: {date}, " if date else ""
    return f'{begin}Item No.{number}, {time}"{title}"'


def item_text(title: str) -> str:
    """What stands before ``[HistoryEmb]`` in an item prompt."""
    return f'{ITEM_START}"{title}"'


def slot(number: int) -> int:
    """The code of a row's vector ``number``."""
    return -2 - number


def pad_codes(rows: Iterable[Iterable[int]], left: bool = False) -> torch.Tensor:
    """Prompts as one tensor ``(b, L)``."""
    # By way of arrays: PyTorch takes a list number by number.
    tensors = [torch.frombuffer(array("i", row), dtype=torch.int32) for row in rows]
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(tensors, True, PAD, side).long()


def fill(embeddings: torch.Tensor, codes: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Put vectors into the slots of embedded prompts; a GPU waits for nothing.

    ``embeddings`` (b, L, H): of the tokens, anything elsewhere.
    ``codes`` (b, L): tell where which vector goes.
    ``vectors`` (b, S, H): for slots 0 … S − 1 of each row; gradients flow to them.
    """
    begin = torch.arange(len(codes), device=codes.device).unsqueeze(1) * vectors.shape[1]
    places = begin + (slot(0) - codes).clamp(min=0)
    chosen = vectors.to(embeddings.dtype).flatten(0, 1).index_select(0, places.flatten())
    return torch.where((codes < PAD).unsqueeze(-1), chosen.view_as(embeddings), embeddings)


def recent(items: torch.Tensor, lengths: torch.Tensor, most: int) -> torch.Tensor:
    """The last ``most`` items of right-padded histories ``(b, w)`` of these lengths ``(b,)``.

    Returns ``(b, w')`` with w' ≤ ``most``, padded on the right.
    """
    shown = lengths.clamp(max=most)
    offsets = torch.arange(min(most, items.shape[1]), device=items.device)
    index = ((lengths - shown).unsqueeze(1) + offsets).clamp(max=items.shape[1] - 1)
    return items.gather(1, index) * (offsets < shown.unsqueeze(1))
