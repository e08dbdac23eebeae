"""Result files, as ``--result_json`` writes them; older ones hold less."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from recbole_llmemb.core.errors import UserError

#: What a result file must have, and as what.
NEEDED = {"model": str, "dataset": str, "seed": int, "test_result": dict}
_PARTS = {
    "best_valid_result": dict,
    "groups": dict,
    "seconds": dict,
    "parameters": dict,
    "config": dict,
    "bins": dict,
    "curve": list,
}


@dataclass(frozen=True)
class Run:
    """One run, from its result file."""

    file: Path
    model: str
    dataset: str
    seed: int
    test: dict[str, float]  # Overall test metrics, names in lower case
    groups: dict[str, dict]
    seconds: dict  # seconds, parameters, config, bins: Empty where the file does not have them
    parameters: dict
    config: dict
    bins: dict
    curve: list[dict]
    epochs: int | None
    checkpoint: Path | None  # checkpoint, users_file: Where they should lie; not looked for
    users_file: Path | None

    @property
    def rows(self) -> int | None:
        """Evaluated rows of the test set, where the file tells: short and long users."""
        sizes = [self.groups.get(name, {}).get("users") for name in ("short_users", "long_users")]
        return None if None in sizes else sum(sizes)

    @property
    def name(self) -> str | None:
        """The file's name without the seed at its end; None if there is none."""
        found = re.fullmatch(rf"(.*?)[-_. ]?(?:seed)?[-_=]?{self.seed}", self.file.stem)
        return found.group(1) or None if found else None


def read_run(path) -> Run:
    """Read one result file."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a folder; give the result files in it: {path}/*.json.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"There is no result file {str(path)!r}; give files that --result_json has written."
        ) from None
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _no_result(path, f"it is not JSON: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise _no_result(path, "it holds no object")
    for key, kind in NEEDED.items():
        if key not in content:
            raise _no_result(path, f"it has no {key!r}")
        if not isinstance(content[key], kind):
            raise _no_result(path, f"its {key!r} is {content[key]!r}")
    if not content["test_result"]:
        raise UserError(
            f"{str(path)!r} cannot be compared: its 'test_result' has no metrics, as of a run "
            "whose eval_args leave no test part; give files of runs that were tested."
        )
    for key, kind in _PARTS.items():
        if not isinstance(content.get(key) or kind(), kind):
            raise _no_result(path, f"its {key!r} is {content[key]!r}")
    _check_parts(path, content)
    parts = {key: content.get(key) or kind() for key, kind in _PARTS.items()}
    parts.pop("best_valid_result")
    if parts["config"]:  # older files were all measured so
        parts["config"] = {"exclude_history": False, **parts["config"]}
    test = {name.lower(): value for name, value in content["test_result"].items()}
    for name, value in test.items():
        if not _is_metric(value):
            raise _no_result(path, f"its test_result has {value!r} for {name}")
    return Run(
        file=path,
        model=content["model"],
        dataset=content["dataset"],
        seed=content["seed"],
        test=test,
        epochs=content.get("epochs"),
        checkpoint=_beside(path, content.get("checkpoint")),
        users_file=_beside(path, content.get("users_file")),
        **parts,
    )


def _is_metric(value):
    """A number, or None for one that was not measured."""
    return value is None or (isinstance(value, (int, float)) and math.isfinite(value))


def _check_parts(path, content):
    for name, group in (content.get("groups") or {}).items():
        whole = isinstance(group, dict) and isinstance(group.get("users"), int)
        if not (whole and all(map(_is_metric, group.values()))):
            raise _no_result(path, f"its group {name!r} is {group!r}")
    for name, value in (content.get("seconds") or {}).items():
        if not _is_metric(value):
            raise _no_result(path, f"its seconds have {value!r} for {name!r}")
    for entry in content.get("curve") or []:
        if not isinstance(entry, dict):
            raise _no_result(path, f"its curve has {entry!r}")
    for name, rows in (content.get("bins") or {}).items():
        if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
            raise _no_result(path, f"its bins {name!r} are {rows!r}")


def _beside(path, name) -> Path | None:
    return path.parent / name if isinstance(name, str) and name else None


def _no_result(path, reason) -> UserError:
    return UserError(
        f"{str(path)!r} is no result file ({reason}); give files that --result_json has written."
    )
