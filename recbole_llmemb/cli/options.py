"""Command-line options made from the fields of a model, and what was typed for them.

A field's ``json_schema_extra`` says what argparse cannot guess: ``group`` (a title), ``metavar``,
``also`` (other names), ``name`` (instead of the field's), ``positional``, ``repeat`` (a list that
is given entry by entry), ``hidden`` (no option).
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from recbole_llmemb.core.checked import choices_of, refused_value
from recbole_llmemb.core.errors import UserError, nearest
from recbole_llmemb.core.files import at_home, split_tokens

Model = TypeVar("Model", bound=BaseModel)
_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class _Once(argparse.Action):
    """Refuses another value than before: either may be the one that is meant."""

    def __call__(self, parser: Any, found: Any, value: Any, option: str | None = None) -> None:
        before = getattr(found, self.dest, None)
        super().__call__(parser, found, value, option)
        now = getattr(found, self.dest)
        if before not in (None, now):
            name = self.option_strings[0]
            told = f"{name} is given twice, as {before!r} and as {now!r}; give it once."
            raise UserError(told, key=self.dest)


class _Value(_Once, argparse._StoreAction):
    pass


class _Flag(_Once, argparse.BooleanOptionalAction):
    pass


class Options(argparse.ArgumentParser):
    """A parser that refuses in one sentence, and takes ``--flag=True`` for ``--flag``."""

    def __init__(self, command: str, description: str | None):
        super().__init__(
            prog=f"recbole-llm {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._options: dict[str, tuple[FieldInfo, str]] = {}

    def print_help(self, file: Any = None) -> None:
        """As argparse's, which says nothing of a disk that is full."""
        print(self.format_help(), end="", file=file, flush=True)

    def add(
        self, model: type[BaseModel], names: Mapping[str, str] | None = None, group: str = ""
    ) -> Options:
        """An option for each field of a model.

        ``names``: only for these fields, by these names; the field's own does, too.
        ``group``: a title for all that have none of their own.
        """
        for name, field in model.model_fields.items():
            extra: dict[str, Any] = {"name": name, "group": group}
            extra |= cast("dict[str, Any]", field.json_schema_extra or {})
            if extra.get("hidden") or (names is not None and name not in names):
                continue
            if names:
                extra |= {"name": names[name], "also": [name]}
            self._options[name] = field, self._add(name, field, extra)
        return self

    def _add(self, name: str, field: FieldInfo, extra: dict[str, Any]) -> str:
        kind, many = _kind(field.annotation)
        help_text = (field.description or "").replace("%", "%%") + _default(field)
        about: dict[str, Any] = {"help": help_text, "default": argparse.SUPPRESS}
        listed = many and not extra.get("repeat")
        if kind is bool:
            about["action"] = _Flag
        elif choices_of(field):
            about["metavar"] = "|".join(map(str, choices_of(field)))
        else:
            about["metavar"] = extra.get("metavar") or (
                "A,B,C" if listed else extra["name"].upper()
            )
        groups = {group.title: group for group in self._action_groups}
        title = extra["group"]
        place = groups.get(title) or self.add_argument_group(title) if title else self
        if extra.get("positional"):
            place.add_argument(name, nargs="*" if many else None, **about)
            return name
        if kind is not bool:
            about["action"] = "append" if extra.get("repeat") else _Value
        option, required = f"--{extra['name']}", field.is_required()
        action = place.add_argument(option, dest=name, required=required, **about)
        for other in extra.get("also", ()):  # which the help is not to show
            self._option_string_actions[f"--{other}"] = action
        return option

    def read(self, model: type[Model], argv: list[str]) -> Model:
        """What was typed for one model, which needs no other options."""
        return model(**self.add(model).typed(argv))

    def typed(self, argv: list[str], others: list[str] | None = None) -> dict[str, Any]:
        """The values that were typed, by field; those that were not are not there.

        ``others``: is given what is no option, which is refused without it.
        """
        words = [self._plain(word) for word in argv]
        if others is None:
            given = vars(self.parse_args(words))
        else:
            found, rest = self.parse_known_args(words)
            others += rest
            given = vars(found)
        return {name: self._value(name, given[name]) for name in self._options if name in given}

    def option_of(self, name: str) -> str:
        """How the option of a field is written."""
        return self._options[name][1]

    def _value(self, name: str, given: Any) -> Any:
        field, option = self._options[name]
        kind, many = _kind(field.annotation)
        if kind is bool:
            return given
        entries = [at_home(text) for text in (given if isinstance(given, list) else [given])]
        if many and isinstance(given, str):
            entries = split_tokens(given, where=option)
        entry = FieldInfo(annotation=kind)
        choices = {str(choice).lower(): choice for choice in choices_of(entry)}
        plain: TypeAdapter[Any] = TypeAdapter(kind)
        declared: Any = Annotated[field.annotation, field]
        check: TypeAdapter[Any] = TypeAdapter(declared)
        try:
            values = [
                choices.get(text.lower(), text) if choices else plain.validate_strings(text)
                for text in entries
            ]
            return check.validate_python(values if many else values[0])
        except ValidationError as error:
            wanted = "wanted" in cast("dict[str, Any]", field.json_schema_extra or {})
            part = many and not wanted and not isinstance(error.errors()[0]["input"], list)
            raise refused_value(error, name, entry if part else field, option) from None

    def _plain(self, word: str) -> str:
        """``--flag=True`` as argparse has it, whose switches take no value."""
        option, given, text = word.partition("=")
        action = self._option_string_actions.get(option)
        if not isinstance(action, _Flag) or option.startswith("--no-"):
            return word
        chosen = _SWITCH.get(text.lower()) if given else True
        if chosen is None:
            raise UserError(f"{option} is {text!r}; it must be True or False.", key=action.dest)
        return action.option_strings[0 if chosen else 1]

    def error(self, message: str):
        """Refuse; argparse would print its usage too."""
        _, found, rest = message.partition("unrecognized arguments: ")
        unknown = rest.split(" ")[0].partition("=")[0]
        near = nearest(unknown, self._option_string_actions, 1) if found else []
        hint = f"; did you mean {near[0]}?" if near else f"; see {self.prog} --help."
        raise UserError(f"{self.prog}: {message}{hint}", key=unknown.lstrip("-") or None)


def taken(model: type[Model], typed: dict[str, Any]) -> Model:
    """A model made of what was typed for it, which is taken out."""
    return model(**{name: typed.pop(name) for name in model.model_fields if name in typed})


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
