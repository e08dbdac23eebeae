"""A checkpoint as a model that can be used, with the dataset whose items and users it knows."""

from __future__ import annotations

import os
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import ModelType, init_logger, init_seed

from recbole_llmemb.config.recbole_config import config_for, config_from_plain
from recbole_llmemb.core import checkpoint, random_state
from recbole_llmemb.core.errors import TableError, UserError, explained, name_some
from recbole_llmemb.core.gpus import usable_device
from recbole_llmemb.core.registry import import_paths_in, trust
from recbole_llmemb.data.dataset import LazySequentialDataset
from recbole_llmemb.data.presplit import interaction_files
from recbole_llmemb.models.registry import is_ours
from recbole_llmemb.run.artifacts import rebuilt
from recbole_llmemb.run.stages import Data, prepare_data


@dataclass
class Saved:
    """What the file of a checkpoint holds."""

    path: Path
    state: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration of its run, as plain values."""
        return self.state["config"]


@dataclass
class Restored:
    """What a checkpoint stands for."""

    path: Path
    config: Any
    dataset: Any  # All interactions
    splits: tuple  # Training, validation and test rows
    model: torch.nn.Module  # On its device, in evaluation mode
    data: Data | None = None  # The same with loaders, where they were asked for


def read(path) -> Saved:
    """Read a checkpoint that a trainer saved; refuse any other."""
    state = checkpoint.load(path)
    if not state.get("config") or "state_dict" not in state:
        raise UserError(
            f"The checkpoint {path} has no configuration or no weights; give a checkpoint that a "
            "trainer of RecBole or of this package saved.",
            where=path,
        )
    return Saved(Path(path), state)


def restore(
    saved,
    *,
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

    ``saved``: its path, or what :func:`read` gave.
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
    saved = saved if isinstance(saved, Saved) else read(saved)
    path, changes = saved.path, changes or {}
    plain = {**saved.settings, **changes}
    plain = {key: value for key, value in plain.items() if value is not None or key not in changes}
    if data_path is not None:
        plain["data_path"] = str(Path(data_path) / str(plain.get("dataset")))
    if trust_remote_code:
        trust(path for _, path in import_paths_in(plain))
    config = config_for(plain, _device(device, plain))
    config["llm_trust_remote_code"] = bool(trust_remote_code)
    if plain.get("llm_cache_dir") and "llm_cache_dir" in changes:
        config["llm_cache_dir"] = plain["llm_cache_dir"]  # a checkpoint does not say that either
    if data_path is not None:  # RecBole knows better where ml-100k is
        config["data_path"] = plain["data_path"]
    _check_data(config, path, plain.get("data_path"))
    _use_table(config, path, llm_table)
    _use_teacher(config, path, align_teacher)
    if llm_model is not None:
        config["llm_model"] = str(llm_model)
    with random_state.preserve():
        data = prepare_data(config, artifacts=False) if loaders else None
        if data is None:
            dataset, splits = _read(config)
        else:
            dataset = data.dataset
            splits = tuple(loader._dataset for loader in (data.train, data.valid, data.test))
        _check_items(saved, dataset, config)
        if model is None:
            model = rebuilt(saved.state, config, splits[0], path)
    return Restored(path, config, dataset, splits, model, data)


def load_data_and_model(model_file):
    """Rebuild everything a checkpoint stands for, as RecBole's function of this name.

    ``model_file``: A checkpoint that a trainer saved.
    Returns the config, the model, the dataset, and the training, validation and test data.
    """
    saved = read(model_file)
    config = config_from_plain(saved.settings)
    folder = str(saved.settings.get("checkpoint_dir"))
    if os.path.isdir(folder) and os.path.samefile(folder, saved.path.parent):
        config["checkpoint_dir"] = folder  # which its user has named, by the file
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    getLogger().info(config)
    dataset = create_dataset(config)
    getLogger().info(dataset)
    loaders = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    return (
        config,
        rebuilt(saved.state, config, loaders[0]._dataset, saved.path).train(),
        dataset,
        *loaders,
    )


def _device(asked, plain) -> torch.device:
    if asked in (None, "", "auto"):
        wanted = asked is not None or plain.get("use_gpu") is not False
        return torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")
    return usable_device(str(asked), "device")


def _check_data(config, path, sought):
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise UserError(
            f"The checkpoint {path} is of {config['model']}, which reads no sequences; give one of "
            "a sequential model.",
            where=path,
        )
    absent = [file.name for file in interaction_files(config) if not file.is_file()]
    if absent:
        raise UserError(
            f"The dataset {config['dataset']} of the checkpoint {path} is not in "
            f"{sought or config['data_path']}: there is no {absent[0]}; give the folder that holds "
            "the dataset's folder with --data_path.",
            key="data_path",
        )


def _use_table(config, path, given):
    """Name the table that the model was trained over, where it is now; refuse any other."""
    from recbole_llmemb.scft import ensure_table
    from recbole_llmemb.table import EmbeddingTable

    used = config["llm_table_used"]
    if given is None:
        there = bool(used) and Path(used["path"]).is_dir()
        if there:
            config["llm_table"] = used["path"]
        elif used and not config["llm_cache_dir"]:  # it would be encoded anew, without a word
            raise TableError(
                f"The table that {path} was trained over was in {used['path']} (fingerprint "
                f"{used['fingerprint']}) and is gone; give a copy with --llm_table, or encode it "
                "again.",
                key="llm_table",
            )
        return
    if not used:
        raise UserError(
            f"The checkpoint {path} was not trained over a table; leave --llm_table.",
            key="llm_table",
        )
    config["llm_table"] = str(given)
    found = EmbeddingTable.load(given)
    if config["llm_pca_dim"] and found.fingerprint != used["fingerprint"]:
        given = ensure_table(config, report=getLogger().info)  # its copy of so many columns
        found = EmbeddingTable.load(given)
    if found.fingerprint != used["fingerprint"]:
        raise TableError(
            f"{given} is not the table that {path} was trained over (fingerprint "
            f"{found.fingerprint}, not {used['fingerprint']}, then in {used['path']}); give that "
            "one with --llm_table.",
            key="llm_table",
        )
    given = str(Path(given).absolute())
    config["llm_table"], config["llm_table_used"] = given, {**used, "path": given}


def _use_teacher(config, path, given):
    """Name the CF model that an LLM-SRec reads histories through; others do without a teacher."""
    used = config["teacher_used"]
    if not used:
        if given is not None:
            raise UserError(
                f"The checkpoint {path} reads histories through no CF model; leave "
                "--align_teacher.",
                key="align_teacher",
            )
        if config["align_weight"]:
            config["align_weight"] = 0.0  # training alone needs the teacher
        return
    file = Path(used["path"] if given is None else given)
    if not file.is_file() and not (given is None and config["llm_cache_dir"]):
        raise UserError(
            f"The CF model that {path} was trained with was in {used['path']}; there is no "
            f"{file}, so give it with --align_teacher, as the model reads histories through it.",
            key="align_teacher",
        )
    if file.is_file():
        config["align_teacher"] = str(file)


def _read(config):
    """The dataset and its splits, without loaders."""
    with explained(
        f"Dataset {config['dataset']} in {config['data_path']} cannot be used: {{reason}}.",
        ValueError, KeyError, TypeError, AttributeError, key="data_path",
    ):  # fmt: skip
        # RecBole's own class would write out every prefix of every history.
        ours = is_ours(config["model"])
        dataset = create_dataset(config) if ours else LazySequentialDataset(config)
        return dataset, tuple(dataset.build())


def _check_items(saved, dataset, config):
    tokens = saved.state.get("item_tokens")
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
        f"The dataset {config['dataset']} in {config['data_path']} {what} the checkpoint "
        f"{saved.path}; give the data that it was trained on with --data_path.",
        key="data_path",
    )
