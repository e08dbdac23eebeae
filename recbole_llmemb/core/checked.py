"""Values as people write them and keys declare them; what cannot be is refused in one sentence."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.files import NO_TEXT, content_of

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


class _Loader(yaml.SafeLoader):  # no !!python/… in it
    """Of what a person writes: each key once, and nothing that is larger than it looks."""

    def compose_document(self) -> Any:
        node = super().compose_document()
        self.size(node, {}, 0)
        return node

    def size(self, node: Any, known: dict[int, int], depth: int) -> int:
        """How many values a node stands for, what it refers to counted each time."""
        if known.get(id(node)) == 0 or depth > 50:
            raise yaml.MarkedYAMLError(None, None, "it is nested too deeply", node.start_mark)
        if id(node) not in known:
            known[id(node)] = 0
            if isinstance(node, yaml.ScalarNode) and (told := _misread(node)):
                raise yaml.MarkedYAMLError(None, None, told, node.start_mark)
            parts = list(node.value) if isinstance(node, yaml.CollectionNode) else []
            if isinstance(node, yaml.MappingNode):
                seen: set[str] = set()
                for name in (n for n, _ in parts if isinstance(n, yaml.ScalarNode)):
                    if name.value in seen - {"<<"}:
                        told = f"it has {name.value!r} twice"
                        raise yaml.MarkedYAMLError(None, None, told, name.start_mark)
                    seen.add(name.value)
                parts = [part for pair in parts for part in pair]
            known[id(node)] = 1 + sum(self.size(part, known, depth + 1) for part in parts)
        if known[id(node)] > 100_000:
            raise yaml.MarkedYAMLError(None, None, "it is too large", node.start_mark)
        return known[id(node)]


def _misread(node: Any) -> str | None:
    """What nobody means by a value, if it is such: yaml takes 010 for 8 and 1:30 for 90."""
    if NO_TEXT.search(node.value):
        return "it has a letter that no text has"
    number = node.tag.endswith((":int", ":float")) and re.match(r"[-+]?0[0-7_]|.*:", node.value)
    told = f"it has {node.value}, which yaml takes for another number (text stands in quotes)"
    return told if number else None


def read_yaml(file: str | Path, what: str) -> Any:
    """What a yaml file holds; ``what`` says what it is."""
    told = f"{what} is not valid yaml: {{reason}}."
    with explained(f"{what} cannot be read: {{reason}}.", OSError, where=file):
        content = content_of(file)
    with explained(told, yaml.YAMLError, ValueError, RecursionError, where=file):
        loader = _Loader(content.decode("utf-8-sig"))
        loader.name = Path(file).name  # for marks of places
        return loader.get_single_data()
