"""Ray Tune's part of a search: its ``Tuner``, what draws, what is said, and what came of trials."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from tqdm import tqdm

from recbole_llmemb.apps.tune.trial import EXTRA, bind, checkpoints, number_of, settings_of
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.terminal import progress_bar

#: How often a trial whose process died is begun again, at its last epoch.
MAX_TRIAL_RETRIES = 2


def make_tuner(prepared, place, options, seed, resume) -> tune.Tuner:
    """The ``Tuner`` of a search, new or continued."""
    plan = prepared.plan
    resources = {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}
    train = tune.with_resources(bind(prepared, records_failures=True), resources)
    mode, count = plan.metric.mode, options.num_samples
    drawn, searcher, scheduler = {}, None, None
    if options.search == "optuna":
        searcher = SpaceByOptuna(plan.space, seed, mode)
    else:
        points = enumerate(plan.space.draw(count, seed), 1)
        numbered = [{"number": number, "settings": point} for number, point in points]
        drawn = {"trial": tune.grid_search(numbered)}
    if options.scheduler == "asha":
        grace = options.grace_epochs or max(1, plan.epochs // 10)
        scheduler = Halving(
            time_attr="epoch",
            max_t=plan.epochs,
            grace_period=min(grace, plan.epochs),
            reduction_factor=3,
        )
    begin = partial(
        tune.Tuner,
        train,
        param_space=drawn,
        tune_config=tune.TuneConfig(
            metric="score",
            mode=mode,
            num_samples=count if searcher else 1,
            max_concurrent_trials=options.max_concurrent,
            scheduler=scheduler,
            search_alg=searcher,
            trial_dirname_creator=_folder_of,
            reuse_actors=True,  # a new process takes seconds to import everything
        ),
        run_config=tune.RunConfig(
            name=place.name,
            storage_path=place.root,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_RETRIES),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            callbacks=[Progress(count, plan.metric), JsonLoggerCallback()],
        ),
    )
    if not resume:
        return begin()
    told = f"The search in {place.path} cannot go on ({{reason}}); begin another --name."
    with explained(told, Exception, key="name", where=place.path):  # a pickle raises anything
        begin()  # what Ray reads of the tuner is written anew, so that damage to it does nothing
        # The space is for a record of trials that is damaged: then Ray begins anew.
        return tune.Tuner.restore(
            place.path, train, param_space=drawn, resume_unfinished=True, resume_errored=True
        )


def _folder_of(trial):
    return f"trial_{number_of(trial.config):05d}"


class Halving(ASHAScheduler):
    """Ray's, which in a continued search knows what the trials before had reached.

    Ray keeps all of a search but its scheduler's record.
    """

    def on_trial_add(self, tune_controller, trial):
        super().on_trial_add(tune_controller, trial)
        noted = (trial.last_result or {}).get("epoch", 0)
        for result in _reached(trial) if noted else ():
            if result["epoch"] <= noted:
                super().on_trial_result(tune_controller, trial, result)


def _reached(trial) -> list[dict]:
    """A trial's results by its newest checkpoint that is whole, or the last one alone."""
    for one in checkpoints(trial.checkpoint) if trial.checkpoint else ():
        with suppress(OSError, UserError):
            if rows := _kept(one, number_of(trial.config)).get("rows"):
                return rows
    return [trial.last_result]


class SpaceByOptuna(OptunaSearch):
    """Suggests configurations of a space by Optuna's TPE, with trials that fail."""

    def __init__(self, space, seed, mode):
        super().__init__(_Suggest(space), metric="score", mode=mode, seed=seed)

    def on_trial_result(self, trial_id, result):
        if "score" in result:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id, result=None, error=False):
        if (result or {}).get("failed"):  # Ray believes that it ended well
            result, error = None, True
        super().on_trial_complete(trial_id, result, error)


class _Suggest:
    """A space as Optuna wants it, and as Ray can keep it."""

    def __init__(self, space):
        self.space = space

    def __call__(self, trial):
        settings = self.space.suggest(trial)
        return {"trial": {"number": trial.number + 1, "settings": settings}}


class Progress(tune.Callback):
    """A bar that counts trials and names the best score so far; a line for each that ends."""

    def __init__(self, total, metric):
        self.total, self.metric = total, metric
        self.best, self.ended, self.running = None, set(), {}

    def setup(self, **info):
        self.bar = progress_bar(total=self.total, desc="trials", unit="trial")

    def on_step_begin(self, iteration, trials, **info):
        for trial in trials:
            if trial.status == "TERMINATED":  # those that a resumed search finds finished
                self._end(trial, trial.last_result, ", finished before")

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if result.get("score") is not None:
            self.running[trial.trial_id] = result
        self._better(result)
        self._show(trials)

    def on_trial_complete(self, iteration, trials, trial, **info):
        self._end(trial, trial.last_result)
        self._show(trials)

    def on_trial_error(self, iteration, trials, trial, **info):
        self._end(trial, {"failed": f"its process died {MAX_TRIAL_RETRIES + 1} times"})

    def on_trial_recover(self, iteration, trials, trial, **info):
        after = (trial.last_result or {}).get("epoch", 0)
        tqdm.write(f"{_name(trial)}: its process died; going on after epoch {after}")

    def on_experiment_end(self, trials, **info):
        self.bar.close()

    def _better(self, result):
        scores = [one for one in (self.best, result.get("score")) if one is not None]
        if scores:
            self.best = max(scores) if self.metric.mode == "max" else min(scores)

    def _show(self, trials):
        running = sum(trial.status == "RUNNING" for trial in trials)
        best = "-" if self.best is None else f"{self.best:.4f}"
        self.bar.set_postfix_str(f"{running} running, best {self.metric.name} {best}")

    def _end(self, trial, result, note=""):
        if trial.trial_id in self.ended:
            return
        self.ended.add(trial.trial_id)
        self.bar.update()
        result = self.running.pop(trial.trial_id, {}) | (result or {})
        self._better(result)
        score = result.get("score")
        if result.get("failed"):
            told = f"failed, {result['failed']}"
        else:
            told = "no score" if score is None else f"{self.metric.name} {score:.4f}"
            stopped = ", stopped early" if stopped_early(result) else ""
            told += f" after {result.get('epoch', 0)} epochs{stopped}{note}"
        tqdm.write(f"{_name(trial)}: {told}  [{in_words(settings_of(trial.config))}]")


