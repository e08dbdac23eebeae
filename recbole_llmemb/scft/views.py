"""Attribute-level augmentation: two views of an item, new ones every epoch (LLMEmb, SCFT)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recbole_llmemb.encode.shards import item_prompts


def draw_view(attributes: Mapping[str, str], ratio: float, draw: random.Random) -> dict[str, str]:
    """Shuffle an item's attributes and drop a share of them, never all.

    The number to drop is ``ratio`` times their number, rounded up or down by chance so that it
    is right on average: of two attributes, 0.4 would otherwise never drop any.

    ``attributes``: name to text. A single attribute stays as it is.
    """
    names = list(attributes)
    if len(names) < 2:
        return dict(attributes)
    draw.shuffle(names)
    whole, part = divmod(len(names) * ratio, 1)
    kept = len(names) - int(whole) - (draw.random() < part)
    return {name: attributes[name] for name in names[: max(1, kept)]}


@dataclass(eq=False)
class Views:
    """Items to pairs of prompts; the transform of the training dataset.

    What is drawn depends on seed, epoch and item alone, so that an interrupted training sees
    after its resumption what it would have seen.
    """

    items: Sequence[Mapping[str, str]]  # Attributes of each item
    instruction: str  # What stands before the attributes
    value_max_chars: int | None  # Longer values are cut
    ratio: float  # Share of attributes to drop
    seed: int
    epoch: int = 0  # To be set at the begin of each

    def pair(self, item: int, epoch: int | str | None = None) -> list[str]:
        """Two independent views of an item, as prompts."""
        when = self.epoch if epoch is None else epoch
        draw = random.Random(f"{self.seed}/{when}/{item}")  # a string: hashed the same everywhere
        views = [draw_view(self.items[item], self.ratio, draw) for _ in range(2)]
        return item_prompts(views, self.instruction, self.value_max_chars)

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> dict[str, list[str]]:
        """Rows ``{"item": [numbers]}`` to columns ``view_a`` and ``view_b``."""
        pairs = [self.pair(int(item)) for item in batch["item"]]
        return {"view_a": [a for a, _ in pairs], "view_b": [b for _, b in pairs]}


def split_items(
    attributes: Sequence[Mapping[str, str]], share: float, most: int, seed: int
) -> tuple[list[Mapping[str, str]], list[Mapping[str, str]]]:
    """Items to train on and items held out, each text once.

    Items of which nothing is known take no part; those with equal attributes count as one, as
    they would be negatives of themselves. Items with a single attribute are trained on (whole)
    but not held out, as their views are equal.

    Returns two lists of attributes.
    """
    different = list({tuple(item.items()): item for item in attributes if item}.values())
    several = [i for i, item in enumerate(different) if len(item) > 1]
    count = min(int(len(several) * share), most)
    held = set(random.Random(seed).sample(several, count))
    train = [item for i, item in enumerate(different) if i not in held]
    return train, [different[i] for i in sorted(held)]
