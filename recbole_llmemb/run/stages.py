"""The stages of a run: data, model, training, evaluation."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from recbole.data import create_dataset, data_preparation
from recbole.utils import FeatureType, ModelType, get_model, init_seed
from torch.utils.tensorboard import SummaryWriter

from recbole_llmemb.config.keys import renamed
from recbole_llmemb.config.recbole_config import config_to_plain
from recbole_llmemb.config.values import blamed
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.artifacts import build_lock
from recbole_llmemb.core.devices import preserve_random_state
from recbole_llmemb.core.errors import UserError, explained, place_of
from recbole_llmemb.core.files import asked_hash
from recbole_llmemb.data.dataset import check_parts, files_hash, kinds_beside
from recbole_llmemb.data.splits import interaction_files
from recbole_llmemb.evaluation.metrics import check_candidates, excluded_of
from recbole_llmemb.models import registry
from recbole_llmemb.models.contract import Given, as_method
from recbole_llmemb.run.result import RunResult, curve_of
from recbole_llmemb.run.schema import Use, keys, sections_of, use_of
from recbole_llmemb.scft.settings import ScftSettings
from recbole_llmemb.training import trainer_class

__all__ = ["Data", "build", "prepare_data", "train_and_evaluate"]

Outcome = RunResult  # what it was called before
# How RecBole's models fail over settings; and how it fails over data, and over ways to split it.
_UNUSABLE = ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError
_UNFIT = *_UNUSABLE, ImportError, AssertionError


@contextmanager
def stage(name, what, report, seconds):
    """Tell of a stage of a run, ``what`` in words, and note how many seconds it took."""
    report(f"{name}: {what} …")
    began = perf_counter()
    yield
    seconds[name] = perf_counter() - began
    report(f"{name}: done in {seconds[name]:.1f} s")


# -- what a run is called -----------------------------------------------------------------


def settings(config) -> dict:
    """Everything in a configuration that changes what comes out, as plain values."""
    plain = config_to_plain(config)
    gone = keys(Use.MACHINE) | {"trained_on", "tested_on", *renamed(config.model_class).values()}
    kept = {k: v for k, v in plain.items() if k not in gone and not k.endswith("_used")}
    if not plain.get("holdout_items"):  # how they would be drawn changes nothing
        kept = {k: v for k, v in kept.items() if not k.startswith("holdout_")}
    fields = {n: f for s in sections_of(config.model_class) for n, f in s.model_fields.items()}
    late = {n: f.default for n, f in fields.items() if use_of(f) & Use.LATER}
    return {k: v for k, v in kept.items() if k not in late or v not in (None, late[k])}


def run_key(config) -> str:
    """Short hash of what changes the numbers of a run, whatever its model has settled since."""
    asked = {**config.internal_config_dict, **config.external_config_dict}
    found = settings(config)
    found |= {key: asked.get(key) for key in keys(Use.SETTLED) & set(found)}
    alike = keys(Use.SPEED) | (set() if found.get("scft") else set(ScftSettings.model_fields))
    found |= {k: config.internal_config_dict.get(k) for k in alike & set(found)}  # as by default
    return _digest(config, found)


def run_file(config, called: str | None = None, report: Callable = str) -> Path:
    """Where a run keeps its best model: under a name of earlier releases, if there is such.

    A model that was trained when another table, teacher or LLM lay where the settings say keeps
    its place, which ``report`` is told (nobody by default).

    ``called``: what the name begins with, instead of the model.
    """
    folder, model, key = Path(config["checkpoint_dir"]), config["model"], run_key(config)
    names = (model, _digest(config, settings(config))), (model, key), (called or model, key)
    *older, newest = (folder / f"{start}-{config['dataset']}-{end}.pth" for start, end in names)
    left = (f for f in older if f.is_file() or f.with_suffix(".resume.pth").is_file())
    with keepable("Checkpoints", folder, "checkpoint_dir"):
        file = next(left, newest)
    now = checkpoint.inputs_of(config.final_config_dict)
    for there in (file, file.with_suffix(".resume.pth")) if now else ():
        with suppress(UserError):  # none, or a damaged one
            then = checkpoint.inputs_of(checkpoint.load(there).get("config") or {})
            if other := [key for key, mark in now.items() if then.get(key, mark) != mark]:
                mark = hashlib.sha256(json.dumps(now, sort_keys=True).encode()).hexdigest()[:6]
                what = other[0].removesuffix("_used")
                report(f"train: {there} stays, which was trained with another {what}")
                return file.with_stem(f"{file.stem}-{mark}")
    return file


def _digest(config, found):
    before, start = renamed(config.model_class), config["pre_model_path"]
    found = {before.get(key, key): value for key, value in found.items()}
    text = json.dumps(found, sort_keys=True, default=str) + files_hash(config)
    text += files_hash(config, kinds_beside(config)) + "2"  # files are sorted by their own times
    text += "".join(registry.own_code(config).values())
    text += asked_hash({}, [start]) if isinstance(start, str) and os.path.isfile(start) else ""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


# -- data, model, training and evaluation --------------------------------------------------


@dataclass
class Data:
    """A dataset and its three loaders."""

    dataset: Any
    train: Any
    valid: Any
    test: Any

    @property
    def parts(self) -> list:
        """The dataset, and its training, validation and test rows."""
        return [self.dataset, *(loader._dataset for loader in (self.train, self.valid, self.test))]


def reuse_data(config, parts) -> Data:
    """The loaders of a run over the parts of an earlier one's data."""
    init_seed(config["seed"], config["reproducibility"])
    dataset, *splits = parts
    for part in parts:
        part.config, part.given = config, None
    dataset.build = lambda: splits
    return Data(dataset, *data_preparation(config, dataset))


