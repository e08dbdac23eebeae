"""How RecBole reads atomic files: quickly, and as they say.

An atomic file has a row per line and a separator between fields, and no more: quotes and lone
carriage returns are characters, and only what is empty is missing.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from packaging.version import Version

from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.core.files import text_encoding
from recbole_llmemb.core.imports import around
from recbole_llmemb.records.reader import RecordFile, first_lines, open_records

# In a column of numbers, "not a number" is no number, as pandas itself writes it.
_NO_NUMBER = ["", "nan", "NaN", "NAN", "-nan", "-NaN"]
# One that the text has nowhere stands for a separator of several characters.
_SEPARATORS = [chr(code) for code in (*range(31, 13, -1), *range(1, 9), 11, 12)]
# From here on, not every whole number is a float.
_INEXACT = 2.0**53
# The largest number that a model computes with.
_LARGEST = float(np.finfo(np.float32).max)


def read_files_as_they_are() -> None:
    """Read atomic files with pandas' C parser, and nothing into them.

    RecBole asks for the parser written in Python, which takes ten times as long and five times
    the memory of the data: the peak of preparing a large dataset. It lets pandas take ``NA`` and
    ``null`` for missing and quotes for csv's, takes out lines without a user by labels where
    places are meant, so that others go, and fails late over columns that are not there.
    """
    from recbole.data.dataset import Dataset

    Dataset._load_feat = _load_feat


def check_numerical_features() -> None:
    """Refuse ``numerical_features`` that are none, over which RecBole fails without a name."""
    from recbole.data.dataset import Dataset

    @around(Dataset, "_discretization")
    def checked(discretize, self):
        known = sorted(name for name, kind in self.field2type.items() if "float" in kind.value)
        for field in self.config["numerical_features"]:
            if field not in known:
                told = f"numerical_features names {field}, which is no field of numbers of"
                has = f"its fields of numbers are {', '.join(known) or 'none'}"
                raise UserError(f"{told} {self.dataset_name}; {has}.", key="numerical_features")
        discretize(self)


def _load_feat(self, filepath, source):
    """In the place of ``Dataset._load_feat``: a frame of the columns that are asked for.

    The dataset notes what they are. Rows that say too little are left out.
    """
    from recbole.utils import FeatureType

    config, kind = self.config, getattr(source, "value", source)
    if all((config[key] or {}).get(kind) for key in ("load_col", "unload_col")):
        told = f"unload_col names fields of {kind} not to read, and load_col those to read"
        raise UserError(f"{told}; set load_col: null, or unload_col.", key="unload_col")
    wanted, unwanted = self._get_load_and_unload_col(source)
    if wanted == set() and kind != "inter":
        return None
    if wanted == set():
        raise UserError("load_col has no fields of inter; add them.", key="load_col")
    separator, encoding = config["field_separator"], config["encoding"]
    file = open_records(filepath, "atomic", delimiter=separator, encoding=encoding)
    _check_columns(config, file, kind)
    types = {
        name: FeatureType(of)
        for name, of in zip(file.columns, file.types)
        if (wanted is None or name in wanted) and name not in (unwanted or ())
    }
    absent = sorted({*(wanted or ())} - {*file.columns})
    if absent and types:
        told = f"load_col names {name_some(absent)}, of which {filepath} has no column"
        self.logger.warning(f"{told}: it has {', '.join(file.columns)}.")
    if not types and kind == "inter":
        has = ", ".join(file.columns)
        file.refuse(
            0, f"load_col names none of its columns, which are {has}; name them", "load_col"
        )
    if not types:
        self.logger.warning(f"No columns has been loaded from [{source}]")
        return None
    other = config[{"item": "USER_ID_FIELD", "user": "ITEM_ID_FIELD"}.get(kind, "")]
    if other in types:
        file.refuse(0, f"{other} belongs into .inter; rename it, or leave it out of load_col")
    for name, of in types.items() if kind != "link" else ():
        self.field2source[name], self.field2type[name] = source, of
        if not of.value.endswith("seq"):
            self.field2seqlen[name] = 1
        if "float" in of.value:
            self.field2bucketnum[name] = 2
    kinds = {name: float if of is FeatureType.FLOAT else str for name, of in types.items()}
    with file.readable():
        frame = _read(file, kinds)
    if not (len(frame) or (kind == "inter" and config["benchmark_filename"])):
        file.refuse(0, "it has nothing below its first line; fill it, or take it away")
    for name, of in types.items():
        if of.value.endswith("seq"):
            frame[name] = _lists(self, file, frame[name], of)
    _check_numbers(self, file, frame)
    return ListFrame(_complete(self, file, frame, kind))


def _check_columns(config, file, kind):
    """Refuse a file without the columns of users, items or times, and say which it has."""
    from recbole.utils import ModelType

    keys = {"inter": ["USER_ID_FIELD", "ITEM_ID_FIELD"], "user": ["USER_ID_FIELD"],
            "item": ["ITEM_ID_FIELD"]}.get(kind, [])  # fmt: skip
    for key in keys:
        of = dict(zip(file.columns, file.types)).get(config[key], "token")
        if of != "token":
            said = f"{config[key]} is of type {of}, but users and items are tokens; write "
            file.refuse(0, f"{said}{config[key]}:token in the first line", key)
    # Files that are split already may have histories instead of times.
    ordered = config["MODEL_TYPE"] == ModelType.SEQUENTIAL and not config["benchmark_filename"]
    keys += ["TIME_FIELD"] if kind == "inter" and ordered else []
    missing = [key for key in keys if config[key] is not None and config[key] not in file.columns]
    if missing:
        named = ", ".join(str(config[key]) for key in missing)
        said = f"it has the columns {', '.join(file.columns)}, but no {named}"
        advice = f"set {', '.join(missing)} to what it is called (in all files alike), or rename it"
        file.refuse(0, f"{said}; {advice}", missing[0])


def _read(file: RecordFile, kinds: dict[str, type], rows: int | None = None) -> pd.DataFrame:
    """Columns of numbers and words, by name; a word among numbers is refused by its line."""
    source: Any = file.path
    how: dict[str, Any] = {"encoding": file.encoding, "delimiter": file.delimiter}
    lone_returns = _check_lines(file)
    if lone_returns or len(file.delimiter) > 1:  # which pandas would take for a pattern
        with open(file.path, encoding=text_encoding(file.encoding), newline="") as opened:
            text = opened.read().replace("\r\n", "\n").removesuffix("\r")
        free = next((one for one in _SEPARATORS if one not in text), None)
        if free is None:
            file.refuse(0, "it holds every control character; take out those that are no letters")
        source = io.StringIO(text.replace(file.delimiter, free))
        how = {"lineterminator": "\n", "delimiter": free}
    if Version(pd.__version__) < Version("3.1"):  # exact by default from there on
        how["float_precision"] = "round_trip"
    numbers = [name for name, kind in kinds.items() if kind is float]
    try:
        return pd.read_csv(
            source,
            engine="c",
            header=0,
            names=file.columns,
            usecols=list(kinds),
            dtype=kinds,
            quoting=csv.QUOTE_NONE,
            keep_default_na=False,
            na_values={name: _NO_NUMBER if name in numbers else [""] for name in kinds},
            index_col=False,  # a separator at the end of lines moves no column
            nrows=rows,
            **how,
        )
    except ValueError:
        if numbers:
            words = _read(file, dict.fromkeys(numbers, str))
            for name in numbers:
                _refuse_words(file, words[name])
        raise


def _refuse_words(file, words):
    """Refuse the first word in a column that is no number, if there is one."""
    words = words[words.notna() & ~words.isin(_NO_NUMBER)]
    words = words[pd.to_numeric(words, errors="coerce").isna()]
    if len(words):
        said = f"{words.iloc[0][:40]!r} of {words.name} is no number; write one"
        file.refuse(_lines_of(file, words.index[:1])[0], f"{said}, or leave the field empty")


def _check_lines(file: RecordFile) -> bool:
    """Refuse fields that the first line does not name; whether a carriage return ends no line."""
    found, most = False, len(file.columns) - 1
    with open(file.path, encoding=text_encoding(file.encoding), newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.count(file.delimiter) > most:
                more = line.split(file.delimiter)[most + 1 :]
                if "".join(more).strip():  # separators alone end some lines
                    fields = f"{most + 1 + len(more)} fields where the first line names {most + 1}"
                    file.refuse(number, f"{fields}; check the file and field_separator")
            if "\0" in line:
                file.refuse(number, "it holds a NUL, which is no letter; take it out")
            if "\r" in line and "\r" in line.removesuffix("\n").removesuffix("\r"):
                found = True
    return found


def _lines_of(file: RecordFile, rows: Iterable[int]) -> list[int]:
    """Where in the file rows below its first line stand: blank lines are not among the rows."""
    rows = set(rows)
    blank = " \t\r\n".replace(file.delimiter, "")
    with open(file.path, encoding=text_encoding(file.encoding), newline="\n") as lines:
        full = (number for number, line in enumerate(lines, 1) if line.strip(blank))
        numbers = itertools.islice(full, 1, max(rows) + 2)
        return [number for row, number in enumerate(numbers) if row in rows]


def _lists(dataset, file, column, kind):
    """The values of a column of lists, no more of each than ``seq_len`` says."""
    between, most = dataset.config["seq_separator"], dataset.config["seq_len"] or {}
    lists = [list(filter(None, words.split(between))) for words in column.fillna("")]
    if kind.value == "float_seq":
        try:
            lists = [list(map(float, words)) for words in lists]
        except ValueError:
            _refuse_words(file, pd.Series(lists, name=column.name, dtype=object).explode())
            raise
    lists = [np.array(values[: most.get(column.name)]) for values in lists]
    dataset.field2seqlen[column.name] = max(map(len, lists), default=0)
    return pd.Series(lists, dtype=object)


def _largest(values):
    return np.abs(values).max(initial=0)


def _check_numbers(dataset, file, frame):
    """Refuse numbers that are too large for models, and infinite ones that they are given.

    Where all are missing, they are 0.
    """
    for name in [name for name in frame if "float" in dataset.field2type[name].value]:
        kind, values = dataset.field2type[name].value, frame[name]
        if kind == "float" and len(values) and values.dropna().isin([0, 1]).all():  # perhaps words
            _refuse_words(file, _read(file, {name: str}, int(values.notna().argmax()) + 1)[name])
        largest = values if kind == "float" else values.map(_largest)
        large = largest.abs().between(_LARGEST, np.inf, inclusive="neither").to_numpy()
        if large.any():
            said = f"{name} is {values.iloc[int(large.argmax())]}, too large a number for models"
            file.refuse(_lines_of(file, [int(large.argmax())])[0], f"{said}; write another")
        if name not in (dataset.config["numerical_features"] or ()):
            continue
        orders = name == dataset.time_field and orders_by_time(dataset)
        if not kind.startswith("float") or orders or not len(frame):
            continue
        if kind == "float":
            bad = np.isinf(values.to_numpy())
            if values.isna().all():
                dataset.logger.warning(f"{file.path}: no line has a value of {name}; it is 0.")
                frame[name] = 0.0
        else:
            bad = np.array([not np.isfinite(numbers).all() for numbers in values])
        if bad.any():
            said = f"{name} is not finite; write another number, or leave the field empty"
            file.refuse(_lines_of(file, [int(bad.argmax())])[0], said)


def orders_by_time(dataset) -> bool:
    """Whether the times of a dataset's interactions say which comes first."""
    from recbole.utils import FeatureType

    ordered = (dataset.config["eval_args"] or {}).get("order") == "TO"
    return ordered and dataset.field2type.get(dataset.time_field) == FeatureType.FLOAT


