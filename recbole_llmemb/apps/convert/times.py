"""Times as they come: seconds, milliseconds, dates in text; as seconds since 1970."""

from __future__ import annotations

import warnings
from datetime import datetime, timezone

import numpy as np
import pandas as pd

from recbole_llmemb.core.errors import UserError

_PER_SECOND = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9, "number": 1}
_WORDS = {
    "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds",
    "number": "numbers, taken as they are", "text": "dates in text",
}  # fmt: skip
UNITS = ("auto", "s", "ms", "us", "ns", "number", "text")
# Numbers below are no seconds of our time: positions, years, days.
_FIRST_SECOND = 1e8  # March 1973


class Clock:
    """Turns a column of times into seconds since 1970.

    ``unit``: one of :data:`UNITS`, or a format of ``strptime`` such as ``%d.%m.%Y``; ``auto`` looks
    at the first piece.
    ``column``: for messages.
    """

    def __init__(self, unit: str = "auto", column: str = "time"):
        if unit not in UNITS and "%" not in unit:
            raise UserError(
                f"--time_unit is {unit!r}; it must be one of {', '.join(UNITS)}, or a format "
                "such as %d.%m.%Y."
            )
        self.unit, self.column = unit, column
        self.first, self.last = np.inf, -np.inf

    def seconds(self, values: list) -> np.ndarray:
        """Times ``(n,)`` in seconds; NaN where there is none to read, or one before 1970."""
        if self.unit == "auto":
            self.unit = self._recognised(values)
        if self.unit in _PER_SECOND:
            found = numbers(values) / _PER_SECOND[self.unit]
        else:
            found = _dates(values, None if self.unit == "text" else self.unit)
        found[~np.isfinite(found) | (found < 0)] = np.nan
        good = found[~np.isnan(found)]
        if len(good):
            self.first, self.last = min(self.first, good.min()), max(self.last, good.max())
        return found

    def _recognised(self, values):
        found = numbers(values)
        found = found[np.isfinite(found)]
        filled = sum(value is not None and str(value).strip() != "" for value in values)
        if len(found) and len(found) * 2 >= filled:
            middle = float(np.median(found))
            if middle < _FIRST_SECOND:
                return "number"
            limits = {"s": 1e11, "ms": 1e14, "us": 1e17}
            return next((unit for unit, limit in limits.items() if middle < limit), "ns")
        dates = _dates(values, None)
        if np.isfinite(dates).sum() * 2 < max(1, filled):
            some = [str(value) for value in values if value not in (None, "")][:2]
            raise UserError(
                f"The times in {self.column!r} are neither numbers nor dates such as "
                f"2024-05-01T12:30:00 ({', '.join(map(repr, some)) or 'all are empty'}); say how "
                "they are written with --time_unit=%d.%m.%Y, or name another column with --time."
            )
        return "text"

    def __str__(self):
        words = _WORDS.get(self.unit, f"dates like {self.unit}")
        if self.unit == "number" or not np.isfinite(self.first):
            return words
        return f"{words}, {_day(self.first)} to {_day(self.last)}"


def numbers(values) -> np.ndarray:
    """Numbers ``(n,)`` of a column; NaN where there is none."""
    if any(isinstance(value, (datetime, np.datetime64)) for value in values[:1000]):
        return np.full(len(values), np.nan)
    # Whole numbers beyond all floats are no times.
    values = [np.nan if isinstance(v, int) and abs(v) > 1e300 else v for v in values]
    return pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )


def _dates(values, format):
    column = pd.Series(values, dtype=object)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pd.to_datetime(column, errors="coerce", utc=True, format=format or "ISO8601")
    since = found - pd.Timestamp(0, tz="UTC")
    return (since / pd.Timedelta(seconds=1)).to_numpy(dtype=np.float64, copy=True)


def _day(seconds):
    try:
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):
        return "beyond all years"
