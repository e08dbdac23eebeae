"""Checkpoint files that hold plain data and tensors only.

A file written here loads with ``torch.load(weights_only=True)``: reading it can
run no code, whoever wrote it. Configurations travel as plain dictionaries, see
:mod:`recbole_llmemb.config.recbole_config`.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from recbole_llmemb.core.errors import DamagedError, UserError
from recbole_llmemb.core.files import AnyPath, atomic_file

__all__ = ["is_whole", "last_whole", "load", "save"]

# Config computes these from the others (or from the machine it runs on), so a
# checkpoint must not carry them: "local_rank", for one, would make the rebuilt
# Config look for a process group.
DERIVED = frozenset(
    {"device", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "local_rank", "single_spec"}
)

# What a training goes on with.
_TRAINING = {
    "config", "epoch", "state_dict", "optimizer", "rng", "loader_rng", "cur_step", "history",
}  # fmt: skip
#: What a configuration notes of what was read beside the data: in words, and what it says of each.
USED = {
    "llm_table_used": ("embedding table (llm_table)", {"path", "fingerprint"}),
    "teacher_used": ("CF model (align_teacher)", {"path", "fingerprint"}),
    "llm_model_used": ("LLM (llm_model)", {"name", "identity"}),
    "align_teacher_used": ("teacher (align_teacher)", {"fingerprint"}),
    "item_titles_used": ("titles of items (item_title_field)", {"fingerprint"}),
    "code_used": ("code of somebody's own classes", {"fingerprint"}),
}

# Marks the dictionaries that stand for an array or a sparse matrix in the file.
_TAG = "__recbole_llmemb__"


def save(state: Mapping[str, Any], path: AnyPath) -> None:
    """Write a checkpoint; the file appears whole or not at all.

    NumPy scalars become Python numbers; numeric arrays and SciPy sparse matrices
    are stored as tensors and come back as what they were.

    Parameters
    ----------
    state : mapping
        Tensors, numbers, strings, None, and dictionaries, lists and tuples of them.
    path : path-like
        Where to write. Missing folders are created.

    Raises
    ------
    UserError
        When an entry is anything else; the message names the entry.
    """
    plain = {key: _to_safe(value, str(key)) for key, value in state.items()}
    with atomic_file(path) as fresh, open(fresh, "wb") as file:
        try:
            torch.save(plain, file)
        except RuntimeError as error:  # PyTorch's own, over a disk that is full
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: AnyPath, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running any code it might contain.

    Parameters
    ----------
    path : path-like
        A file written by :func:`save`, or by RecBole's own trainers after
        ``import recbole_llmemb``.
    map_location
        Passed on to ``torch.load``.

    Raises
    ------
    DamagedError
        When it is not as it was written: its format, zip, has a checksum of each part.
    UserError
        When the file is missing, or holds pickled Python objects.
    """
    if os.path.isdir(path):
        told = f"The checkpoint '{path}' is a folder"
        raise UserError(f"{told}: give a .pth file, or the result file of a run.", where=path)
    if not os.path.isfile(path):
        raise UserError(f"There is no checkpoint at '{path}': check the path.", where=path)
    told = f"The checkpoint '{path}' cannot be read: it is damaged or not a checkpoint"
    damaged = DamagedError(f"{told}; copy it again or train anew.", where=path)
    try:
        if not _sums_fit(path):
            raise damaged
        state = _from_safe(torch.load(path, map_location=map_location, weights_only=True))
    except DamagedError:
        raise
    except PermissionError:
        told = f"The checkpoint '{path}' may not be read: check its permissions."
        raise UserError(told, where=path) from None
    except Exception as error:  # damaged files raise almost anything
        if _is_of_objects(path, error):
            told = f"The checkpoint '{path}' holds pickled Python objects, which can run any code"
            advice = "write it again by training with recbole_llmemb imported"
            raise UserError(f"{told}: {advice}.", where=path) from None
        if "cuda" in str(error).lower() and not isinstance(error, pickle.UnpicklingError):
            raise  # the device asked for is at fault, not the file
        raise damaged from None
    if not isinstance(state, dict):
        told = f"The file '{path}' holds a {type(state).__name__}, and no checkpoint"
        raise UserError(f"{told}: give a file that a trainer saved.", where=path)
    if not _has_the_form(state):
        raise damaged
    return state


def is_whole(path: AnyPath, run_key: str | None = None) -> bool:
    """Whether a checkpoint (of a run) is there as written, without reading its tensors."""
    try:
        if not (zipfile.is_zipfile(path) and _sums_fit(path)):
            return False
        # PyTorch minds a flipped bit of the archive's list of contents, which has no checksum.
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return bool(state) and is_of(state, run_key)
    except Exception:  # damaged files raise almost anything
        return False


def is_of(state: Mapping[str, Any], run_key: str | None) -> bool:
    """Whether a state may be of the run of this key: some say not which run they are of."""
    return run_key in (None, state.get("run_key") or run_key)


def last_whole(
    last: Path, best: Path, report: Callable[[str], None], run_key: str | None = None
) -> tuple[Path, dict[str, Any]] | None:
    """The file of a training's last validation, or of its best, whichever is whole; and its state.

    Each that is damaged, or of another run, is named. None: the training has to begin anew.
    """
    if not last.is_file():
        return None
    kept = is_whole(best, run_key)
    if best.is_file() and not kept:
        report(f"warning: {best} is damaged, or another run's, and taken away")
        best.unlink(missing_ok=True)  # as what was not the best is never saved again
    for file in (last, best) if kept else (last,):
        try:
            state = load(file)
        except DamagedError:
            state = {}
        if not (state.keys() >= _TRAINING and is_of(state, run_key)):
            report(f"warning: {file} is damaged, or another run's, and not used")
        elif kept or not state["cur_step"]:  # else what was better is gone
            return file, state
    report("train: nothing whole is left of an interrupted run; it begins anew")
    return None


