"""A run from a dataset's files to one table of results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import yaml
from recbole.utils import init_logger

from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.config.values import property_files
from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.files import inputs_of, refuse_inputs
from recbole_llmemb.evaluation import cold
from recbole_llmemb.evaluation.measure import excluded_of, measure_of_run
from recbole_llmemb.models.registry import is_ours, look_up, model_class
from recbole_llmemb.run import artifacts, stages
from recbole_llmemb.run.per_user import read_users, write_users
from recbole_llmemb.run.result import (
    SECONDS,
    RunResult,
    check_writable,
    results_table,
    users_file_of,
)

__all__ = ["execute"]


def execute(typed: dict, report: Callable[[str], None] = print) -> dict:
    """Do a run.

    Parameters
    ----------
    typed : dict
        Configuration as on the command line; ``model``, ``dataset``, ``config_files`` and
        ``result_json`` included.
    report : callable
        Called with each line of what is going on, and with the results.

    Returns
    -------
    dict
        What ``--result_json`` holds.
    """
    began = perf_counter()
    asked = _asked(typed)
    config, watch = asked.config, _Stages(report)
    data = _prepare(config, watch)
    artifacts.provide(config, data.train._dataset, report, watch)
    model, trainer = stages.build(config, data)
    report(
        f"train: {config['model']} on {config['device']}, {torch.get_num_threads()} threads, "
        f"at most {config['epochs']} epochs …"
    )
    outcome = stages.train_and_evaluate(
        config, data, model, trainer, resume=config["resume"] is not False, report=report
    )
    watch.seconds.update(outcome.seconds)
    report(f"train: {outcome.epochs} epochs in {outcome.seconds['train']:.1f} s")
    report("\n" + _table(config, data, outcome))
    cold_items = None
    if config["holdout_items"]:
        cold_items = cold.evaluate_cold(config, data, model)
        report(f"\n{cold.cold_table(cold_items)}")
    report(f"\ncheckpoint: {outcome.checkpoint}")
    result = _result(config, outcome, watch.seconds, cold_items)
    if asked.users_file is not None and outcome.details is not None:
        write_users(asked.users_file, outcome.details, data.dataset)
        result.users_file = asked.users_file
        report(f"per user:   {asked.users_file}")
    elif asked.users_file is not None:
        report("per user:   nothing, as nobody was tested")
    if asked.result_json:
        result.write(asked.result_json)
        report(f"results:    {asked.result_json}")
    report(f"total:      {perf_counter() - began:.1f} s")
    return result.content(asked.result_json)


@dataclass
class _Asked:
    """What a run is to do, and where it is to write."""

    config: Any
    result_json: str | None
    users_file: Path | None


def _asked(typed) -> _Asked:
    """The configuration that was typed; whatever cannot work is refused before any work."""
    typed = dict(typed)
    files = property_files(typed)
    result_json = typed.pop("result_json", None)
    if result_json:
        check_writable(result_json)
    model = typed.pop("model", None)
    dataset = typed.pop("dataset", None) or dataset_in(files) or "ml-100k"
    if isinstance(model, type):
        model = look_up(model).__name__
    if not isinstance(model, str):
        raise UserError("No model is named; add --model=LLMEmbSASRec, for example.", key="model")
    ours = is_ours(model)
    _refuse_of_others(model, ours, typed)
    config = make_config(model, str(dataset), files, typed, strict=typed)
    _refuse_of_others(model, ours, config)
    if config["holdout_items"]:
        cold.check_model(config, model_class(model))
    users_file = users_file_of(result_json) if config["save_users"] else None
    for output in (result_json, users_file):
        refuse_inputs(output, [*files, *inputs_of(config)])
    if users_file is not None and users_file.exists():
        read_users(users_file)  # which refuses what is none of ours
    return _Asked(config, result_json, users_file)


def _refuse_of_others(model, ours, settings) -> None:
    """Refuse what RecBole's own models would pass over without a word."""
    for key in () if ours else ("save_users", "holdout_items"):
        if key in settings and settings[key]:
            raise UserError(
                f"{key} needs a model of this package, which {model} is not; leave it off, or take "
                f"--model=LLMEmb{model} with --item_embedding=id.",
                key=key,
            )


class _Stages:
    """Reports stages of a run, and keeps how many seconds each took."""

    def __init__(self, report):
        self.report, self.seconds = report, dict.fromkeys(SECONDS)

    def __call__(self, name, what, work):
        self.report(f"{name}: {what} …")
        began = perf_counter()
        found = work()
        self.seconds[name] = perf_counter() - began
        self.report(f"{name}: done in {self.seconds[name]:.1f} s")
        return found


def _prepare(config, watch):
    place = Path.cwd() / "log"
    with explained(
        f"The log cannot be kept in {place} ({{reason}}); start in a folder that can be written "
        "to.",
        OSError,
        where=place,
    ):
        init_logger(config)
    name = config["dataset"]
    work = partial(stages.prepare_data, config, artifacts=False)
    data = watch("prepare", f"reading {name}", work)
    train = data.train._dataset
    watch.report(
        f"prepare: {train.user_num - 1:,} users, {train.item_num - 1:,} items, "
        f"{len(train):,} training targets"
    )
    for part in getattr(train, "matched", None) or []:
        watch.report(f"prepare: {part}")
    if config["holdout_items"]:
        watch.report(f"prepare: {cold.told(train.held_out)}")
    return data


def _table(config, data, outcome) -> str:
    return results_table(
        outcome.best_valid_result,
        outcome.test_result,
        outcome.groups if outcome.test_result else outcome.valid_groups,
        labels=outcome.labels,
        valid_users=len(data.valid._dataset),
        measure=measure_of_run(config),
    )


def _result(config, outcome, seconds, cold_items) -> RunResult:
    kept = {
        key: value
        for key, value in stages.settings(config).items()
        if value is not None and key not in ("model", "dataset", "seed")
    }
    details = outcome.details
    return RunResult(
        model=config["model"],
        dataset=config["dataset"],
        seed=config["seed"],
        best_valid_result=outcome.best_valid_result,
        test_result=outcome.test_result,
        groups=outcome.groups or {},
        seconds=seconds,
        epochs=outcome.epochs,
        parameters=outcome.parameters,
        valid_groups=outcome.valid_groups or None,
        config={**kept, "exclude_history": excluded_of(config)},
        curve=outcome.curve,
        # Without a test there are none, as there are no groups.
        bins={} if not outcome.test_result else None if details is None else details.bins(),
        checkpoint=outcome.checkpoint,
        cold_items=cold_items or None,
    )


def dataset_in(files) -> str | None:
    """The dataset that the last of these configuration files names, if any does."""
    found = None
    for file in files:
        try:
            with open(file, encoding="utf-8") as handle:
                content = yaml.safe_load(handle)
        except (OSError, yaml.YAMLError):
            continue  # make_config says what is wrong with it
        if isinstance(content, dict):
            found = content.get("dataset", found)
    return found
