"""A checkpoint as a model that can be used, with the dataset whose items and users it knows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import recbole.data.dataset
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import ModelType, init_logger, init_seed

from recbole_llmemb.config.recbole_config import config_for, config_from_plain
from recbole_llmemb.core.devices import preserve_random_state, usable_device
from recbole_llmemb.core.errors import TableError, UserError, name_some
from recbole_llmemb.core.registry import import_paths_in, trust
from recbole_llmemb.data.dataset import (
    LazySequentialDataset,
    item_fields_digest,
    item_tokens,
    user_tokens,
)
from recbole_llmemb.data.splits import interaction_files
from recbole_llmemb.models.registry import is_ours
from recbole_llmemb.run.artifacts import rebuilt
from recbole_llmemb.run.saved import checkpoint_of, read
from recbole_llmemb.run.stages import Data, prepare_data, usable
from recbole_llmemb.run.teacher import refuse_other_files
from recbole_llmemb.table.format import read_manifest

#: What may be elsewhere now, and the key under which a checkpoint that needs it says so.
USED = {
    "llm_table": "llm_table_used",
    "llm_model": "llm_model_used",
    "align_teacher": "teacher_used",
}


@dataclass
class Restored:
    """What a checkpoint stands for."""

    path: Path
    config: Any
    dataset: Any  # All interactions
    splits: tuple  # Training, validation and test rows
    model: torch.nn.Module  # On its device, in evaluation mode
    data: Data | None = None  # The same with loaders, where they were asked for


def restore(
    path,
    *,
    state=None,
    data_path=None,
    llm_table=None,
    llm_model=None,
    align_teacher=None,
    device=None,
    trust_remote_code=False,
    changes=None,
    loaders=False,
    model=None,
) -> Restored:
    """Rebuild the model of a checkpoint for use; random numbers go on as if nothing was.

    ``state``: what :func:`read` gave, if that was asked before.
    ``data_path``, ``llm_table``, ``llm_model``, ``align_teacher``: where the dataset's folder lies,
    the table, the LLM and the CF model's checkpoint, if they are not where they were.
    ``device``: ``auto``, ``cpu``, ``cuda:1``; by default what the configuration says.
    ``trust_remote_code``: run code that comes with its encoder or LLM; what the checkpoint says
    does not count.
    ``changes``: settings that differ from the checkpoint's; None takes one away.
    ``loaders``: whether loaders are wanted, over datasets as training had them; RecBole's own
    models write out every prefix of every history for that.
    ``model``: of the same checkpoint, where one was rebuilt already.
    """
    state, path, changes = state or read(path), checkpoint_of(path), changes or {}
    plain = state["config"] | changes
    plain = {key: value for key, value in plain.items() if value is not None or key not in changes}
    if data_path is not None:
        plain["data_path"] = str(Path(data_path) / str(plain.get("dataset")))
    if trust_remote_code:
        trust(path for _, path in import_paths_in(plain))
    config = config_for(plain, _device(device, plain))
    config["llm_trust_remote_code"] = bool(trust_remote_code)
    if changes.get("llm_cache_dir"):
        config["llm_cache_dir"] = changes["llm_cache_dir"]  # a checkpoint does not say that either
    if data_path is not None:  # RecBole knows better where ml-100k is
        config["data_path"] = plain["data_path"]
    _check_data(config, path, plain.get("data_path"))
    places = {"llm_table": llm_table, "llm_model": llm_model, "align_teacher": align_teacher}
    _use_places(config, path, {key: place for key, place in places.items() if place is not None})
    with preserve_random_state():
        data = prepare_data(config, artifacts=False) if loaders else None
        dataset, *splits = data.parts if data else _read(config)
        if data and config["user_sample"] == state["config"].get("user_sample"):
            tell_other_data(state["config"].get("trained_on"), config["trained_on"], path)
        _check_tokens(state, dataset, config, path)
        _check_item_fields(state, splits[0], path)
        if model is None:
            model = rebuilt(state, config, splits[0], path)
        if "users" in getattr(model, "reads", ()) and not state.get("user_tokens"):
            told = f"{path} does not say which users its data had, nor in which order: whether "
            getLogger().warning(f"{told}they are those of {config['data_path']} cannot be checked.")
    return Restored(path, config, dataset, tuple(splits), model, data)


def tell_other_data(then, now, path) -> None:
    """Warn where a model was trained on other interactions than its data has for training now.

    ``then``, ``now``: as of :func:`~recbole_llmemb.data.dataset.note_training_data`.
    """
    if then and now:
        kinds = {one["interactions"].partition("-")[0] for one in (then, now)}
        if len(kinds) == 1 and then["interactions"] != now["interactions"]:
            told = f"{path} was trained on other interactions than its data has for training now"
            getLogger().warning(f"{told}: it may have learned what it is tested on.")


def load_data_and_model(model_file):
    """Rebuild everything a checkpoint stands for, as RecBole's function of this name.

    ``model_file``: A checkpoint that a trainer saved.
    Returns the config, the model, the dataset, and the training, validation and test data.
    """
    state = read(model_file)
    config = config_from_plain(state["config"])
    folder = str(state["config"].get("checkpoint_dir"))
    if os.path.isdir(folder) and os.path.samefile(folder, Path(model_file).parent):
        config["checkpoint_dir"] = folder  # which its user has named, by the file
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    getLogger().info(config)
    dataset = create_dataset(config)
    _check_tokens(state, dataset, config, model_file)
    getLogger().info(dataset)
    loaders = data_preparation(config, dataset)
    _check_item_fields(state, loaders[0]._dataset, model_file)
    init_seed(config["seed"], config["reproducibility"])
    model = rebuilt(state, config, loaders[0]._dataset, model_file).train()
    return config, model, dataset, *loaders


def _device(asked, plain) -> torch.device:
    if asked in (None, "", "auto"):
        wanted = asked is not None or plain.get("use_gpu") is not False
        return torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")
    return usable_device(str(asked), "device")


def _check_data(config, path, sought):
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        told = f"The checkpoint {path} is of {config['model']}, which reads no sequences"
        raise UserError(f"{told}; give one of a sequential model.", where=path)
    absent = [file.name for file in interaction_files(config) if not file.is_file()]
    if absent:
        told = f"The dataset {config['dataset']} of the checkpoint {path} is not in"
        there = f"{sought or config['data_path']}: there is no {absent[0]}"
        advice = "give the folder that holds the dataset's folder with --data_path"
        raise UserError(f"{told} {there}; {advice}.", key="data_path")


def _use_places(config, path, given):
    """Say where what the model needs is now; whether it is the same is seen when it is read."""
    for key, place in given.items():
        if not config[USED[key]]:
            raise UserError(f"The model of {path} needs no {key}; leave --{key}.", key=key)
        if key == "llm_table":
            read_manifest(place)  # what is no table is refused, though the old one is still there
        config[key] = str(place)
    table, teacher = config["llm_table_used"], config["teacher_used"]
    if table and "llm_table" not in given and Path(table["path"]).is_dir():
        config["llm_table"] = table["path"]
    elif table and "llm_table" not in given and not config["llm_cache_dir"]:
        told = f"The table that {path} was trained over was in {table['path']} (fingerprint "
        advice = "give a copy with --llm_table, or encode it again"
        # It would be encoded anew, without a word.
        raise TableError(f"{told}{table['fingerprint']}) and is gone; {advice}.", key="llm_table")
    if not teacher:
        config["align_weight"] = 0.0  # training alone needs one
        return
    file = given.get("align_teacher", teacher["path"])
    if Path(file).is_file():
        config["align_teacher"] = str(file)
    elif "align_teacher" in given or not config["llm_cache_dir"]:
        told = f"The CF model that {path} was trained with was in {teacher['path']}"
        advice = f"there is no {file}, so give it with --align_teacher"
        raise UserError(f"{told}; {advice}.", key="align_teacher")


def _read(config):
    """The dataset and its splits, without loaders."""
    with usable(config):
        name = config["model"]
        if is_ours(name):
            dataset = create_dataset(config)
            return dataset, *dataset.build()
        if hasattr(recbole.data.dataset, f"{name}Dataset"):  # a class of its own
            told = f"{name} reads files of its own kind, beside histories, which is not done here"
            raise UserError(f"{told}; give a checkpoint of another model.", key="model")
        # RecBole's own class would write out every prefix of every history.
        dataset = LazySequentialDataset(config)
        return dataset, *dataset.build()


def _check_tokens(state, dataset, config, path):
    """Refuse data whose items or users have other numbers than a checkpoint learned them by."""
    if state.get("item_tokens") is None:
        refuse_other_files(state["config"], config, path, "data_path")
    for kind, found in (("item", item_tokens(dataset)), ("user", user_tokens(dataset))):
        tokens = state.get(f"{kind}_tokens")
        if tokens is None or list(tokens) == found:
            continue
        known = set(tokens)
        more = [token for token in found if token not in known]
        less = sorted(known - set(found))
        what = f"has its {kind}s in another order than"
        if more:
            what = f"has {len(more)} {kind}s ({name_some(more)}) that are unknown to"
        elif less:
            what = f"lacks {len(less)} {kind}s ({name_some(less)}) of"
        told = f"The dataset {config['dataset']} in {config['data_path']} {what} the checkpoint"
        advice = "give the data that it was trained on with --data_path"
        raise UserError(f"{told} {path}; {advice}.", key="data_path")


def _check_item_fields(state, dataset, path):
    """Refuse fields of items whose values have other numbers than a model learned them by."""
    then = (state["config"].get("trained_on") or {}).get("item_fields")
    if then and then != item_fields_digest(dataset):
        told = f"The fields of items that the model of {path} reads are others in"
        now = f"{dataset.config['data_path']} now, or stand in another order in its .item file"
        advice = "give the data that it was trained on with --data_path"
        raise UserError(f"{told} {now}; {advice}.", key="data_path")
