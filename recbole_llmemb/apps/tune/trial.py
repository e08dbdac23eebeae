"""One trial: training from a configuration, told to Ray Tune after every validation."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

import ray
import torch
from pyarrow.fs import FileSelector
from ray import tune

from recbole_llmemb.apps.tune.plan import make_plan
from recbole_llmemb.apps.tune.prepare import load_data, prepare
from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.devices import random_state, set_random_state
from recbole_llmemb.core.errors import UserError, in_a_sentence, reason_of
from recbole_llmemb.encode import cache_directory
from recbole_llmemb.evaluation.metrics import measure_of_run
from recbole_llmemb.run import stages

#: Files of a trial's checkpoint: where it stands, its best epoch, and what else it needs and tells.
STATE, BEST, EXTRA = "state.pth", "best.pth", "rest.pth"


def trainable(model, dataset=None, config_files=(), metric=None, report=print, **settings):
    """A function for ``ray.tune.Tuner`` that trains a model.

    The dataset, the table and the teacher are prepared now; trials read what was prepared.
    After every validation a trial reports its metrics by name, those of groups as
    ``tail_items ndcg@10``, ``epoch``, and ``score``: the metric at its best epoch so far.

    ``model``: any model of this package or of RecBole.
    ``dataset``: ``ml-100k`` if not given.
    ``metric``: what ``score`` is; ``valid_metric`` of the configuration if not given.
    ``report``: called with one line per stage.
    ``**settings``: any configuration key.
    Returns a function of a configuration, whose keys win over all of these.
    """
    plan, config = make_plan(model, dataset or "ml-100k", config_files, settings, None, metric)
    return bind(prepare(plan, config, report=report))


def bind(prepared, records_failures=False):
    """The trainable of what was prepared."""
    return tune.with_parameters(run_trial, shared=prepared, records_failures=records_failures)


def run_trial(config, shared=None, records_failures=False):
    """Train one configuration inside Ray Tune; see :func:`trainable`."""
    try:
        _train(shared, settings_of(config), number_of(config))
    except Exception as error:
        if not records_failures:
            raise
        # Not a matter for Ray, which would try it again: it would end in the same way.
        # A trial that dies with its process is what Ray does try again.
        logging.getLogger(__name__).debug("trial failed", exc_info=True)
        tune.report({"failed": why_failed(error)})


def why_failed(error: BaseException) -> str:
    """Why a trial failed, in one line."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    return in_a_sentence(error) or f"{type(error).__name__}: {reason_of(error)}"


def settings_of(config: dict) -> dict:
    """The searched keys of what Ray calls a trial's configuration."""
    return dict(config["trial"]["settings"] if "trial" in config else config)


def number_of(config: dict) -> int:
    """A trial's number, from 1; 0 outside of a search of ours."""
    return config["trial"]["number"] if "trial" in (config or {}) else 0


