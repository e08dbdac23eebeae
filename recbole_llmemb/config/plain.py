"""RecBole configurations, rebuilt from the plain values that a checkpoint keeps of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Mapping
from logging import getLogger
from typing import Any

import torch

from recbole_llmemb.config.keys import Use, declared, use_of
from recbole_llmemb.config.recbole_config import without_argv
from recbole_llmemb.core.checked import may_be_empty
from recbole_llmemb.core.checkpoint import DERIVED, config_to_plain
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.gpus import preserve_cuda_visible_devices
from recbole_llmemb.core.registry import refuse_untrusted

__all__ = ["config_for", "config_from_plain", "config_to_plain", "without_argv"]

# What an empty value of these meant before it was refused; of others, as if it was not there.
_EMPTY = {"llm_freeze": False, "holdout_targets": "all"}


def config_from_plain(plain: Mapping[str, Any], config_class: type | None = None) -> Any:
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

    refuse_untrusted(plain)
    # What a file does not decide: whether code from elsewhere is run, which pickles are read or
    # written, where things are kept, and what is told to others. Only whoever gives a command does.
    own = {name: field.default for name, field in declared() if use_of(field) & Use.TRUST}
    entries = _with_known_metrics(_filled(_without(own, copy.deepcopy(dict(plain)))))
    missing = [key for key in ("model", "dataset") if not entries.get(key)]
    if missing:
        raise UserError(
            f"The checkpoint's configuration has no '{missing[0]}': give a checkpoint that a "
            "trainer saved."
        )
    if not os.path.isdir(str(entries.get("data_path") or "")):
        entries.pop("data_path", None)  # the data lies elsewhere on this machine
    settings = {key: value for key, value in entries.items() if key not in DERIVED}
    _undo_config(settings)

    class Rebuilt(config_class or Config):  # type: ignore[misc]
        restored = True

        def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
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
    entries = {key: value for key, value in entries.items() if key not in DERIVED}
    config.final_config_dict.update(entries)
    # Defaults may come from a file, too: the dataset's name chooses it.
    config.final_config_dict.update(
        {key: value for key, value in own.items() if key in config.final_config_dict}
    )
    return config


def config_for(plain: Mapping[str, Any], device: torch.device) -> Any:
    """As :func:`config_from_plain`, for a device of this machine.

    The GPU that the model was trained on may be another one, or not be here: RecBole would
    hide all others from this process.
    """
    with preserve_cuda_visible_devices():
        config = config_from_plain({**plain, "use_gpu": False})
    on_gpu = device.type == "cuda"
    config.final_config_dict.update(device=device, use_gpu=on_gpu, gpu_id="0" if on_gpu else "")
    return config


def _with_known_metrics(entries: dict[str, Any]) -> dict[str, Any]:
    """The settings without metrics that somebody else has written, whose code is not here."""
    from recbole.evaluator import metric_types

    names = entries.get("metrics")
    if not isinstance(names, list):
        return entries
    known = [name for name in names if str(name).lower() in metric_types] or ["NDCG"]
    if known == names:
        return entries
    getLogger().warning(f"metrics are {', '.join(known)} here, as the others are not RecBole's.")
    cutoffs = entries.get("topk") or [10]
    return entries | {"metrics": known, "valid_metric": f"{known[0]}@{cutoffs[0]}"}


def _without(keys: Collection[str], entries: dict[str, Any]) -> dict[str, Any]:
    """The settings but for some keys, in settings of teachers too."""
    return {
        key: _without(keys, value) if isinstance(value, dict) else value
        for key, value in entries.items()
        if key not in keys
    }


def _filled(entries: dict[str, Any]) -> dict[str, Any]:
    """The settings of an older checkpoint without values that are no longer taken."""
    optional = {name for name, field in declared() if may_be_empty(field)}
    needed = {name for name, _ in declared()} - optional
    gone = {key for key, value in entries.items() if value is None and key in needed}
    kept = {key: value for key, value in entries.items() if key not in gone}
    return kept | {key: value for key, value in _EMPTY.items() if key in gone}


def _undo_config(settings: dict[str, Any]) -> None:
    """Take back, in place, what ``Config`` would otherwise do a second time."""
    path = settings.get("data_path")
    if path and os.path.basename(os.path.normpath(path)) == settings["dataset"]:
        settings["data_path"] = os.path.dirname(os.path.normpath(path))
    negatives = settings.get("train_neg_sample_args")
    if isinstance(negatives, dict) and negatives.get("distribution") in (None, "none", "None"):
        # Config refuses a cross-entropy model that has any dictionary here.
        settings["train_neg_sample_args"] = None
