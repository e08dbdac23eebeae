"""What an item learns for itself, beside what its text says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class ItemOffsets(nn.Module):
    """A learnt vector per item; exactly zero for items without a training interaction.

    Such items meet the loss as negatives only, which would push them somewhere for no
    reason of theirs. They get no gradient, so that no optimiser moves them from zero, and
    their embedding is what the adapter says.

    Parameters
    ----------
    weight : torch.FloatTensor (n_items, d)
        Initial values.
    trained : torch.BoolTensor (n_items,)
        Which items have training interactions; part of the state dict, as it belongs to
        the training data.
    """

    def __init__(self, weight, trained):
        super().__init__()
        self.weight = nn.Parameter(weight * trained.unsqueeze(1))
        self.register_buffer("trained", trained)

    def forward(self, ids=None):
        """Offsets of these items ``(m,)`` as ``(m, d)``, or of all ``(n_items, d)``."""
        if ids is None:
            return self.weight * self.trained.unsqueeze(1)
        return F.embedding(ids, self.weight) * self.trained[ids].unsqueeze(1)

    def penalty(self, ids):
        """Mean squared length of the offsets of a batch's items, each distinct one once.

        Parameters
        ----------
        ids : torch.LongTensor
            Any shape, repeats and ids that are no items (padding, a mask) allowed.
        """
        ids = ids.reshape(-1)
        ids = torch.where(ids < len(self.weight), ids, 0)
        once = _first_of_each(ids, len(self.weight)) & (ids > 0)
        lengths = F.embedding(ids, self.weight).square().sum(1)
        return (lengths * (once & self.trained[ids])).sum() / once.sum().clamp(min=1)


def _first_of_each(ids, n):
    """Mark one place of each distinct id, without sorting and without waiting for a device."""
    places = torch.arange(len(ids), device=ids.device)
    winner = torch.empty(n, dtype=torch.long, device=ids.device)
    winner[ids] = places
    return winner[ids] == places


def trained_items(dataset):
    """Which items occur in a training split, ``(n_items,)``; padding does not.

    ``dataset``: what the model is built with. One that cannot tell counts as having all items.
    """
    if not hasattr(dataset, "sorted_interactions"):
        trained = torch.ones(dataset.item_num, dtype=torch.bool)
    else:
        trained = dataset.training_counts(dataset)[0] > 0
    trained[0] = False
    return trained
