"""How a state and an item embedding make a score."""

from __future__ import annotations

from torch import nn


class ItemScores(nn.Module):
    """Turns states and item embeddings into the two sides of a dot product.

    Parameters
    ----------
    config : recbole.config.Config
    """

    def __init__(self, config):
        super().__init__()

    def sides(self, states, items):
        """What is multiplied: states ``(..., d)`` and item embeddings ``(..., d)``."""
        return states, items
