"""Ray's Optuna search, over our spaces, and with trials that fail."""

from __future__ import annotations

import optuna
from ray.tune.search.optuna import OptunaSearch


class SpaceByOptuna(OptunaSearch):
    """Suggests configurations of a space by Optuna's TPE.

    ``mode``: ``max`` or ``min``, of the score.
    """

    def __init__(self, space, seed, mode):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
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
