"""Keys of a configuration: each is declared once, in a section beside the code that reads it.

A section is a subclass of :class:`Settings`. The type of a key, its bounds and default, what it is
for (the text under it) and what it means to the rest of the package all stand there. Our code
reads sections, ``EncodeSettings.of(config).llm_dtype``, and no raw value with a fallback.
"""

from __future__ import annotations

import enum
import math
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic.fields import FieldInfo
from typing_extensions import Self

from recbole_llmemb.core.checked import choices_of, refused_value, type_of
from recbole_llmemb.core.errors import UserError


class Use(enum.Flag):
    """What a key means to those who do not read it."""

    RESULT = 0  # It changes what comes out, as each does that says nothing else.
    ANY = enum.auto()  # RecBole's own models read it, too.
    MACHINE = enum.auto()  # Where a run computes, keeps things and is told of: no part of its key.
    SPEED = enum.auto()  # How fast, with other roundings at most: tells no runs apart either.
    SETTLED = enum.auto()  # Where it is empty, the table settles it: run keys have what was asked.
    PLACE = enum.auto()  # A file or folder, relative to where the command was given.
    TRUST = enum.auto()  # Never taken from a file that came from elsewhere.
    TABLE = enum.auto()  # It decides which table is built.
    SHARED = enum.auto()  # A teacher that is trained for a run has the run's.
    LEARNING = enum.auto()  # ... unless the run's model learns in a way of its own.
    ROWS = enum.auto()  # It decides which interactions are trained on.
    MEASURE = enum.auto()  # Scores of runs that differ in it do not compare.
    LATER = enum.auto()  # Earlier versions had none: its default names no other run than theirs.


# Bounds of numbers: nothing is asked of a machine that none can do.
COUNT: dict[str, Any] = {"ge": 1, "le": 2**31 - 1}
WHOLE: dict[str, Any] = {"ge": 0, "le": 2**31 - 1}
BATCH: dict[str, Any] = {"ge": 1, "le": 2**20}
SIZE: dict[str, Any] = {"ge": 1, "le": 2**16}
LAYERS: dict[str, Any] = {"ge": 1, "le": 2**10}
SEED: dict[str, Any] = {"ge": 0, "le": 2**32 - 1}
SHARE: dict[str, Any] = {"ge": 0, "le": 1}
WEIGHT: dict[str, Any] = {"ge": 0, "le": 10**6}
POSITIVE: dict[str, Any] = {"gt": 0, "le": 10**6}
TEMPERATURE: dict[str, Any] = {"ge": 1e-4, "le": 10**6}  # below it gradients are beyond floats
NAME: dict[str, Any] = {"min_length": 1}


def key(default: Any, use: Use = Use.RESULT, wanted: str = "", was: str = "", **bounds: Any) -> Any:
    """A key that has a use or bounds; any other needs no more than its type and default.

    ``default``: where a configuration lacks the key. It is not checked: None where there is none.
    ``wanted``: what a value must be, in words, where type and bounds do not say it.
    ``was``: its name before, which is still read where a configuration has no other.
    """
    more: dict[str, Any] = {"use": use, "wanted": wanted, "was": was}
    return Field(default, json_schema_extra=more, **bounds)


