"""The search: trials by Ray Tune, then the test set, once, and the report."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from recbole_llmemb.apps.tune.needs import require_ray
from recbole_llmemb.apps.tune.space import read_space
from recbole_llmemb.apps.tune.trials import Trial, best_of, collect
from recbole_llmemb.core.cluster import connected
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.optional import optional

SCHEDULERS = ("asha", "none")
ALGORITHMS = ("random", "optuna")
#: How often a trial whose process died is begun again, at its last epoch.
LIVES = 2


@dataclass
class Found:
    """What a search found."""

    best: Trial
    trials: list
    valid: dict  # valid, test: ``result`` and ``groups`` of the best trial's best epoch
    test: dict
    settings: dict  # The best configuration, as its yaml file has it
    folder: Path  # Where the report is
    seconds: float
    table: str = ""  # The trials, the best first, for people
    files: list = field(default_factory=list)  # What was written


def search(
    model,
    dataset=None,
    space=None,
    *,
    config_files=(),
    num_samples=8,
    max_concurrent=None,
    cpus_per_trial=1,
    gpus_per_trial=0,
    scheduler="asha",
    search="random",
    metric=None,
    storage="tune",
    name=None,
    resume=False,
    grace_epochs=None,
    report=print,
    **settings,
) -> Found:
    """Search for the best settings of a model.

    ``model``: any model of this package or of RecBole.
    ``dataset``: ``ml-100k`` if not given.
    ``space``: see :func:`~recbole_llmemb.apps.tune.space.read_space`.
    ``config_files``: configuration files, later ones win.
    ``num_samples``: trials.
    ``max_concurrent``: trials at a time; as many as there is room for if not given.
    ``cpus_per_trial``: CPUs of a trial, and its threads.
    ``gpus_per_trial``: GPUs of a trial; 0.5 puts two trials on one.
    ``scheduler``: whether trials that are behind are stopped early.
    ``search``: how configurations are drawn.
    ``metric``: such as ``ndcg@10`` or ``tail_items ndcg@10``; ``valid_metric`` if not given.
    ``storage``: where searches are kept: a folder, or an address such as ``s3://bucket/folder``.
    ``name``: of the search, below ``storage``; ``MODEL-DATASET`` if not given.
    ``resume``: continue a search that is there.
    ``grace_epochs``: no trial is stopped before; a tenth of ``epochs``, at least 1, if not given.
    ``report``: told in one line each what is going on.
    ``**settings``: any configuration key.
    """
    began = perf_counter()
    _check(num_samples, max_concurrent, cpus_per_trial, gpus_per_trial, scheduler, search)
    if grace_epochs is not None:
        _check_whole("grace_epochs", grace_epochs)
    if not isinstance(resume, bool):
        raise UserError(f"--resume is {resume!r}; it must be True or False.")
    ray = require_ray()
    optional("matplotlib", "tune", "The report of a search")
    if search == "optuna":
        optional("optuna", "tune", "--search=optuna")
    from recbole_llmemb.apps.tune import reporting
    from recbole_llmemb.apps.tune.plan import make_plan
    from recbole_llmemb.apps.tune.prepare import prepare
    from recbole_llmemb.apps.tune.shared import size_of
    from recbole_llmemb.apps.tune.storage import Storage, agree, can_resume
    from recbole_llmemb.core.gpus import preserve_cuda_visible_devices
    from recbole_llmemb.run.stages import data_hash

    if space is None:
        raise UserError("There is no search space; give one with --space=FILE.")
    space = read_space(space)
    if not gpus_per_trial:
        settings.setdefault("use_gpu", False)  # and so in the best configuration's file
    with preserve_cuda_visible_devices():
        plan, config = make_plan(model, dataset or "ml-100k", config_files, settings, space, metric)
    place = Storage(storage, name or f"{plan.model}-{plan.dataset}")
    record = {
        "model": plan.model,
        "dataset": plan.dataset,
        "settings": plan.settings,
        "space": space.plain(),
        "metric": plan.metric.name,
        "num_samples": num_samples,
        "scheduler": scheduler,
        "search": search,
        "grace_epochs": grace_epochs,
        "max_concurrent": max_concurrent,
        "data": data_hash(config),
    }
    agree(place, record, resume)
    with preserve_cuda_visible_devices():
        prepared = prepare(plan, config, space, report)
    # Twice what is shared: in the object store, and on its way there.
    memory = 2 * size_of(prepared) + (100 << 20)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told by trial
    with connected(ray, memory) as here:
        from recbole_llmemb.apps.tune.tuning import evaluate, make_tuner

        report(_described(ray, here))
        _check_room(ray, cpus_per_trial, gpus_per_trial)
        resume = resume and can_resume(place)
        place.write(record)
        tuner = make_tuner(
            plan,
            prepared,
            space,
            place,
            resume=resume,
            seed=config["seed"],
            num_samples=num_samples,
            max_concurrent=max_concurrent,
            resources={"cpu": cpus_per_trial, "gpu": gpus_per_trial},
            scheduler=scheduler,
            search=search,
            grace_epochs=grace_epochs or max(1, plan.epochs // 10),
        )
        trials = collect(tuner.fit(), plan.metric)
        best = best_of(trials, plan.metric)
        report(f"test: trial {best.number} on the test set …")
        with preserve_cuda_visible_devices():
            valid, test = evaluate(plan, prepared, best, cpus_per_trial, gpus_per_trial)
    found = Found(
        best=best,
        trials=trials,
        valid=valid,
        test=test,
        settings=reporting.best_settings(plan, best),
        folder=Path(place.path if not place.remote else f"tune/{place.name}"),
        seconds=perf_counter() - began,
    )
    found.table = reporting.trials_table(plan, space, trials, limit=20)
    found.files = reporting.write(plan, space, found, place)
    return found


def _described(ray, here):
    """The Ray that a search runs on, in a line."""
    nodes = sum(node["Alive"] for node in ray.nodes())
    resources = ray.cluster_resources()
    gpus = f", {resources['GPU']:g} GPUs" if resources.get("GPU") else ""
    return (
        f"ray {ray.__version__}: {here}, {nodes} {'node' if nodes == 1 else 'nodes'}, "
        f"{resources.get('CPU', 0):g} CPUs{gpus}"
    )


def _check(num_samples, max_concurrent, cpus, gpus, scheduler, search):
    whole = {"num_samples": num_samples, "max_concurrent": max_concurrent, "cpus_per_trial": cpus}
    for key, value in whole.items():
        if key == "max_concurrent" and value is None:
            continue
        _check_whole(key, value)
    if not isinstance(gpus, (int, float)) or isinstance(gpus, bool) or gpus < 0:
        raise UserError(f"--gpus_per_trial is {gpus!r}; it must be a number of at least 0.")
    if scheduler not in SCHEDULERS:
        raise UserError(f"--scheduler is {scheduler!r}; it must be one of {', '.join(SCHEDULERS)}.")
    if search not in ALGORITHMS:
        raise UserError(f"--search is {search!r}; it must be one of {', '.join(ALGORITHMS)}.")


def _check_whole(key, value):
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"--{key} is {value!r}; it must be a whole number of at least 1.")


def _check_room(ray, cpus, gpus):
    """Refuse trials that no node has room for, which Ray would wait for without end."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        have = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={})
        raise UserError(
            f"A trial wants {cpus} CPUs and {gpus:g} GPUs (--cpus_per_trial, --gpus_per_trial), "
            f"but no node of Ray has both; the largest has {have.get('CPU', 0):g} CPUs and "
            f"{have.get('GPU', 0):g} GPUs."
        )


def draws(space, count, seed) -> list[dict]:
    """The configurations of a random search: the same for the same seed.

    None is drawn twice, as long as a space of choices has others.
    """
    generator, found = random.Random(seed), []
    for _ in range(count):
        for _ in range(50):
            drawn = space.draw(generator)
            if drawn not in found:
                break
        found.append(drawn)
    return [{"number": number, "settings": drawn} for number, drawn in enumerate(found, 1)]
