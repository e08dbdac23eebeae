"""A run from a dataset's files to one table of results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
import yaml
from recbole.utils import init_logger

from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.config.values import property_files
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import inputs_of, refuse_inputs
from recbole_llmemb.evaluation import cold
from recbole_llmemb.evaluation.measure import measure_of_run
from recbole_llmemb.models.registry import is_ours, look_up, model_class
from recbole_llmemb.run import artifacts, stages
from recbole_llmemb.run.per_user import read_users, write_users
from recbole_llmemb.run.result import check_writable, plain, results_table, users_file_of

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
    seconds: dict = {}
    config, result_json, users_file = _asked(typed)
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
        report(f"prepare: {cold.told(train.held_out)}")
    artifacts.provide(config, train, report, seconds)
    model, trainer = stages.build(config, data)
    report(
        f"train: {config['model']} on {config['device']}, {torch.get_num_threads()} threads, "
        f"at most {config['epochs']} epochs …"
    )
    result = stages.train_and_evaluate(
        config, data, model, trainer, resume=config["resume"] is not False, report=report
    )
    result.seconds = {**seconds, **result.seconds}
    report(f"train: {result.epochs} epochs in {result.seconds['train']:.1f} s")
    table = results_table(
        result.best_valid_result,
        result.test_result,
        result.groups if result.test_result else result.valid_groups,
        labels=result.labels,
        valid_users=len(data.valid._dataset),
        measure=measure_of_run(config),
    )
    report(f"\n{table}")
    if config["holdout_items"]:
        cold_items = cold.evaluate_cold(config, data, model)
        report(f"\n{cold.cold_table(cold_items)}")
        result.cold_items = plain(cold_items)
    report(f"\ncheckpoint: {result.checkpoint}")
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
    return result.content(result_json)


def _asked(typed):
    """The configuration that was typed, the result file, and that of results per user.

    Whatever cannot work is refused before any work.
    """
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
    _refuse_of_others(model, typed)
    config = make_config(model, str(dataset), files, typed, strict=typed)
    _refuse_of_others(model, config)
    if config["holdout_items"]:
        cold.check_model(config, model_class(model))
    users_file = users_file_of(result_json) if config["save_users"] else None
    for output in (result_json, users_file):
        refuse_inputs(output, [*files, *inputs_of(config)])
    if users_file is not None and users_file.exists():
        read_users(users_file)  # which refuses what is none of ours
    return config, result_json, users_file


def _refuse_of_others(model, settings) -> None:
    """Refuse what RecBole's own models would pass over without a word."""
    for key in () if is_ours(model) else ("save_users", "holdout_items"):
        if key in settings and settings[key]:
            raise UserError(
                f"{key} needs a model of this package, which {model} is not; leave it off, or take "
                f"--model=LLMEmb{model} with --item_embedding=id.",
                key=key,
            )


def dataset_in(files) -> str | None:
    """The dataset that the last of these configuration files names, if any does."""
    found = None
    for file in files:
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # make_config says what is wrong with it
        if isinstance(content, dict):
            found = content.get("dataset", found)
    return found
