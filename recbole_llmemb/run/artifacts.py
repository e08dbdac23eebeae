"""What a model needs beside its data, made or found before it is built: table, teacher, LLM."""

from __future__ import annotations

import copy
from collections.abc import Callable
from logging import getLogger
from pathlib import Path

import torch
from recbole.data import create_dataset
from recbole.utils import ModelType, get_model

from recbole_llmemb.config.recbole_config import config_for
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.devices import preserve_random_state
from recbole_llmemb.core.errors import TableError, UserError, explained, name_some
from recbole_llmemb.core.files import asked_hash
from recbole_llmemb.data.dataset import item_tokens
from recbole_llmemb.encode.build_or_load import tell_other_texts, tell_unused
from recbole_llmemb.models import registry
from recbole_llmemb.models.contract import Given, ItemTable, Needs, is_checkpoint
from recbole_llmemb.models.llmsrec.llm import load_llm
from recbole_llmemb.models.llmsrec.model import FrozenTeacher
from recbole_llmemb.models.llmsrec.prompts import item_titles
from recbole_llmemb.run.stages import stage
from recbole_llmemb.run.teacher import (
    check_same,
    ensure_teacher,
    item_rows,
    refuse_other_files,
    used,
)
from recbole_llmemb.scft import ensure_table
from recbole_llmemb.table.format import read_manifest

__all__ = ["provide"]

# How models fail over settings, data or weights that are not theirs.
_UNFIT = (RuntimeError, KeyError, NotImplementedError, TypeError)


def provide(config, train, report: Callable[[str], None] | None = None, seconds=None) -> Given:
    """Make or find what the model of a configuration needs, and hang it on the training split.

    What was used is noted in the configuration, which a checkpoint keeps: ``llm_table_used``,
    ``teacher_used``, ``align_teacher_used``, ``llm_model_used``, ``item_titles_used``,
    ``code_used``.

    ``config``: one that comes from a checkpoint names what the model was trained with.
    ``train``: the dataset whose items count; the model is built with it.
    ``report``: called with one line for each; the log by default.
    ``seconds``: a dictionary that gets what ``encode`` and ``teacher`` took.
    """
    found = Given.of(train, config)
    if found is not None:
        return found
    report, seconds = report or getLogger().info, {} if seconds is None else seconds
    model = registry.find(config["model"])
    needs = Needs() if model is None else model.needs(config)
    given = Given(config=config)
    note_code(config)
    with preserve_random_state():
        if needs.table:
            with stage("encode", "item table", report, seconds):
                given.table = item_table(config, train, report, needs.table_width)
        if needs.teacher:
            make = item_rows if needs.teacher == "items" else frozen_teacher
            with stage("teacher", config["align_teacher"], report, seconds):
                given.teacher = make(config, train, needs.teacher_size, report)
        if needs.llm:
            given.llm = load_llm(config, report)
        if needs.titles:
            given.titles = item_titles(config, train)
    if model is not None:
        for key, value in model.settled(config, given).items():
            config[key] = value
    train.given = given
    return given


def note_code(config) -> None:
    """Note what somebody's own classes are like; tell where a model was trained with others."""
    found, before = registry.own_code(config), config["code_used"] or {}
    changed = [name for name in found if before.get(name, found[name]) != found[name]]
    if changed:
        told = f"The code of {name_some(changed)} has changed since this model was trained"
        getLogger().warning(f"{told}: it may do something else now.")
    if found:
        config["code_used"] = {"fingerprint": asked_hash(found), **found}


def item_table(config, dataset, report: Callable[[str], None], width=None) -> ItemTable:
    """The table of a configuration, made if it is not there, for the items of a dataset.

    ``config``: one that comes from a checkpoint names the table the model was trained over.
    ``width``: reduce a wider table to this many columns, unless ``llm_pca_dim`` says to how many.
    """
    path = _table_in_use(config)
    if path is None:
        path = ensure_table(config, report=report)
        if config["llm_table"]:
            given = Path(config["llm_table"]).expanduser()
            tell_other_texts(given, config, report)
            tell_unused(given, config, report)
    tokens, missing = dataset.field2id_token[dataset.iid_field], config["llm_missing"]
    found = ItemTable(path, tokens, missing, bool(config["llm_pca_dim"]))
    table = found.load()
    if width and table.width > width and not config["llm_pca_dim"]:
        report(f"table: {table.width} wide and no adapter to learn, so llm_pca_dim is {width}")
        config["llm_pca_dim"] = width  # as a checkpoint will say
        found = ItemTable(ensure_table(config, report=report), tokens, missing, reduced=True)
        table = found.load()
    before = config["llm_table_used"]
    if before and before["fingerprint"] != table.fingerprint:
        told = f"{found.path} is not the table this model was trained over (fingerprint "
        told += f"{table.fingerprint}, not {before['fingerprint']}, then in {before['path']})"
        advice = "say with llm_table where that one is"
        raise TableError(f"{told}; {advice}.", key="llm_table", where=found.path)
    config["llm_table_used"] = used(found.path, table.fingerprint)
    return found


