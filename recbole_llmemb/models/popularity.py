"""Popularity taken out of what training has to explain: logit adjustment for the long tail."""

from __future__ import annotations

import torch


def log_popularity(dataset, weight):
    """What is added to the logits of the training softmax, and only there.

    Logit adjustment (Menon et al., ICLR 2021, arXiv 2007.07314): with ``weight`` · log of
    an item's share of the interactions added in training, the scores themselves need not say how
    popular an item is, and rank for a catalogue in which that counts less. 1 is that paper's
    loss, which is consistent for the mean over items rather than over interactions.

    ``dataset``: the training split.
    ``weight``: τ in that paper.
    Returns (n_items,): One is added to each count, for items without interactions. A constant,
    which no softmax sees, is left out.
    """
    counts = dataset.training_counts(dataset)[0]
    return weight * torch.log1p(counts.float())