def prepare_data(config, artifacts: bool = True) -> Data:
    """Read, filter, split and index the dataset, as RecBole's ``quick_start`` does.

    Parameters
    ----------
    config : recbole.config.Config
    artifacts : bool
        Whether what the model needs beside its data is made or found at once; otherwise
        :func:`recbole_llmemb.run.artifacts.provide` is to be called before :func:`build`.

    Raises
    ------
    UserError
        The dataset's files are not there, or lack what sequences need.
    """
    init_seed(config["seed"], config["reproducibility"])
    _check_files(config)
    with usable(config):
        dataset = create_dataset(config)
        dataset.given = None if artifacts else Given()
        _check_dataset(dataset, config)
        data = Data(dataset, *data_preparation(config, dataset))
        check_parts(data.parts[1:], config)
        return data


def usable(config):
    """Says of data that RecBole fails over that it is the data."""
    name, folder = config["dataset"], config["data_path"]
    sentence = f"Dataset {name} in {folder} cannot be used: {{reason}}."
    return explained(sentence, *_UNUSABLE, key="data_path", where=folder)


def _check_files(config):
    """Refuse files that are not there, and sequences of another order than that of time."""
    folder, name, parts = config["data_path"], config["dataset"], config["benchmark_filename"]
    for file in interaction_files(config):
        if not file.is_file() and parts:
            told = f"benchmark_filename names {file.name}, which is not in {folder}"
            raise UserError(f"{told}; put it there, or name the files that are.")
        if not file.is_file():
            told = f"Dataset {name} is not in {folder}: there is no {file.name} there"
            raise UserError(f"{told}; set --data_path to the folder that holds its folder.")
    fields = {"selected_features", "item_attribute"} & set(config.internal_config_dict)
    if fields and not Path(folder, f"{name}.item").is_file():
        told = f"{config['model']} reads fields of {name}.item, which is not in {folder}"
        raise UserError(f"{told}; put it there.", key=min(fields))
    order, sequential = config["eval_args"]["order"], config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    if sequential and order != "TO" and not parts:
        told = f"eval_args.order is {order!r}, RecBole's own where it is left out"
        raise UserError(f"{told}; set TO: sequences are those of time.", key="eval_args")


