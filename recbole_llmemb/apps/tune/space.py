"""Search spaces: which keys are searched, over what, and under which conditions."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from recbole_llmemb.core.errors import UserError

#: How a key may be searched, and what its list holds.
KINDS = {
    "choice": "the values",
    "uniform": "low, high",
    "loguniform": "low, high",
    "quniform": "low, high, step",
    "randint": "low, high, both counted in",
}


@dataclass(frozen=True)
class Dimension:
    """One searched key."""

    key: str
    kind: str  # One of :data:`KINDS`
    values: tuple  # The choices, or the bounds (and the step)
    # Searched only where these other keys have one of these values.
    when: dict = field(default_factory=dict)

    def active(self, found: dict) -> bool:
        """Whether the key is searched, given what was drawn for the keys before it."""
        return all(key in found and found[key] in allowed for key, allowed in self.when.items())

    def draw(self, random):
        """A value, from a :class:`random.Random`."""
        if self.kind == "choice":
            return self.values[random.randrange(len(self.values))]
        low, high = self.values[:2]
        if self.kind == "randint":
            return random.randint(low, high)
        if self.kind == "loguniform":
            return math.exp(random.uniform(math.log(low), math.log(high)))
        if self.kind == "uniform":
            return random.uniform(low, high)
        return self._step(random.randint(0, self._steps()))

    def suggest(self, trial):
        """A value, from an :class:`optuna.trial.Trial`."""
        if self.kind == "choice":  # by number, as Optuna takes no lists for values
            return self.values[trial.suggest_categorical(self.key, list(range(len(self.values))))]
        low, high = self.values[:2]
        if self.kind == "randint":
            return trial.suggest_int(self.key, low, high)
        if self.kind == "quniform":
            return self._step(trial.suggest_int(self.key, 0, self._steps()))
        return trial.suggest_float(self.key, low, high, log=self.kind == "loguniform")

    def _steps(self) -> int:
        low, high, step = self.values
        return math.floor((high - low) / step + 1e-9)

    def _step(self, number: int):
        low, _, step = self.values
        value = low + number * step
        # Sizes must stay whole numbers, and 0.1 + 2 * 0.1 is to be 0.3.
        return value if isinstance(value, int) else round(value, 12)


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
                raise UserError(f"In {where}, the conditions of {names} wait for each other.")
            self.dimensions += ready
            for one in ready:
                del waiting[one.key]

    @property
    def keys(self) -> list[str]:
        """The searched keys."""
        return [one.key for one in self.dimensions]

    def draw(self, random) -> dict:
        """A configuration: ``{key: value}`` of the keys that are searched in it."""
        return self._walk(lambda one: one.draw(random))

    def suggest(self, trial) -> dict:
        """The same, as Optuna wants it."""
        return self._walk(lambda one: one.suggest(trial))

    def first(self) -> dict:
        """Every key with one of its values, conditions aside."""
        return {one.key: one.values[0] for one in self.dimensions}

    def plain(self) -> dict:
        """The space as plain data, to tell whether two are the same."""
        return {
            one.key: {one.kind: list(one.values), "when": {k: list(v) for k, v in one.when.items()}}
            for one in self.dimensions
        }

    def _walk(self, value_of):
        found = {}
        for one in self.dimensions:
            if one.active(found):
                found[one.key] = value_of(one)
        return found


def read_space(source) -> Space:
    """Read a search space.

    ``source``: A yaml file, RecBole's ``hyper.test`` format (any other suffix), or the contents of
    the former:: learning_rate: {loguniform: [1.0e-4, 1.0e-2]} item_embedding: {choice: [table,
    residual]} offset_decay: {loguniform: [1.0e-6, 1.0e-2], when: {item_embedding: residual}}.
    """
    if isinstance(source, dict):
        return from_dict(source)
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UserError(
            f"The search space {path} cannot be read ({reason}); check --space."
        ) from None
    if path.suffix not in (".yaml", ".yml"):
        from recbole_llmemb.apps.tune.hyper_test import from_lines

        return from_lines(text, str(path))
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The search space {path} is not valid yaml: {reason}.") from None
    return from_dict(content, str(path))


def from_dict(content, where="the space") -> Space:
    """A space from ``{key: {kind: values, "when": {key: value or values}}}``."""
    if not isinstance(content, dict) or not content:
        raise UserError(f"{where} has no keys to search; write lines `key: {{choice: [a, b]}}`.")
    found = []
    for key, entry in content.items():
        if not isinstance(entry, dict):
            raise UserError(
                f"In {where}, {key} is {entry!r}; write how it is searched, such as "
                f"`{key}: {{choice: [{entry!r}]}}`."
            )
        entry = dict(entry)
        when = entry.pop("when", None) or {}
        if len(entry) != 1:
            raise UserError(
                f"In {where}, {key} must say one of {', '.join(KINDS)} (and `when`), "
                f"not {', '.join(map(str, entry)) or 'nothing'}."
            )
        ((kind, values),) = entry.items()
        found.append(make_dimension(where, str(key), kind, values, when))
    return Space(found, where)


def make_dimension(where: str, key: str, kind: str, values, when=None) -> Dimension:
    """Check what a space says of a key."""
    at = f"In {where}, {key}"
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; take one of {', '.join(KINDS)}."
        raise UserError(f"{at} is searched by {kind!r}{hint}")
    if not isinstance(values, (list, tuple)) or not values:
        raise UserError(f"{at}: {kind} is {values!r}; write [{KINDS[kind]}].")
    values = tuple(map(_number, values))
    if kind != "choice":
        _check_bounds(at, kind, values)
    conditions = {}
    if when is not None and not isinstance(when, dict):
        raise UserError(f"{at}: when is {when!r}; write `when: {{other_key: value}}`.")
    for other, allowed in (when or {}).items():
        allowed = allowed if isinstance(allowed, (list, tuple)) else [allowed]
        conditions[str(other)] = tuple(map(_number, allowed))
    return Dimension(key, kind, values, conditions)


def _number(value):
    """``1e-3`` is text to yaml, which wants ``1.0e-3``; nobody means text by it."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9.]+e[+-]?[0-9]+", value.lower()):
        return float(value)
    return value


def _check_bounds(at, kind, values):
    wanted = 3 if kind == "quniform" else 2
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if len(values) != wanted or not numbers or not all(map(math.isfinite, values)):
        raise UserError(f"{at}: {kind} is {list(values)}; write [{KINDS[kind]}] as numbers.")
    low, high = values[:2]
    if not low < high:
        raise UserError(f"{at}: {kind} goes from {low} to {high}; the second must be larger.")
    if kind == "loguniform" and low <= 0:
        raise UserError(f"{at}: loguniform begins at {low}; it must be above 0.")
    if kind == "quniform" and not 0 < values[2] <= high - low:
        raise UserError(
            f"{at}: the step of quniform is {values[2]}; it must be above 0 and at most "
            f"{high - low}."
        )
    if kind == "randint" and not all(isinstance(v, int) for v in values):
        raise UserError(f"{at}: randint is {list(values)}; write whole numbers.")


def _check_condition(where, one, parent, name, allowed):
    at = f"In {where}, {one.key} depends on {name}"
    if parent is None:
        raise UserError(f"{at}, which is not searched there; search it, or drop the condition.")
    if parent.kind != "choice":
        raise UserError(f"{at}, which is no choice; conditions are on values of a choice.")
    strange = [value for value in allowed if value not in parent.values]
    if strange:
        raise UserError(
            f"{at} being {strange[0]!r}, which is none of its values "
            f"({', '.join(map(repr, parent.values))})."
        )
