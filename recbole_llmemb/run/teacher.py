"""The collaborative teacher of RAT: trained when it is first needed, then kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from logging import getLogger
from pathlib import Path
from time import perf_counter

import torch
from recbole.data import create_dataset
from recbole.utils import ModelType

from recbole_llmemb.config.keys import draws_none
from recbole_llmemb.config.known import keys_of_any_model
from recbole_llmemb.config.recbole_config import config_from_plain, make_config
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.artifacts import build_or_load
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import atomic_file, file_digests
from recbole_llmemb.data.dataset import files_hash, item_tokens
from recbole_llmemb.encode import cache_directory
from recbole_llmemb.models.contract import is_checkpoint
from recbole_llmemb.models.registry import model_class
from recbole_llmemb.run import stages
from recbole_llmemb.run.saved import checkpoint_of, read
from recbole_llmemb.run.schema import Use, keys
from recbole_llmemb.table import EmbeddingTable, match

__all__ = ["ensure_teacher", "read_item_embeddings", "teacher_config"]

# Teachers trained as models of this package; any other is trained as RecBole's own.
_OURS = ("SASRec", "GRU4Rec", "BERT4Rec")
# What decides which interactions are trained on, beside the data itself and the keys of that use.
_EVALUATION = ("split", "order", "group_by")
_OF_RECBOLE = {"rm_dup_inter", "filter_inter_by_user_or_item"}


def teacher_config(config, size: int):
    """The configuration a teacher is trained with.

    The dataset, its split and the training of the run that asks; item embeddings of the
    same size; RecBole's default seed whatever the run's, so that runs that differ in
    their seed share one teacher, as in the authors' scripts.

    ``config``: of the run; ``align_teacher`` names the model, ``align_teacher_config`` overrides.
    """
    name = config["align_teacher"]
    ours = name in _OURS
    model = f"LLMEmb{name}" if ours else name
    if config["holdout_items"] and not ours:
        told = f"align_teacher {name!r} is trained by RecBole's own code, which holds no items out"
        advice = f"with holdout_items name one of {', '.join(_OURS)}, or set align_weight: 0"
        raise UserError(f"{told}; {advice}.")
    run = model_class(config["model"])
    shared = keys(Use.SHARED) | set(config.parameters["Dataset"])
    if not run.teacher_shares_training:
        shared -= keys(Use.LEARNING)
    values = {key: config[key] for key in sorted(shared) if key in config}
    values |= {
        "data_path": str(Path(config["data_path"]).parent),
        "checkpoint_dir": str(cache_directory(config) / "teachers"),
        "item_embedding": "id",
        "align_weight": 0.0,
        "hidden_size": size,
        "embedding_size": size,
    }
    if not run.one_pass:
        values.pop("train_mode", None)  # which says prefix only because the run has no choice
    if not ours:
        # RecBole's own: its losses, its prefixes.
        values |= {"loss_type": "CE", "train_neg_sample_args": None}
        if config["selected_features"]:
            values["selected_features"] = config["selected_features"]
    elif (values.get("train_neg_sample_args") or {}).get("distribution") in (None, "none"):
        values.pop("train_neg_sample_args", None)
    given = config["align_teacher_config"] or {}
    if other := sorted({"model", "dataset", "data_path"} & given.keys()):
        told = f"align_teacher_config has {other[0]}, but a teacher learns from the run's own data"
        advice = "leave it out; align_teacher names another model, or a checkpoint"
        raise UserError(f"{told}; {advice}.", key="align_teacher_config")
    if draws_none(given.get("train_neg_sample_args", {})):
        values.pop("loss_type", None)
    values |= given
    try:
        unknown = given.keys() - keys_of_any_model()
        own = make_config(model, config["dataset"], overrides=values, strict=unknown)
    except UserError as error:
        folder = "; what is there of that name is no checkpoint (.pth)"
        told = f"{str(error).rstrip('.')}{folder if Path(str(name)).exists() else ''}."
        raise UserError(f"align_teacher {name!r} cannot be trained: {told}") from None
    if own["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        advice = "name one, such as SASRec, or give the path of a checkpoint"
        raise UserError(f"align_teacher {name!r} is no sequential model; {advice}.")
    other = _differences(config, own.final_config_dict)
    if other and config["align_teacher_unchecked"] is not True:
        told = f"align_teacher_config has the teacher know other interactions ({'; '.join(other)})"
        advice = "leave that out, or set align_teacher_unchecked: True if it is meant"
        raise UserError(f"{told}, perhaps what is tested; {advice}.", key="align_teacher_config")
    return own


def ensure_teacher(config, size: int | None, report: Callable = print) -> Path:
    """The checkpoint of the teacher, training it if there is none yet.

    ``size``: of the item embeddings to align.
    ``report``: called with one line that says what happens.
    """
    wanted = config["align_teacher"]
    if not wanted:
        raise UserError("align_weight is set but align_teacher is empty; name a model or set 0.")
    if is_checkpoint(wanted):
        if not Path(str(wanted)).is_file():
            raise UserError(f"align_teacher {wanted} does not exist; give a checkpoint or a model.")
        if Path(wanted).suffix == ".json":
            read(wanted)  # which refuses a file that another run has put in the place of its own
        return checkpoint_of(wanted)
    if not size:
        told = f"align_teacher {wanted!r} cannot be trained, as {config['model']} does not say how"
        advice = "let its class name the key that does (size_key)"
        raise UserError(f"{told} large its item embeddings are; {advice}.")
    own = teacher_config(config, size)
    path = stages.run_file(own, called=f"teacher-{wanted}")
    done = path.with_suffix(".done")

    def find():
        return path if done.is_file() and checkpoint.is_whole(path) and is_own() else None

    def is_own():  # what an earlier version has trained says nothing of it
        return done.read_text("utf-8", "replace") in ("", digests())

    def digests():  # by its name: a copy under the name of another teacher is none of its own
        return json.dumps(file_digests(path.parent, [path.name]))

    def build():
        if done.is_file() and path.is_file():
            report(f"warning: {path} is damaged or another's and is made again")
        report(f"teacher: training {wanted} with learned IDs of size {size} on {own['dataset']} …")
        began = perf_counter()
        try:
            stages.train_in_isolation(own, report, path)
        except KeyError as error:  # of models that want labels or features of items
            told = f"align_teacher {wanted!r} cannot be trained on {own['dataset']}, which has no"
            advice = "name another model, such as SASRec"
            raise UserError(f"{told} {error.args[0]!r}; {advice}.") from error
        except UserError as error:
            told = f"align_teacher {wanted!r} cannot be trained: {error}"
            key = "align_teacher" if error.key in (None, "data_path") else error.key
            raise UserError(told, key=key, where=error.where) from error
        # Only now: a checkpoint alone may be of a training that was cut short.
        with atomic_file(done) as fresh:
            fresh.write_text(digests(), encoding="utf-8")
        report(f"teacher: trained in {perf_counter() - began:.0f} s, kept in {path}")
        return path

    with stages.keepable("The teacher", path.parent, "llm_cache_dir"):
        _, there = build_or_load(find, build, path, "teacher")
    if there:
        report(f"teacher: {wanted}, already trained ({path})")
    return path


def used(path, fingerprint: str) -> dict[str, str]:
    """What a checkpoint says of a file that its model was trained with."""
    where = str(Path(path).absolute())  # a checkpoint may be read from another folder
    return {"path": where, "fingerprint": fingerprint}


def item_rows(config, dataset, size: int | None, report: Callable = print) -> torch.Tensor:
    """The teacher's item embeddings by the item ids of a dataset, ``(n_items, d)``.

    ``config``: ``align_teacher``: a RecBole model to train (once, then cached) or a checkpoint.
    ``size``: of the item embeddings of one that is trained.
    """
    given = is_checkpoint(config["align_teacher"])
    path = (config["align_teacher_used"] or {}).get("path")  # of a checkpoint's training
    if given or not (path and Path(path).is_file()):
        path = ensure_teacher(config, size, report)
    if given:
        check_same(config, checkpoint.load(path).get("config"), path)
    tokens, vectors = read_item_embeddings(path)
    # So that an interrupted training is not continued towards another one.
    mark = checkpoint.fingerprint({"item_embedding": vectors})
    config["align_teacher_used"] = used(path, mark)
    table = EmbeddingTable(tokens, vectors.float(), {})
    return match(table, dataset.field2id_token[dataset.iid_field], where=f"teacher {path}")


def read_item_embeddings(path) -> tuple[list[str], torch.Tensor]:
    """Item tokens and embeddings ``(n, d)``, without padding, of a checkpoint of any model."""
    state = checkpoint.load(path)
    weights = state.get("state_dict", {})
    if "item_embedding.weight" not in weights:
        told = f"Checkpoint {path} has no item_embedding.weight, so it cannot be a teacher"
        raise UserError(f"{told}; give a model with learned items (item_embedding: id).")
    tokens = state.get("item_tokens")
    if tokens is None:  # written by RecBole's own trainer, or by an earlier version's
        config = config_from_plain(state["config"])
        refuse_other_files(state["config"], config, path, "align_teacher")
        tokens = item_tokens(create_dataset(config))
    return tokens[1:], weights["item_embedding.weight"][1 : len(tokens)].clone()


def refuse_other_files(plain, config, path, key) -> None:
    """Refuse interactions that have changed, for a checkpoint that keeps no tokens.

    ``plain``: its configuration. ``config``: of the data as it is.
    """
    then, where = (plain.get("trained_on") or {}).get("inter"), config["data_path"]
    if not then:
        told = f"{path} does not say which items its data had, nor in which order: whether they are"
        getLogger().warning(f"{told} those of {where} cannot be checked.")
    elif then != files_hash(config):
        told = f"The interactions in {where} are other lines than {path} was trained on"
        advice = "and it does not say which item is which; give that data, or train again"
        raise UserError(f"{told}, {advice}.", key=key)


def check_same(config, plain, path) -> None:
    """Refuse a teacher that was trained on other interactions than the run.

    ``config``: of the run, whose data is prepared; ``align_teacher_unchecked`` lets any pass.
    ``plain``: the configuration in the teacher's checkpoint.
    """
    if config["align_teacher_unchecked"] is True:
        return
    meant = "or set align_teacher_unchecked: True if it is meant"
    if not plain:
        said = f"align_teacher {path} does not say what it was trained on"
        raise UserError(f"{said}, which may be what this run is tested on; name a model, {meant}.")
    theirs, ours = plain.get("trained_on"), config["trained_on"]
    told = bool(theirs and ours)
    comparable = told and _kind(theirs) == _kind(ours)
    if comparable and theirs["interactions"] == ours["interactions"]:
        return
    different = _differences(config, plain)
    if not different and told and theirs["inter"] != ours["inter"]:
        different = [f"another {config['dataset']}.inter"]
    elif not different and comparable:
        different = ["other training interactions"]
    if different:
        said = f"align_teacher {path} was trained on other data than this run's"
        why = f"({'; '.join(different)}), so it may know what is tested"
        raise UserError(f"{said} {why}; name a model, {meant}.")


def _kind(record):
    return record["interactions"].split("-")[0]


def _differences(config, plain):
    """Where two configurations choose other interactions, in words."""
    ours, theirs = config["eval_args"] or {}, plain.get("eval_args") or {}
    pairs = [(f"eval_args.{key}", theirs.get(key), ours.get(key)) for key in _EVALUATION]
    chosen = keys(Use.ROWS) | _OF_RECBOLE
    if not config["holdout_items"] and not plain.get("holdout_items"):
        chosen -= {"holdout_seed"}
    pairs += [(key, plain.get(key), config[key]) for key in sorted(chosen)]
    return [f"{key} {then!r}, not {now!r}" for key, then, now in pairs if _differ(then, now)]


def _differ(then, now):
    nothing = (None, "", "None", "none", "[0,inf)", False)
    return str(then) != str(now) and not (then in nothing and now in nothing)
