"""What a run leaves behind: one table for people, one JSON file for scripts."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator, with_config
from tabulate import tabulate
from typing_extensions import TypedDict

from recbole_llmemb.core.checked import Checked
from recbole_llmemb.core.errors import UserError, explained, reason_of
from recbole_llmemb.core.files import atomic_file, is_stream, require_writable, sealed, unseal
from recbole_llmemb.core.terminal import text_table
from recbole_llmemb.evaluation.metrics import Amount, Bin, Count, Group, Metrics, Number
from recbole_llmemb.records.values import one_line

__all__ = ["Results", "RunResult", "results_table"]

Stage = Literal["prepare", "encode", "teacher", "train", "train_per_epoch", "evaluate"]
Kind = Literal["trainable", "frozen"]
SECONDS, PARAMETERS = get_args(Stage), get_args(Kind)
_KEY = "result_json"
_FILES = ("checkpoint", "users_file")  # Named in a result file as seen from its folder


@with_config(ConfigDict(strict=True, allow_inf_nan=False, extra="allow"))
class Validation(TypedDict):
    """A point of the learning curve."""

    epoch: Count
    train_loss: list[Number]
    valid_score: Number
    seconds: Amount


class RunResult(BaseModel):
    """A run's results: what its file holds, written and read.

    Numbers become Python's, NaN and infinity None. What an older file lacks is empty.

    ``model``, ``dataset``, ``seed``: what was run. ``epochs``: how many were trained.
    ``best_valid_result``, ``test_result``: ``{metric: value}``.
    ``groups``, ``valid_groups``: ``{group: {"users": n, metric: value}}``, on test and validation.
    ``seconds``: by stage, see :data:`SECONDS`. ``parameters``: ``trainable`` and ``frozen`` ones.
    ``config``: settings that change what comes out, without those that are empty.
    ``curve``: ``epoch``, ``train_loss`` (list of its parts), ``valid_score`` and ``seconds`` (of
    training, so far) of each validation.
    ``bins``: test results by ``item_popularity`` and ``history_length``, see
    :meth:`~recbole_llmemb.evaluation.groups.PerRowMetrics.bins`.
    ``checkpoint``, ``users_file``: named in the file as seen from its folder: all can be moved.
    ``run_key``: what tells the run from others, which its checkpoint says, too.
    ``data``: hash of the files of interactions. ``table``: fingerprint of the table.
    ``tested``: digests of the test's ``targets``, of all ``items``, of the ``training`` before it.
    ``cold_items``: see :func:`~recbole_llmemb.evaluation.cold.evaluate_cold`.
    ``file``: where it was read from. ``labels``: of a run just done: its groups in words;
    ``details``: its test by row (:class:`~recbole_llmemb.evaluation.groups.PerRowMetrics`).
    """

    model_config = Checked.model_config

    model: str
    dataset: str
    seed: int
    best_valid_result: Metrics = {}
    test_result: Metrics
    groups: dict[str, Group] = {}
    seconds: dict[Stage, Amount] = {}
    epochs: Count | None = None
    parameters: dict[Kind, Amount] = {}
    valid_groups: dict[str, Group] | None = None
    config: dict[str, Any] | None = None
    curve: list[Validation] | None = None
    bins: dict[str, list[Bin]] | None = None
    checkpoint: str | os.PathLike | None = None
    users_file: str | os.PathLike | None = None
    cold_items: dict[str, Any] | None = None
    run_key: str | None = None
    data: str | None = None
    table: str | None = None
    tested: dict[str, str] | None = None
    file: Path | None = Field(None, exclude=True)
    labels: dict[str, str] | None = Field(None, exclude=True)
    details: Any = Field(None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values):
        if "file" in values:  # read from there
            return values
        apart = {*_FILES, "details"}
        return {key: value if key in apart else plain(value) for key, value in values.items()}

    @property
    def test(self) -> dict:
        """Overall test metrics, names in lower case."""
        return {one_line(name.lower()): value for name, value in self.test_result.items()}

    @property
    def rows(self) -> float | None:
        """Evaluated rows of the test set, where the file tells."""
        return _rows_of(self.groups)

    @property
    def name(self) -> str | None:
        """The file's name without the seed at its end; None if there is none."""
        stem = self.file.stem if self.file else ""
        found = re.fullmatch(rf"(.*?)[-_. ]?(?:seed)?[-_=]?{self.seed}", stem)
        return found.group(1) or None if found else None

    def content(self, path=None) -> dict:
        """What the file ``path`` is to hold; None: without the names of other files."""
        content = {name: value for name, value in self.model_dump().items() if value is not None}
        content["seconds"] = dict.fromkeys(SECONDS) | self.seconds
        content["parameters"] = dict.fromkeys(PARAMETERS) | self.parameters
        for name in _FILES:
            given = content.pop(name, None)
            if given and path:
                content[name] = _relative(given, path)
        return sealed(content)

    def write(self, path) -> None:
        """Write the file; it is replaced as a whole if it exists."""
        text = json.dumps(self.content(path), indent=2, allow_nan=False, ensure_ascii=False)
        with atomic_file(path, _KEY) as fresh:
            fresh.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path) -> RunResult:
        """Read a file that :meth:`write` has written, today or earlier."""
        path = Path(path)
        if path.is_dir():
            raise _no_result(path, f"it is a folder: give {path}/*.json")
        if path.exists() and not path.is_file():
            raise _no_result(path, "it is no file")
        sentence = f"{str(path)!r} is no result file that can be read ({{reason}})."
        with explained(sentence, OSError, where=path):
            text = path.read_text(encoding="utf-8-sig", errors="replace")
        try:
            content = unseal(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            what = "it is not JSON: " if isinstance(error, json.JSONDecodeError) else ""
            what = "it is not UTF-8: " if text.startswith("\ufffd") else what
            raise _no_result(path, what + reason_of(error)) from None
        if not isinstance(content, dict):
            raise _no_result(path, "it holds no object")
        kept = [name for name, field in cls.model_fields.items() if not field.exclude]
        known: dict = {"config": {}, "curve": [], "bins": {}, "tested": {}, "file": path}
        known |= {key: content[key] for key in kept if content.get(key) is not None}
        for key in _FILES:
            if isinstance(known.get(key), str) and known[key]:
                known[key] = path.parent / known[key]
        if known.get("config") and isinstance(known["config"], dict):  # older files: measured so
            known["config"] = {"exclude_history": False, **known["config"]}
        for key, names in (("seconds", SECONDS), ("parameters", PARAMETERS)):
            if isinstance(known.get(key), dict):  # newer files may hold more
                known[key] = {name: n for name, n in known[key].items() if name in names}
        try:
            return cls(**known)
        except ValidationError as error:
            first = error.errors()[0]
            inner: Any = known
            places = []
            for part in first["loc"]:  # at last pydantic names kinds of values
                try:
                    inner = inner[part]
                except (KeyError, TypeError):
                    if first["type"] != "missing":
                        continue
                places.append(str(part))
            place, cause = ".".join(places), first.get("ctx", {}).get("error")
            if first["type"] == "missing":
                raise _no_result(path, f"it has no {place!r}") from None
            what = f".{cause}" if cause else f" is {first['input']!r:.80}"
            raise _no_result(path, f"its {place}{what}") from None


class Results(dict):
    """What a run's result file holds; shown as a table where notebooks show results."""

    def to_pandas(self):
        """Validation, test and its groups, one row each, as a :class:`pandas.DataFrame`.

        Columns are ``users``, where they are known, and the metrics.
        """
        import pandas as pd

        rows = {"validation": self["best_valid_result"], "test": self["test_result"]}
        rows |= self.get("groups") or {}
        if rows["test"]:
            rows["test"] = {"users": _rows_of(self.get("groups") or {}), **rows["test"]}
        lower = {
            name: {key.lower(): value for key, value in row.items()} for name, row in rows.items()
        }
        frame = pd.DataFrame.from_dict({k: v for k, v in lower.items() if v}, orient="index")
        metrics = [name for name in frame.columns if name != "users"]
        return frame.reindex(columns=["users", *metrics]).astype({"users": "Int64"})

    def _repr_html_(self):
        return self.to_pandas().to_html(float_format="{:.4f}".format)


def write_result_json(path, **parts) -> None:
    """The older way to :meth:`RunResult.write`; it goes with the next release."""
    warnings.warn("write_result_json is now RunResult(...).write", DeprecationWarning, stacklevel=2)
    for key in _FILES:
        if parts.get(key):
            parts[key] = Path(path).parent / parts[key]
    RunResult(**parts).write(path)


def check_writable(path) -> None:
    """Make sure, before any work is done, that a result file can be written.

    Creates the folder it goes to if there is none; leaves no file.
    """
    path = Path(path)
    if path.is_file() and not _holds_results(path):
        told = f"{path} holds something else than whole results; give --{_KEY} another file."
        raise UserError(told, key=_KEY, where=path)
    require_writable(path, _KEY)


def _holds_results(path: Path) -> bool:
    """Whether a file holds a run's results, or nothing."""
    try:
        found = json.loads(path.read_bytes().strip() or b"{}")
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and (not found or "test_result" in found)


def users_file_of(path) -> Path:
    """Where the per-user results of a result file go: beside it."""
    if not path or is_stream(path):
        told = "save_users keeps results per user beside the result file, but there is none"
        raise UserError(f"{told}; add --result_json=FILE or leave save_users off.")
    path = Path(path)
    return path.with_name(f"{path.stem}.users.safetensors")


def results_table(
    valid, test, groups, metrics=None, labels=None, valid_users=None, test_users=None,
    measure=None, form="simple",
) -> str:  # fmt: skip
    """Lay out a run's results as one table.

    Parameters
    ----------
    valid, test : mapping of str to float, or None
        Overall results, ``{metric: value}``.
    groups : mapping of str to mapping
        Test results by group, as :func:`~recbole_llmemb.evaluation.group_results`
        returns them; those of validation where there is no test.
    metrics : sequence of str, optional
        The columns, in order; all metrics of ``test`` if not given.
    labels : mapping of str to str, optional
        Group names in words, such as ``Groups.labels``.
    valid_users, test_users : int, optional
        Numbers of rows behind ``valid`` and ``test``; groups tell the latter.
    measure : str, optional
        Which measure it is, as :func:`~recbole_llmemb.evaluation.metrics.measure_of` says it:
        the first line.
    form : str
        ``simple`` for the terminal, or ``html``: the table alone.

    Returns
    -------
    str
        Validation, test, then the groups of the latter, one row each, with the
        number of users (evaluated rows) behind it. Values that do not exist are "-".
    """
    groups, labels = groups or {}, labels or {}
    columns = [metric.lower() for metric in metrics or test or valid or ()]
    lines = [
        ("validation, all", valid_users, valid),
        ("test, all", _rows_of(groups) or test_users, test),
    ]
    for name, group in groups.items():
        lines.append((f"  {labels.get(name, name.replace('_', ' '))}", group.get("users"), group))
    rows = [
        [title, "-" if count is None else f"{count:,}", *(_cell(values, key) for key in columns)]
        for title, count, values in lines
        if values
    ]
    headers = ["", "users", *columns]
    if form == "html":
        align = ("left", *["right"] * (len(columns) + 1))
        return str(tabulate(rows, headers, "html", disable_numparse=True, colalign=align))
    table = text_table(rows, headers, fixed=2)
    return f"{measure}\n{table}" if measure else table


def _rows_of(groups):
    """Evaluated rows: short and long users share them out, item groups may leave some out."""
    sizes = [groups.get(name, {}).get("users") for name in ("short_users", "long_users")]
    return None if None in sizes else sum(sizes)


def _cell(values, key) -> str:
    value = plain({name.lower(): item for name, item in values.items()}.get(key))
    return "-" if value is None else f"{value:.4f}"


def curve_of(history, epoch_seconds) -> Any:
    """The learning curve from what a trainer has kept, or None if it has kept nothing.

    ``history``: ``epoch``, ``train_loss`` and ``valid_score`` of each validation.
    ``epoch_seconds``: of each epoch, from the first.
    """
    curve = []
    for row in history or ():
        loss = row["train_loss"]
        loss = list(loss) if isinstance(loss, (list, tuple)) else [loss]
        spent = sum(epoch_seconds[: row["epoch"] + 1])
        curve.append({**row, "train_loss": loss, "seconds": spent})
    return curve or None


def plain(value):
    """What JSON holds of a value: numbers of NumPy and PyTorch as Python's, NaN as None."""
    return json.loads(json.dumps(value, default=_item), parse_constant=lambda name: None)


def _item(value):
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written to a result file")


def _relative(file, path) -> str:
    """A file as a result file names it: seen from its own folder, so that both can move."""
    try:
        return Path(os.path.relpath(file, Path(path).parent)).as_posix()
    except ValueError:  # on another drive
        return str(file)


def _no_number(name) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _no_result(path, reason) -> UserError:
    told = f"{str(path)!r} is no result file ({reason})"
    return UserError(f"{told}; give files that --result_json has written.", where=path)
