"""Our keys in RecBole's configuration: defaults, checks, and what the loss implies."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import resources
from logging import getLogger
from pathlib import Path
from typing import Any

import yaml

from recbole_llmemb.config.arithmetic import value_of
from recbole_llmemb.config.checks import (
    check,
    check_stock,
    known_keys,
    refuse_keys,
    text_keys,
    warn_of_keys,
)
from recbole_llmemb.config.keys import Use
from recbole_llmemb.config.shared import EvaluationSettings
from recbole_llmemb.core.errors import UserError

__all__ = ["check", "make_config", "preset_file", "properties_folder"]

# Options of commands that are names or paths, and no keys.
_OPTIONS = ("result_json", "name", "storage", "space")


def properties_folder() -> Path:
    """The folder of yaml defaults: inside an installed package, else beside it in a checkout."""
    try:
        folder = Path(str(resources.files("recbole_llmemb.properties")))
    except (ImportError, TypeError):
        folder = Path(__file__).parents[1] / "properties"
    if not (folder / "overall.yaml").is_file():
        folder = Path(__file__).parents[2] / "properties"
    return folder


def defaults(model: str, dataset: str) -> dict[str, Any]:
    """Our defaults for a model on a dataset: ``overall`` < ``model/`` < ``dataset/``."""
    merged: dict[str, Any] = {}
    folder = properties_folder()
    for part in ("overall", f"model/{model}", f"dataset/{dataset}"):
        file = folder / f"{part}.yaml"
        if file.is_file():
            merged.update(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    return merged


def settings_of(files: str | None) -> dict[str, Any]:
    """Settings of property files, separated by blanks; later ones win."""
    merged: dict[str, Any] = {}
    for file in (files or "").split():
        _check_file(file)
        found = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        typed = {k: typed_value(k, v) for k, v in found.items() if isinstance(v, str)}
        merged |= found | typed
    return merged


def preset_file(name: str) -> Path:
    """The settings that ``--preset=NAME`` stands for.

    Raises
    ------
    UserError
        There is no such preset; the message lists those there are.
    """
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UserError(f"--preset is {name!r}; it must be one of {', '.join(names)}{hint}")
    return properties_folder() / f"preset/{name}.yaml"


def preset_names() -> list[str]:
    """What ``--preset`` may be."""
    return sorted(file.stem for file in properties_folder().glob("preset/*.yaml"))


def install(registry: Any, settings: Any, check_measure: Callable[[Any, bool], None]) -> None:
    """Hook our defaults into RecBole's ``Config`` for our models; idempotent.

    ``registry``: knows our models. ``settings``: knows what backbones mean for a configuration.
    ``check_measure``: refuses an evaluation that cannot be done.
    """
    from recbole.config import Config

    if getattr(Config, "knows_llmemb", False):
        return
    look_up = Config._get_model_and_dataset
    load_internal = Config._load_internal_config_dict
    set_parameters = Config._set_default_parameters

    def _get_model_and_dataset(self: Any, model: Any, dataset: Any) -> Any:
        given = self.external_config_dict
        wanted = given.get("model") if model is None else model
        _check_names(wanted, given.get("dataset") if dataset is None else dataset)
        try:
            registry.look_up(wanted)
            return look_up(self, model, dataset)
        except AttributeError:  # there is a module of that name, in small letters
            raise _no_model(wanted) from None

    def _load_internal_config_dict(self: Any, model: str, model_class: type, dataset: str) -> None:
        load_internal(self, model, model_class, dataset)
        if registry.is_ours(model):
            self.internal_config_dict.update(settings.backbones_defaults(model_class))
            self.internal_config_dict.update(defaults(model, dataset))

    def set_recboles(self: Any) -> None:
        """As RecBole, which takes its own ml-100k, wherever data_path says that one is."""
        folder = self.external_config_dict.get("data_path")
        set_parameters(self)
        own = Path(folder or "") / str(self.dataset)
        if folder and self.dataset == "ml-100k" and (own / "ml-100k.inter").is_file():
            self.final_config_dict["data_path"] = str(own)
        check_measure(self, registry.is_ours(self.model))

    def _set_default_parameters(self: Any) -> None:
        values = self.final_config_dict
        if not self.restored:
            warn_of_keys(self)
        if settings.draws_none(values) and not isinstance(values["train_neg_sample_args"], dict):
            values["train_neg_sample_args"] = None  # yaml makes a text of None
        given = self.external_config_dict
        if not registry.is_ours(self.model):
            if not self.restored:
                check_stock(values)
            set_recboles(self)
            reads = {"selected_features", "item_attribute"} & set(self.internal_config_dict)
            if reads and (Path(values["data_path"]) / f"{self.dataset}.item").is_file():
                settings.settle_features(values, given, self.model_class)
            return None
        settings.settle(values, given, self.model_class)
        if values.get("adapter", "") is None:
            values["adapter"] = "none"  # as typed, --adapter=none is read as no value
        check(values, self.model_class)
        settings.check_backbone(values, self.model_class)
        samples = self.model_class.samples_negatives(values)
        if not samples:
            values["train_neg_sample_args"] = None  # every item is a candidate: none are drawn
        if values["train_mode"] == "sequence":
            if given.get("transform") not in (None, "mask_itemseq"):
                getLogger().warning(f"transform: {given['transform']} is for train_mode: prefix.")
            values["transform"] = None  # masking is part of the loader there
        _load_times(values)
        set_recboles(self)
        EvaluationSettings.of(values).check_valid_metric()
        if "item_fields" in self.model_class.reads:
            settings.settle_features(values, given, self.model_class)
        if values["loss_type"] not in ("CE", "BPR"):  # which are all that RecBole knows
            from recbole.utils import InputType

            values["MODEL_INPUT_TYPE"] = InputType.PAIRWISE if samples else InputType.POINTWISE

    Config._get_model_and_dataset = _get_model_and_dataset
    Config._load_internal_config_dict = _load_internal_config_dict
    Config._set_default_parameters = _set_default_parameters
    Config._convert_config_dict = _convert_config_dict
    Config.restored = False  # True while a checkpoint's, which told its user long ago
    Config.knows_llmemb = True


def _check_names(model: Any, dataset: Any) -> None:
    """Models and datasets go by names: RecBole imports modules and reads yaml files called so."""
    if isinstance(model, str) and model and not (model.isidentifier() and model[0] != "_"):
        raise _no_model(model)
    name = str(dataset)
    if dataset is not None and (name in (".", "..") or set(name) & set("/\\\0")):
        raise UserError(
            f"dataset is {name!r}; it must be the name of a folder, not a path: data_path says in "
            "which one that folder is."
        )


def _no_model(name: Any) -> UserError:
    return UserError(
        f"`model_name` [{name}] is not the name of an existing model; RecBole's are written as in "
        "its documentation, SASRec for one."
    )


def _load_times(values: dict[str, Any]) -> None:
    """Sequences need times; RecBole's default for a dataset it does not know loads none."""
    columns = values.get("load_col") or {}
    if columns.get("inter") == ["user_id", "item_id"]:
        names = [values[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME")]
        values["load_col"] = {**columns, "inter": names}


def typed_value(key: str, text: str) -> Any:
    """What the text of a setting means: a number, list, dictionary, switch, or itself.

    Numbers and lists may be written as arithmetic, as RecBole has it: 1/1000, [64]*3. Names and
    paths stay text: 2026-11-21 is a folder.
    """
    value = value_of(text)
    if isinstance(value, str) and value == text:
        value = {"true": True, "false": False}.get(text.lower(), text)
    stays = key in _OPTIONS or key.endswith(("_path", "_dir")) or key in text_keys()
    return text if stays and not isinstance(value, (str, type(None))) else value


def _convert_config_dict(self: Any, config_dict: dict[str, Any]) -> dict[str, Any]:
    """Read typed values out of strings. RecBole's own runs ``eval`` on every one of them."""
    for key, value in config_dict.items():
        if isinstance(value, str):
            config_dict[key] = typed_value(key, value)
    return config_dict


def _check_file(file: str | Path) -> None:
    if not Path(file).is_file():
        raise UserError(f"config file {file} does not exist; check --config_files.")
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))  # no !!python/… in it
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"config file {file} is not valid yaml: {text}.") from None
    if not isinstance(content, dict):
        raise UserError(f"config file {file} has no settings of the form `key: value` in it.")
    for key in content:
        if not isinstance(key, str):  # yaml takes on and yes for switches, too
            raise UserError(f"config file {file} has a key {key!r}, which is no name.")


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

    for file in config_files:
        _check_file(file)
    with without_argv():
        try:
            config = Config(model, dataset, list(config_files) or None, dict(overrides or {}))
        except (ValueError, KeyError, TypeError, NotImplementedError, OSError) as error:
            if isinstance(error, UserError):
                raise
            said = error.args[0] if error.args else str(error)
            message = getattr(error, "strerror", None) or said
            text = str(message).rstrip(".")
            raise UserError(f"The configuration cannot be used: {text}.") from error
    EvaluationSettings.of(config, only=Use.ANY).check_valid_metric()
    known = known_keys(config)
    refuse_keys(strict, known, config["model"])
    return config