def trial_config(prepared, chosen, scratch, resources):
    """The configuration of a trial where it runs."""
    plan = prepared.plan
    values = plan.values(chosen) | {"show_progress": False, "checkpoint_dir": str(scratch)}
    values |= {"use_gpu": False, "gpu_id": ""}
    if resources.get("GPU"):
        # RecBole sets the variable itself, to gpu_id, which would send all trials to one GPU.
        values |= {"use_gpu": True, "gpu_id": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
    torch.set_num_threads(max(1, int(resources.get("CPU") or 1)))
    folder = cache_directory(values) / "tune"
    if prepared.items:
        file = Path(prepared.items.on_this_node(folder, inner=plan.dataset))
        if file != prepared.items.path:
            values["data_path"] = str(file.parents[1])
    if prepared.table:
        values |= {"llm_table": prepared.table.on_this_node(folder), "scft": False}
    if prepared.teacher:
        values["align_teacher"] = prepared.teacher.on_this_node(folder)
    return make_config(plan.model, plan.dataset, overrides=values)


@contextlib.contextmanager
def _built(prepared, chosen, resources):
    """The configuration of a trial, its data and its trainer, and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="recbole-llmemb-trial-") as scratch:
        config = trial_config(prepared, chosen, scratch, resources)
        data = load_data(config, prepared.data)
        _, trainer = stages.build(config, data)
        yield config, data, trainer, Path(scratch)


def _train(prepared, chosen, number):
    given = tune.get_context().get_trial_resources()
    resources = given.required_resources if given is not None else {}
    with _built(prepared, chosen, resources) as (_, data, trainer, scratch):
        trainer.saved_model_file = str(scratch / BEST)
        reporter = TrialReporter(trainer, data.train, prepared.plan.metric, scratch)
        reporter.place = {"node": ray.get_runtime_context().get_node_id()[:8]}
        reporter.settings, reporter.number = chosen, number
        if number:  # elsewhere, a trial may go on from another's model
            trainer.run_key = f"trial {number}: {chosen}"
        if _continues(reporter, tune.get_checkpoint()):
            return
        after = reporter.after_validation
        trainer.fit(data.train, data.valid, show_progress=False, callback_fn=after)
        if reporter.last is None:
            raise UserError("No validation took place; eval_step must not be above epochs.")


def _continues(reporter, given) -> bool:
    """Restore a trial from its last whole checkpoint; whether it had ended, and told so again.

    That is the one that Ray names, unless it was killed between keeping a newer one, removing
    that one, and noting so.
    """
    if given is None:
        return False
    for one in checkpoints(given):
        with contextlib.suppress(OSError), one.as_directory() as place:
            if _is_whole(place, reporter.number):
                if ended := reporter.restore(place):
                    reporter.tell_again(place)
                return ended
    return False


def checkpoints(given):
    """A trial's: the one that Ray names, which may be gone, then all there are, newest first."""
    folder = FileSelector(given.path.rpartition("/")[0], allow_not_found=True)
    others = [file.path for file in given.filesystem.get_file_info(folder)
              if "checkpoint_" in file.base_name]  # fmt: skip
    for path in [given.path, *sorted(others, reverse=True)]:
        yield tune.Checkpoint(path, given.filesystem)


def _is_whole(folder, number) -> bool:
    try:
        for name in (STATE, BEST):
            rest = _check_part(folder, name)
    except UserError:
        return False
    return rest.get("number", number) == number


def _check_part(folder, name) -> dict:
    """What a checkpoint tells, if a part of it is whole, of the same trial and of its epoch."""
    rest, file = checkpoint.load(Path(folder) / EXTRA), Path(folder) / name
    part = checkpoint.load(file)
    epoch = rest["last"]["epoch"] if name == STATE else rest["best"]["best_epoch"]
    if part["epoch"] + 1 != epoch or not checkpoint.is_of(part, rest.get("run_key")):
        told = f"{file} is another trial's, or of another epoch, than {EXTRA} beside it"
        raise UserError(f"{told}; put the trial's own back.", where=file)
    return rest


def evaluate(prepared, settings, kept, cpus, gpus):
    """Rank validation and test with a trial's best epoch.

    Returns ``result``, ``groups``, ``labels``, ``users`` and ``measure`` on validation and on test.
    """
    found = []
    resources = {"CPU": cpus, "GPU": gpus}
    with (
        _built(prepared, settings, resources) as (config, data, trainer, _),
        kept.as_directory() as folder,
    ):
        _check_part(folder, BEST)
        trainer.eval_collector.data_collect(data.train)
        trainer.know_groups(data.train._dataset)
        for loader in (data.valid, data.test):
            result = trainer.evaluate(loader, model_file=str(Path(folder) / BEST))
            found.append(
                {
                    "result": dict(result or {}),  # None without a test part
                    "groups": trainer.groups_of_last_evaluation,
                    "labels": trainer.group_labels,
                    "users": len(loader._dataset),
                    "measure": measure_of_run(config),
                }
            )
    return tuple(found)


class TrialReporter:
    """Sees every validation of a trainer: reports it, with a checkpoint to continue from."""

    def __init__(self, trainer, loader, metric, scratch):
        self.trainer, self.loader, self.metric, self.scratch = trainer, loader, metric, scratch
        self.last = self.best = None
        self.place, self.settings, self.rows, self.number = {}, {}, [], 0
        validate = trainer._valid_epoch

        def watched(*arguments, **options):
            score, result = validate(*arguments, **options)
            self.result = dict(result)
            self.groups = trainer.groups_of_last_evaluation or {}
            return score, result

        trainer._valid_epoch = watched

    def after_validation(self, epoch, score):
        """What ``fit`` calls; ``score`` is of ``valid_metric``."""
        trainer, names = self.trainer, dict(self.result)
        for group, values in self.groups.items():
            names |= {f"{group} {name}": value for name, value in values.items()}
        if trainer.cur_step == 0:  # the trainer has just saved it as its best
            if names.get(self.metric.name) is None:
                none = f"There is no {self.metric.name}: nobody validated is in the group."
                raise UserError(none, key="metric")
            self.best = {"best_epoch": epoch + 1, "score": names[self.metric.name]}
        self.last = {
            "epoch": epoch + 1,
            "train_loss": trainer.train_loss_dict[epoch],
            "ended": trainer.cur_step > trainer.stopping_step or epoch + 1 >= trainer.epochs,
            **self.best,
            **self.place,
            **{name: value for name, value in names.items() if value is not None},
        }
        self.rows.append(self.last)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            self._save(Path(folder), epoch)
            tune.report(self.last, checkpoint=tune.Checkpoint.from_directory(folder))

    def _save(self, folder, epoch):
        trainer, generator = self.trainer, getattr(self.loader, "generator", None)
        trainer._save_checkpoint(epoch, verbose=False, saved_model_file=str(folder / STATE))
        shutil.copyfile(trainer.saved_model_file, folder / BEST)
        rest = {
            "last": self.last,
            "best": self.best,
            "settings": self.settings,
            "number": self.number,
            "run_key": getattr(trainer, "run_key", None),
            "rows": self.rows,
            "best_valid_result": trainer.best_valid_result,
            "rng": random_state(),
            "loader_rng": None if generator is None else generator.get_state(),
        }
        checkpoint.save(rest, folder / EXTRA)

    def tell_again(self, folder):
        """Report a trial that had ended, with its checkpoint, of which Ray may not know yet."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as copy:  # as it may be written over
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            tune.report(self.last, checkpoint=tune.Checkpoint.from_directory(copy))

    def restore(self, folder) -> bool:
        """Continue from a checkpoint; whether that is the end of the training already."""
        folder, trainer = Path(folder), self.trainer
        rest = checkpoint.load(folder / EXTRA)
        self.last, self.best = rest["last"], rest["best"]
        self.rows = rest.get("rows", [self.last])  # older checkpoints have but the last
        if self.last["ended"]:
            return True
        shutil.copyfile(folder / BEST, trainer.saved_model_file)
        trainer.resume_checkpoint(str(folder / STATE))
        trainer.best_valid_result = rest["best_valid_result"]
        if not trainer.resumes:  # RecBole's own: ours sees to its numbers itself
            set_random_state(rest["rng"])
            if rest["loader_rng"] is not None:
                self.loader.generator.set_state(rest["loader_rng"])
        return False
