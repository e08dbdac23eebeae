"""Times as they were before RecBole scaled them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clock:
    """The range of a time field that RecBole scaled to 0..1 (``normalize_all``).

    RecBole's own configuration of ml-100k does so. Order is all that most models need of times;
    a prompt that names dates needs the times themselves.
    """

    # start, span: Smallest time, and how far the greatest lies behind it. The defaults change
    # nothing.
    start: float = 0.0
    span: float = 1.0

    @classmethod
    def of(cls, times):
        """The clock of times ``(n,)`` that RecBole scales; equal ones all become 1."""
        first, span = float(times.min()), float(times.max() - times.min())
        return cls(first, span) if span else cls(first - 1)

    def times(self, scaled):
        """Times of scaled ones, ``float64``.

        Late by as much as scaling may have taken from them, so that the midnight which stands
        for a date stays on its day.
        """
        scaled = np.asarray(scaled, dtype=np.float64)
        if self == Clock():
            return scaled
        times = self.start + self.span * scaled
        return times + 2 * np.spacing(np.abs(times))

    def scaled(self, times):
        """Scaled ones of times, ``float64``; they may lie outside 0..1."""
        return (np.asarray(times, dtype=np.float64) - self.start) / self.span