def _complete(dataset, file, frame, kind):
    """Rows with a user, an item and, where it orders them, a time."""
    user, item, time = dataset.uid_field, dataset.iid_field, dataset.time_field
    needed = {"inter": [user, item], "user": [user], "item": [item]}.get(kind, [])
    needed = [field for field in needed if field in frame]
    absent = frame[needed].isna().any(axis=1).to_numpy()
    reasons = {" or ".join(needed): absent}
    listed = f"{item}{dataset.config['LIST_SUFFIX']}" in frame  # histories that are made already
    timed = kind == "inter" and time in frame and orders_by_time(dataset) and not listed
    if timed:
        times = frame[time].to_numpy(dtype=np.float64)
        reasons[time] = ~np.isfinite(times) & ~absent
    for what, rows in reasons.items():
        if rows.any():
            said = f"{rows.sum()} of {len(frame)} lines left out, which have no {what}"
            lines = _lines_of(file, np.flatnonzero(rows)[:6].tolist())
            dataset.logger.warning(f"{file.path}: {said}: line {first_lines(lines)}")
    kept = ~np.any(list(reasons.values()), axis=0)
    if kind != "inter" and needed:
        again = frame[needed[0]].duplicated().to_numpy() & kept
        if again.any():
            said = f"{again.sum()} of {len(frame)} lines have the {needed[0]} of an earlier line"
            lines = first_lines(_lines_of(file, np.flatnonzero(again)[:6].tolist()))
            dataset.logger.warning(f"{file.path}: {said}, which counts: line {lines}")
    if len(frame) and not kept.any():
        wanted = ", ".join(needed) + (f" and {time}" if timed else "")
        file.refuse(0, f"no line has {wanted}; fill them")
    if timed and np.abs(times[kept]).max(initial=0) >= _INEXACT:
        whole = pd.to_numeric(_read(file, {time: str})[time][kept], errors="coerce")
        if whole.dtype == np.int64:  # beyond the exact floats
            frame[time] = whole.reindex(frame.index, fill_value=0)
        else:
            said = f"numbers of {time} that are so near count as equal: they have more digits"
            dataset.logger.warning(f"{file.path}: {said} than 64 bits hold, or a point among them.")
    return frame if kept.all() else frame[kept].reset_index(drop=True)


class ListFrame(pd.DataFrame):
    """A frame in whose columns of lists ``agg(len)`` works on each, as RecBole counts on.

    pandas 3 applies the function to the column as a whole, and so takes the number of rows for the
    length of the one sequence.
    """

    @property
    def _constructor(self):
        return ListFrame

    @property
    def _constructor_sliced(self):
        return _ListColumn


class _ListColumn(pd.Series):
    @property
    def _constructor(self):
        return _ListColumn

    @property
    def _constructor_expanddim(self):
        return ListFrame

    def agg(self, func: Any = None, *arguments: Any, **options: Any) -> Any:
        """Aggregate; the two functions that RecBole passes mean what they did."""
        if func is len:
            return self.map(len)
        if func is np.concatenate:
            return np.concatenate(self.to_list())
        return super().agg(func, *arguments, **options)
