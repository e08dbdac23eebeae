"""The small networks that LLM-SRec trains around a frozen LLM (section 4 of the paper)."""

from __future__ import annotations

import torch
from torch import nn


def two_layers(size_in, size_hidden, size_out, activation=nn.LeakyReLU):
    """Linear, LayerNorm, activation, Linear: the form of every network of the paper.

    ``size_in``, ``size_hidden``, ``size_out``: ``(n, size_in)`` to ``(n, size_out)``.
    ``activation``: LeakyReLU, or GELU for the projection of the CF model's states.
    """
    return nn.Sequential(
        nn.Linear(size_in, size_hidden),
        nn.LayerNorm(size_hidden),
        activation(),
        nn.Linear(size_hidden, size_out),
    )


def slot_projection(size_in, width, spread):
    """What turns a vector into an input embedding of the LLM: d → H, LayerNorm, LeakyReLU, H → H.

    ``size_in``, ``width``: d and H.
    ``spread``: standard deviation of the LLM's own token embeddings, which outputs begin with: much
    larger ones drown what a model adds to them (BERT's positions), and smaller ones are drowned.
    """
    layers = two_layers(size_in, width, width)
    last = layers[-1]
    # LeakyReLU halves the second moment of what the LayerNorm gives.
    nn.init.normal_(last.weight, std=spread / (0.5 * width) ** 0.5)
    nn.init.zeros_(last.bias)
    return layers


def learnt_token(width, spread):
    """The input embedding of ``[UserOut]`` or ``[ItemOut]``, ``(H,)``."""
    return nn.Parameter(torch.randn(width) * spread)


def standardised(vectors):
    """Vectors ``(n, d)`` moved to mean 0 and scaled to overall spread 1; row 0, padding, stays 0.

    The same for every column: their relation is what the vectors say.
    """
    rows = vectors[1:].float()
    rows = rows - rows.mean(0)
    rows = rows / rows.std(correction=0).clamp(min=1e-12)
    return torch.cat([rows.new_zeros(1, rows.shape[1]), rows])
