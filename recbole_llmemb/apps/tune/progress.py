"""What a search says while it runs: a bar, and a line for each trial that ends."""

from __future__ import annotations

from ray.tune import Callback
from tqdm import tqdm

from recbole_llmemb.apps.tune.trials import in_words, number_of, settings_of, stopped_early


class Progress(Callback):
    """Counts trials and names the best score so far.

    ``total``: trials of the search.
    ``report``: is given the line of each trial that ended.
    """

    def __init__(self, total, metric, report=None):
        self.total, self.metric = total, metric
        self.report = report or tqdm.write
        self.bar = None
        self.best, self.ended, self.running = None, set(), {}

    def setup(self, **info):
        self.bar = tqdm(total=self.total, desc="trials", unit="trial", ncols=100)

    def on_step_begin(self, iteration, trials, **info):
        # Trials that a resumed search finds finished.
        for trial in trials:
            if trial.status == "TERMINATED" and trial.trial_id not in self.ended:
                self._count(trial, trial.last_result, again=True)

    def on_trial_result(self, iteration, trials, trial, result, **info):
        score = result.get("score")
        if score is not None:
            self.running[trial.trial_id] = result
            better = self.best is None or (
                score > self.best if self.metric.mode == "max" else score < self.best
            )
            self.best = score if better else self.best
        self._show(trials)

    def on_trial_complete(self, iteration, trials, trial, **info):
        self._count(trial, trial.last_result)
        self._show(trials)

    def on_trial_error(self, iteration, trials, trial, **info):
        self._count(trial, {"failed": "its process died, again and again"})

    def on_trial_recover(self, iteration, trials, trial, **info):
        after = (trial.last_result or {}).get("epoch", 0)
        self.report(f"{_name(trial)}: its process died; going on after epoch {after}")

    def on_experiment_end(self, trials, **info):
        if self.bar is not None:
            self.bar.close()

    def _show(self, trials):
        if self.bar is not None:
            running = sum(trial.status == "RUNNING" for trial in trials)
            best = "-" if self.best is None else f"{self.best:.4f}"
            self.bar.set_postfix_str(f"{running} running, best {self.metric.name} {best}")

    def _count(self, trial, result, again=False):
        if trial.trial_id in self.ended:
            return
        self.ended.add(trial.trial_id)
        result = result or {}
        if self.bar is not None:
            self.bar.update()
        kept = self.running.pop(trial.trial_id, {})
        if result.get("score") is not None:
            self.best = _better(self.best, result["score"], self.metric.mode)
        what = in_words(settings_of(trial.config))
        if result.get("failed"):
            self.report(f"{_name(trial)}: failed, {result['failed']}  [{what}]")
            return
        result = result if "epoch" in result else kept
        note = ", finished before" if again else ""
        if stopped_early(result):
            note = f", stopped early{note}"
        score = result.get("score")
        score = "no score" if score is None else f"{self.metric.name} {score:.4f}"
        self.report(
            f"{_name(trial)}: {score} after {result.get('epoch', 0)} epochs{note}  [{what}]"
        )


def _better(best, score, mode):
    if best is None:
        return score
    return max(best, score) if mode == "max" else min(best, score)


def _name(trial):
    return f"trial {number_of(trial.config)}"
