"""Command-line options made from the fields of a model, and what was typed for them.

A field's ``json_schema_extra`` says what argparse cannot guess: ``group`` (a title), ``metavar``,
``also`` (other names), ``name`` (instead of the field's), ``positional``, ``repeat`` (a list that
is given entry by entry), ``hidden`` (no option).
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Union, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from recbole_llmemb.core.checked import choices_of, refused_value
from recbole_llmemb.core.errors import UserError, nearest
from recbole_llmemb.core.text import split_tokens

_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Options(argparse.ArgumentParser):
    """A parser that refuses in one sentence, and takes ``--flag=True`` for ``--flag``."""

    def __init__(self, command: str, description: str):
        super().__init__(
            prog=f"recbole-llm {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._options: dict[str, tuple[FieldInfo, str]] = {}
        self._aliases: dict[str, str] = {}

    def add(
        self,
        model: type[BaseModel],
        skip: Collection[str] = (),
        names: Mapping[str, str] | None = None,
        group: str | None = None,
    ) -> Options:
        """An option for each field of a model.

        ``names``: only for these fields, by these names; the field's own does, too.
        ``group``: a title for all that have none of their own.
        """
        for name, field in model.model_fields.items():
            extra: dict[str, Any] = {"group": group}
            extra |= cast("dict[str, Any]", field.json_schema_extra or {})
            if name in skip or extra.get("hidden") or (names is not None and name not in names):
                continue
            if names:
                extra |= {"name": names[name], "also": [name]}
            self._aliases |= {f"--{a}": extra.get("name", name) for a in extra.get("also", ())}
            self._options[name] = field, _add(self._place(extra["group"]), name, field, extra)
        return self

    def _place(self, title: str | None) -> Any:
        groups = {group.title: group for group in self._action_groups}
        return groups.get(title) or self.add_argument_group(title) if title else self

    def typed(self, argv: list[str]) -> dict[str, Any]:
        """The values that were typed, by field; those that were not are not there."""
        given = vars(self.parse_args([self._plain(word) for word in argv]))
        return {name: self._value(name, given[name]) for name in self._options if name in given}

    def _value(self, name: str, text: Any) -> Any:
        field, option = self._options[name]
        kind, many = _kind(field.annotation)
        if kind is bool:
            return text
        entries = text if isinstance(text, list) else [text]
        if many and isinstance(text, str):
            entries = split_tokens(text, where=option)
        choices = {str(choice): choice for choice in choices_of(field)}  # which need not be text
        plain: TypeAdapter[Any] = TypeAdapter(kind)
        try:
            values = [
                choices.get(entry, entry) if choices else plain.validate_strings(entry)
                for entry in entries
            ]
            declared: Any = Annotated[field.annotation, field]
            check: TypeAdapter[Any] = TypeAdapter(declared)
            return check.validate_python(values if many else values[0])
        except ValidationError as error:
            entry = many and not isinstance(error.errors()[0]["input"], list)
            about = FieldInfo(annotation=kind) if entry else field
            raise refused_value(error, name, about, option) from None

    def _plain(self, word: str) -> str:
        """``--flag=True`` as argparse has it, whose switches take no value; other names too."""
        option, given, text = word.partition("=")
        if option in self._aliases:
            option = f"--{self._aliases[option]}"
            word = f"{option}{given}{text}"
        action = self._option_string_actions.get(option)
        if not given or not isinstance(action, argparse.BooleanOptionalAction):
            return word
        if text.lower() not in _SWITCH:
            raise UserError(f"{option} is {text!r}; it must be True or False.", key=action.dest)
        return option if _SWITCH[text.lower()] else f"--no-{option.removeprefix('--')}"

    def error(self, message: str):
        """Refuse; argparse would print its usage too."""
        _, found, rest = message.partition("unrecognized arguments: ")
        unknown = rest.split(" ")[0].partition("=")[0]
        near = nearest(unknown, self._option_string_actions, 1) if found else []
        hint = f"; did you mean {near[0]}?" if near else f"; see {self.prog} --help."
        raise UserError(f"{self.prog}: {message}{hint}", key=unknown.lstrip("-") or None)


def _add(place: Any, name: str, field: FieldInfo, extra: dict[str, Any]) -> str:
    kind, many = _kind(field.annotation)
    help_text = (field.description or "").replace("%", "%%") + _default(field)
    options: dict[str, Any] = {"help": help_text, "default": argparse.SUPPRESS}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif choices_of(field):
        options["metavar"] = "|".join(map(str, choices_of(field)))
    else:
        options["metavar"] = extra.get(
            "metavar",
            "A,B,C" if many and not extra.get("repeat") else extra.get("name", name).upper(),
        )
    if extra.get("positional"):
        place.add_argument(name, nargs="*" if many else None, **options)
        return name
    if extra.get("repeat"):
        options["action"] = "append"
    option = f"--{extra.get('name', name)}"
    place.add_argument(option, dest=name, required=field.is_required(), **options)
    return option


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type of a field's values, or of their entries; and whether it is a list."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(one for one in get_args(annotation) if one is not type(None))
    if get_origin(annotation) in (list, tuple, Sequence):
        return _kind(get_args(annotation)[0])[0], True
    return annotation, False


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if field.is_required() or default in (None, False, "", [], ()):
        return ""
    shown = ",".join(map(str, default)) if isinstance(default, (list, tuple)) else default
    shown = repr(default) if isinstance(default, str) and default != default.strip() else shown
    return f" (default: {shown})".replace("%", "%%")
