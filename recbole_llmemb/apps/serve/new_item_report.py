"""Where new items rank among all items, over users of the dataset."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.terminal import progress_bar, text_table

_USERS = 64  # scored at a time
_LISTED = 20
_QUANTILES = (0.0, 0.1, 0.5)
_LONGEST_NAME = 26


@dataclass
class NewItemReport:
    """Ranks of new items."""

    names: list[str]  # Of the new items: token and title
    # (u, m): For each user the rank of each new item among all items, the best is 1.
    ranks: torch.Tensor
    # For each new item the known item whose vector is most like its own: its name, the cosine.
    nearest: list[tuple[str, float]]
    nearest_ranks: torch.Tensor  # (u, m): The ranks of these
    n_items: int  # Items that are ranked
    topk: int

    def listed(self) -> torch.Tensor:
        """Share of users with each new item among the top k, ``(m,)``."""
        return (self.ranks <= self.topk).double().mean(0)

    def __str__(self):
        quantiles = torch.tensor(_QUANTILES, dtype=torch.double)
        own = self.ranks.double().quantile(quantiles, dim=0).t().tolist()
        beside = self.nearest_ranks.double().median(0).values.tolist()
        shares, by_chance = self.listed(), self.topk / self.n_items
        rows = [
            [self.names[i], *(f"{rank:,.0f}" for rank in own[i]), f"{shares[i]:.2%}",
             self.nearest[i][0], f"{self.nearest[i][1]:.2f}", f"{beside[i]:,.0f}"]
            for i in range(min(_LISTED, len(self.names)))
        ]  # fmt: skip
        if len(self.names) > _LISTED:
            rows.append([f"… ({len(self.names)} in all)"])
        headers = ["new item", "best", "10%", "median", f"top {self.topk}"]
        headers += ["nearest known item", "cosine", "its median"]
        aligned = ("left", *["right"] * 4, "left", "right", "right")
        whole = self.ranks.double().median()
        return (
            f"New items among {self.n_items:,}, over {len(self.ranks):,} users: median rank "
            f"{whole:,.0f} (by chance {(self.n_items + 1) / 2:,.0f}),\n"
            f"in the top {self.topk} of {shares.mean():.2%} of them (by chance {by_chance:.2%})\n"
            + text_table(rows, headers, aligned)
        )


def rank_new_items(
    recommender, users: int = 1000, topk: int = 10, seed: int = 0, show_progress=False
) -> NewItemReport:
    """Rank the new items for users of the dataset.

    ``recommender``: with new items.
    ``users``: how many users to ask, drawn at random.
    ``topk``: for the share of users that would be shown an item.
    ``seed``: of the draw.
    """
    index = recommender.item_index
    if not index.new_tokens:
        raise UserError("There are no new items whose ranks could be reported; add some first.")
    asked = recommender.people("all").sample(users, seed)
    queries = recommender.user_vectors(asked).to(recommender.item_vectors.device)
    items, known = recommender.item_vectors[1:], index.item_count - 1
    near, cosines = _nearest(items, known)
    wanted = torch.cat([torch.arange(known, len(items), device=items.device), near])
    ranks = []
    disable = None if show_progress else True
    with progress_bar(total=len(queries), desc="new items", unit="user", disable=disable) as bar:
        for part in queries.split(_USERS):
            ranks.append(_ranks(part @ items.t(), wanted).cpu())
            bar.update(len(part))
    own, beside = torch.cat(ranks).chunk(2, dim=1)
    names = [_name(index, token) for token in index.new_tokens]
    closest = [_name(index, index.tokens[place + 1]) for place in near.tolist()]
    nearest = list(zip(closest, cosines.tolist()))
    return NewItemReport(names, own, nearest, beside, len(items), topk)


fare = rank_new_items  # its name in earlier releases


def _name(index, token) -> str:
    text = f"{token} {index.titles.get(token, '')}".strip()
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"


def _nearest(items, known):
    """Of each new item the known one of largest cosine, and that."""
    rows = torch.nn.functional.normalize(items, dim=1)
    best = [(part @ rows[:known].t()).max(1) for part in rows[known:].split(_USERS)]
    return torch.cat([b.indices for b in best]), torch.cat([b.values for b in best])


def _ranks(scores, columns):
    """Ranks of these columns in each row: one more than how many score higher."""
    ordered = scores.sort(dim=1).values
    own = scores[:, columns].contiguous()
    return scores.shape[1] - torch.searchsorted(ordered, own, right=True) + 1
