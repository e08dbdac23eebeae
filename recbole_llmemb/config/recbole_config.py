"""RecBole's ``Config``: with our defaults and checks, or rebuilt from what a checkpoint keeps."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from recbole_llmemb.config.fields import check_others
from recbole_llmemb.config.keys import Use, declared, draws_none, renamed, use_of
from recbole_llmemb.config.known import known_keys, refuse_keys, warn_of_keys
from recbole_llmemb.config.shared import EvaluationSettings, Transform
from recbole_llmemb.config.values import (
    check,
    check_dataset,
    defaults,
    preset_file,
    properties_folder,
    read_settings,
    typed_value,
)
from recbole_llmemb.core.checked import may_be_empty
from recbole_llmemb.core.checkpoint import DERIVED, config_to_plain
from recbole_llmemb.core.devices import preserve_cuda_visible_devices
from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.imports import Function, around
from recbole_llmemb.core.registry import refuse_untrusted

__all__ = [
    "check", "config_for", "config_from_plain", "config_to_plain", "make_config", "preset_file",
    "properties_folder", "without_argv",
]  # fmt: skip

# What an empty value of these meant before it was refused; of others, as if it was not there.
_EMPTY = {"llm_freeze": False, "holdout_targets": "all"}


def install(registry: Any, metrics: Any) -> None:
    """Hook our defaults into RecBole's ``Config`` for our models.

    ``registry``: knows our models, and what they mean for a configuration.
    ``metrics``: knows those of somebody's own, and refuses an evaluation that cannot be done.
    """
    from recbole.config import Config

    @around(Config, "_get_model_and_dataset")
    def refusing(look_up: Function, self: Any, model: Any, dataset: Any) -> Any:
        given = self.external_config_dict
        wanted = given.get("model") if model is None else model
        named = isinstance(wanted, str) and wanted
        if named and not (wanted.isidentifier() and wanted[0] != "_"):
            raise registry.no_such_model(wanted)
        check_dataset(given.get("dataset") if dataset is None else dataset)
        registry.look_up(wanted)
        try:
            return look_up(self, model, dataset)
        except (AttributeError, ValueError):  # there may be a module of that name, in small letters
            if not named:
                raise
            raise registry.no_such_model(wanted) from None

    @around(Config, "_load_internal_config_dict")
    def with_ours(load: Function, self: Any, model: str, model_class: type, dataset: str) -> None:
        load(self, model, model_class, dataset)
        if registry.is_ours(model):
            self.internal_config_dict.update(registry.backbones_defaults(model_class))
            self.internal_config_dict.update(defaults(model, dataset))

    @around(Config, "_set_default_parameters")
    def checked(set_parameters: Function, self: Any) -> None:
        metrics.settle_metrics(self.final_config_dict, self.external_config_dict)
        values, given = self.final_config_dict, self.external_config_dict
        model_class, ours = self.model_class, registry.is_ours(self.model)
        if not self.restored:
            warn_of_keys(self, bool(registry.own_parts(self)))
            check_others(given, self.internal_config_dict, ours)
        if isinstance(values.get("topk"), tuple):  # --topk=5,10
            values["topk"] = list(values["topk"])
        if isinstance(parts := values.get("benchmark_filename"), str):
            values["benchmark_filename"] = [part.strip(" []'\"") for part in parts.split(",")]
        if str(values.get("train_neg_sample_args", "")).lower() == "none":
            values["train_neg_sample_args"] = None  # yaml makes a text of None
        by_loss = not ours and not hasattr(model_class, "input_type")
        if by_loss and values.get("loss_type") not in ("CE", "BPR"):
            shown = values.get("loss_type")
            told = f"loss_type is {shown!r}; for {self.model} it must be 'CE' or 'BPR'."
            raise UserError(told, key="loss_type")
        if by_loss and values.get("loss_type") == "CE" and "train_neg_sample_args" not in given:
            values["train_neg_sample_args"] = None  # RecBole's own default is refused by itself
        if ours:
            settle(self, values, given)
        elif not self.restored:
            check(values)
        set_parameters(self)
        # RecBole takes its own ml-100k, wherever data_path says that one is.
        own = Path(given["data_path"]) / "ml-100k" if given.get("data_path") else None
        if self.dataset == "ml-100k" and own and os.path.isfile(own / "ml-100k.inter"):
            values["data_path"] = str(own)
        metrics.check_measure(self, ours)
        if ours:
            EvaluationSettings.of(values).check_valid_metric()
            reads_fields = "item_fields" in model_class.reads
        else:
            items = Path(values["data_path"]) / f"{self.dataset}.item"
            named = {"selected_features", "item_attribute"} & set(self.internal_config_dict)
            reads_fields = bool(named) and os.path.isfile(items)
        if reads_fields:
            registry.settle_features(values, given, model_class)
        if ours and values["loss_type"] not in ("CE", "BPR"):  # which are all that RecBole knows
            from recbole.utils import InputType

            pairs = model_class.samples_negatives(values)
            values["MODEL_INPUT_TYPE"] = InputType.PAIRWISE if pairs else InputType.POINTWISE

    def settle(self: Any, values: dict[str, Any], given: dict[str, Any]) -> None:
        for name, before in renamed(self.model_class).items():
            if before in given and name not in given:
                values[name] = values[before]
                if not self.restored:
                    getLogger().warning(f"{before} of {self.model} is called {name} now; set that.")
        registry.settle(values, given, self.model_class)
        if values.get("adapter", "") is None:
            values["adapter"] = "none"  # as typed, --adapter=none is read as no value
        usual, asked = self.internal_config_dict.get("transform"), given.get("transform")
        if asked in get_args(Transform) and asked != usual and not self.restored:
            getLogger().warning(f"transform: {asked} adds what {self.model} does not read.")
            values["transform"] = usual if asked == "mask_itemseq" else asked
        check(values, self.model_class)
        registry.check_backbone(values, self.model_class)
        if not self.model_class.samples_negatives(values):
            values["train_neg_sample_args"] = None  # every item is a candidate: none are drawn
        if values["train_mode"] == "sequence":
            values["transform"] = None  # masking is part of the loader there
        columns = values.get("load_col") or {}
        if columns.get("inter") == ["user_id", "item_id"]:
            # Sequences need times; RecBole's default for a dataset it does not know loads none.
            names = [values[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME")]
            values["load_col"] = {**columns, "inter": names}

    Config._convert_config_dict = _convert_config_dict
    Config.restored = False  # True while a checkpoint's, which told its user long ago


def _convert_config_dict(self: Any, config_dict: dict[str, Any]) -> dict[str, Any]:
    """Read typed values out of strings. RecBole's own runs ``eval`` on every one of them."""
    for key, value in config_dict.items():
        if isinstance(value, str):
            config_dict[key] = typed_value(key, value)
    return config_dict