class Settings(BaseModel):
    """A section of a configuration: values that were checked and do not change.

    A model that has keys of its own names their section (``Keys``), which is not ``shared``; any
    other section is one of every model of ours.
    """

    model_config = ConfigDict(
        strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    sections: ClassVar[list[type[Settings]]] = []
    shared: ClassVar[bool] = True

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        Settings.sections.append(cls)

    @classmethod
    def of(cls, config: Any, only: Use | None = None) -> Self:
        """The section of a configuration, RecBole's or a mapping; what it lacks has its default.

        ``only``: look at no keys but those of this use.
        """
        values = values_of(config)
        given = {name: values[name] for name in cls.model_fields if name in values}
        if only is not None:
            given = {k: v for k, v in given.items() if use_of(cls.model_fields[k]) & only}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise _refusal(cls, error, given) from None

    @classmethod
    def refuse_value(cls, name: str, value: Any) -> None:
        """Refuse what a key cannot be, whatever the others are."""
        try:
            cls.model_validate({name: value})
        except ValidationError as error:
            if error.errors()[0]["loc"]:  # else it contradicts others
                raise _refusal(cls, error, {name: value}) from None


def _refusal(
    section: type[Settings], error: ValidationError, given: Mapping[str, Any]
) -> UserError:
    name = str(next(iter(error.errors()[0]["loc"]), ""))
    return refused_value(error, name, section.model_fields.get(name), name, given.get(name))


def contradiction(settings: Settings, key: str, other: str, advice: str) -> UserError:
    """An error for a value that another does not allow."""
    value, why = getattr(settings, key), getattr(settings, other)
    shown = "empty" if value is None else repr(value)
    return UserError(f"{key} is {shown}, but {other} is {why!r}; {advice}.", key=key)


def values_of(config: Any) -> Mapping[str, Any]:
    """The values of a configuration, RecBole's or a mapping."""
    return typing.cast("Mapping[str, Any]", getattr(config, "final_config_dict", config))


def sections_of(model_class: type | None = None) -> list[type[Settings]]:
    """The sections that a model reads: those of every model of ours, and its own."""
    own = getattr(model_class, "Keys", None)
    return [one for one in Settings.sections if one.shared] + ([own] if own else [])


def declared() -> Iterator[tuple[str, FieldInfo]]:
    """Every key with its declaration; once more where a model has a default of its own."""
    for section in Settings.sections:
        yield from section.model_fields.items()


def keys(use: Use) -> set[str]:
    """The keys that have one of these uses."""
    return {name for name, field in declared() if use_of(field) & use}


def text_keys() -> set[str]:
    """Names and paths, which stay text though they look like numbers."""
    return {name for name, field in declared() if type_of(field) is str and not choices_of(field)}


def use_of(field: FieldInfo) -> Use:
    """What a key means to those who do not read it."""
    return typing.cast("Use", _more(field).get("use", Use.RESULT))


def renamed(model_class: type | None) -> dict[str, str]:
    """The keys of a model's own that were called otherwise, with what they were called."""
    fields = getattr(getattr(model_class, "Keys", None), "model_fields", {})
    before = {name: _more(field).get("was", "") for name, field in fields.items()}
    return {name: old for name, old in before.items() if old}


def _more(field: FieldInfo) -> dict[str, Any]:
    return typing.cast("dict[str, Any]", field.json_schema_extra or {})


# -- types of values ----------------------------------------------------------------------


def _as_list(value: Any) -> Any:
    """One name or number as a list of it, a tuple as a list, ``[a, b]`` in text as what it says."""
    if isinstance(value, str):
        return [name.strip() for name in value.strip("[] ").split(",") if name.strip()]
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    return list(value) if isinstance(value, tuple) else value


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_none(value: Any) -> Any:
    return None if value == "" else _as_text(value)


#: A name or path, of which the second may be none, as empty text is.
Place = Annotated[str, BeforeValidator(_as_text)]
Text = Annotated[str | None, BeforeValidator(_as_none)]
Names = Annotated[list[str], BeforeValidator(_as_list)]
MaybeNames = Annotated[list[str] | None, BeforeValidator(_as_list)]
Counts = Annotated[list[Annotated[int, Field(**COUNT)]], BeforeValidator(_as_list)]

Pair = Annotated[
    list[Annotated[float, Field(ge=0, lt=1)]],
    BeforeValidator(_as_list),
    Field(min_length=2, max_length=2),
]

_NUMBER = r"\s*-?(inf|[0-9.]+(e[+-]?[0-9]+)?)\s*"
_INTERVAL = rf"\s*[\[(]{_NUMBER},{_NUMBER}[\])]\s*"
#: Of which RecBole tells the log only that it leaves out those that it cannot read.
INTERVALS = rf"^{_INTERVAL}(;{_INTERVAL})*$"
Kept = Annotated[str, StringConstraints(pattern=INTERVALS)] | list[str | int | float]
#: Among what targets are ranked.
RANKING = "full|(uni|pop)0*[1-9][0-9]{0,8}"


def is_number(value: Any) -> bool:
    """Whether a setting is a number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _within(value: Any, low: float, high: float) -> bool:
    return is_number(value) and low <= value <= high


# What the parts of some dictionaries may be.
_PARTS: dict[str, Callable[[Any], bool]] = {
    "max_norm": lambda value: _within(value, 1e-30, 1e30),
    "norm_type": lambda value: value in ("inf", math.inf) or _within(value, 1e-3, 1e30),
    "error_if_nonfinite": lambda value: isinstance(value, bool),
    "foreach": lambda value: value is None or isinstance(value, bool),
    "distribution": lambda value: value in ("uniform", "popularity"),
    "sample_num": lambda value: isinstance(value, int) and _within(value, 1, 2**20),
    "alpha": lambda value: _within(value, 0, 4),
    "dynamic": lambda value: isinstance(value, bool),
    "candidate_num": lambda value: isinstance(value, int) and _within(value, 0, 2**20),
    "order": lambda value: value in ("RO", "TO"),
    "group_by": lambda value: value in (None, "user", "none", "None"),
}


def draws_none(args: Any) -> bool:
    """Whether ``train_neg_sample_args`` say that none are drawn, by which RecBole means CE."""
    args = args.get("distribution", "") if isinstance(args, dict) else args
    return args is None or str(args).lower() == "none"


def _parts(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Refuse a dictionary of which a part is not what it can be; no negatives have no parts."""
    for name, value in () if found is None or draws_none(found) else found.items():
        if name in _PARTS and not _PARTS[name](value):
            raise ValueError
    return found


def _clipping(found: dict[str, Any] | None) -> dict[str, Any] | None:
    if found and not {"max_norm"} <= set(found) <= {*list(_PARTS)[:4]}:
        raise ValueError
    return _parts(found)


def _encoding(name: str | None) -> str | None:
    """Of text: Python has others, such as hex."""
    try:
        "".encode(name or "utf-8").decode(name or "utf-8")
    except LookupError:
        raise ValueError from None
    return name


def _threshold(value: int | float) -> int | float:
    if not (1 <= value < 2**31 if isinstance(value, int) else 0 < value < 1):
        raise ValueError
    return value


def _evaluation(args: dict[str, Any]) -> dict[str, Any]:
    """RecBole fails late over ways to rank and to split that it does not have."""
    modes, split = args.get("mode", "full"), args.get("split")
    by_part = modes if isinstance(modes, dict) else {"test": modes}
    if modes is None or not (by_part and by_part.keys() <= {"valid", "test"}):
        example = "{'valid': 'uni99', 'test': 'full'}"
        told = f"eval_args.mode is {modes!r}; it must be full, or a dictionary such as {example}."
        raise UserError(told)
    for mode in by_part.values():
        if mode not in (None, "none") and not re.fullmatch(f"labeled|{RANKING}", str(mode)):
            wanted = "full, or uniNNN or popNNN for NNN sampled items (uni99)"
            raise UserError(f"mode is {mode!r}; it must be {wanted}.")
    if split is not None and not _is_split(split):
        wanted = "{'LS': 'valid_and_test'} (or valid_only, test_only), or {'RS': [0.8, 0.1, 0.1]}"
        shares = "TS, too: the shares of training, which is above 0, validation and test"
        raise UserError(f"eval_args.split is {split!r}; it must be {wanted} ({shares}).")
    return _parts(args) or {}


def _is_split(split: Any) -> bool:
    if not (isinstance(split, dict) and len(split) == 1 and set(split) <= {"LS", "RS", "TS"}):
        return False
    ((kind, how),) = split.items()
    if kind == "LS":
        return how in ("valid_and_test", "valid_only", "test_only")
    shares = how if isinstance(how, list) and all(map(is_number, how)) else []
    return len(shares) == 3 and all(0 <= one < math.inf for one in shares) and shares[0] > 0


_GPUS = r"^\s*(-?\d+|[GM][\w-]+)?(\s*,\s*(\d+|[GM][\w-]+))*\s*$"
_Number = Annotated[int, Field(ge=-1, le=2**16)]
#: Which GPUs are seen.
Gpu = _Number | Annotated[str, StringConstraints(pattern=_GPUS)] | tuple[_Number, ...]
#: The name of an encoding.
Encoding = Annotated[str | None, BeforeValidator(_as_none), AfterValidator(_encoding)]
#: How negatives are drawn.
Negatives = Annotated[dict[str, Any] | None, AfterValidator(_parts)]
#: Arguments of PyTorch's ``clip_grad_norm_``.
Clipping = Annotated[dict[str, Any] | None, AfterValidator(_clipping)]
#: A number of interactions, or a share of the users or items.
Threshold = Annotated[int | float, AfterValidator(_threshold)]
#: ``eval_args``: how interactions are split and targets ranked.
Evaluation = Annotated[dict[str, Any], AfterValidator(_evaluation)]