def _sums_fit(path: AnyPath) -> bool:
    """Whether no part of an archive fails its checksum, at which PyTorch does not look."""
    if not zipfile.is_zipfile(path):
        return True  # the format of old, or no checkpoint at all: loading tells
    with zipfile.ZipFile(path) as archive:
        # Of what is marked as a folder PyTorch reads nothing, and takes what lies in memory.
        folders = any(part.external_attr & 0x10 for part in archive.infolist())
        return not folders and archive.testzip() is None


def _is_of_objects(path: AnyPath, error: Exception) -> bool:
    """Whether it failed over a readable archive with an unreadable pickle, or one with classes."""
    if not isinstance(error, pickle.UnpicklingError):
        return False
    try:
        return zipfile.is_zipfile(path) or "Unsupported global" in str(error)
    except zipfile.BadZipFile:
        return False


def _has_the_form(state: dict[str, Any]) -> bool:
    """Whether what is there of a trainer's entries is of their kinds."""
    config = state.get("config") or {}
    tokens = [state.get(f"{kind}_tokens") for kind in ("item", "user")]
    weights = state.get("state_dict", {})
    named = [weights, state.get("other_parameter") or {}, config]
    if not all(isinstance(entry, Mapping) for entry in named):
        return False
    if not all(isinstance(name, str) for name in weights):
        return False
    for entry in tokens:
        whole = isinstance(entry, list) and all(isinstance(token, str) for token in entry)
        if entry is not None and not whole:
            return False
    used = [value or {} for key, value in config.items() if str(key).endswith("_used")]
    noted = [(config.get(key), marks) for key, (_, marks) in USED.items()]
    if any(isinstance(one, Mapping) and one and not marks <= one.keys() for one, marks in noted):
        return False
    return all(
        isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())
        for value in used
    ) and isinstance(config.get("eval_args", {}), Mapping)


def inputs_of(config: Mapping[str, Any]) -> dict[str, str]:
    """What a configuration notes of the content of its table, teacher and LLM, by key."""
    noted = {key: config.get(key) for key in USED}
    return {key: one.get("fingerprint") or one["identity"] for key, one in noted.items() if one}


def load_weights(model: Any, state: Mapping[str, Any]) -> None:
    """Give a model of RecBole's what a checkpoint's state has of it."""
    own = model.state_dict()
    kinds = torch.is_floating_point, torch.is_complex
    for name, one in state["state_dict"].items():
        if name in own and [of(one) for of in kinds] != [of(own[name]) for of in kinds]:
            raise TypeError(f"{name} holds numbers of another kind, {one.dtype}")
    model.load_state_dict(state["state_dict"])
    model.load_other_parameter(state.get("other_parameter"))
    require_finite(model)


def require_finite(model: torch.nn.Module) -> None:
    """Refuse weights of which some are no numbers: whatever they score is none either."""
    broken = [name for name, one in model.named_parameters() if not torch.isfinite(one).all()]
    if broken:
        raise no_numbers(f"The model's weights {broken[0]}")


def no_numbers(what: str) -> UserError:
    """What a training that went too far has left."""
    return UserError(f"{what} are no numbers; train with a lower learning_rate or clip_grad_norm.")


def fingerprint(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Hash of a state dict's names and numbers."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(state_dict):
        value = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def config_to_plain(config: Any) -> dict[str, Any]:
    """Turn a RecBole ``Config`` into a dictionary of plain values.

    What ``Config`` derives from the rest (the device, the model and input types,
    the evaluation type, the process rank) is left out. Paths and dates become text, arrays lists.

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
        key: _to_safe(value, f"config.{key}", setting=True)
        for key, value in entries.items()
        if key not in DERIVED and not isinstance(value, (Enum, torch.device))
    }


def _to_safe(value: Any, where: str, setting: bool = False) -> Any:
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
    if setting and isinstance(value, np.ndarray):
        return value.tolist()
    if setting and isinstance(value, (set, frozenset)):
        return sorted(value)
    if setting and hasattr(value, "isoformat"):  # yaml reads an unquoted 2014-07-23 as a date
        return value.isoformat()
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
            packed[_to_safe(key, where, setting)] = _to_safe(entry, f"{where}.{key}", setting)
        if hasattr(value, "_metadata"):  # the module versions a state_dict carries
            packed._metadata = _to_safe(value._metadata, f"{where}._metadata")
        return packed
    if isinstance(value, (list, tuple)):
        entries = [_to_safe(entry, f"{where}[{i}]", setting) for i, entry in enumerate(value)]
        return entries if isinstance(value, list) else tuple(entries)
    told = f"The checkpoint entry '{where}' is a {type(value).__name__}, no tensor or plain data"
    raise UserError(f"{told}: store what it is made of instead.")


def _from_safe(value: Any) -> Any:
    """Undo :func:`_to_safe` for arrays and sparse matrices."""
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
            value[key] = _from_safe(entry)
        return value
    if isinstance(value, (list, tuple)):
        return type(value)(_from_safe(entry) for entry in value)
    return value
