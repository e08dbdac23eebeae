"""Batches of windows with equal work and little padding."""

from __future__ import annotations

import numpy as np
import torch


def plan_batches(lengths, costs, batch_size, generator, shuffle=True, pool=64):
    """Group windows of similar length into batches of about the same number of targets.

    Windows are shuffled, sorted by length inside pools of ``pool`` batches, and cut
    where a batch has reached ``batch_size`` times the mean cost. So a step trains on
    about as many positions whatever the length of its sequences: a batch of long
    histories does not count less per position than one of short ones, and an epoch
    takes as many steps as ``batch_size`` windows each would.

    Parameters
    ----------
    lengths, costs : numpy.ndarray of int64 (w,)
        Items read and positions trained on by each window.
    batch_size : int
        Windows per batch, on average.
    generator : torch.Generator
        The only source of randomness.
    shuffle : bool
        False keeps the order given (sorting nothing).
    pool : int
        Batches sorted by length together; larger pads less and mixes less.

    Returns
    -------
    list of numpy.ndarray
        Window indices per batch; each window in exactly one.
    """
    count = len(lengths)
    if count == 0:
        return []
    budget = max(1.0, float(costs.mean()) * batch_size)
    order = torch.randperm(count, generator=generator).numpy() if shuffle else np.arange(count)
    pool_size = max(1, pool * batch_size)
    batches = []
    for begin in range(0, count, pool_size):
        chunk = order[begin : begin + pool_size]
        if shuffle:
            chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        before = np.cumsum(costs[chunk]) - costs[chunk]
        cuts = np.flatnonzero(np.diff((before / budget).astype(np.int64))) + 1
        batches.extend(np.split(chunk, cuts))
    if shuffle:
        batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
    return batches
