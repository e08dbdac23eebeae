"""Which stretches of histories one pass reads and teaches, in batches with equal work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

# A chunk narrower than this many rows costs more to start than its padding costs to read.
_FEWEST = 64


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
    """Return the row numbers of a built split, longest history first, ``(n_rows,)``.

    Longest first shows a lack of memory at the first batch. Rows of equal length
    keep their order.
    """
    return torch.argsort(dataset.inter_feat[length_field], descending=True, stable=True)


def trim_histories(batch, config) -> None:
    """Cut the history fields of a batch, in place, to the longest history in it.

    Only trailing padding goes. A history field is one named like another field of the batch plus
    ``LIST_SUFFIX``, and ``MAX_ITEM_LIST_LENGTH`` wide.
    """
    suffix, width = config["LIST_SUFFIX"], config["MAX_ITEM_LIST_LENGTH"]
    longest = max(int(batch[config["ITEM_LIST_LENGTH_FIELD"]].max()), 1)
    for field, value in batch.interaction.items():
        listed = field.endswith(suffix) and field.removesuffix(suffix) in batch
        if listed and value.dim() > 1 and value.size(1) == width:
            batch.interaction[field] = value[:, :longest]


def is_first(users):
    """Whether a row is the first of its user, where rows lie by user, ``bool (n,)``."""
    return np.r_[True, users[1:] != users[:-1]][: len(users)]


def stretches(starts, counts):
    """The places of some stretches, one stretch after the other.

    ``starts``, ``counts`` (n,): where each begins, and how many places it has.
    Returns (m,): numbers of the stretches, in ascending order, and the places.
    """
    numbers = np.repeat(np.arange(len(counts)), counts)
    from_start = np.arange(len(numbers)) - (np.cumsum(counts) - counts)[numbers]
    return numbers, starts[numbers] + from_start


def last_of_each(positions, lengths, users):
    """The rows whose targets are the last ones of their users; as :func:`next_item_windows`."""
    order = np.lexsort((positions, users))
    chosen = order[is_first(users[order][::-1])[::-1]]
    return positions[chosen], lengths[chosen], users[chosen]


@dataclass(frozen=True)
class Windows:
    """Stretches of the sorted interactions, in no particular order; ``int64 (w,)`` each."""

    starts: np.ndarray  # Position of the first item among the sorted interactions
    lengths: np.ndarray  # Items read, at most the model's length
    # How many positions at the beginning only give context, being targets of an earlier window.
    n_context: np.ndarray
    users: np.ndarray

    def __len__(self):
        return len(self.starts)

    @property
    def target_counts(self):
        """Trained positions per window, ``(w,)``."""
        return self.lengths - self.n_context


def _runs(positions, lengths, users):
    """Stretches of consecutive targets of one user: first input, first and last target, user."""
    order = np.argsort(positions, kind="stable")
    positions, lengths, users = positions[order], lengths[order], users[order]
    breaks = (np.diff(positions) != 1) | (users[1:] != users[:-1])
    heads = np.flatnonzero(np.r_[True, breaks][: len(positions)])
    tails = np.r_[heads[1:] - 1, len(positions) - 1][: len(heads)]
    return positions[heads] - lengths[heads], positions[heads], positions[tails], users[heads]


def _cut(sizes, max_length, stride):
    """Cut runs of these sizes into windows: whose run, the how-manieth, offset and length."""
    extra = np.maximum(sizes - max_length, 0)
    run, nth = stretches(np.zeros_like(sizes), 1 + -(-extra // stride))
    # The last window ends with the run: it may overlap more, never less.
    offset = np.minimum(nth * stride, extra[run])
    return run, nth, offset, np.minimum(sizes[run], max_length)


def next_item_windows(positions, lengths, users, max_length, stride):
    """Windows for causal training: at each position the next item is the target.

    Every target position is trained on exactly once. A window reads at most
    ``max_length`` items; the windows of a longer sequence lie ``stride`` apart, so that
    a target outside the first window sees at least ``max_length - stride + 1`` of the
    items before it (``stride = 1`` gives every target the history that prefix
    augmentation gives it; a target of a sequence that fits always has it).

    ``positions``, ``lengths``, ``users``: ``int64 (n,)``, for each training row where its target
    lies among the sorted interactions, how long its history is, and whose it is.
    ``max_length``: ``MAX_ITEM_LIST_LENGTH``.
    ``stride``: between 1 and ``max_length``.
    """
    first_input, first_target, last_target, users = _runs(positions, lengths, users)
    run, nth, offset, length = _cut(last_target - first_input, max_length, stride)
    # Positions before the first target of the run only give context.
    lead = (first_target - 1 - first_input)[run]
    covered = np.where(nth == 0, lead, (nth - 1) * stride + max_length)
    return Windows(first_input[run] + offset, length, np.maximum(covered - offset, 0), users[run])


def whole_windows(positions, lengths, users, max_length, stride):
    """Windows over every training item of a user, targets included (BERT4Rec's cloze task).

    Parameters and result as :func:`next_item_windows`; any position may be masked, so
    ``n_context`` is zero throughout.
    """
    first_item, _, last_item, users = _runs(positions, lengths, users)
    run, _, offset, length = _cut(last_item - first_item + 1, max_length, stride)
    return Windows(first_item[run] + offset, length, np.zeros_like(length), users[run])
