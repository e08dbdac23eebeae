"""The items that can be recommended: those of the dataset, and new ones after them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from recbole_llmemb.core.errors import UserError, name_some, refuse_unknown


class Catalogue:
    """Item tokens by position: padding at 0, the dataset's items, new items.

    ``tokens``: the dataset's by id, padding first.
    ``titles``: by token.
    ``first_new_id``: the id that the model reads the first new item under: it may use some after
    the items (BERT4Rec's mask).

    ``tokens``: (n,).
    ``number``: Position of each token.
    ``item_count``: Items of the dataset, padding included.
    """

    def __init__(self, tokens, titles, first_new_id):
        self.tokens = np.array(tokens, dtype=object)
        self.number = {token: place for place, token in enumerate(tokens) if place}
        self.item_count, self.first_new_id = len(tokens), first_new_id
        self.titles = dict(titles)

    def __len__(self):
        return len(self.tokens)

    @property
    def new_tokens(self) -> list[str]:
        """Tokens of the new items, in the order in which they were added."""
        return self.tokens[self.item_count :].tolist()

    def add(self, tokens, titles) -> None:
        """Add new items, and what they are called."""
        first = len(self.tokens)
        self.tokens = np.concatenate([self.tokens, np.array(tokens, dtype=object)])
        self.number |= {token: first + i for i, token in enumerate(tokens)}
        self.titles |= titles

    def ids(self, places: torch.Tensor) -> torch.Tensor:
        """What the model reads for items at these positions."""
        if len(self.tokens) == self.item_count:
            return places
        shift = self.first_new_id - self.item_count
        return places + shift * (places >= self.item_count)

    def check_readable(self, places: torch.Tensor, method, name: str) -> None:
        """Refuse new items in histories whose items' fields the model reads."""
        if "item_fields" in method.reads and bool((places >= self.item_count).any()):
            raise UserError(
                f"{name} reads fields of a history's items, which new items do not "
                "have; leave new items out of histories."
            )

    def positions(self, tokens, what: str = "the candidates") -> torch.Tensor:
        """Positions of these items, ascending, ``(m,)``."""
        tokens = [str(token) for token in tokens]
        if not tokens:
            raise UserError(f"{what.capitalize()} name no item; give at least one.")
        unknown = [token for token in tokens if token not in self.number]
        if unknown:
            refuse_unknown("item", unknown, self.number, f"{what.capitalize()}: the model")
        found = torch.tensor([self.number[token] for token in tokens]).unique()
        if len(found) != len(tokens):
            twice = [token for token, count in Counter(tokens).items() if count > 1]
            raise UserError(
                f"{what.capitalize()}: {name_some(twice)} occur more than once; name each once."
            )
        return found


class Choice:
    """The items among which the best are sought.

    ``positions`` (c,): ascending; all items if not given.
    """

    def __init__(self, catalogue, positions=None):
        self.everything, self.positions = positions is None, positions
        self._count = len(catalogue) - 1 if self.everything else len(positions)
        if not self.everything:
            self._columns = torch.full((len(catalogue),), -1)
            self._columns[positions] = torch.arange(len(positions))

    def __len__(self):
        return self._count

    def places(self, columns: torch.Tensor) -> torch.Tensor:
        """Positions in the catalogue of columns."""
        return columns + 1 if self.everything else self.positions[columns]

    def of(self, matrix, dim: int = 0):
        """Their part of something with one entry per item along ``dim``."""
        if self.everything:
            return matrix.narrow(dim, 1, matrix.shape[dim] - 1)
        return matrix.index_select(dim, self.positions.to(matrix.device))

    def columns(self, rows, places):
        """Pairs of row and position as pairs of row and column; others fall away."""
        if self.everything:
            return rows, places - 1
        columns = self._columns[places]
        return rows[columns >= 0], columns[columns >= 0]
