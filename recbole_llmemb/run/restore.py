"""A checkpoint as a model that can be used, with the dataset whose items and users it knows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recbole_llmemb.config.plain import config_for, config_from_plain
from recbole_llmemb.core import checkpoint, random_state
from recbole_llmemb.core.errors import TableError, UserError, name_some
from recbole_llmemb.records.interaction_file import interaction_files

_TRAIN_FIRST = "give a checkpoint that a trainer of RecBole or of this package saved."


@dataclass
class Loaded:
    """What a checkpoint stands for."""

    path: Path
    config: Any
    dataset: Any  # All interactions
    splits: tuple  # Training, validation and test rows
    model: torch.nn.Module  # On its device, in evaluation mode


def load(path, device=None, data_path=None, llm_table=None, trust_remote_code=False) -> Loaded:
    """Rebuild the model of a checkpoint for use.

    ``device``: empty or auto: a GPU, if there is one.
    ``data_path``: the folder that holds the dataset's folder, if it is not where it was.
    ``llm_table``: the table that the model was trained over, if it is not where it was.
    ``trust_remote_code``: run code that comes with its encoder or LLM; what the checkpoint says
    does not count.
    """
    from recbole.utils import ModelType

    path = Path(path)
    state = checkpoint.load(path)
    plain = state.get("config")
    if not isinstance(plain, dict) or "state_dict" not in state:
        raise UserError(f"The checkpoint {path} has no configuration or no weights; {_TRAIN_FIRST}")
    plain = dict(plain)
    was_in = plain.get("data_path")
    if data_path is not None:
        plain["data_path"] = str(Path(data_path) / str(plain.get("dataset")))
    config = config_for(plain, _device(device))
    config["llm_trust_remote_code"] = bool(trust_remote_code)
    if data_path is not None:  # RecBole knows better where ml-100k is
        config["data_path"] = plain["data_path"]
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise UserError(
            f"The checkpoint {path} is of {config['model']}, which reads no sequences; "
            "recommendations are made by sequential models."
        )
    _check_data(config, path, was_in, data_path)
    if llm_table is not None:
        _use_table(config, path, llm_table)
    _check_needed(config, path)
    dataset, splits = _read(config)
    _check_items(state, dataset, config, path)
    return Loaded(path, config, dataset, splits, _rebuild(state, config, splits[0], path))


def _check_data(config, path, was_in, data_path):
    name = config["dataset"]
    absent = [file.name for file in interaction_files(config) if not file.is_file()]
    if absent:
        sought = config["data_path"] if data_path is not None else was_in or config["data_path"]
        raise UserError(
            f"The dataset {name} of the checkpoint {path} is not in {sought}: there is no "
            f"{absent[0]}; give the folder that holds the dataset's folder with --data_path."
        )


def _device(asked):
    from recbole_llmemb.encode.encoder import choose_devices

    names = choose_devices(asked)
    if len(names) > 1:
        raise UserError(f"--device is {str(asked)!r}, which names several; give one of them.")
    return torch.device(names[0])


def _use_table(config, path, given):
    """Take the table from another place, if it is the one; item_table refuses any other."""
    from recbole_llmemb.table import EmbeddingTable

    used = config["llm_table_used"]
    if not used:
        raise UserError(f"The checkpoint {path} was not trained over a table; leave --llm_table.")
    found = EmbeddingTable.load(given).fingerprint
    if found != used["fingerprint"]:
        raise TableError(
            f"{given} is not the table that {path} was trained over (fingerprint {found}, not "
            f"{used['fingerprint']}, then in {used['path']}); give that one with --llm_table."
        )
    config["llm_table_used"] = {**used, "path": str(given)}


def _check_needed(config, path):
    """Refuse what would otherwise be encoded or trained anew, for an hour, without a word."""
    used = config["llm_table_used"]
    if used and not Path(used["path"]).is_dir():
        raise TableError(
            f"The table that {path} was trained over was in {used['path']} (fingerprint "
            f"{used['fingerprint']}) and is gone; give a copy with --llm_table, or encode it again."
        )
    teacher = config["teacher_used"]
    if teacher and not Path(teacher["path"]).is_file():
        raise UserError(
            f"The CF model that {path} was trained with was in {teacher['path']} and is gone; "
            "put it back there, as the model reads histories through it."
        )
    if teacher:
        config["align_teacher"] = teacher["path"]
    elif config["align_weight"]:
        config["align_weight"] = 0.0  # training alone needs the teacher


def _read(config):
    """The dataset and its splits, without loaders."""
    from recbole.data import create_dataset

    from recbole_llmemb.data.dataset import LazySequentialDataset
    from recbole_llmemb.plugin import is_ours

    name, folder = config["dataset"], config["data_path"]
    try:
        # RecBole's own class would write out every prefix of every history.
        ours = is_ours(config["model"])
        dataset = create_dataset(config) if ours else LazySequentialDataset(config)
        return dataset, tuple(dataset.build())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        text = " ".join(str(error.args[0] if error.args else error).split()).rstrip(".")
        raise UserError(f"Dataset {name} in {folder} cannot be used: {text}.") from error


def _check_items(state, dataset, config, path):
    tokens = state.get("item_tokens")
    found = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    if tokens is None or list(tokens) == found:
        return
    known = set(tokens)
    more, less = [t for t in found if t not in known], known - set(found)
    what = "has its items in another order than"
    if more:
        what = f"has {len(more)} items ({name_some(more)}) that are unknown to"
    elif less:
        what = f"lacks {len(less)} items ({name_some(sorted(less))}) of"
    raise UserError(
        f"The dataset {config['dataset']} in {config['data_path']} {what} the checkpoint {path}; "
        "give the data that it was trained on with --data_path."
    )


def _rebuild(state, config, train, path):
    from recbole.utils import get_model

    try:
        with random_state.preserve():
            model = get_model(config["model"])(config, train).to(config["device"])
        model.load_state_dict(state["state_dict"])
    except (RuntimeError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        text = str(error).strip().splitlines()[-1].strip().rstrip(":. ")
        raise UserError(
            f"The weights in {path} do not fit its configuration and data ({text}); "
            "give the data that it was trained on."
        ) from None
    model.load_other_parameter(state.get("other_parameter"))
    return model.eval()


def load_data_and_model(model_file):
    """Rebuild everything a checkpoint stands for.

    ``model_file``: A checkpoint that a trainer saved.
    Returns the config, the model, the dataset, and the training, validation and test data.
    """
    from logging import getLogger

    from recbole.quick_start import quick_start

    state = checkpoint.load(model_file)
    config = config_from_plain(state["config"])
    folder = str(state["config"].get("checkpoint_dir"))
    if os.path.isdir(folder) and os.path.samefile(folder, os.path.dirname(model_file) or "."):
        config["checkpoint_dir"] = folder  # which its user has named, by the file
    quick_start.init_seed(config["seed"], config["reproducibility"])
    quick_start.init_logger(config)
    getLogger().info(config)
    dataset = quick_start.create_dataset(config)
    getLogger().info(dataset)
    splits = quick_start.data_preparation(config, dataset)
    quick_start.init_seed(config["seed"], config["reproducibility"])
    model_class = quick_start.get_model(config["model"])
    model = model_class(config, splits[0]._dataset).to(config["device"])
    model.load_state_dict(state["state_dict"])
    model.load_other_parameter(state.get("other_parameter"))
    return config, model, dataset, *splits
