"""Declared values, checked as they are given; what cannot be is refused in our one sentence."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from recbole_llmemb.core.errors import UserError

_WANTED = {
    "literal_error": "{expected}",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "True or False",
    "bool_parsing": "True or False",
    "string_type": "text, in quotes if need be",
    "string_too_short": "text",
    "list_type": "a list",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
}


_OF_OPTIONS = {"key", "group", "metavar", "also", "name", "positional", "repeat", "hidden"}


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

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise refusal(error, type(self).model_fields) from None


def refusal(error: ValidationError, fields: dict[str, FieldInfo]) -> UserError:
    """The first of pydantic's complaints about a model's fields, in a sentence."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if name in fields and first["type"] == "missing":
        return UserError(f"{name} is missing; give one.", key=name)
    field = fields.get(name)
    key = (field and field.json_schema_extra or {}).get("key", name)
    return refused_value(error, key, field, name if key == name else f"{name} ({key})")


def refused_value(
    error: ValidationError, key: str, field: FieldInfo | None, name: str
) -> UserError:
    """The first of pydantic's complaints about one value, in a sentence.

    ``field``: its declaration, None for what is not declared.
    ``name``: what to call it, such as ``--batch_size``.
    """
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):  # a validator's own sentence
        return cause
    if field is None:
        return UserError(f"{name or 'The settings'}: {first['msg']}.", key=key or None)
    wanted = _WANTED.get(first["type"], first["msg"]).format(**first.get("ctx", {}))
    if type(None) in get_args(field.annotation) and not name.startswith("-"):
        wanted += ", or empty"
    value = first["input"]
    shown = value if first["type"].startswith(("greater", "less")) else repr(value)
    return UserError(f"{name} is {shown}; it must be {wanted}.", key=key)
