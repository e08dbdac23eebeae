"""RecBole's own format of search spaces, the file ``hyper.test``."""

from __future__ import annotations

import math

from recbole_llmemb.apps.tune.space import Space, make_dimension
from recbole_llmemb.config.arithmetic import value_of
from recbole_llmemb.core.errors import UserError

_KINDS = ("choice", "uniform", "quniform", "loguniform")


def from_lines(text: str, where: str) -> Space:
    """Read lines ``learning_rate loguniform -8,0``.

    As RecBole (that is, Hyperopt) reads them: bounds of ``loguniform`` are exponents of e, and
    ``quniform`` gives multiples of its step. RecBole evaluates choices as Python; here they
    may be arithmetic.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        at = f"{where}, line {number}"
        if len(words) < 3 or words[1] not in _KINDS:
            raise UserError(
                f"In {at}, {words[0]} must be followed by one of {', '.join(_KINDS)} and its "
                "values, such as `learning_rate choice [0.01,0.001]`."
            )
        key, kind, rest = words[0], words[1], " ".join(words[2:])
        if key in [one.key for one in found]:
            raise UserError(f"In {at}, {key} is searched a second time; drop one of the lines.")
        values = value_of(rest)
        if values == rest:
            raise UserError(
                f"In {at}, the values of {key} cannot be read: {rest}; write text in quotes."
            )
        if kind != "choice":
            values = _bounds(kind, values)
        found.append(make_dimension(at, key, kind, values))
    if not found:
        raise UserError(f"{where} has no keys to search; write lines `key choice [a,b]`.")
    return Space(found, where)


def _bounds(kind, values):
    numbers = isinstance(values, tuple) and all(isinstance(v, (int, float)) for v in values)
    if kind == "loguniform" and numbers and len(values) == 2 and max(values) < 700:
        return [math.exp(value) for value in values]
    finite = numbers and all(map(math.isfinite, values))
    if kind == "quniform" and finite and len(values) == 3 and values[2] > 0:
        low, high, step = values
        return [math.ceil(low / step) * step, math.floor(high / step) * step, step]
    return values
