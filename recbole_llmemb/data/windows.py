"""One pass over a user's sequence: which stretches of it are read, and what they teach.

RecBole's prefix augmentation turns a user with n training interactions into n−1 rows,
each re-reading its whole history. A causal model reads the sequence once and predicts
at every position. Sequences longer than the model are cut into overlapping windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
