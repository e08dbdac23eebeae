"""What was recommended to whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from recbole_llmemb.apps.serve.item_index import Catalogue


@dataclass
class Recommendations:
    """Items for some people, best first."""

    users: list[str]  # User tokens, or names of histories
    # (b, k): Positions in ``catalogue.tokens``; 0 where there are fewer than k.
    places: torch.Tensor
    # (b, k): The model's; for popular items how often each was met in training.
    scores: torch.Tensor
    # (b,): Whose items are simply the most popular ones, as there was no history.
    popular: torch.Tensor
    catalogue: Catalogue

    def __len__(self):
        return len(self.users)

    @property
    def items(self) -> list[list[str]]:
        """Item tokens of each row."""
        tokens, counts = self.catalogue.tokens[self.places.numpy()], (self.places > 0).sum(1)
        return [row[:count].tolist() for row, count in zip(tokens, counts.tolist())]

    def rows(self) -> Iterator[tuple[str, list[dict], bool]]:
        """For each row whose it is, its items, and whether they are the popular ones.

        An item is a dictionary with ``item``, ``title`` (if it has one), ``score`` and, for new
        items, ``new`` (True).
        """
        titles, first_new = self.catalogue.titles, self.catalogue.item_count
        facts = zip(self.users, self.items, self.places.tolist(), self.scores.tolist())
        for (user, items, places, scores), popular in zip(facts, self.popular.tolist()):
            row = []
            for item, place, score in zip(items, places, scores):
                named = {"title": titles[item]} if item in titles else {}
                new = {"new": True} if place >= first_new else {}
                row.append({"item": item, **named, "score": score, **new})
            yield user, row, popular

    @classmethod
    def joined(cls, parts: list[Recommendations]) -> Recommendations:
        """Several as one; at least one of them."""
        users = [user for part in parts for user in part.users]
        tensors = [
            torch.cat([getattr(part, name) for part in parts])
            for name in ("places", "scores", "popular")
        ]
        return cls(users, *tensors, parts[0].catalogue)
