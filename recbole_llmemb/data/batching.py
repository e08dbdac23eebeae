"""Batches with equal work and little padding.

A batch is as wide as its longest history. In dataset order nearly every batch holds one history
of the maximal length and all others are padding; in order of length, most of the padding never
reaches the model.
"""

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

    ``lengths``, ``costs``: ``int64 (w,)``, items read and positions trained on by each window.
    ``batch_size``: windows per batch, on average.
    ``generator``: the only source of randomness.
    ``shuffle``: False keeps the order given (sorting nothing).
    ``pool``: batches sorted by length together; larger pads less and mixes less.
    Returns window indices per batch; each window in exactly one.
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


def own_share(batches):
    """The share of an epoch that this process of a distributed run has."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return batches[rank::world][: len(batches) // world]


# A chunk narrower than this many rows costs more to start than its padding costs to read.
_FEWEST = 64


def length_buckets(lengths, fewest=_FEWEST):
    """Cut rows that are sorted by length into chunks, none with much padding in it.

    ``lengths`` (n,): in ascending order, on the CPU.
    ``fewest``: rows a chunk has at least, unless there are not as many.
    Returns first row, row after the last, and longest length of each chunk.
    """
    values, counts = torch.unique_consecutive(lengths, return_counts=True)
    chunks, begin, end, longest, limit = [], 0, 0, 0, 0
    for length, count in zip(values.tolist(), counts.tolist()):
        if length > limit and end - begin >= fewest:
            chunks.append((begin, end, longest))
            begin = end
        if begin == end:  # a new chunk takes in what is at most a third longer
            limit = length + max(1, length // 3)
        end, longest = end + count, length
    return [*chunks, (begin, end, longest)]


def length_order(dataset, length_field: str) -> torch.Tensor:
    """Return the row numbers of ``dataset``, longest history first.

    Longest first shows a lack of memory at the first batch. Rows of equal length
    keep their order.

    ``dataset``: A built split.
    ``length_field``: the field with the history lengths, ``(n_rows,)``.
    Returns ``(n_rows,)``.
    """
    return torch.argsort(dataset.inter_feat[length_field], descending=True, stable=True)


def trim_histories(interaction, length_field: str, list_suffix: str, width: int):
    """Cut the history fields of a batch to the longest history in it.

    Only trailing padding goes. A history field is one named like another field of
    the batch plus ``list_suffix`` and ``width`` wide.

    ``interaction``: the batch, cut in place.
    ``length_field``, ``list_suffix``: RecBole's ``ITEM_LIST_LENGTH_FIELD`` and ``LIST_SUFFIX``.
    ``width``: RecBole's ``MAX_ITEM_LIST_LENGTH``.
    Returns the same object.
    """
    longest = max(int(interaction[length_field].max()), 1)
    if longest >= width:
        return interaction
    for field in interaction.columns:
        value = interaction[field]
        if not (field.endswith(list_suffix) and field[: -len(list_suffix)] in interaction):
            continue
        if value.dim() > 1 and value.size(1) == width:
            interaction[field] = value[:, :longest]
    return interaction