@contextlib.contextmanager
def without_argv() -> Iterator[None]:
    """Hide this program's arguments from RecBole's ``Config``.

    ``Config`` reads ``sys.argv`` whoever builds it and wherever, so that, say,
    pytest's own options end up as settings (evaluated as Python expressions).
    """
    kept = sys.argv
    sys.argv = kept[:1] or [""]
    try:
        yield
    finally:
        sys.argv = kept


def make_config(
    model: Any,
    dataset: str | None = None,
    config_files: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    strict: Collection[str] = (),
) -> Any:
    """A RecBole ``Config`` that does not look at ``sys.argv``.

    Parameters
    ----------
    model : str or type
    dataset : str
        May be None where a file or ``overrides`` has it.
    config_files : sequence of str
        yaml files, later ones win.
    overrides : dict
        Wins over the files.
    strict : collection of str
        Keys of ``overrides`` that somebody typed: an unknown one is refused.

    Returns
    -------
    recbole.config.Config

    Raises
    ------
    UserError
        An unknown key, a missing file, no such model, or what :func:`check` refuses.
    """
    from recbole.config import Config

    files = [config_files] if isinstance(config_files, str | os.PathLike) else list(config_files)
    for file in files:
        read_settings(file)
    overrides = {} if overrides is None else overrides
    if not isinstance(overrides, Mapping):
        told = f"overrides are {str(overrides)[:200]}"
        raise UserError(f"{told}; give a dictionary of names to values.")
    if names := [key for key in overrides if not isinstance(key, str)]:
        raise UserError(f"A setting is called {names[0]!r:.100}; give a dictionary of names.")
    given = {
        key: value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for key, value in overrides.items()
    }
    with without_argv(), _explained("The configuration"):
        config = Config(model, dataset, files or None, given)
    EvaluationSettings.of(config, only=Use.ANY).check_valid_metric()
    refuse_keys(strict, known_keys(config), config["model"])
    return config


# -- from a checkpoint --------------------------------------------------------------------


def config_from_plain(plain: Mapping[str, Any]) -> Any:
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
    entries = _without({*own, *DERIVED}, copy.deepcopy(dict(plain)))
    entries = _with_known_metrics(_filled(entries))
    for key in ("model", "dataset"):
        if not entries.get(key):
            told = f"The checkpoint's configuration has no {key!r}"
            raise UserError(f"{told}: give a checkpoint that a trainer saved.")
    if not os.path.isdir(str(entries.get("data_path") or "")):
        entries.pop("data_path", None)  # the data lies elsewhere on this machine

    class Rebuilt(Config):  # type: ignore[misc]
        restored = True

        def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
            return config_dict

    model, settings = entries["model"], _undone(entries)
    try:
        with without_argv(), _explained("The checkpoint's configuration"):
            config = Rebuilt(model=model, dataset=entries["dataset"], config_dict=settings)
    except UserError as error:
        if error.key != "model":
            raise
        told = f"The checkpoint's model '{model}' is not known to RecBole"
        raise UserError(f"{told}: import the package that defines it first.") from None
    config.__class__ = Config
    # Whatever Config changed on the way (or code did after it was built) is set back. Defaults may
    # come from a file, too: the dataset's name chooses it.
    final = config.final_config_dict
    final |= entries | {key: value for key, value in own.items() if key in final}
    return config


def _explained(what: str) -> contextlib.AbstractContextManager[None]:
    """Tell in a sentence what RecBole's ``Config`` fails over."""
    errors = ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError
    return explained(f"{what} cannot be used: {{reason}}.", *errors, ImportError, OSError)


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


def _undone(entries: dict[str, Any]) -> dict[str, Any]:
    """The settings without what ``Config`` would otherwise do a second time."""
    settings = dict(entries)
    folder, name = os.path.split(os.path.normpath(settings.get("data_path") or ""))
    if name == settings["dataset"]:
        settings["data_path"] = folder
    if draws_none(settings.get("train_neg_sample_args", {})):
        # Config refuses a cross-entropy model that has any dictionary here.
        settings["train_neg_sample_args"] = None
    return settings
