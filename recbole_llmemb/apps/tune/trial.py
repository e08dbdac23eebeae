"""One trial: training from a configuration, told to Ray Tune after every validation."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

import torch

from recbole_llmemb.apps.tune import shared as sharing
from recbole_llmemb.apps.tune.needs import require_ray
from recbole_llmemb.apps.tune.plan import make_plan
from recbole_llmemb.apps.tune.trials import settings_of
from recbole_llmemb.core import checkpoint, random_state
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.run import stages

#: Files of a trial's checkpoint: where it stands, its best epoch, and what else it needs.
STATE, BEST, REST = "state.pth", "best.pth", "rest.pth"


def trainable(model, dataset=None, config_files=(), metric=None, report=print, **settings):
    """A function for ``ray.tune.Tuner`` that trains a model.

    The dataset, the table and the teacher are prepared now; trials read what was prepared.
    After every validation a trial reports its metrics by name, those of groups as
    ``tail_items ndcg@10``, ``epoch``, and ``score``: the metric at its best epoch so far.

    ``model``: any model of this package or of RecBole.
    ``dataset``: ``ml-100k`` if not given.
    ``metric``: what ``score`` is; ``valid_metric`` of the configuration if not given.
    ``report``: told in one line each what is being prepared.
    ``**settings``: any configuration key.
    Returns takes a configuration, whose keys win over all of these.
    """
    require_ray()
    from recbole_llmemb.apps.tune.prepare import prepare

    plan, config = make_plan(model, dataset or "ml-100k", config_files, settings, None, metric)
    return bind(plan, prepare(plan, config, report=report))


def bind(plan, prepared, records_failures=False):
    """The trainable of a plan and of what was prepared for it."""
    from ray import tune

    things = {"plan": plan, **prepared, "records_failures": records_failures}
    return tune.with_parameters(run_trial, shared=things)


def run_trial(config, shared=None):
    """Train one configuration inside Ray Tune; see :func:`trainable`."""
    chosen = settings_of(config)
    try:
        _train(chosen, shared)
    except Exception as error:
        if not shared["records_failures"]:
            raise
        # Not a matter for Ray, which would try it again: it would end in the same way.
        # A trial that dies with its process is what Ray does try again.
        from ray import tune

        logging.getLogger(__name__).debug("trial failed", exc_info=True)
        tune.report({"failed": reason(error)})


def reason(error: BaseException) -> str:
    """Why a trial failed, in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return f"out of memory ({text[:200]})" if text else "out of memory"
    return f"{type(error).__name__}: {text[:300]}"


def trial_config(plan, shared, chosen, scratch, resources):
    """The configuration of a trial where it runs.

    ``shared``: what was prepared for all trials.
    ``chosen``: the searched keys.
    ``scratch``: A folder of the trial's own.
    ``resources``: ``CPU`` and ``GPU`` that Ray gave it.
    """
    from recbole_llmemb.config.recbole_config import make_config
    from recbole_llmemb.encode import cache_directory
    from recbole_llmemb.plugin import is_ours

    values = plan.values(chosen)
    values |= {"show_progress": False, "checkpoint_dir": str(scratch), **plan.local}
    values |= _device(resources)
    if is_ours(plan.model):
        folder = cache_directory(values) / "tune"
        if shared["items"]:
            file = sharing.place(*shared["items"], folder / plan.dataset)
            if file != shared["items"][0]:
                values["data_path"] = _dataset_folder(file, folder, plan.dataset)
        if shared["table"]:
            values |= {"llm_table": sharing.place(*shared["table"], folder), "scft": False}
        if shared["teacher"]:
            values["align_teacher"] = sharing.place(*shared["teacher"], folder)
    return make_config(plan.model, plan.dataset, overrides=values)


def _dataset_folder(item_file, folder, dataset):
    """A folder in which the item file lies where RecBole's datasets lie."""
    target = Path(item_file).parent / "as_dataset" / dataset / f"{dataset}.item"
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        beside = target.with_name(f".{os.getpid()}.tmp")
        shutil.copyfile(item_file, beside)
        os.replace(beside, target)
    return str(target.parent.parent)


def _device(resources) -> dict:
    """As many threads as CPUs, and the GPUs that are the trial's."""
    torch.set_num_threads(max(1, int(resources.get("CPU") or 1)))
    if not resources.get("GPU"):
        return {"use_gpu": False, "gpu_id": ""}
    # RecBole sets the variable itself, to gpu_id, which would send all trials to one GPU.
    return {"use_gpu": True, "gpu_id": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}