def _name(trial):
    return f"trial {number_of(trial.config)}"


# -- what came of the trials ------------------------------------------------------------


@dataclass
class Trial:
    """One trial of a finished search."""

    number: int  # From 1, in the order in which they were begun
    settings: dict  # The searched keys
    score: float | None = None  # The search's metric at the trial's best epoch
    failed: str | None = None  # Why there is none
    epochs: int = 0
    best_epoch: int = 0
    stopped: bool = False  # Whether the scheduler ended it before it had ended itself
    seconds: float = 0.0
    curve: list = field(default_factory=list)  # Epoch, and the metric at that epoch
    node: str = ""  # Where it ran: the address, and how Ray calls the node
    checkpoint: object = None

    @property
    def status(self) -> str:
        """In a word, for tables."""
        return "failed" if self.failed else "stopped early" if self.stopped else "finished"


def stopped_early(result: dict) -> bool:
    """Whether a last result is of a trial that had not ended itself."""
    return "epoch" in result and not result.get("ended")


def in_words(settings: dict) -> str:
    """``learning_rate=0.00123, n_layers=2``."""
    return ", ".join(f"{key}={short(value)}" for key, value in settings.items())


def short(value) -> str:
    """A value for tables, floats to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def collect(grid, metric) -> list[Trial]:
    """The trials of a :class:`ray.tune.ResultGrid`, in the order in which they began."""
    return sorted((_trial(result, metric) for result in grid), key=lambda trial: trial.number)


def _trial(result, metric) -> Trial:
    last, frame = dict(result.metrics or {}), result.metrics_dataframe
    rows = [last] if frame is None else frame.to_dict("records")
    # Without NaN; of an epoch that was trained twice, the later.
    rows = [{key: value for key, value in row.items() if value == value} for row in rows]
    trial = Trial(number_of(result.config), settings_of(result.config))
    kept = _kept(result.checkpoint, trial.number)
    trial.settings = kept.get("settings", trial.settings)
    told = kept.get("rows", rows)
    epochs = {int(row["epoch"]): row for row in told if row.get("score") is not None}
    trial.failed = next((row["failed"] for row in [last, *rows] if row.get("failed")), None)
    if result.error is not None and not trial.failed:
        trial.failed = _why(result.error)
    trial.seconds = float(last.get("time_total_s") or 0.0)
    nodes = [row["node"] for row in rows if "node" in row]
    trial.node = " ".join(filter(None, (last.get("node_ip"), *nodes[-1:])))
    trial.checkpoint = result.checkpoint
    name = metric.name
    trial.curve = [
        (epoch, epochs[epoch][name]) for epoch in sorted(epochs) if name in epochs[epoch]
    ]
    if epochs:
        trial.epochs = max(epochs)
        final = epochs[trial.epochs]
        trial.best_epoch = int(final["best_epoch"])
        trial.stopped = not trial.failed and stopped_early(final)
        trial.score = None if trial.failed else final["score"]
    elif not trial.failed:
        trial.failed = "it was never begun"
    return trial


def _kept(given, number) -> dict:
    """What a checkpoint tells, by whose checksums damage is seen; Ray's files have none."""
    if given is None:
        return {}
    with given.as_directory() as folder:
        rest = checkpoint.load(Path(folder) / EXTRA)
    if (other := rest.get("number", number)) != number:
        told = (
            f"{given.path} is a checkpoint of trial {other}, but lies where {number} keeps its own"
        )
        raise UserError(f"{told}; put that back.", where=given.path)
    return rest


def _why(error) -> str:
    text = " ".join(str(error).split())
    if "died" in text.lower() or "ActorDied" in type(error).__name__:
        return "its process died, 3 times (killed, or the machine was out of memory)"
    return text[-300:]


def best_of(trials, metric) -> Trial:
    """The trial with the best score, the first of equals."""
    scored = [trial for trial in trials if trial.score is not None and trial.checkpoint]
    if scored:
        return ranked_trials(scored, metric)[0]
    reasons = [trial.failed for trial in trials if trial.failed]
    first = max(set(reasons), key=reasons.count) if reasons else "none was begun"
    raise UserError(f"All {len(trials)} trials failed, most of them with: {first.rstrip('.')}.")


def ranked_trials(trials, metric) -> list[Trial]:
    """The best first, failed ones last."""
    sign = -1 if metric.mode == "max" else 1
    return sorted(trials, key=lambda t: (t.score is None, sign * (t.score or 0.0), t.number))