def _check_dataset(dataset, config):
    """Refuse data that has no order in time, or too few items."""
    place, name, time = config["data_path"], config["dataset"], config["TIME_FIELD"]
    sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    listed = f"{config['ITEM_ID_FIELD']}{config['LIST_SUFFIX']}"
    by_time = config["eval_args"]["order"] == "TO" and not config["benchmark_filename"]
    sorts = (sequential or by_time) and listed not in dataset.inter_feat
    if sorts and time not in dataset.inter_feat:
        told = f"Dataset {name} in {place} has no field {time!r} among those that are read"
        raise UserError(f"{told}, which orders them; set TIME_FIELD and load_col.")
    if sorts and dataset.field2type[time] != FeatureType.FLOAT:
        told = f"Field {time!r} of dataset {name} in {place}, which orders them, is of type"
        advice = f"write {time}:float in the first line of {name}.inter, or set TIME_FIELD"
        raise UserError(f"{told} {dataset.field2type[time].value}; {advice}.")
    if max(config["topk"]) >= dataset.item_num:  # which counts padding
        held = " (without holdout_items)" if config["holdout_items"] else ""
        there = f"dataset {name} has only {dataset.item_num - 1} items{held}"
        raise UserError(f"topk is {config['topk']}, but {there}; ask for shorter lists.")
    check_candidates(config, dataset)
    if sorts and sequential and not dataset.inter_feat[config["USER_ID_FIELD"]].duplicated().any():
        check_parts(([], [], []), config)


def build(config, data: Data):
    """The model on its device and its trainer, from the run's seed.

    Raises
    ------
    UserError
        Settings the model cannot be built with, or no place for its checkpoints.
    """
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    folder, curves = config["checkpoint_dir"], Path.cwd() / "log_tensorboard"
    with keepable("Checkpoints", folder, "checkpoint_dir"):
        os.makedirs(folder, exist_ok=True)
    with keepable("Curves", curves):
        curves.mkdir(exist_ok=True)  # where RecBole keeps them
    sentence = f"{config['model']} cannot be built with this configuration: {{reason}}"
    with explained(sentence + blamed(config), *_UNFIT):
        model = get_model(config["model"])(config, data.train._dataset).to(config["device"])
        return model, trainer_class(config)(config, model)


def keepable(what, folder, key=None):
    """Says that something cannot be kept in the folder that ``key`` sets, or in the working one."""
    advice = f"set {key}" if key else "start in a folder that can be written to"
    sentence = f"{what} cannot be kept in {folder} ({{reason}}); {advice}."
    return explained(sentence, OSError, key=key, where=folder)


def train_and_evaluate(
    config, data: Data, model, trainer, resume: bool = True, report=print, file: Path | None = None
) -> RunResult:
    """Train to the best validation and test it; continue an interrupted run of the same kind.

    ``model``, ``trainer``: from :func:`build`.
    ``resume``: whether to continue where an interrupted run of this configuration stopped.
    ``file``: where the best model is kept, if not under the run's own name.
    """
    file = file or run_file(config, report=report)
    # Two at once would test each other's best.
    with build_lock(file, "run") if config["local_rank"] == 0 else nullcontext():
        return _train_and_evaluate(config, data, model, trainer, file, resume, report)


