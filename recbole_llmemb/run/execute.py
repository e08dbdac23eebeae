"""A run from a dataset's files to one table of results."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from recbole.utils import ModelType, init_logger

from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.config.values import RECOMMENDED, property_files, settings_of
from recbole_llmemb.core.artifacts import build_lock
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import inputs_of, refuse_inputs
from recbole_llmemb.core.terminal import counted, text_table
from recbole_llmemb.evaluation import cold
from recbole_llmemb.evaluation.metrics import measure_of_run
from recbole_llmemb.models.registry import is_ours, look_up, model_class
from recbole_llmemb.run import artifacts, stages
from recbole_llmemb.run.per_user import read_users, write_users
from recbole_llmemb.run.result import (
    Results,
    RunResult,
    check_writable,
    plain,
    results_table,
    users_file_of,
)
from recbole_llmemb.run.schema import refuse_missing

__all__ = ["execute", "execute_seeds"]

_alone = threading.RLock()  # random numbers are the process's, so runs of other threads wait


def execute(typed: dict, report: Callable[[str], None] = print) -> Results:
    """Do a run; one at a time in a process, whose random numbers runs share.

    Parameters
    ----------
    typed : dict
        Configuration as on the command line; ``model``, ``dataset``, ``config_files`` and
        ``result_json`` included.
    report : callable
        Called with each line of what is going on, and with the results.

    Returns
    -------
    Results
        What ``--result_json`` holds. That is a file, or a folder (``runs/``) in which a run of
        other settings gets a file of its own.
    """
    with _alone:
        return _execute(typed, report)


def _execute(typed, report):
    began = perf_counter()
    seconds: dict = {}
    config, places, preset = _asked(typed)
    log = Path.cwd() / "log"
    with stages.keepable("The log", log):
        init_logger(config)
    with stages.stage("prepare", f"reading {config['dataset']}", report, seconds):
        data = stages.prepare_data(config, artifacts=False)
    train = data.train._dataset
    report(
        f"prepare: {train.user_num - 1:,} users, {train.item_num - 1:,} items, "
        f"{len(train):,} training targets"
    )
    for part in getattr(train, "matched", None) or []:
        report(f"prepare: {part}")
    if config["holdout_items"]:
        report(f"prepare: {cold.summary(train.held_out)}")
    artifacts.provide(config, train, report, seconds)
    model, trainer = stages.build(config, data)
    file = stages.run_file(config, report=report)
    result_json, users_file = places(file)
    report(
        f"train: {config['model']} on {config['device']}, {torch.get_num_threads()} threads, "
        f"at most {counted(config['epochs'], 'epoch')} …"
    )
    result = stages.train_and_evaluate(
        config, data, model, trainer, config["resume"] is not False, report, file
    )
    result.seconds = {**seconds, **result.seconds}
    report(f"train: {counted(result.epochs or 0, 'epoch')} in {result.seconds['train']:.1f} s")
    table = results_table(
        result.best_valid_result,
        result.test_result,
        result.groups if result.test_result else result.valid_groups,
        labels=result.labels,
        valid_users=_lists_of(data.valid),
        measure=measure_of_run(config),
    )
    report(f"\n{table}")
    if config["holdout_items"]:
        cold_items = cold.evaluate_cold(config, data, model)
        report(f"\n{cold.cold_table(cold_items)}")
        result.cold_items = plain(cold_items)
    report(f"\ncheckpoint: {result.checkpoint}")
    asked = typed.get("result_json")
    named = asked and _is_folder(asked)  # there, where others may look for a name, too
    with build_lock(Path(asked, "results"), "file of") if named else nullcontext():
        result_json, users_file = places(file)  # by now, another run may have taken the name
        if users_file and result.details is not None:
            write_users(users_file, result.details, data.dataset)
            result.users_file = users_file
            report(f"per user:   {users_file}")
        elif users_file:
            report("per user:   nothing, as nobody was tested")
        if result_json:
            result.write(result_json)
            report(f"results:    {result_json}")
    report(f"total:      {perf_counter() - began:.1f} s")
    if preset is None and _may_gain(config):
        told = f"--preset={RECOMMENDED}, or best_longtail for rare items (docs/variants.md)"
        report(f"next:       {told}")
    return Results(result.content(result_json))


def execute_seeds(
    typed: dict, seeds: Sequence[int], report: Callable[[str], None] = print
) -> list[Results]:
    """Do a run for each seed, and report means and standard deviations over them.

    ``typed``: as for :func:`execute`; a ``result_json`` that is a file gets the seed to its name.
    """
    found, file = [], typed.get("result_json")
    for seed in seeds:
        report(f"\nseed {seed}\n")
        settings = {**typed, "seed": seed}
        if file and not _is_folder(file):
            settings["result_json"] = str(Path(file).with_stem(f"{Path(file).stem}-{seed}"))
        found.append(execute(settings, report))
    frames = [result.to_pandas().drop(columns="users") for result in found]
    values = np.array([frame.to_numpy(float) for frame in frames])  # (seeds, rows, metrics)
    means, spreads = values.mean(axis=0), values.std(axis=0, ddof=len(frames) > 1)
    rows = [
        [name, *("-" if m != m else f"{m:.4f} ± {s:.4f}" for m, s in zip(*of_row, strict=True))]
        for name, *of_row in zip(frames[0].index, means, spreads, strict=True)
    ]
    title = f"mean ± standard deviation over {len(found)} seeds"
    report(f"\n{title}\n{text_table(rows, ['', *frames[0].columns])}")
    return found


def _lists_of(loader) -> int:
    """How many lists are ranked: of sequences among all items one a row, else one a user."""
    dataset, rows, config = loader._dataset, loader._dataset.inter_feat, loader.config
    each = config["eval_args"]["mode"]["valid"] == "full"
    each &= config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    return len(dataset) if each else len(rows[dataset.uid_field].unique())


def _may_gain(config) -> bool:
    """Whether a run was the paper's, ranked in the way in which presets do better."""
    if not is_ours(config["model"]) or not measure_of_run(config).startswith("full"):
        return False
    return model_class(config["model"]).needs(config).teacher == "items"


