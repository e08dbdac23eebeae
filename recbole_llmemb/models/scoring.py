"""How a state and an item embedding make a score."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

#: What ``item_similarity: cosine`` divides by where ``similarity_temperature`` is empty.
COSINE_TEMPERATURE = 0.07
#: A learnt temperature stays between these.
BOUNDS = (0.01, 10.0)
# Vectors shorter than this count as having no direction: their gradients would be huge.
_SHORTEST = 1e-4


class ItemScores(nn.Module):
    """Turns states and item embeddings into the two sides of a dot product.

    ``dot``: s·e/τ; ``cosine``: s·e/(‖s‖‖e‖τ). The temperature τ may be learnt, as its
    logarithm, between :data:`BOUNDS`.

    Parameters
    ----------
    config : recbole.config.Config
        ``item_similarity``, ``similarity_temperature``, ``learn_temperature``.
    """

    def __init__(self, config):
        super().__init__()
        self.cosine = config["item_similarity"] == "cosine"
        default = COSINE_TEMPERATURE if self.cosine else 1.0
        self.fixed = config["similarity_temperature"] or default
        self.log_temperature = None
        if config["learn_temperature"]:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(self.fixed)))
        self._kept = None

    @property
    def plain(self):
        """Whether scores are dot products and nothing else, as RecBole's own losses make them."""
        return not self.cosine and self.fixed == 1.0 and self.log_temperature is None

    @property
    def temperature(self):
        """τ, a number or a tensor that gradients flow to."""
        if self.log_temperature is None:
            return self.fixed
        low, high = (math.log(bound) for bound in BOUNDS)
        if torch.is_grad_enabled():
            # The parameter itself is brought back: behind a clamp it would get no gradient.
            with torch.no_grad():
                self.log_temperature.clamp_(low, high)
            return self.log_temperature.exp()
        return self.log_temperature.clamp(low, high).exp()

    def sides(self, states, items):
        """What is multiplied: states ``(..., d)`` and item embeddings ``(..., d)``."""
        if torch.is_grad_enabled():
            self._kept = None
        if self.plain:
            return states, items
        return self._queries(states), self._directions(items)

    def ranking_sides(self, states, matrix):
        """As :meth:`sides` for all items ``(n_items, d)``, whose side evaluation makes once."""
        if torch.is_grad_enabled() or not self.cosine:
            return self.sides(states, matrix)
        # As for the matrix itself, versions alone do not tell: fused optimisers leave them.
        # Every use that may lead to a gradient, and every change of mode, forgets it. The
        # tensor is kept too, so that no other can come to lie at its address.
        key = (matrix.data_ptr(), matrix._version, matrix.shape, matrix.dtype)
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, matrix, self._directions(matrix))
        return self._queries(states), self._kept[2]

    def lookup(self, states, layer, ids):
        """As :meth:`sides` for the items ``ids``, of any shape, of an embedding layer."""
        if torch.is_grad_enabled() or not self.cosine:
            return self.sides(states, layer(ids))
        states, matrix = self.ranking_sides(states, layer.weight)
        return states, F.embedding(ids, matrix)

    def _queries(self, states):
        return self._directions(states) / self.temperature

    def _directions(self, vectors):
        return F.normalize(vectors, dim=-1, eps=_SHORTEST) if self.cosine else vectors

    def train(self, mode=True):
        """As for any module."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self):
        # What evaluation computed is not worth copying or pickling.
        return {**self.__dict__, "_kept": None}
