"""Turning state into plain data and tensors, and back, for checkpoints."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import scipy.sparse
import torch

from recbole_llmemb.core.errors import UserError

# Config computes these from the others (or from the machine it runs on), so a
# checkpoint must not carry them: "local_rank", for one, would make the rebuilt
# Config look for a process group.
DERIVED = frozenset(
    {"device", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "local_rank", "single_spec"}
)

# Marks the dictionaries that stand for an array or a sparse matrix in the file.
_TAG = "__recbole_llmemb__"


def config_to_plain(config: Any) -> dict[str, Any]:
    """Turn a RecBole ``Config`` into a dictionary of plain values.

    What ``Config`` derives from the rest (the device, the model and input types,
    the evaluation type, the process rank) is left out.

    Parameters
    ----------
    config : recbole.config.Config or mapping

    Raises
    ------
    UserError
        When an entry is not plain data; the message names it.
    """
    entries = config if isinstance(config, Mapping) else config.final_config_dict
    return {
        key: plain_setting(value, key)
        for key, value in entries.items()
        if key not in DERIVED and not isinstance(value, (Enum, torch.device))
    }


def plain_setting(value: Any, where: str) -> Any:
    """Like :func:`to_safe`, for settings: paths and dates become text, arrays lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "isoformat"):  # yaml reads an unquoted 2014-07-23 as a date
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(plain_setting(entry, where) for entry in value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {
            plain_setting(key, where): plain_setting(entry, f"{where}.{key}")
            for key, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        entries = [plain_setting(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
        return entries if isinstance(value, list) else tuple(entries)
    return to_safe(value, f"config.{where}")


def to_safe(value: Any, where: str) -> Any:
    """The plain form of one entry; ``where`` names it should it have none."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        return value.item()
    if isinstance(value, (torch.device, os.PathLike)):
        return str(value)
    for base in (bool, int, float, str):  # subclasses, an IntEnum for one
        if isinstance(value, base):
            return base(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        kind = "matrix" if isinstance(value, np.matrix) else "array"
        return {_TAG: kind, "data": torch.from_numpy(np.array(value))}
    if scipy.sparse.issparse(value):
        coo = value.tocoo()
        return {
            _TAG: "sparse",
            "format": value.format,
            "is_array": isinstance(value, scipy.sparse.sparray),
            "shape": tuple(int(size) for size in coo.shape),
            "row": torch.from_numpy(np.array(coo.row)),
            "column": torch.from_numpy(np.array(coo.col)),
            "data": torch.from_numpy(np.array(coo.data)),
        }
    if isinstance(value, Mapping):
        packed: Any = OrderedDict() if isinstance(value, OrderedDict) else {}
        for key, entry in value.items():
            packed[to_safe(key, where)] = to_safe(entry, f"{where}.{key}")
        if hasattr(value, "_metadata"):  # the module versions a state_dict carries
            packed._metadata = to_safe(value._metadata, f"{where}._metadata")
        return packed
    if isinstance(value, (list, tuple)):
        entries = [to_safe(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
        return entries if isinstance(value, list) else tuple(entries)
    raise UserError(
        f"The checkpoint entry '{where}' is a {type(value).__name__}, which is neither a tensor "
        "nor plain data: store what it is made of instead."
    )


def from_safe(value: Any) -> Any:
    """Undo :func:`to_safe` for arrays and sparse matrices."""
    if isinstance(value, dict):
        kind = value.get(_TAG)
        if kind == "array":
            return value["data"].cpu().numpy()
        if kind == "matrix":
            return np.asmatrix(value["data"].cpu().numpy())
        if kind == "sparse":
            entries = [value[name].cpu().numpy() for name in ("data", "row", "column")]
            build = scipy.sparse.coo_array if value["is_array"] else scipy.sparse.coo_matrix
            sparse = build((entries[0], (entries[1], entries[2])), shape=value["shape"])
            return sparse.asformat(value["format"])
        for key, entry in value.items():
            value[key] = from_safe(entry)
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(from_safe(entry) for entry in value)
    return value
