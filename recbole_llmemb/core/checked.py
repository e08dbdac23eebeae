"""Declared values, checked as they are given; what cannot be is refused in our one sentence."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from recbole_llmemb.core.errors import UserError

_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text, in quotes if need be",
    dict: "a dictionary",
    list: "a list",
}


_BEYOND = 2**32  # more than any machine does

_OF_OPTIONS = {"group", "metavar", "also", "name", "positional", "repeat", "hidden", "wanted"}


def option(default: Any, description: str, **more: Any) -> Any:
    """A field that becomes a command-line option, see :mod:`recbole_llmemb.cli.options`.

    ``default``: ``...`` where one must be given.
    ``more``: bounds as pydantic has them, and what the option is to know.
    """
    extra = {name: more.pop(name) for name in _OF_OPTIONS & more.keys()}
    return Field(default, description=description, json_schema_extra=extra, **more)


class Checked(BaseModel):
    """A model whose constructor raises :class:`UserError` instead of pydantic's errors.

    Values must have their field's type: text that looks like a number is none.
    """

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )

    @field_validator("*", mode="after")
    @classmethod
    def _bounded(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, int) and abs(value) >= _BEYOND:
            told = f"{info.field_name} is {_shown(value)}; it must be less than {_BEYOND:,}."
            raise UserError(told, key=info.field_name)
        return value

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            loc = error.errors()[0]["loc"]
            name = str(loc[0]) if loc else ""
            raise refused_value(error, name, type(self).model_fields.get(name), name) from None


def refused_value(
    error: ValidationError, key: str, field: FieldInfo | None, name: str, value: Any = ...
) -> UserError:
    """The first of pydantic's complaints about one value, in a sentence.

    ``field``: its declaration, None for what is not declared.
    ``name``: what to call it, such as ``--batch_size``.
    ``value``: all of it, where the complaint may be about a part.
    """
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):  # a validator's own sentence
        cause.key = cause.key or key or None
        return cause
    if field is None:
        return UserError(f"{name or 'The settings'}: {first['msg']}.", key=key or None)
    if first["type"] == "missing":
        return UserError(f"{name} is missing; give one.", key=key)
    value = first["input"] if value is ... else value
    number = first["type"].startswith(("greater", "less"))  # in quotes, where it was typed
    shown = value if number and isinstance(value, str) else _shown(value)
    shown = "empty" if value is None or value == "" else shown
    must = wanted(field)
    if name.startswith("-"):  # an option without a value is left out
        must = must.removesuffix(", or empty")
    elif value == "" and may_be_empty(field):  # text, which is written otherwise
        must = f"{must.removesuffix('empty')}None"
    return UserError(f"{name} is {shown}; it must be {must}.", key=key)


def wanted(field: FieldInfo) -> str:
    """What a field's value must be, in words: as it says itself, or of its type and bounds."""
    extra = field.json_schema_extra
    text = extra.get("wanted") if isinstance(extra, dict) else None
    if not text:
        choices = choices_of(field)
        kind = _WORDS.get(type_of(field), f"a {type_of(field).__name__}")
        text = f"one of {', '.join(map(repr, choices))}" if choices else kind + _range(field)
    return f"{text}, or empty" if may_be_empty(field) else str(text)


def _range(field: FieldInfo) -> str:
    bounds: dict[str, Any] = {}
    for one in field.metadata:
        bounds |= {b: getattr(one, b) for b in ("ge", "gt", "le", "lt") if hasattr(one, b)}
    if {"ge", "le"} <= bounds.keys():
        return f" from {bounds['ge']:,} to {bounds['le']:,}"
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    told = [f"{words[b]} {bounds[b]:,}" for b in words if b in bounds]
    return f" of {' and '.join(told)}" if told else ""


def may_be_empty(field: FieldInfo) -> bool:
    """Whether no value is a value."""
    return type(None) in get_args(field.annotation)


def choices_of(field: FieldInfo) -> tuple[Any, ...]:
    """The values that a field may have, where they are counted; else nothing."""
    first = _first(field)
    return get_args(first) if get_origin(first) is Literal else ()


def type_of(field: FieldInfo) -> type:
    """The type of a field's values, of several the first."""
    choices, first = choices_of(field), _first(field)
    found = type(choices[0]) if choices else get_origin(first) or first
    return found if isinstance(found, type) else object


def _first(field: FieldInfo) -> Any:
    if get_origin(field.annotation) in (types.UnionType, Union):
        return get_args(field.annotation)[0]
    return field.annotation


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes out no more than some thousand digits
        text = hex(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
