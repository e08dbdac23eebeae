"""What a run leaves behind: one table for people, one JSON file for scripts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from tabulate import tabulate

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import is_stream

SECONDS = ("prepare", "encode", "teacher", "train", "train_per_epoch", "evaluate")
PARAMETERS = ("trainable", "frozen")
MORE = ("config", "curve", "bins", "checkpoint", "users_file", "cold_items")
_TITLES = {
    "tail_items": "tail items",
    "head_items": "head items",
    "short_users": "short users",
    "long_users": "long users",
}


def results_table(
    valid,
    test,
    groups,
    metrics=None,
    labels=None,
    valid_users=None,
    test_users=None,
    measure=None,
) -> str:
    """Lay out a run's results as one plain-text table.

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
        Which measure it is, as :func:`~recbole_llmemb.config.measure.measure_of` says it:
        the first line.

    Returns
    -------
    str
        Validation, test, then the groups of the latter, one row each, with the
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
    total = test_users if None in overall else sum(overall)
    lines = [("validation, all", valid_users, valid), ("test, all", total, test)]
    lines += [(f"  {titles.get(name, name)}", users[name], group) for name, group in groups.items()]
    rows = [
        [title, "-" if count is None else f"{count:,}", *(_cell(values, key) for key in columns)]
        for title, count, values in lines
        if values
    ]
    table = tabulate(
        rows,
        headers=["", "users", *columns],
        tablefmt="simple",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(columns) + 1)),
        preserve_whitespace=True,
    )
    return f"{measure}\n{table}" if measure else table


def check_writable(path) -> None:
    """Make sure, before any work is done, that a result file can be written.

    Creates the folder it goes to if there is none; leaves no file.
    """
    path = _target(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a directory")
        if is_stream(path):
            return
        if path.is_file() and not _is_result(path):
            raise UserError(
                f"{path} holds something else than results, so it is not replaced; give "
                "`--result_json` another file."
            )
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
    **more,
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
    **more
        Any of :data:`MORE`, written where they are given:

        - ``config`` (mapping): settings that change what comes out, without those that are
          empty;
        - ``curve`` (list of mapping): ``epoch``, ``train_loss`` (list of its parts),
          ``valid_score`` and ``seconds`` (of training, so far) of each validation;
        - ``bins`` (mapping of str to list): test results by ``item_popularity`` and
          ``history_length``, see :meth:`~recbole_llmemb.evaluation.details.PerRowMetrics.bins`;
        - ``checkpoint``, ``users_file`` (str): see :func:`relative`;
        - ``cold_items`` (mapping): see :func:`~recbole_llmemb.evaluation.cold.evaluate_cold`.

    Raises
    ------
    UserError
        If the file cannot be written.
    ValueError
        If ``seconds``, ``parameters`` or ``more`` has keys outside the contract.
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
    given = _exactly("a result file", more, MORE)
    result |= {key: value for key, value in given.items() if value is not None}
    text = json.dumps(plain(result), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    path = _target(path)
    try:
        if is_stream(path):
            path.write_text(text, encoding="utf-8")
            return
        write_whole(path, text.encode("utf-8"))
    except OSError as error:
        raise _unwritable(path, error) from error


def write_whole(path, data: bytes) -> None:
    """Write a file so that it is never there in part."""
    path = Path(path)
    beside = _beside(path)
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def users_file_of(path) -> Path:
    """Where the per-user results of a result file go: beside it."""
    if not path or is_stream(Path(path)):
        raise UserError(
            "save_users keeps results per user beside the result file, but there is none; "
            "add --result_json=FILE or leave save_users off."
        )
    path = Path(path)
    return path.with_name(f"{path.stem}.users.safetensors")


def relative(file, path) -> str:
    """A file as a result file names it: seen from its own folder, so that both can move."""
    try:
        return Path(os.path.relpath(file, Path(path).parent)).as_posix()
    except ValueError:  # on another drive
        return str(file)


def curve_of(history, epoch_seconds) -> list[dict] | None:
    """The learning curve from what a trainer has kept, or None if it has kept nothing.

    ``history``: ``epoch``, ``train_loss`` and ``valid_score`` of each validation.
    ``epoch_seconds``: of each epoch, from the first.
    """
    if not history:
        return None
    curve = []
    for row in history:
        loss = row["train_loss"]
        loss = list(loss) if isinstance(loss, (list, tuple)) else [loss]
        spent = sum(epoch_seconds[: row["epoch"] + 1])
        curve.append({**row, "train_loss": loss, "seconds": spent})
    return curve


def plain(value):
    """Turn numbers of NumPy and PyTorch into Python's, and NaN and infinity into None."""
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
    return path if is_stream(path) or not path.is_symlink() else Path(os.path.realpath(path))


def _is_result(path: Path) -> bool:
    """Whether a file holds a run's results, or nothing."""
    try:
        found = json.loads(path.read_bytes().strip() or b"{}")
    except ValueError:
        return False
    return isinstance(found, dict) and (not found or "test_result" in found)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _unwritable(path, error) -> UserError:
    reason = error.strerror or str(error)
    return UserError(
        f"The result file {str(path)!r} cannot be written ({reason}): "
        "give `--result_json` a file in a folder you can write to."
    )
