"""Search spaces: which keys are searched, over what, and under which conditions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from recbole_llmemb.config.arithmetic import value_of
from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.optional import optional
from recbole_llmemb.core.suggestions import nearest


class Kind(NamedTuple):
    """A way to search a key."""

    holds: str  # What its list holds
    suggest: Callable  # Of an optuna.trial.Trial, a key and the list: a value


def _choice(trial, key, *values):  # by number, as Optuna takes no lists for values
    return values[trial.suggest_categorical(key, list(range(len(values))))]


def _uniform(trial, key, low, high):
    return trial.suggest_float(key, low, high)


def _loguniform(trial, key, low, high):
    return trial.suggest_float(key, low, high, log=True)


def _quniform(trial, key, low, high, step):
    value = low + step * trial.suggest_int(key, 0, math.floor((high - low) / step + 1e-9))
    # Sizes must stay whole numbers, and 0.1 + 2 * 0.1 is to be 0.3.
    return value if isinstance(value, int) else round(value, 12)


def _randint(trial, key, low, high):
    return trial.suggest_int(key, low, high)


#: How a key may be searched.
KINDS = {
    "choice": Kind("the values", _choice),
    "uniform": Kind("low, high", _uniform),
    "loguniform": Kind("low, high", _loguniform),
    "quniform": Kind("low, high, step", _quniform),
    "randint": Kind("low, high, both counted in", _randint),
}


@dataclass(frozen=True)
class Dimension:
    """One searched key."""

    key: str
    kind: str  # One of :data:`KINDS`
    values: tuple  # The choices, or the bounds (and the step)
    # Searched only where these other keys have one of these values.
    when: dict = field(default_factory=dict)

    def active(self, drawn: dict) -> bool:
        """Whether the key is searched, given what was drawn for the keys before it."""
        return all(key in drawn and drawn[key] in allowed for key, allowed in self.when.items())

    def suggest(self, trial):
        """A value, from an :class:`optuna.trial.Trial`."""
        return KINDS[self.kind].suggest(trial, self.key, *self.values)


class Space:
    """The searched keys of a file, each after the keys that it depends on.

    ``where``: what messages call the space.
    """

    def __init__(self, dimensions, where="the space"):
        self.where = where
        self.dimensions = []
        waiting = {one.key: one for one in dimensions}
        for one in waiting.values():
            for parent, allowed in one.when.items():
                _check_condition(where, one, waiting.get(parent), parent, allowed)
        while waiting:
            ready = [one for one in waiting.values() if not set(one.when) & set(waiting)]
            if not ready:
                names = ", ".join(waiting)
                raise UserError(
                    f"In {where}, the conditions of {names} wait for each other.", where=where
                )
            self.dimensions += ready
            for one in ready:
                del waiting[one.key]

    @property
    def keys(self) -> list[str]:
        """The searched keys."""
        return [one.key for one in self.dimensions]

    def suggest(self, trial) -> dict:
        """A configuration: ``{key: value}`` of the keys that are searched in it."""
        drawn = {}
        for one in self.dimensions:
            if one.active(drawn):
                drawn[one.key] = one.suggest(trial)
        return drawn

    def draw(self, count: int, seed: int) -> list[dict]:
        """Configurations drawn at random: the same for the same seed.

        None is drawn twice, as long as a space of choices has others.
        """
        optuna = optional("optuna", "tune", "A search")
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        drawn = []
        for _ in range(count):
            for _ in range(50):
                one = self.suggest(study.ask())
                if one not in drawn:
                    break
            drawn.append(one)
        return drawn

    def plain(self) -> dict:
        """The space as plain data, to tell whether two are the same."""
        return {
            one.key: {one.kind: list(one.values), "when": {k: list(v) for k, v in one.when.items()}}
            for one in self.dimensions
        }


def read_space(source) -> Space:
    """Read a search space.

    ``source``: a yaml file, RecBole's ``hyper.test`` format (any other suffix), or what the
    former holds, such as ``{"n_layers": {"choice": [1, 2]}}``.
    """
    if isinstance(source, dict):
        return _from_dict(source, "the space")
    path = Path(source)
    told = f"The search space {path} cannot be read ({{reason}}); check --space."
    with explained(told, OSError, UnicodeDecodeError, key="space", where=path):
        text = path.read_text(encoding="utf-8")
    if path.suffix not in (".yaml", ".yml"):
        return _from_lines(text, str(path))
    told = f"The search space {path} is not valid yaml: {{reason}}."
    with explained(told, yaml.YAMLError, where=path):
        content = yaml.safe_load(text)
    return _from_dict(content, str(path))


def _from_dict(content: Any, where: str) -> Space:
    """A space from ``{key: {kind: values, "when": {key: value or values}}}``."""
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{where} has no keys to search; write lines `key: {{choice: [a, b]}}`.", where=where
        )
    found = []
    for key, entry in content.items():
        if not isinstance(entry, dict):
            raise _refusal(
                where, key, f" is {entry!r}; write how it is searched, such as "
                f"`{key}: {{choice: [{entry!r}]}}`."
            )  # fmt: skip
        entry = dict(entry)
        when = entry.pop("when", None) or {}
        if len(entry) != 1:
            given = ", ".join(map(str, entry)) or "nothing"
            raise _refusal(
                where, key, f" must say one of {', '.join(KINDS)} (and `when`), not {given}."
            )
        ((kind, values),) = entry.items()
        found.append(_dimension(where, str(key), kind, values, when))
    return Space(found, where)


def _from_lines(text: str, where: str) -> Space:
    """Read lines ``learning_rate loguniform -8,0``, RecBole's format ``hyper.test``.

    As RecBole (that is, Hyperopt) reads them: bounds of ``loguniform`` are exponents of e, and
    ``quniform`` gives multiples of its step. RecBole evaluates choices as Python; here they
    may be arithmetic.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, kind, rest = [*line.split(maxsplit=2), "", "", ""][:3]
        if not key or key.startswith("#"):
            continue
        at = f"{where}, line {number}"
        if not rest or kind not in KINDS or kind == "randint":
            kinds = ", ".join(one for one in KINDS if one != "randint")
            raise _refusal(
                at, key, f" must be followed by one of {kinds} and its values, such as "
                "`learning_rate choice [0.01,0.001]`."
            )  # fmt: skip
        if key in found:
            raise _refusal(at, key, " is searched a second time; drop one of the lines.")
        values = value_of(rest)
        if values == rest:
            raise _refusal(at, key, f": its values cannot be read: {rest}; write text in quotes.")
        if kind != "choice":
            values = _hyperopt_bounds(kind, values)
        found[key] = _dimension(at, key, kind, values)
    if not found:
        raise UserError(
            f"{where} has no keys to search; write lines `key choice [a,b]`.", where=where
        )
    return Space(found.values(), where)


