"""``recbole-llm run``: from a dataset's files to one table of results."""

from __future__ import annotations

import textwrap
from pathlib import Path
from time import perf_counter

from recbole_llmemb.core.errors import UserError

HELP = """usage: recbole-llm run --model=MODEL [--dataset=NAME] [--data_path=DIR]
                       [--config_files="a.yaml b.yaml"] [--result_json=FILE] [--KEY=VALUE …]

Trains MODEL on a dataset in RecBole's atomic files and ranks it; the item table and the
collaborative teacher are built first if the cache does not have them.

  --model         {models}, or any RecBole model
  --dataset       the dataset's name (default: ml-100k, which RecBole carries)
  --data_path     the folder that holds the dataset's folder (default: dataset/)
  --preset        a variant of items and scores: {presets}
  --config_files  RecBole property files, separated by spaces; later ones win
  --result_json   where to write the results for scripts
  --KEY=VALUE     any configuration key of ours or RecBole's
"""


def parse(argv: list[str]) -> dict:
    """Read ``--key=value`` (or ``--key value``) into typed values."""
    from recbole_llmemb.config.recbole_config import typed_value

    values: dict = {}
    argv = list(argv)
    while argv:
        argument = argv.pop(0)
        if not argument.startswith("--"):
            raise UserError(f"Argument {argument!r} is not of the form --key=value.")
        key, given, text = argument[2:].partition("=")
        if not given:
            if not argv or argv[0].startswith("--"):
                raise UserError(f"--{key} has no value; write --{key}=VALUE.")
            text = argv.pop(0)
        value = None if text.lower() in ("none", "null", "~") else typed_value(key, text)
        if key in values and values[key] != value:
            raise UserError(f"--{key} is given twice, as {values[key]!r} and as {value!r}.")
        values[key] = value
    return values


def main(argv: list[str]) -> int:
    if any(argument in ("-h", "--help") for argument in argv):
        from recbole_llmemb.config.recbole_config import preset_names
        from recbole_llmemb.plugin import names

        print(HELP.format(models=_wrapped(names()), presets=", ".join(preset_names())))
        return 0
    typed = parse(argv)
    execute(typed)
    return 0


