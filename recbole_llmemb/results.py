"""What a run leaves behind: one table for people, one JSON file for scripts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from tabulate import tabulate

from recbole_llmemb.errors import UserError

SECONDS = ("prepare", "encode", "teacher", "train", "train_per_epoch", "evaluate")
PARAMETERS = ("trainable", "frozen")
_TITLES = {
    "tail_items": "tail items",
    "head_items": "head items",
    "short_users": "short users",
    "long_users": "long users",
}


def results_table(valid, test, groups, metrics=None, labels=None, valid_users=None) -> str:
    """Lay out a run's results as one plain-text table.

    Parameters
    ----------
    valid, test : mapping of str to float, or None
        Overall results, ``{metric: value}``.
    groups : mapping of str to mapping
        Test results by group, as :func:`~recbole_llmemb.evaluation.group_results`
        returns them.
    metrics : sequence of str, optional
        The columns, in order; all metrics of ``test`` if not given.
    labels : mapping of str to str, optional
        Group names in words, such as ``Groups.labels``.
    valid_users : int, optional
        Number of rows behind ``valid``.

    Returns
    -------
    str
        Validation, test, then the groups of the test set, one row each, with the
        number of users (evaluated rows) behind it. Values that do not exist are "-".
    """
    valid, test, groups = valid or {}, test or {}, groups or {}
    titles = {**_TITLES, **(labels or {})}
    if metrics is None:
        metrics = list(test or valid)
    columns = [metric.lower() for metric in metrics]
    users = {name: group.get("users") for name, group in groups.items()}
    # Short and long users share out all rows; item groups may leave some out.
    overall = [users.get("short_users"), users.get("long_users")]
    total = None if None in overall else sum(overall)
    lines = [("validation, all", valid_users, valid), ("test, all", total, test)]
    lines += [(f"  {titles.get(name, name)}", users[name], group) for name, group in groups.items()]
    rows = [
        [title, "-" if count is None else f"{count:,}", *(_cell(values, key) for key in columns)]
        for title, count, values in lines
        if values
    ]
    return tabulate(
        rows,
        headers=["", "users", *columns],
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(columns) + 1)),
        preserve_whitespace=True,
    )


def check_writable(path) -> None:
    """Make sure, before any work is done, that a result file can be written.

    Creates the folder it goes to if there is none; leaves no file.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    path = _target(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a directory")
        if _is_stream(path):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = _beside(path)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def write_result_json(
    path,
    *,
    model: str,
    dataset: str,
    seed: int,
    best_valid_result: Mapping,
    test_result: Mapping,
    groups: Mapping,
    seconds: Mapping,
    epochs: int,
    parameters: Mapping,
    valid_groups: Mapping | None = None,
) -> None:
    """Write a run's results for scripts, atomically.

    Parameters
    ----------
    path : str or path-like
        The file; replaced as a whole if it exists.
    model, dataset, seed
        What was run.
    best_valid_result, test_result : mapping of str to float
        ``{metric: value}``.
    groups, valid_groups : mapping of str to mapping
        ``{group: {"users": n, metric: value}}`` on test and, if given, on validation.
    seconds : mapping of str to float
        By stage, see :data:`SECONDS`; stages left out are written as null.
    epochs : int
        Epochs trained.
    parameters : mapping of str to int
        Numbers of ``trainable`` and ``frozen`` parameters.

    Raises
    ------
    UserError
        If the file cannot be written.
    ValueError
        If ``seconds`` or ``parameters`` has keys outside the contract.
    """
    result = {
        "model": model,
        "dataset": dataset,
        "seed": seed,
        "best_valid_result": best_valid_result,
        "test_result": test_result,
        "groups": groups,
        "seconds": _exactly("seconds", seconds, SECONDS),
        "epochs": epochs,
        "parameters": _exactly("parameters", parameters, PARAMETERS),
    }
    if valid_groups is not None:
        result["valid_groups"] = valid_groups
    text = json.dumps(plain(result), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    path = _target(path)
    try:
        if _is_stream(path):
            path.write_text(text, encoding="utf-8")
            return
        beside = _beside(path)
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def plain(value):
    """Turn numbers of NumPy and PyTorch into Python's, and NaN and infinity into None.

    Raises
    ------
    TypeError
        For anything that JSON has no form for.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    raise TypeError(f"{type(value).__name__} cannot be written to a result file")


def _cell(values, key) -> str:
    value = plain({name.lower(): item for name, item in values.items()}.get(key))
    return "-" if value is None else f"{value:.4f}"


def _exactly(name, given, keys) -> dict:
    unknown = set(given) - set(keys)
    if unknown:
        raise ValueError(f"{name} has no place for {sorted(unknown)}")
    return {key: given.get(key) for key in keys}


def _target(path) -> Path:
    path = Path(path)
    # Through links: replacing a link would leave what it points to as it was.
    return path if _is_stream(path) or not path.is_symlink() else Path(os.path.realpath(path))


def _is_stream(path: Path) -> bool:
    """Whether the path is something like ``/dev/stdout``, which cannot be replaced."""
    return path.parts[:2] == ("/", "dev") or (path.exists() and not path.is_file())


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _unwritable(path, error) -> UserError:
    reason = error.strerror or str(error)
    return UserError(
        f"The result file {str(path)!r} cannot be written ({reason}): "
        "give `--result_json` a file in a folder you can write to."
    )
