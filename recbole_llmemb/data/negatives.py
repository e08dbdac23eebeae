"""Negative items for training, drawn for a whole batch at once."""

from __future__ import annotations

import torch

from recbole_llmemb.core.errors import UserError


class NegativeSampler:
    """Draws items a user has not interacted with in training.

    RecBole draws in Python, row by row, and for sequential models only avoids the row's
    target; SASRec's and LLMEmb's authors avoid the user's whole training sequence, which
    is the default here.

    ``users``, ``items`` (n,): the training interactions.
    ``n_items``: items with padding; items 1 … ``n_items - 1`` are drawn.
    ``generator``: the only source of randomness.
    ``excludes``: what a negative must differ from, the user's ``history`` or the ``target``.
    ``distribution``: ``uniform``, or ``popularity``, in proportion to ``count ** alpha``.
    """

    def __init__(
        self, users, items, n_items, generator, excludes="history", distribution="uniform",
        alpha=1.0,
    ):  # fmt: skip
        self.n_items = n_items
        self.generator = generator
        self.excludes = excludes
        self.known = torch.unique(users * n_items + items)  # sorted: membership by bisection
        self.cumulative, offered = None, n_items - 1
        if distribution == "popularity":
            counts = torch.bincount(items, minlength=n_items).double()
            counts[0] = 0
            self.cumulative = counts.pow(alpha).mul(counts > 0).cumsum(0)
            offered = int((counts > 0).sum())
        if excludes == "history" and len(self.known):
            used = torch.bincount(self.known // n_items)
            if int(used.max()) >= offered:
                raise UserError(
                    f"A user has interacted with all {offered} items, so no negative can be "
                    "drawn; set negative_excludes: target or filter such users."
                )
        if offered < 2:
            raise UserError("There is only one item to draw negatives from; set loss_type: CE.")

    def _draw(self, count):
        if self.cumulative is None:
            return torch.randint(1, self.n_items, (count,), generator=self.generator)
        point = torch.rand(count, generator=self.generator, dtype=torch.double)
        index = torch.searchsorted(self.cumulative, point * self.cumulative[-1], right=True)
        return index.clamp_(1, self.n_items - 1)

    def _rejected(self, users, targets, drawn):
        if self.excludes == "target":
            return drawn == targets
        keys = users * self.n_items + drawn
        found = torch.searchsorted(self.known, keys).clamp_(max=len(self.known) - 1)
        return (self.known[found] == keys) | (drawn == targets)

    def sample(self, users, targets):
        """One negative for each target: whose they are, and what they stand against, ``(n,)``."""
        drawn = self._draw(len(targets))
        pending = self._rejected(users, targets, drawn).nonzero().squeeze(1)
        while len(pending):
            drawn[pending] = self._draw(len(pending))
            again = self._rejected(users[pending], targets[pending], drawn[pending])
            pending = pending[again]
        return drawn
