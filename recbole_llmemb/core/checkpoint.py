"""Checkpoint files that hold plain data and tensors only.

A file written here loads with ``torch.load(weights_only=True)``: reading it can
run no code, whoever wrote it. Configurations travel as plain dictionaries, see
:mod:`recbole_llmemb.config.plain`.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import atomic_file
from recbole_llmemb.core.serialization import from_safe, to_safe

__all__ = ["load", "save"]


def save(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
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
    plain = {key: to_safe(value, str(key)) for key, value in state.items()}
    with atomic_file(path) as fresh, open(fresh, "wb") as file:
        torch.save(plain, file)


def load(path: str | os.PathLike[str], map_location: Any = "cpu") -> dict[str, Any]:
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
    UserError
        When the file is missing, damaged, or holds pickled Python objects.
    """
    if not os.path.isfile(path):
        raise UserError(f"There is no checkpoint at '{path}': check the path.")
    try:
        state = from_safe(torch.load(path, map_location=map_location, weights_only=True))
    except pickle.UnpicklingError as error:
        # A readable archive with an unreadable pickle, or one that names a class,
        # is somebody's objects; anything else is no checkpoint at all.
        if _is_archive(path) or "Unsupported global" in str(error):
            raise UserError(
                f"The checkpoint '{path}' holds pickled Python objects, which are not loaded "
                "because they can run any code: write it again by training with recbole_llmemb "
                "imported."
            ) from None
        raise _damaged(path) from None
    except PermissionError:
        raise UserError(
            f"The checkpoint '{path}' may not be read: check its permissions."
        ) from None
    except Exception as error:  # damaged files raise almost anything
        if "cuda" in str(error).lower():  # the device asked for is at fault, not the file
            raise
        raise _damaged(path) from None
    if not isinstance(state, dict):
        raise UserError(
            f"The file '{path}' holds a {type(state).__name__} where a checkpoint holds a "
            "dictionary: give a file that a trainer saved."
        )
    if not _has_the_form(state):
        raise _damaged(path)
    return state


def _has_the_form(state: dict[str, Any]) -> bool:
    """Whether what is there of a trainer's entries is of their kinds."""
    config = state.get("config") or {}
    tokens = state.get("item_tokens") or []
    named = [*(state.get(key) or {} for key in ("state_dict", "other_parameter")), config]
    if not (all(isinstance(entry, Mapping) for entry in named) and isinstance(tokens, list)):
        return False
    used = [value or {} for key, value in config.items() if str(key).endswith("_used")]
    return all(
        isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values())
        for value in used
    ) and isinstance(config.get("eval_args", {}), Mapping)


def _is_archive(path: str | os.PathLike[str]) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def fingerprint(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Hash of a state dict's names and numbers."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(state_dict):
        value = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _damaged(path: str | os.PathLike[str]) -> UserError:
    return UserError(
        f"The checkpoint '{path}' cannot be read: it is damaged or not a checkpoint; copy it "
        "again or train anew."
    )