def _hyperopt_bounds(kind: str, values: Any) -> Any:
    numbers = isinstance(values, tuple) and all(isinstance(v, (int, float)) for v in values)
    if kind == "loguniform" and numbers and len(values) == 2 and max(values) < 700:
        return [math.exp(value) for value in values]
    finite = numbers and all(map(math.isfinite, values))
    if kind == "quniform" and finite and len(values) == 3 and values[2] > 0:
        low, high, step = values
        return [math.ceil(low / step) * step, math.floor(high / step) * step, step]
    return values


def _dimension(where: str, key: str, kind: Any, values: Any, when: Any = None) -> Dimension:
    """Check what a space says of a key."""
    if kind not in KINDS:
        near = nearest(str(kind), KINDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"take one of {', '.join(KINDS)}."
        raise _refusal(where, key, f" is searched by {kind!r}; {hint}")
    if not isinstance(values, (list, tuple)) or not values:
        raise _refusal(where, key, f": {kind} is {values!r}; write [{KINDS[kind].holds}].")
    values = tuple(map(_number, values))
    if kind != "choice" and (wrong := _wrong_bounds(kind, values)):
        raise _refusal(where, key, f": {wrong}.")
    if when is not None and not isinstance(when, dict):
        raise _refusal(where, key, f": when is {when!r}; write `when: {{other_key: value}}`.")
    conditions = {}
    for other, allowed in (when or {}).items():
        allowed = allowed if isinstance(allowed, (list, tuple)) else [allowed]
        conditions[str(other)] = tuple(map(_number, allowed))
    return Dimension(key, kind, values, conditions)


def _number(value):
    """``1e-3`` is text to yaml, which wants ``1.0e-3``; nobody means text by it."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9.]+e[+-]?[0-9]+", value.lower()):
        return float(value)
    return value


def _wrong_bounds(kind: str, values: tuple) -> str | None:
    """What is wrong with the bounds of a kind that has some."""
    wanted = 3 if kind == "quniform" else 2
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if len(values) != wanted or not numbers or not all(map(math.isfinite, values)):
        return f"{kind} is {list(values)}; write [{KINDS[kind].holds}] as numbers"
    low, high = values[:2]
    if not low < high:
        return f"{kind} goes from {low} to {high}; the second must be larger"
    if kind == "loguniform" and low <= 0:
        return f"loguniform begins at {low}; it must be above 0"
    if kind == "quniform" and not 0 < values[2] <= high - low:
        return f"the step of quniform is {values[2]}; it must be above 0 and at most {high - low}"
    if kind == "randint" and not all(isinstance(v, int) for v in values):
        return f"randint is {list(values)}; write whole numbers"
    return None


def _check_condition(where, one, parent, name, allowed):
    at = f" depends on {name}"
    if parent is None:
        at += ", which is not searched there; search it, or drop the condition."
        raise _refusal(where, one.key, at)
    if parent.kind != "choice":
        at += ", which is no choice; conditions are on values of a choice."
        raise _refusal(where, one.key, at)
    strange = [value for value in allowed if value not in parent.values]
    if strange:
        values = ", ".join(map(repr, parent.values))
        at += f" being {strange[0]!r}, which is none of its values ({values})."
        raise _refusal(where, one.key, at)


def _refusal(where: str, key: Any, what: str) -> UserError:
    return UserError(f"In {where}, {key}{what}", key=str(key), where=where)
