"""Keys of RecBole's that say which columns of a dataset's files are read, and what they become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Interval, Len
from pydantic import ConfigDict, StringConstraints, with_config
from typing_extensions import TypedDict

from recbole_llmemb.config.keys import Settings, Use, declared, key, use_of
from recbole_llmemb.core.errors import UserError

ANY = Use.ANY
_BY_FILE = "a dictionary by file of lists of fields, such as {'inter': [user_id, item_id]}"
_LIST = "a list of fields, such as ['price', 'weight']"

Field = Annotated[str, StringConstraints(pattern=r"\S")]
Fields = list[Field] | None
Suffix = Annotated[str, StringConstraints(pattern=r"^[^/\\\s]{1,99}$")]
Number = Annotated[int | float, Interval(ge=-1e300, le=1e300)]
Columns = dict[Field, list[Field] | Literal["*"]] | None


@with_config(ConfigDict(extra="forbid", strict=True))
class Bins(TypedDict, total=False):
    """How the values of a field are put into bins."""

    method: Literal["LD", "ED", "EF"]
    bucket: Annotated[int, Interval(ge=1, le=2**20)]


class FieldSettings(Settings):
    """The fields of the dataset"""

    load_col: Columns = key(None, ANY, _BY_FILE)
    """Fields of each file that are read; empty: all."""
    unload_col: Columns = key(None, ANY, _BY_FILE)
    """Fields of each file that are not read."""
    unused_col: Columns = key(None, ANY, _BY_FILE)
    """Fields of each file that filters read and nothing after them."""
    additional_feat_suffix: Suffix | list[Suffix] | None = key(
        None, ANY, "the ending of a file's name, or a list of such"
    )
    """Files beside that are read as well."""
    seq_len: dict[Field, Annotated[int, Interval(ge=1, le=2**20)]] | None = key(
        None, ANY, "a dictionary by field of whole numbers above 0"
    )
    """How much of each sequence is read."""
    numerical_features: list[Field] = key([], ANY, _LIST)
    """Fields of numbers that models read."""
    rm_dup_inter: Literal["first", "last"] | None = key(None, ANY)
    """Which of a user's interactions with the same item stays; empty: all."""
    filter_inter_by_user_or_item: bool = key(True, ANY)
    """Whether interactions go whose user or item has no line in its file."""
    alias_of_user_id: Fields = key(None, ANY, _LIST)
    """Fields that hold users, too."""
    alias_of_item_id: Fields = key(None, ANY, _LIST)
    """Fields that hold items, too."""
    alias_of_entity_id: Fields = key(None, ANY, _LIST)
    """Fields that hold entities, too."""
    alias_of_relation_id: Fields = key(None, ANY, _LIST)
    """Fields that hold relations, too."""
    preload_weight: dict[Field, Field] | None = key(
        None, ANY, "a dictionary from a field of tokens to one of vectors"
    )
    """Fields of vectors by the field whose tokens they are of."""
    normalize_field: Fields = key(None, ANY, _LIST)
    """Fields of numbers that are brought between 0 and 1."""
    normalize_all: bool | None = key(None, ANY)
    """Whether all are."""
    discretization: dict[Field, Bins] | None = key(
        None, ANY, "a dictionary by field such as {'price': {'method': 'ED', 'bucket': 10}}"
    )
    """Fields of numbers that are put into bins."""
    threshold: Annotated[dict[Field, Number], Len(1, 1)] | None = key(
        None, ANY, "a dictionary of one field and a number, such as {'rating': 4}"
    )
    """From which value of which field on an interaction is a positive one."""


# -- keys of RecBole's own models ----------------------------------------------------------

# What a key of RecBole's must be, by what its default is; std is a number or False.
_WORDS: dict[tuple[type, ...], str] = {
    (int, float): "a number",
    (bool,): "True or False",
    (str,): "text",
    (list, tuple): "a list",
    (dict,): "a dictionary",
}
_MOST = 10**9


def check_others(values: Mapping[str, Any], defaults: Mapping[str, Any], ours: bool) -> None:
    """Refuse values of keys that are not checked otherwise and of another kind than the default.

    ``values``: what was given. ``defaults``: RecBole's, by key. ``ours``: whether it is for a model
    of ours, whose keys are all declared.
    """
    known = {one for one, field in declared() if ours or use_of(field) & ANY}
    for name, value in values.items():
        default = defaults.get(name)
        kind = next((kind for kind in _WORDS if type(default) in kind), None)
        kind = (str,) if default is None and name.endswith("_path") else kind
        # Other models may do without what is known: some of BERT4Rec's shares.
        if kind is None or (name in known and not (value is None and kind == (int, float))):
            continue
        if (type(value), value) == (type(default), default):
            continue
        entries = value if isinstance(value, (list, tuple)) else [value]
        numbers = [one for one in entries if isinstance(one, (int, float))]
        of = {type(one) for one in default} if isinstance(default, list) else set()
        fits = type(value) in kind and all(abs(one) <= _MOST for one in numbers)
        fits = fits or (of == {str} and type(value) is str)  # one of a list
        if not fits or (of == {int} and not all(type(one) is int for one in entries)):
            words = _WORDS[kind] + ("" if kind == (bool,) else f" such as {default!r}")
            shown = "empty" if value is None or value == "" else f"{value!r:.200}"
            raise UserError(f"{name} is {shown}; it must be {words}.", key=name)
