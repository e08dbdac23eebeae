"""How new items fare: where they rank among all items, over users of the dataset."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tabulate import tabulate
from tqdm import tqdm

from recbole_llmemb.core.errors import UserError

_PEOPLE = 64  # scored at a time
_LISTED = 20
_QUANTILES = (0.0, 0.1, 0.5)
_LONGEST_NAME = 26


@dataclass
class Fare:
    """Ranks of new items."""

    tokens: list[str]  # tokens, titles: Of the new items
    titles: list[str]
    # (u, m): For each user the rank of each new item among all items, the best is 1.
    ranks: torch.Tensor
    # For each new item the known item whose vector is most like its own: token, title, cosine.
    nearest: list[tuple]
    nearest_ranks: torch.Tensor  # (u, m): The ranks of these
    n_items: int  # Items that are ranked
    topk: int

    def listed(self) -> torch.Tensor:
        """Share of users with each new item among the top k, ``(m,)``."""
        return (self.ranks <= self.topk).double().mean(0)

    def __str__(self):
        quantiles = torch.tensor(_QUANTILES, dtype=torch.double)
        own = self.ranks.double().quantile(quantiles, dim=0).t()
        beside = self.nearest_ranks.double().median(0).values
        shares, by_chance = self.listed(), self.topk / self.n_items
        rows = []
        for i, token in enumerate(self.tokens[:_LISTED]):
            near, title, cosine = self.nearest[i]
            rows.append(
                [_named(token, self.titles[i])]
                + [f"{rank:,.0f}" for rank in own[i].tolist()]
                + [f"{shares[i]:.2%}", _named(near, title), f"{cosine:.2f}"]
                + [f"{beside[i]:,.0f}"]
            )
        if len(self.tokens) > _LISTED:
            rows.append([f"… ({len(self.tokens)} in all)"])
        headers = ["new item", "best", "10%", "median", f"top {self.topk}"]
        headers += ["nearest known item", "cosine", "its median"]
        aligned = ("left", *["right"] * 4, "left", "right", "right")
        whole = self.ranks.double().median()
        return (
            f"New items among {self.n_items:,}, over {len(self.ranks):,} users: median rank "
            f"{whole:,.0f} (by chance {(self.n_items + 1) / 2:,.0f}),\n"
            f"in the top {self.topk} of {shares.mean():.2%} of them (by chance {by_chance:.2%})\n"
            + tabulate(rows, headers, "simple", disable_numparse=True, colalign=aligned)
        )


def _named(token, title):
    text = f"{token} {title}".strip()
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"


def fare(
    recommender, users: int = 1000, topk: int = 10, seed: int = 0, show_progress=False
) -> Fare:
    """Rank the new items for users of the dataset.

    ``recommender``: with new items.
    ``users``: how many users to ask, drawn at random.
    ``topk``: for the share of users that would be shown an item.
    ``seed``: of the draw.
    """
    catalogue = recommender.catalogue
    if not catalogue.new_tokens:
        raise UserError("There are no new items whose ranks could be reported; add some first.")
    everybody = recommender.people("all")
    draw = torch.randperm(len(everybody), generator=torch.Generator().manual_seed(seed))
    people = everybody.select(draw[:users].sort().values)
    queries = recommender.user_vectors(people).to(recommender.item_vectors.device)
    items = recommender.item_vectors[1:]
    new = torch.arange(catalogue.item_count - 1, len(items), device=items.device)
    near, cosines = _nearest(items, catalogue.item_count - 1)
    wanted = torch.cat([new, near])
    ranks = []
    disable = None if show_progress else True
    with tqdm(total=len(queries), desc="new items", unit="user", disable=disable) as bar:
        for part in queries.split(_PEOPLE):
            ranks.append(_ranks(part @ items.t(), wanted).cpu())
            bar.update(len(part))
    ranks, count = torch.cat(ranks), len(new)
    names = [(catalogue.tokens[i + 1], catalogue.titles) for i in near.tolist()]
    nearest = [(t, titles.get(t, ""), c) for (t, titles), c in zip(names, cosines.tolist())]
    titles = [catalogue.titles.get(token, "") for token in catalogue.new_tokens]
    return Fare(
        catalogue.new_tokens, titles, ranks[:, :count], nearest, ranks[:, count:], len(items), topk
    )


def _nearest(items, known):
    """Of each new item the known one of largest cosine, and that."""
    rows = torch.nn.functional.normalize(items, dim=1)
    best = [(part @ rows[:known].t()).max(1) for part in rows[known:].split(_PEOPLE)]
    return torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])


def _ranks(scores, columns):
    """Ranks of these columns in each row: one more than how many score higher."""
    ordered = scores.sort(dim=1).values
    own = scores[:, columns].contiguous()
    return scores.shape[1] - torch.searchsorted(ordered, own, right=True) + 1
