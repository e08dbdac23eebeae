"""How RecBole reads atomic files: quickly, and as they say.

An atomic file has a row per line and a separator between fields, and no more: quotes and lone
carriage returns are characters, and only what is empty is missing.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import mmap
import re
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from packaging.version import Version

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.text import first_line, text_encoding, wrong_encoding

# In a column of numbers, "not a number" is no number, as pandas itself writes it.
_NO_NUMBER = ["", "nan", "NaN", "NAN", "-nan", "-NaN"]
_NAMED = 5
# Stands for a separator of several characters; text has it nowhere.
_UNIT = "\x1f"
# From here on, not every whole number is a float.
_INEXACT = 2.0**53


def read_files_as_they_are() -> None:
    """Read atomic files with pandas' C parser, and nothing into them.

    RecBole asks for the parser written in Python, which takes ten times as long and five times
    the memory of the data: the peak of preparing a large dataset. It lets pandas take ``NA`` and
    ``null`` for missing and quotes for csv's, and takes out lines without a user by labels where
    places are meant, so that others go.
    """
    from recbole.data.dataset import dataset as module

    module.pd = _PandasInC(module.pd)
    module.Dataset._load_feat = _checked(module.Dataset._load_feat)


class _PandasInC(types.ModuleType):
    """pandas, reading atomic files in C wherever its C parser can."""

    def __init__(self, inner: types.ModuleType):
        super().__init__("pandas")
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def read_csv(self, path: Any, **options: Any) -> pd.DataFrame:
        """Read an atomic file; a word in a column of numbers is refused by its line."""
        kinds = options.get("dtype") or {}
        separator = options.get("delimiter") or options.get("sep") or ","
        missing = {name: [""] if kind is str else _NO_NUMBER for name, kind in kinds.items()}
        options |= {
            "quoting": csv.QUOTE_NONE,
            "keep_default_na": False,
            "na_values": missing or [""],
            "index_col": False,  # a separator at the end of lines moves no column
        }
        if options.get("engine") == "python":
            options["engine"] = "c"
            if Version(pd.__version__) < Version("3.1"):  # exact by default from there on
                options["float_precision"] = "round_trip"
        try:
            return self._read(path, options)
        except UnicodeError:
            raise
        except ValueError:
            numbers = [name for name, kind in kinds.items() if kind is not str]
            if numbers:
                words = self._read(path, options | {"usecols": numbers, "dtype": str})
                _refuse_words(path, options.get("encoding"), separator, words)
            raise

    def _read(self, path, options):
        in_c, encoding = options.get("engine") == "c", options.get("encoding")
        separator = options.get("delimiter") or ","
        if len(separator) > 1 or _has_lone_returns(path):
            with open(path, encoding=encoding, newline="") as file:
                text = file.read().replace("\r\n", "\n").removesuffix("\r")
            ends = {"lineterminator": "\n"} if in_c else {}
            if len(separator) > 1:  # which pandas would take for a pattern
                text, ends["delimiter"] = text.replace(separator, _UNIT), _UNIT
            return self.inner.read_csv(io.StringIO(text), **options | ends)
        if in_c and encoding == "utf-8-sig":  # it knows the mark, and is quicker so
            options = options | {"encoding": "utf-8"}
        return self.inner.read_csv(path, **options)


def _has_lone_returns(path: Any) -> bool:
    """Whether a carriage return stands before anything but a line feed."""
    if not Path(path).stat().st_size:
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"\r") >= 0 and re.search(rb"\r(?!\n|\Z)", data) is not None


def _refuse_words(path: Any, encoding: str | None, separator: str, frame: pd.DataFrame) -> None:
    """Refuse the first word that stands where a number should, if there is one."""
    for name in frame:
        words = frame[name][frame[name].notna() & ~frame[name].isin(_NO_NUMBER)]
        words = words[pd.to_numeric(words, errors="coerce").isna()]
        if len(words):
            (line,) = line_numbers(path, encoding, separator, words.index[:1])
            raise UserError(
                f"{path}, line {line}: {str(words.iloc[0])[:40]!r} of {name} is no number; write "
                "one, or leave the field empty."
            )


def _check_lines(path: Any, encoding: str | None, separator: str, may_be_empty: bool) -> None:
    """Refuse the first line with fields that the file's first line does not name, and no lines."""
    with open(path, encoding=encoding, newline="\n") as file:
        head, number = file.readline(), 1
        most = head.count(separator)
        for number, line in enumerate(file, 2):
            if line.count(separator) > most:
                more = line.split(separator)[most + 1 :]
                if "".join(more).strip():  # separators alone end some lines
                    raise UserError(
                        f"{path}, line {number}: {most + 1 + len(more)} fields where the first "
                        f"line names {most + 1}; check the file and field_separator."
                    )
    if number == 1 and not (may_be_empty and "_seq" not in head):
        raise UserError(f"{path} has nothing below its first line; fill it, or take it away.")