def _train(chosen, shared):
    import ray
    from ray import tune

    given = tune.get_context().get_trial_resources()
    given = given.required_resources if given is not None else {}
    with tempfile.TemporaryDirectory(prefix="recbole-llmemb-trial-") as scratch:
        config = trial_config(shared["plan"], shared, chosen, scratch, given)
        data = sharing.load_data(config, shared["data"])
        model, trainer = stages.build(config, data)
        trainer.saved_model_file = os.path.join(scratch, BEST)
        watch = Watch(trainer, data.train, shared["plan"].metric, scratch)
        watch.place = {"node": ray.get_runtime_context().get_node_id()[:8]}
        if _continues(watch, tune.get_checkpoint()):
            tune.report(watch.last)
            return
        trainer.fit(data.train, data.valid, show_progress=False, callback_fn=watch.after_validation)
        if watch.last is None:
            raise UserError("No validation took place; eval_step must not be above epochs.")


def _continues(watch, given) -> bool:
    """Restore a trial from its last whole checkpoint; whether it had ended already.

    That is the one that Ray names, unless it was killed between keeping a newer one, removing
    that one, and noting so.
    """
    if given is None:
        return False
    for one in [given, *_others(given)]:
        with contextlib.suppress(OSError), one.as_directory() as folder:
            if _is_whole(folder):
                return watch.restore(folder)
    return False


def _others(given):
    """Checkpoints of the same trial, the newest first."""
    from pyarrow.fs import FileSelector
    from ray import tune

    folder = given.path.rpartition("/")[0]
    found = given.filesystem.get_file_info(FileSelector(folder, allow_not_found=True))
    paths = sorted((one.path for one in found if "checkpoint_" in one.base_name), reverse=True)
    return [tune.Checkpoint(path, given.filesystem) for path in paths]


def _is_whole(folder) -> bool:
    try:
        for name in (STATE, BEST, REST):
            checkpoint.load(Path(folder) / name)
    except UserError:
        return False
    return True


class Watch:
    """Sees every validation of a trainer: reports it, with a checkpoint to continue from.

    ``trainer``: ours or RecBole's own.
    ``loader``: of the training data.
    ``scratch``: an own folder.
    """

    def __init__(self, trainer, loader, metric, scratch):
        self.trainer, self.loader, self.metric = trainer, loader, metric
        self.scratch = Path(scratch)
        self.last = self.best = None
        self.place = {}
        validate = trainer._valid_epoch

        def watched(*arguments, **options):
            score, result = validate(*arguments, **options)
            self.result = dict(result)
            self.groups = getattr(trainer, "groups_of_last_evaluation", None)
            return score, result

        trainer._valid_epoch = watched

    def after_validation(self, epoch, score):
        """What ``fit`` calls; ``score`` is of ``valid_metric``."""
        from ray import tune

        trainer = self.trainer
        names = dict(self.result)
        for group, values in (self.groups or {}).items():
            names |= {f"{group} {name}": value for name, value in values.items()}
        if trainer.cur_step == 0:  # the trainer has just saved it as its best
            decides = self.metric.of(self.result, self.groups)
            if decides is None:
                raise UserError(
                    f"There is no {self.metric.name}: nobody validated is in the group."
                )
            self.best = {
                "best_epoch": epoch + 1,
                "score": decides,
                "best_result": self.result,
                "best_groups": self.groups,
            }
        self.last = {
            "epoch": epoch + 1,
            "train_loss": trainer.train_loss_dict[epoch],
            "ended": trainer.cur_step > trainer.stopping_step or epoch + 1 >= trainer.epochs,
            "score": self.best["score"],
            "best_epoch": self.best["best_epoch"],
            **self.place,
            **{name: value for name, value in names.items() if value is not None},
        }
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            self._save(Path(folder), epoch)
            tune.report(self.last, checkpoint=tune.Checkpoint.from_directory(folder))

    def _save(self, folder, epoch):
        trainer = self.trainer
        trainer._save_checkpoint(epoch, verbose=False, saved_model_file=str(folder / STATE))
        try:
            os.link(trainer.saved_model_file, folder / BEST)
        except OSError:
            shutil.copyfile(trainer.saved_model_file, folder / BEST)
        generator = getattr(self.loader, "generator", None)
        rest = {
            "last": self.last,
            "best": self.best,
            "best_valid_result": trainer.best_valid_result,
            "rng": random_state.get_state(),
            "loader_rng": None if generator is None else generator.get_state(),
        }
        checkpoint.save(rest, folder / REST)

    def restore(self, folder) -> bool:
        """Continue from a checkpoint; whether that is the end of the training already."""
        folder, trainer = Path(folder), self.trainer
        rest = checkpoint.load(folder / REST)
        self.last, self.best = rest["last"], rest["best"]
        if self.last["ended"]:
            return True
        shutil.copyfile(folder / BEST, trainer.saved_model_file)
        trainer.resume_checkpoint(str(folder / STATE))
        trainer.best_valid_result = rest["best_valid_result"]
        if not hasattr(trainer, "resume_file"):  # RecBole's own: ours sees to its numbers itself
            random_state.set_state(rest["rng"])
            if rest["loader_rng"] is not None:
                self.loader.generator.set_state(rest["loader_rng"])
        return False
