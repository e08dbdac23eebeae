"""Negatives that RecBole's samplers draw again and again until one fits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.imports import around


def end_sampling() -> None:
    """Refuse to draw where nothing fits, over which RecBole would draw without end."""
    from recbole.sampler.sampler import AbstractSampler

    @around(AbstractSampler, "sample_by_key_ids")
    def ending(sample, self, key_ids, num):
        if hasattr(self, "item_num"):
            refuse_endless(self, (self.used_ids[key] for key in set(map(int, key_ids))))
        return sample(self, key_ids, num)


def refuse_endless(sampler: Any, used: Iterable[set]) -> None:
    """Refuse if a sampler would have to draw an item beside all that it draws from.

    ``used``: sets of items that are no negatives. By popularity, items without interactions in
    training are never drawn.
    """
    popular = sampler.distribution == "popularity"
    offered = sampler.prob.keys() if popular else range(1, sampler.item_num)
    for items in used:
        if len(items) >= len(offered) and all(item in items for item in offered):
            named = "1 item" if len(offered) == 1 else f"all {len(offered):,} items"
            told = f"Somebody's negatives can be none of the {named} that are drawn from"
            advice = "rank with mode: full, and train with loss_type: CE"
            raise UserError(f"{told}; {advice}, or filter such users.", key="eval_args")