def line_numbers(path: Any, encoding: str | None, separator: str, rows: Iterable[int]) -> list[int]:
    """Where in the file rows below its first line stand: blank lines are not among the rows."""
    rows = set(rows)
    blank = " \t\r\n".replace(separator, "")
    with open(path, encoding=encoding, newline="\n") as file:
        full = (number for number, line in enumerate(file, 1) if line.strip(blank))
        numbers = itertools.islice(full, 1, max(rows) + 2)
        return [number for row, number in enumerate(numbers) if row in rows]


def _checked(load_feat):
    """Leave out the lines of a file that say too little, and tell which."""

    @functools.wraps(load_feat)
    def read(self, filepath, source):
        settings = self.config.final_config_dict
        given = {"encoding": settings["encoding"]} if "encoding" in settings else {}
        settings["encoding"] = encoding = text_encoding(given.get("encoding"))
        try:
            if self._get_load_and_unload_col(source)[0] != set():
                may_be_empty = bool(settings["benchmark_filename"])
                _check_lines(filepath, encoding, settings["field_separator"], may_be_empty)
            frame = load_feat(self, filepath, source)
            if frame is None:
                return None
            _check_numbers(self, frame, filepath, encoding)
            return _complete(self, frame, filepath, source, encoding)
        except (UnicodeError, LookupError) as error:
            if isinstance(error, (KeyError, IndexError)):
                raise
            raise UserError(wrong_encoding(filepath, given.get("encoding"), error)) from error
        except ValueError as error:
            if "could not convert string to float" in str(error):
                _refuse_lists(self, filepath, encoding)
            raise
        finally:
            settings.pop("encoding")
            settings.update(given)

    return read


def _check_numbers(dataset, frame, path, encoding):
    """Refuse infinite numbers that models are given; where all are missing, they are 0."""
    counted = dataset.config["numerical_features"] or ()
    for field in [name for name in frame if name in counted]:
        kind = dataset.field2type[field].value
        orders = field == dataset.time_field and orders_by_time(dataset)
        if not kind.startswith("float") or orders or not len(frame):
            continue
        if kind == "float":
            values = frame[field].to_numpy()
            bad = np.isinf(values)
            if np.isnan(values).all():
                dataset.logger.warning(f"{path}: no line has a value of {field}; it is 0 in all.")
                frame[field] = 0.0
        else:
            bad = np.array([not np.isfinite(values).all() for values in frame[field]])
        if bad.any():
            separator = dataset.config["field_separator"]
            (line,) = line_numbers(path, encoding, separator, [int(bad.argmax())])
            raise UserError(
                f"{path}, line {line}: {field} is not finite; write another number, or leave the "
                "field empty."
            )


def _refuse_lists(dataset, path, encoding):
    """Refuse the first word in a list of numbers, if there is one."""
    from recbole.data.dataset import dataset as module

    separator, between = dataset.config["field_separator"], dataset.config["seq_separator"]
    names = first_line(path, encoding).split(separator)
    names = [name for name in names if name.endswith(":float_seq")]
    frame = module.pd.read_csv(
        path, delimiter=separator, usecols=names, dtype=dict.fromkeys(names, str),
        encoding=encoding, engine="python",
    )  # fmt: skip
    for name in names:
        for row, values in enumerate(frame[name].fillna("")):
            words = pd.Series(list(filter(None, values.split(between))), dtype=object)
            words = words[pd.to_numeric(words, errors="coerce").isna() & ~words.isin(_NO_NUMBER)]
            if len(words):
                (line,) = line_numbers(path, encoding, separator, [row])
                raise UserError(
                    f"{path}, line {line}: {words.iloc[0][:40]!r} of {name} is no number; write "
                    "numbers with seq_separator between them, or leave the field empty."
                )


