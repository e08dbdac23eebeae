"""Search spaces: which keys are searched, over what, and under which conditions."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from recbole_llmemb.config.values import value_of
from recbole_llmemb.core.checked import read_yaml
from recbole_llmemb.core.errors import UserError, explained, nearest
from recbole_llmemb.core.imports import optional

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

    def suggest(self, trial):
        """A value, from an :class:`optuna.trial.Trial`."""
        if self.kind == "choice":  # by number, as Optuna takes no lists for values
            return self.values[trial.suggest_categorical(self.key, list(range(len(self.values))))]
        low, high, *step = self.values
        if self.kind == "randint":
            return trial.suggest_int(self.key, low, high)
        if self.kind != "quniform":
            return trial.suggest_float(self.key, low, high, log=self.kind == "loguniform")
        steps = math.floor((high - low) / step[0] + 1e-9)
        value = low + trial.suggest_int(self.key, 0, steps) * step[0]
        # Sizes must stay whole numbers, and 0.1 + 2 * 0.1 is to be 0.3.
        return value if isinstance(value, int) else round(value, 12)


class Space:
    """The searched keys of a file, each after the keys that it depends on."""

    def __init__(self, dimensions, where="the space"):
        self.where = where
        by_key = {one.key: one for one in dimensions}
        if not by_key:
            lines = "`key: {choice: [a, b]}`, or in RecBole's format `key choice [a,b]`"
            raise UserError(f"{where} has no keys to search; write lines {lines}.", where=where)
        order = TopologicalSorter(dict.fromkeys(by_key, ()))  # as they stand in the file, else
        for one in dimensions:
            with _refusals(where, one.key):
                for parent, allowed in one.when.items():
                    _check_condition(parent, by_key.get(parent), allowed)
            order.add(one.key, *one.when)
        try:
            self.dimensions = [by_key[key] for key in order.static_order()]
        except CycleError as error:
            names = ", ".join(sorted(set(error.args[1])))
            told = f"In {where}, the conditions of {names} wait for each other."
            raise UserError(told, where=where) from None

    @property
    def keys(self) -> list[str]:
        """The searched keys."""
        return [one.key for one in self.dimensions]

    def suggest(self, trial) -> dict:
        """A configuration: ``{key: value}`` of the keys that are searched in it."""
        drawn: dict[str, Any] = {}
        for one in self.dimensions:
            if all(key in drawn and drawn[key] in allowed for key, allowed in one.when.items()):
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
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return _from_dict(read_yaml(path, f"The search space {path}"), str(path))
    if path.exists() and not path.is_file():
        raise UserError(f"The search space {path} is no file; check --space.", key="space")
    told = f"The search space {path} cannot be read ({{reason}}); check --space."
    with explained(told, OSError, UnicodeDecodeError, key="space", where=path):
        text = path.read_text(encoding="utf-8")
    return _from_lines(text, str(path))


def _from_dict(content: Any, where: str) -> Space:
    """A space from ``{key: {kind: values, "when": {key: value or values}}}``."""
    found = []
    for key, entry in content.items() if isinstance(content, dict) else ():
        with _refusals(where, key):
            if not isinstance(entry, dict):
                raise ValueError(f"{entry!r} is no way to search it; write {{choice: [{entry!r}]}}")
            kinds = [kind for kind in entry if kind != "when"]
            if len(kinds) != 1:
                given = ", ".join(map(str, kinds)) or "nothing"
                raise ValueError(f"it must say one of {', '.join(KINDS)} (and `when`), not {given}")
            kind, when = kinds[0], entry.get("when") or {}
            found.append(_dimension(str(key), kind, entry[kind], when))
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
        with _refusals(f"{where}, line {number}", key):
            if not rest or kind not in KINDS or kind == "randint":
                kinds = "choice, uniform, loguniform or quniform"
                raise ValueError(f"{kinds} and values must follow, as in `{key} choice [1,2]`")
            if key in found:
                raise ValueError("it is searched a second time; drop one of the lines")
            values = value_of(rest)
            if values == rest:
                raise ValueError(f"its values cannot be read: {rest}; write text in quotes")
            found[key] = _dimension(key, kind, _as_hyperopt(kind, values), {})
    return Space(list(found.values()), where)


def _as_hyperopt(kind: str, values: Any) -> Any:
    numbers = isinstance(values, tuple) and all(isinstance(v, (int, float)) for v in values)
    if kind == "loguniform" and numbers and len(values) == 2 and max(values) < 700:
        return [math.exp(value) for value in values]
    finite = numbers and all(map(math.isfinite, values))
    if kind == "quniform" and finite and len(values) == 3 and values[2] > 0:
        low, high, step = values
        return [math.ceil(low / step) * step, math.floor(high / step) * step, step]
    return values


def _dimension(key: str, kind: Any, values: Any, when: Any) -> Dimension:
    """Check what a space says of a key; what is wrong is a :class:`ValueError`."""
    if kind not in KINDS:
        near = nearest(str(kind), KINDS, 1) or [f"one of {', '.join(KINDS)}"]
        raise ValueError(f"there is no {kind!r}; take {near[0]}")
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"{kind} is {values!r}; write [{KINDS[kind]}]")
    values = tuple(map(_number, values))
    if kind != "choice":
        _check_bounds(kind, values)
    if not isinstance(when, dict):
        raise ValueError(f"when is {when!r}; write `when: {{other_key: value}}`")
    lists = {k: v if isinstance(v, (list, tuple)) else [v] for k, v in when.items()}
    return Dimension(key, kind, values, {str(k): tuple(map(_number, v)) for k, v in lists.items()})


def _number(value):
    """``1e-3`` is text to yaml, which wants ``1.0e-3``; nobody means text by it."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9.]+e[+-]?[0-9]+", value.lower()):
        return float(value)
    return value


def _check_bounds(kind: str, values: tuple) -> None:
    wanted = 3 if kind == "quniform" else 2
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if len(values) != wanted or not numbers or not all(map(math.isfinite, values)):
        raise ValueError(f"{kind} is {list(values)}; write [{KINDS[kind]}] as numbers")
    low, high, *step = values
    if not low < high:
        raise ValueError(f"{kind} goes from {low} to {high}; the second must be larger")
    if kind == "loguniform" and low <= 0:
        raise ValueError(f"loguniform begins at {low}; it must be above 0")
    if step and not 0 < step[0] <= high - low:
        most = high - low
        raise ValueError(f"the step of quniform is {step[0]}; it must be above 0, at most {most}")
    if kind == "randint" and not all(isinstance(v, int) for v in values):
        raise ValueError(f"randint is {list(values)}; write whole numbers")


def _check_condition(name: str, parent: Dimension | None, allowed: tuple) -> None:
    if parent is None:
        raise ValueError(f"it depends on {name}, which is not searched; drop the condition")
    if parent.kind != "choice":
        raise ValueError(f"it depends on {name}, which is no choice, as conditions want it")
    for value in allowed:
        if value not in parent.values:
            values = ", ".join(map(repr, parent.values))
            raise ValueError(f"it depends on {name} being {value!r}, which is none of {values}")


def _refusals(where: str, key: Any):
    """Say of what key of which file a :class:`ValueError` is."""
    return explained(f"In {where}, {key}: {{reason}}.", ValueError, key=str(key), where=where)