def execute(typed: dict, report=print) -> dict:
    """Do a run.

    Parameters
    ----------
    typed : dict
        Configuration as on the command line; ``model``, ``dataset``, ``config_files`` and
        ``result_json`` included.
    report : callable
        Told in one line each what is going on.

    Returns
    -------
    dict
        What ``--result_json`` holds.
    """
    import torch
    from recbole.utils import init_logger

    from recbole_llmemb.config.measure import excluded_of, measure_of_run
    from recbole_llmemb.config.recbole_config import make_config, preset_file
    from recbole_llmemb.core.files import inputs_of, refuse_inputs
    from recbole_llmemb.evaluation import cold
    from recbole_llmemb.models.llmemb.backbones.settings import look_up
    from recbole_llmemb.plugin import is_ours, model_class
    from recbole_llmemb.run import result as results
    from recbole_llmemb.run import stages
    from recbole_llmemb.run.per_user import read_users, write_users

    started = perf_counter()
    typed = dict(typed)
    files = str(typed.pop("config_files", None) or "").split()
    if typed.get("preset"):  # below the files, which may say otherwise
        files.insert(0, str(preset_file(typed["preset"])))
    typed.pop("preset", None)
    result_json = typed.pop("result_json", None)
    if result_json:
        results.check_writable(result_json)
    model_name = typed.pop("model", None)
    dataset_name = typed.pop("dataset", None) or _dataset_in(files) or "ml-100k"
    if isinstance(model_name, type):
        model_name = look_up(model_name).__name__
    if not isinstance(model_name, str):
        raise UserError("No model is named; add --model=LLMEmbSASRec, for example.")
    if typed.get("save_users") and not is_ours(model_name):
        raise UserError(
            f"save_users needs a model of this package, which {model_name} is not; leave it off, "
            f"or take --model=LLMEmb{model_name} with --item_embedding=id."
        )
    config = make_config(model_name, str(dataset_name), files, typed, strict=typed)
    if config["holdout_items"]:
        cold.check_model(config, model_class(model_name))
    users_file = results.users_file_of(result_json) if config["save_users"] else None
    for output in (result_json, users_file):
        refuse_inputs(output, [*files, *inputs_of(config)])
    if users_file is not None and users_file.exists():
        read_users(users_file)  # which refuses what is none of ours
    try:
        init_logger(config)
    except OSError as error:
        raise UserError(
            f"The log cannot be kept in {Path.cwd() / 'log'} ({error.strerror}); start in a folder "
            "that can be written to."
        ) from None
    seconds = dict.fromkeys(results.SECONDS)

    def stage(name, what, work):
        report(f"{name}: {what} …")
        began = perf_counter()
        outcome = work()
        seconds[name] = perf_counter() - began
        report(f"{name}: done in {seconds[name]:.1f} s")
        return outcome

    data = stage("prepare", f"reading {config['dataset']}", lambda: stages.prepare_data(config))
    train = data.train._dataset
    report(
        f"prepare: {train.user_num - 1:,} users, {train.item_num - 1:,} items, "
        f"{len(train):,} training targets"
    )
    for part in getattr(train, "matched", None) or []:
        report(f"prepare: {part}")
    if config["holdout_items"]:
        report(f"prepare: {cold.told(train.held_out)}")
    if is_ours(model_name) and config["item_embedding"] != "id" and config["item_input"] != "text":
        from recbole_llmemb.models.llmemb.item_layer import has_learnt_adapter
        from recbole_llmemb.models.llmemb.sources import item_table

        # Matched here already: a table that does not fit is refused before the teacher.
        size = item_embedding_size(config)
        narrow = None if has_learnt_adapter(config) else size
        stage("encode", "item table", lambda: item_table(config, data.dataset, report, narrow))
        if config["align_weight"] and size:  # else whoever builds the model finds it out
            from recbole_llmemb.run.teacher import ensure_teacher

            stage("teacher", config["align_teacher"], lambda: ensure_teacher(config, size, report))
    model, trainer = stages.build(config, data)
    report(
        f"train: {model_name} on {config['device']}, {torch.get_num_threads()} threads, "
        f"at most {config['epochs']} epochs …"
    )
    outcome = stages.train_and_evaluate(
        config, data, model, trainer, resume=config["resume"] is not False, report=report
    )
    seconds.update(outcome.seconds)
    report(f"train: {outcome.epochs} epochs in {seconds['train']:.1f} s")
    print()
    print(
        results.results_table(
            outcome.best_valid_result,
            outcome.test_result,
            outcome.groups if outcome.test_result else outcome.valid_groups,
            labels=outcome.labels,
            valid_users=len(data.valid._dataset),
            measure=measure_of_run(config),
        )
    )
    cold_items = None
    if config["holdout_items"]:
        cold_items = cold.evaluate_cold(config, data, model)
        print(f"\n{cold.cold_table(cold_items)}")
    print(f"\ncheckpoint: {outcome.checkpoint}")
    parts = {
        "model": model_name,
        "dataset": config["dataset"],
        "seed": config["seed"],
        "best_valid_result": outcome.best_valid_result,
        "test_result": outcome.test_result,
        "groups": outcome.groups or {},
        "seconds": seconds,
        "epochs": outcome.epochs,
        "parameters": outcome.parameters,
    }
    if outcome.valid_groups:
        parts["valid_groups"] = outcome.valid_groups
    if cold_items:
        parts["cold_items"] = cold_items
    details = outcome.details
    parts["config"] = {
        key: value
        for key, value in stages.settings(config).items()
        if value is not None and key not in ("model", "dataset", "seed")
    }
    parts["config"]["exclude_history"] = excluded_of(config)
    parts["curve"] = outcome.curve
    parts["bins"] = None if details is None else details.bins()
    if not outcome.test_result:
        parts["bins"] = {}  # as groups
    if result_json:
        parts["checkpoint"] = results.relative(outcome.checkpoint, result_json)
        if users_file is not None and details is not None:
            write_users(users_file, details, data.dataset)
            parts["users_file"] = users_file.name
            print(f"per user:   {users_file}")
        elif users_file is not None:
            print("per user:   nothing, as nobody was tested")
        results.write_result_json(result_json, **parts)
        print(f"results:    {result_json}")
    print(f"total:      {perf_counter() - started:.1f} s")
    return parts


def item_embedding_size(config) -> int:
    """Size of a backbone's item embeddings, which not every backbone calls hidden_size."""
    return config["embedding_size"] or config["hidden_size"]


def _wrapped(words):
    """Words with commas between them, in lines that fit behind an option's name."""
    return textwrap.fill(", ".join(words), 78, subsequent_indent=" " * 18).lstrip()


def _dataset_in(files):
    import yaml

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