def _table_in_use(config):
    """The table that a checkpoint's configuration names, if it is still there and the same.

    Found without a look at the item file, which may have got new items since. It may be that
    which ``llm_table`` names now, or a reduced copy of that.
    """
    before, chosen = config["llm_table_used"], config["llm_table"]
    if not before:
        return None
    path = Path(chosen if chosen and Path(chosen).is_dir() else before["path"])
    try:
        same = read_manifest(path).get("fingerprint") == before["fingerprint"]
    except TableError:
        return None
    return path if same else None


def rebuilt(state, config, train, path):
    """The model of a checkpoint, with what it needs and its weights, in evaluation mode.

    ``state``: what :func:`~recbole_llmemb.core.checkpoint.load` read from ``path``.
    ``train``: what it is built with: its training split, or a dataset with the same items.
    """
    start, here = config["pre_model_path"], str(path)  # which has what that had, and maybe is gone
    with preserve_random_state():
        provide(config, train)
        sentence = f"The weights in {path} do not fit its configuration and data ({{reason}}); "
        with explained(f"{sentence}give the data that it was trained on.", *_UNFIT, where=path):
            if start:
                config["pre_model_path"] = here
            model = get_model(config["model"])(config, train).to(config["device"])
            if start:
                config["pre_model_path"] = start
            checkpoint.load_weights(model, state)
    return model.eval()


def frozen_teacher(
    config, dataset, size: int | None, report: Callable[[str], None]
) -> FrozenTeacher:
    """The whole teacher of a run, from a checkpoint of any RecBole sequential model.

    ``config``: of the run. One that comes from a checkpoint names the teacher the model was trained
    with; a new one is given its name.
    """
    before = config["teacher_used"]
    if before and not Path(config["align_teacher"]).is_file():  # whoever would train it now
        path = before["path"]
        if not Path(path).is_file():
            raise _no_teacher(path, "this model was trained with it, and it is gone")
    else:
        path = ensure_teacher(config, size, report)
    state = checkpoint.load(path)
    found = checkpoint.fingerprint(state.get("state_dict", {}))
    if before and before["fingerprint"] != found:
        then = f"{before['fingerprint']}, then in {before['path']}"
        why = f"it is not the one this model was trained with (fingerprint {found}, not {then})"
        raise _no_teacher(path, why)
    if not before and is_checkpoint(config["align_teacher"]):
        check_same(config, state.get("config"), path)
    config["teacher_used"] = used(path, found)
    model, tokens = teacher_model(state, path, dataset, config["device"])
    name = type(model).__name__
    report(f"teacher: {name} of {path}")
    if not torch.is_tensor(getattr(getattr(model, "item_embedding", None), "weight", None)):
        raise _no_teacher(path, f"{name} has no item_embedding")
    number = {token: i for i, token in enumerate(tokens)}
    ours = item_tokens(dataset)[1:]
    absent = [token for token in ours if token not in number]
    if absent:
        why = f"it does not know {len(absent)} of the dataset's items ({name_some(absent)})"
        raise _no_teacher(path, why)
    ids = torch.tensor([0, *(number[token] for token in ours)])
    teacher = FrozenTeacher(model, ids.to(config["device"]))
    if not teacher.gives_states():
        why = "does not turn a history of items into one state as wide as an item embedding"
        raise _no_teacher(path, f"{name} {why}")
    return teacher


def _no_teacher(path, why) -> UserError:
    told = f"{path} cannot be the CF model: {why}; say with align_teacher where the right one is."
    return UserError(told, key="align_teacher", where=path)


def teacher_model(state, path, dataset=None, device=None):
    """The model of a teacher's checkpoint, and the item tokens it was trained with.

    ``dataset``: used where it has the same items; the checkpoint's own data is read otherwise.
    """
    if "config" not in state or "state_dict" not in state:
        raise _no_teacher(path, "it has no configuration or no weights")
    config = config_for(state["config"], torch.device(device or "cpu"))
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise _no_teacher(path, f"{config['model']} is no sequential model")
    config["align_weight"] = 0.0  # which only training needs
    tokens = state.get("item_tokens")
    if dataset is None or tokens is None or item_tokens(dataset) != list(tokens):
        dataset = create_dataset(config)
        if tokens is None:
            refuse_other_files(state["config"], config, path, "align_teacher")
            tokens = item_tokens(dataset)
    # A copy: what the run's own model is given hangs on the dataset, too.
    return rebuilt(state, config, copy.copy(dataset), path), tokens