def _asked(typed):
    """The configuration that was typed; where results, and those per user, of a run go that keeps
    its model in a file; the preset.

    Whatever cannot work is refused before any work.
    """
    if not isinstance(typed, Mapping):
        kind = type(typed).__name__
        raise UserError(f"A run is asked for by a dictionary of settings, not a {kind}.")
    typed = dict(typed)
    words = [typed.get(option) for option in ("preset", "protocol")]
    files = property_files(typed)
    result_json = typed.pop("result_json", None)
    folder = result_json and _is_folder(result_json)
    if result_json and not folder:
        check_writable(result_json)
    model = typed.pop("model", None)
    settings = settings_of(files) | typed
    if str(settings.get("dataset", "ml-100k")) in ("None", ""):
        raise UserError("dataset is empty; give a name, or leave it out.", key="dataset")
    refuse_missing(settings)
    named = typed.pop("dataset", None) or settings.get("dataset")
    dataset = named or "ml-100k"
    if isinstance(model, type):
        model = look_up(model).__name__
    if not isinstance(model, str):
        raise UserError("No model is named; add --model=LLMEmbSASRec, for example.", key="model")
    _refuse_of_others(model, typed)
    config = make_config(model, str(dataset), files, typed, strict=typed)
    _refuse_of_others(model, config)
    if config["log_wandb"] and importlib.util.find_spec("wandb") is None:
        told = "log_wandb needs wandb, which is not installed; run `pip install wandb`"
        raise UserError(f"{told}, or leave log_wandb.", key="log_wandb")
    if config["holdout_items"]:
        cold.require_cold_ranking(config, model_class(model))
    name = [model, str(dataset), *words, config["seed"] if "seed" in typed else None]

    def places(kept):
        results = _file_in(result_json, name, kept) if folder else result_json
        users_file = users_file_of(results) if config["save_users"] else None
        for output in (results, users_file):
            refuse_inputs(output, [*files, *inputs_of(config)])
        if folder:
            check_writable(results)
        if users_file is not None and users_file.exists():
            read_users(users_file)  # which refuses what is none of ours
        return results, users_file

    places(stages.run_file(config))
    return config, places, words[0]


def _is_folder(path) -> bool:
    return str(path).endswith("/") or Path(path).is_dir()


def _file_in(folder, words, kept) -> Path:
    """A file in a folder of results, named by words; one of another run's results is spared.

    ``kept``: where the run keeps its model.
    """
    name = "-".join(str(word) for word in words if word is not None).replace("/", "_")
    file = Path(folder) / f"{name}.json"
    try:
        other = file.exists() and Path(RunResult.read(file).checkpoint or "").stem
    except UserError:
        other = ""
    key = kept.stem.removeprefix("-".join(words[:2]) + "-")
    return file if other in (False, kept.stem) else file.with_stem(f"{name}-{key}")


def _refuse_of_others(model, settings) -> None:
    """Refuse what RecBole's own models would pass over without a word."""
    for key in () if is_ours(model) else ("save_users", "holdout_items"):
        if key in settings and settings[key]:
            told = f"{key} needs a model of this package, which {model} is not; leave it off, or"
            raise UserError(f"{told} take --model=LLMEmb{model} --item_embedding=id.", key=key)
