"""Checkpoints that hold plain data and tensors only.

A file written here loads with ``torch.load(weights_only=True)``: reading it can
run no code, whoever wrote it. Configurations travel as plain dictionaries and
are rebuilt into RecBole's ``Config`` on demand.
"""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import tempfile
import zipfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.gpus import preserve_cuda_visible_devices
from recbole_llmemb.core.serialization import pack, plain_setting, unpack

# Config computes these from the others (or from the machine it runs on), so a
# checkpoint must not carry them: "local_rank", for one, would make the rebuilt
# Config look for a process group.
_DERIVED = frozenset(
    {"device", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "local_rank", "single_spec"}
)

# What a file does not decide: whether code from elsewhere is run, which pickles are read or
# written, where things are kept, and what is told to others. Only whoever gives a command says so.
_HARMLESS = {
    "llm_trust_remote_code": False,
    "dataset_save_path": None,
    "dataloaders_save_path": None,
    "save_dataset": False,
    "save_dataloaders": False,
    "checkpoint_dir": "saved",
    "llm_cache_dir": None,
    "log_wandb": False,
}


def save(state: Mapping[str, Any], path: str | os.PathLike) -> None:
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
    plain = {key: pack(value, str(key)) for key, value in state.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because os.replace is atomic within one file system only.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(plain, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would lock colleagues out
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike, map_location: Any = "cpu") -> dict[str, Any]:
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
        state = unpack(torch.load(path, map_location=map_location, weights_only=True))
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


def _is_archive(path):
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


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
        if key not in _DERIVED and not isinstance(value, (Enum, torch.device))
    }


def config_from_plain(plain: Mapping[str, Any], config_class: type | None = None):
    """Rebuild the RecBole ``Config`` that :func:`config_to_plain` was given.

    The command line of the running program is not looked at, and strings are
    taken as they are (``Config`` evaluates them as Python expressions, which a
    file must never be able to make it do). Settings that would have foreign code run
    (``llm_trust_remote_code``, names of pickles) are off, whatever the file says, and things are
    kept where they are without a setting (``checkpoint_dir``, ``llm_cache_dir``).

    Parameters
    ----------
    plain : mapping
        What :func:`config_to_plain` returned.
    config_class : type, optional
        ``recbole.config.Config`` (the default) or a subclass of it.

    Raises
    ------
    UserError
        When the dictionary names no model or dataset, or a model nobody registered.
    """
    from recbole.config import Config

    from recbole_llmemb.compat import without_argv

    entries = _harmless(copy.deepcopy(dict(plain)))
    missing = [key for key in ("model", "dataset") if not entries.get(key)]
    if missing:
        raise UserError(
            f"The checkpoint's configuration has no '{missing[0]}': give a checkpoint that a "
            "trainer saved."
        )
    if not os.path.isdir(str(entries.get("data_path") or "")):
        entries.pop("data_path", None)  # the data lies elsewhere on this machine
    settings = {key: value for key, value in entries.items() if key not in _DERIVED}
    _undo_config(settings)

    class Rebuilt(config_class or Config):
        restored = True

        def _convert_config_dict(self, config_dict):
            return config_dict

    with without_argv():
        try:
            config = Rebuilt(
                model=entries["model"], dataset=entries["dataset"], config_dict=settings
            )
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            if "is not the name of an existing model" in str(error):
                raise UserError(
                    f"The checkpoint's model '{entries['model']}' is not known to RecBole: import "
                    "the package that defines it first."
                ) from None
            if isinstance(error, UserError):
                raise
            text = " ".join(str(error).split()).rstrip(".")
            raise UserError(f"The checkpoint's configuration cannot be used: {text}.") from error
    config.__class__ = config_class or Config
    # Whatever Config changed on the way (or code did after it was built) is set back.
    entries = {key: value for key, value in entries.items() if key not in _DERIVED}
    config.final_config_dict.update(entries)
    # Defaults may come from a file, too: the dataset's name chooses it.
    config.final_config_dict.update(
        {key: value for key, value in _HARMLESS.items() if key in config.final_config_dict}
    )
    return config


def config_for(plain: Mapping[str, Any], device: torch.device):
    """As :func:`config_from_plain`, for a device of this machine.

    The GPU that the model was trained on may be another one, or not be here: RecBole would
    hide all others from this process.
    """
    with preserve_cuda_visible_devices():
        config = config_from_plain({**plain, "use_gpu": False})
    on_gpu = device.type == "cuda"
    config.final_config_dict.update(device=device, use_gpu=on_gpu, gpu_id="0" if on_gpu else "")
    return config


def _harmless(entries: dict[str, Any]) -> dict[str, Any]:
    """The settings but for those that a file does not decide, in settings of teachers too."""
    return {
        key: _harmless(value) if isinstance(value, dict) else value
        for key, value in entries.items()
        if key not in _HARMLESS
    }


def _undo_config(settings: dict[str, Any]) -> None:
    """Take back, in place, what ``Config`` would otherwise do a second time."""
    path = settings.get("data_path")
    if path and os.path.basename(os.path.normpath(path)) == settings["dataset"]:
        settings["data_path"] = os.path.dirname(os.path.normpath(path))
    negatives = settings.get("train_neg_sample_args")
    if isinstance(negatives, dict) and negatives.get("distribution") in (None, "none", "None"):
        # Config refuses a cross-entropy model that has any dictionary here.
        settings["train_neg_sample_args"] = None


def fingerprint(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Hash of a state dict's names and numbers."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(state_dict):
        value = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _damaged(path: str | os.PathLike) -> UserError:
    return UserError(
        f"The checkpoint '{path}' cannot be read: it is damaged or not a checkpoint; copy it "
        "again or train anew."
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