def orders_by_time(dataset) -> bool:
    """Whether the times of a dataset's interactions say which comes first."""
    from recbole.utils import FeatureType

    ordered = (dataset.config["eval_args"] or {}).get("order") == "TO"
    return ordered and dataset.field2type.get(dataset.time_field) == FeatureType.FLOAT


def _complete(dataset, frame, path, source, encoding):
    """Rows with a user, an item and, where it orders them, a time."""
    kind = getattr(source, "value", source)
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
    drop = np.zeros(len(frame), dtype=bool)
    separator = dataset.config["field_separator"]
    for what, rows in reasons.items():
        if rows.any():
            lines = line_numbers(path, encoding, separator, np.flatnonzero(rows)[:_NAMED].tolist())
            more = ", …" if rows.sum() > _NAMED else ""
            dataset.logger.warning(
                f"{path}: {rows.sum()} of {len(frame)} lines left out, which have no {what}: "
                f"line {', '.join(map(str, lines))}{more}"
            )
            drop |= rows
    if len(frame) and drop.all():
        wanted = ", ".join(needed) + (f" and {time}" if timed else "")
        raise UserError(f"{path}: no line has {wanted}; fill them.")
    if timed and np.abs(times[~drop]).max(initial=0) >= _INEXACT:
        frame[time] = _whole(dataset, path, time, encoding, drop, times)
    return frame[~drop].reset_index(drop=True) if drop.any() else frame


def _whole(dataset, path, time, encoding, drop, times):
    """Times beyond the exact floats as whole numbers, if all of them are."""
    from recbole.data.dataset import dataset as module

    name = f"{time}:float"
    text = module.pd.read_csv(
        path, delimiter=dataset.config["field_separator"], usecols=[name], dtype={name: str},
        encoding=encoding, engine="python",
    )[name]  # fmt: skip
    whole = pd.to_numeric(text[~drop])
    if whole.dtype != np.int64:
        return times
    found = np.zeros(len(times), dtype=np.int64)
    found[~drop] = whole
    return found


def name_missing_columns() -> None:
    """Say which columns a file has when those of users, items or times are not among them.

    RecBole loads the columns that it knows, none of them if need be, and fails later over
    what is missing, without naming the file or the setting.
    """
    from recbole.data.dataset import Dataset

    load_feat = Dataset._load_feat

    @functools.wraps(load_feat)
    def _load_feat(self, filepath, source):
        kind = getattr(source, "value", source)
        if kind == "inter" or self._get_load_and_unload_col(source)[0] != set():
            _check_columns(self.config, filepath, kind)
        return load_feat(self, filepath, source)

    Dataset._load_feat = _load_feat


def _check_columns(config, path, source):
    from recbole.utils import ModelType

    keys = {"inter": ["USER_ID_FIELD", "ITEM_ID_FIELD"], "user": ["USER_ID_FIELD"],
            "item": ["ITEM_ID_FIELD"]}.get(source, [])  # fmt: skip
    # Files that are split already may have histories instead of times.
    ordered = config["MODEL_TYPE"] == ModelType.SEQUENTIAL and not config["benchmark_filename"]
    if source == "inter" and ordered:
        keys.append("TIME_FIELD")
    header = first_line(path, config["encoding"])
    columns = [column.partition(":") for column in header.split(config["field_separator"])]
    found = [name for name, _, _ in columns]
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise UserError(f"{path} has two columns {twice[0]}; rename one of them.")
    missing = [key for key in keys if config[key] is not None and config[key] not in found]
    if missing:
        named = ", ".join(str(config[key]) for key in missing)
        raise UserError(
            f"{path} has the columns {', '.join(found)}, but no {named}; set "
            f"{', '.join(missing)} to what it is called (in all files alike), or rename it."
        )
    people_and_things = [config[key] for key in ("USER_ID_FIELD", "ITEM_ID_FIELD") if key in keys]
    for name, _, kind in columns:
        if name in people_and_things and kind != "token":
            raise UserError(
                f"{path}: {name} is of type {kind}, but users and items are tokens; write "
                f"{name}:token in the first line."
            )
