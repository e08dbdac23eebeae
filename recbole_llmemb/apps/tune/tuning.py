"""Ray Tune's part of a search: its ``Tuner``, and the best trial's test."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ray
import torch
from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler

from recbole_llmemb.apps.tune import shared as sharing
from recbole_llmemb.apps.tune.progress import Progress
from recbole_llmemb.apps.tune.searching import LIVES, draws
from recbole_llmemb.apps.tune.trial import BEST, bind, trial_config
from recbole_llmemb.apps.tune.trials import number_of
from recbole_llmemb.config.measure import measure_of_run
from recbole_llmemb.run import stages


def make_tuner(
    plan, prepared, space, place, *, resume, seed, num_samples, max_concurrent, resources,
    scheduler, search, grace_epochs,
):  # fmt: skip
    """The ``Tuner`` of a search, new or continued.

    ``prepared``: from :func:`~recbole_llmemb.apps.tune.prepare.prepare`.
    ``seed``: of what is drawn.
    ``num_samples, max_concurrent, resources, scheduler, search, grace_epochs``: as of
    :func:`~recbole_llmemb.apps.tune.searching.search`.
    """
    train = tune.with_resources(bind(plan, prepared, records_failures=True), resources)
    if resume:
        return tune.Tuner.restore(place.path, train, resume_unfinished=True, resume_errored=True)
    mode, by_optuna = plan.metric.mode, search == "optuna"
    rungs = None
    if scheduler == "asha":
        rungs = ASHAScheduler(
            time_attr="epoch",
            max_t=plan.epochs,
            grace_period=min(grace_epochs, plan.epochs),
            reduction_factor=3,
        )
    return tune.Tuner(
        train,
        param_space={}
        if by_optuna
        else {"trial": tune.grid_search(draws(space, num_samples, seed))},
        tune_config=tune.TuneConfig(
            metric="score",
            mode=mode,
            num_samples=num_samples if by_optuna else 1,
            max_concurrent_trials=max_concurrent,
            scheduler=rungs,
            search_alg=_optuna(space, seed, mode) if by_optuna else None,
            trial_dirname_creator=_folder_of,
            reuse_actors=True,  # a new process takes seconds to import everything
        ),
        run_config=tune.RunConfig(
            name=place.name,
            storage_path=place.root,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=LIVES),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            callbacks=[Progress(num_samples, plan.metric), JsonLoggerCallback()],
        ),
    )


def _folder_of(trial):
    return f"trial_{number_of(trial.config):05d}"


def _optuna(space, seed, mode):
    from recbole_llmemb.apps.tune.by_optuna import SpaceByOptuna

    return SpaceByOptuna(space, seed, mode)


def evaluate(plan, prepared, best, cpus, gpus):
    """Results of the best trial's best epoch on validation and test.

    Returns ``result``, ``groups``, ``labels``, ``users`` and ``measure`` on validation and on test.
    """
    if gpus:  # which this process may be without
        task = ray.remote(_evaluate).options(num_cpus=cpus, num_gpus=gpus)
        shared = ray.put(prepared)
        return ray.get(task.remote(plan, shared, best.settings, best.checkpoint, cpus, gpus))
    threads = torch.get_num_threads()
    try:
        return _evaluate(plan, prepared, best.settings, best.checkpoint, cpus, gpus)
    finally:
        torch.set_num_threads(threads)


def _evaluate(plan, prepared, settings, checkpoint, cpus, gpus):
    with tempfile.TemporaryDirectory(prefix="recbole-llmemb-test-") as scratch:
        config = trial_config(plan, prepared, settings, scratch, {"CPU": cpus, "GPU": gpus})
        data = sharing.load_data(config, prepared["data"])
        model, trainer = stages.build(config, data)
        found = []
        with checkpoint.as_directory() as folder:
            trainer.eval_collector.data_collect(data.train)
            if hasattr(trainer.evaluator, "know_groups"):  # as fit does, of ours
                trainer.evaluator.know_groups(config, data.train._dataset)
            for loader in (data.valid, data.test):
                result = trainer.evaluate(loader, model_file=str(Path(folder) / BEST))
                groups = getattr(getattr(trainer, "evaluator", None), "groups", None)
                found.append(
                    {
                        "result": dict(result or {}),  # None without a test part
                        "groups": getattr(trainer, "groups_of_last_evaluation", None),
                        "labels": None if groups is None else groups.labels,
                        "users": len(loader._dataset),
                        "measure": measure_of_run(config),
                    }
                )
    return tuple(found)