def _train_and_evaluate(config, data, model, trainer, file, resume, report) -> RunResult:
    resume_file = file.with_suffix(".resume.pth")
    trainer.saved_model_file, trainer.run_key = str(file), run_key(config)
    if trainer.resumes:
        trainer.resume_file = str(resume_file)
        if resume and (found := checkpoint.last_whole(resume_file, file, report, trainer.run_key)):
            trainer.resume_checkpoint(*found)
            begins = trainer.start_epoch
            report(f"train: an interrupted run is there; continuing from epoch {begins}")
    _, _, valid, test = data.parts
    if not len(valid):
        what = f"all {config['epochs']} epochs are trained and the last one is tested"
        report(f"train: there is no validation part, so {what}")
    seconds, began = {}, perf_counter()
    with registry.own_code_explained(config):
        best = _fit(config, data, trainer)
    seconds["train"] = perf_counter() - began
    began = perf_counter()
    found, details = trainer.evaluate_per_row(data.test, show_progress=config["show_progress"])
    if not len(test):  # which would have loaded it
        report("test: there is no test part; groups are those of the best validation")
        checkpoint.load_weights(model, checkpoint.load(trainer.saved_model_file, config["device"]))
    seconds["evaluate"] = perf_counter() - began
    resume_file.unlink(missing_ok=True)
    return _result(config, trainer, best, found, details, seconds)


def _fit(config, data, trainer):
    """Train; returns the result of the best validation."""
    try:
        return trainer.fit(data.train, data.valid, show_progress=config["show_progress"])[1]
    except KeyError as error:
        if not place_of(error).startswith("recbole"):
            raise  # somebody's own code fails, not over a field
        field = error.args[0]
        if field != f"{config['NEG_PREFIX']}{config['ITEM_ID_FIELD']}":
            told = f"{config['model']} reads a field {field!r}, which the data does not have"
            raise UserError(f"{told}; look at load_col and threshold.") from error
        # Not all of RecBole's pairwise models read them, so it shows only here.
        args = config["train_neg_sample_args"]
        told = f"{config['model']} needs sampled negatives, but train_neg_sample_args is {args}"
        advice = "give it a distribution ('uniform' or 'popularity') and a sample_num of at least 1"
        raise UserError(f"{told}; {advice}.") from None
    except ValueError as error:
        if str(error) != "Training loss is nan":  # of RecBole's own models
            raise
        raise checkpoint.no_numbers("The training losses") from error


def _result(config, trainer, best, test, details, seconds) -> RunResult:
    per_epoch, parameters = trainer.epoch_seconds, list(trainer.model.parameters())
    if per_epoch:
        seconds["train_per_epoch"] = sum(per_epoch) / len(per_epoch)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    every = sum(p.numel() for p in parameters) + as_method(trainer.model).frozen_parameters()
    named = ("model", "dataset", "seed")
    kept = {k: v for k, v in settings(config).items() if v is not None and k not in named}
    return RunResult(
        **{key: config[key] for key in named},
        best_valid_result=best or {},
        test_result=test or {},
        groups=trainer.groups_of_last_evaluation or {},
        seconds=seconds,
        epochs=len(trainer.train_loss_dict) + trainer.start_epoch,
        parameters={"trainable": trainable, "frozen": every - trainable},
        valid_groups=trainer.best_valid_groups or None,
        config={**kept, "exclude_history": excluded_of(config)},
        curve=curve_of(trainer.history, per_epoch),
        # Without a test there are none, as there are no groups.
        bins={} if not test else None if details is None else details.bins(),
        checkpoint=trainer.saved_model_file,
        run_key=trainer.run_key,
        data=(config["trained_on"] or {}).get("inter"),
        tested=config["tested_on"],
        table=(config["llm_table_used"] or {}).get("fingerprint"),
        labels=trainer.group_labels,
        details=details,
    )


def train_in_isolation(config, report: Callable = print, file: Path | None = None) -> RunResult:
    """A whole run that leaves the caller's random numbers alone (a teacher's training)."""
    with preserve_random_state():
        data = prepare_data(config)
        model, trainer = build(config, data)
        # Its curves are not those of the run, after whose log RecBole names their folder.
        trainer.tensorboard.close()
        trainer.tensorboard = SummaryWriter(f"{trainer.tensorboard.log_dir}-{config['model']}")
        return train_and_evaluate(config, data, model, trainer, report=report, file=file)
