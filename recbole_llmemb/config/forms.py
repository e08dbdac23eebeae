"""Values of RecBole's that have a form of their own, told from those that it would fail over."""

from __future__ import annotations

import math
import re
from typing import Any

from recbole_llmemb.core.errors import UserError

_CLIPPING = {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}
_NUMBER = r"\s*-?(inf|[0-9.]+(e[+-]?[0-9]+)?)\s*"
_INTERVAL = rf"[\[(]{_NUMBER},{_NUMBER}[\])]"


def is_number(value: Any) -> bool:
    """Whether a setting is a number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def interval(text: str | None) -> str | None:
    """RecBole tells the log only that it leaves out an interval which it cannot read."""
    if text is not None and not all(re.fullmatch(_INTERVAL, p.strip()) for p in text.split(";")):
        raise ValueError("an interval such as '[5,inf)'")
    return text


def intervals(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Intervals by field, or lists of the values that are kept."""
    for name, text in (found or {}).items():
        try:
            interval(None if isinstance(text, list) or text is None else str(text))
        except ValueError as must:
            raise UserError(f"val_interval.{name} is {text!r}; it must be {must}.") from None
    return found


def columns(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Fields by file."""
    for file, names in (found or {}).items():
        if names is not None and not isinstance(names, list):
            raise UserError(
                f"load_col.{file} is {names!r}; it must be a list of the file's fields, or empty."
            )
    return found


def clipping(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Arguments of PyTorch's ``clip_grad_norm_``."""
    if found and not (set(found) <= _CLIPPING and is_number(found.get("max_norm"))):
        raise ValueError
    return found


def threshold(value: int | float) -> int | float:
    """A number of interactions, or a share of the users or items."""
    if not (1 <= value < 2**31 if isinstance(value, int) else 0 < value < 1):
        raise ValueError
    return value


def evaluation(args: dict[str, Any]) -> dict[str, Any]:
    """``eval_args``: how interactions are split and targets ranked."""
    modes = args.get("mode")
    for mode in modes.values() if isinstance(modes, dict) else [modes]:
        if mode not in (None, "none"):
            check_mode(mode)
    if args.get("split") is not None:
        _check_split(args["split"])
    return args


def check_mode(mode: Any) -> None:
    """Refuse a way of ranking that RecBole does not have."""
    if not re.fullmatch(r"full|labeled|(uni|pop)0*[1-9][0-9]{0,8}", str(mode)):
        raise UserError(
            f"mode is {mode!r}; it must be full, or uniNNN or popNNN for NNN sampled items (uni99)."
        )


def _check_split(split: Any) -> None:
    """RecBole fails late over ways to split that it does not have, and over any two parts."""
    if not (isinstance(split, dict) and len(split) == 1 and set(split) <= {"LS", "RS", "TS"}):
        raise UserError(
            f"eval_args.split is {split!r}; it must be of the form {{'LS': 'valid_and_test'}} or "
            "{'RS': [0.8, 0.1, 0.1]}."
        )
    ((kind, how),) = split.items()
    if kind == "LS":
        if how not in ("valid_and_test", "valid_only", "test_only"):
            raise UserError(
                f"eval_args.split is {split!r}; LS must be valid_and_test, valid_only or test_only."
            )
        return
    three = isinstance(how, list) and len(how) == 3
    if not (three and all(is_number(share) and 0 <= share < math.inf for share in how) and how[0]):
        raise UserError(
            f"eval_args.split is {split!r}; {kind} takes three shares, of training, validation and "
            "test, such as [0.8, 0.1, 0.1]; 0 leaves out validation or test."
        )
