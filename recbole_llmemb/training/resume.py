"""Checkpoints of a training: from any of them it continues to the result it would have had."""

from __future__ import annotations

import os

from recbole.utils import set_color

from recbole_llmemb.config.recbole_config import config_to_plain
from recbole_llmemb.core import checkpoint, random_state
from recbole_llmemb.core.errors import UserError

# What a run reads beside its data, as noted in its configuration: key, in words, what tells it.
_USED = (
    ("llm_table_used", "embedding table (llm_table)", "fingerprint"),
    ("llm_model_used", "LLM (llm_model)", "identity"),
    ("align_teacher_used", "teacher (align_teacher)", "fingerprint"),
    ("teacher_used", "CF model (align_teacher)", "fingerprint"),
)


class Resumable:
    """Put before RecBole's trainer in a class's bases.

    ``resume_file``: Where each validation leaves the state of the training.
    ``best_valid_groups``: Group metrics of the best validation.
    ``epoch_seconds``: Wall time of each epoch of training.
    ``history``: Epoch, training losses and validation result of each validation.
    """

    def __init__(self, config, model):
        super().__init__(config, model)
        self.resume_file = None
        self.best_valid_groups = None
        self.epoch_seconds, self.history = [], []
        self._train_data = None
        self._pending_rng = None
        self._fitting, self._postponed = False, None

    def _state(self, epoch):
        dataset = self._train_data._dataset if self._train_data is not None else None
        tokens = None if dataset is None else dataset.field2id_token[dataset.iid_field]
        generator = getattr(self._train_data, "generator", None)
        return {
            "config": config_to_plain(self.config),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": self.best_valid_score,
            "best_valid_result": self.best_valid_result,
            "best_valid_groups": self.best_valid_groups,
            "history": self.history,
            "epoch_seconds": self.epoch_seconds,
            "state_dict": self.model.state_dict(),
            "other_parameter": self.model.other_parameter(),
            "optimizer": self.optimizer.state_dict(),
            "item_tokens": None if tokens is None else [str(token) for token in tokens],
            "rng": random_state.get_state(),
            "loader_rng": None if generator is None else generator.get_state(),
        }

    def _valid_epoch(self, *args, **kwargs):
        # RecBole's fit saves the best model before it has noted the result that makes it so.
        self._postponed = [] if self._fitting else None
        return super()._valid_epoch(*args, **kwargs)

    def _save_postponed(self):
        """What was to be saved since the last validation."""
        waiting, self._postponed = self._postponed or [], None
        for epoch, options in waiting:
            self._save_checkpoint(epoch, **options)

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        if self._postponed is not None:
            self._postponed.append((epoch, {"verbose": verbose, **kwargs}))
            return
        if not self.config["single_spec"] and self.config["local_rank"] != 0:
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        checkpoint.save(self._state(epoch), path)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def resume_checkpoint(self, resume_file):
        """Continue from a file that training wrote, to the result it would have had."""
        state = checkpoint.load(resume_file, map_location=self.device)
        if state["config"]["model"] != self.config["model"]:
            raise UserError(
                f"Checkpoint {resume_file} is of model {state['config']['model']}, not of "
                f"{self.config['model']}; give the checkpoint of this model."
            )
        for key, what, mark in _USED:
            before, now = state["config"].get(key), self.config[key]
            if before and now and before[mark] != now[mark]:
                raise UserError(
                    f"Checkpoint {resume_file} is of a training with another {what}: {before[mark]}"
                    f", not {now[mark]}; put that one back, or begin anew with resume: False."
                )
        try:
            self.model.load_state_dict(state["state_dict"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"Checkpoint {resume_file} does not fit this configuration "
                f"({str(error).splitlines()[0].rstrip(':. ')}); use the one it was trained with."
            ) from None
        self.model.load_other_parameter(state.get("other_parameter"))
        self.start_epoch = state["epoch"] + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self.best_valid_result = state["best_valid_result"]
        self.best_valid_groups = state["best_valid_groups"]
        self.history = state["history"]
        self.epoch_seconds = state["epoch_seconds"]
        self._pending_rng = state["rng"], state["loader_rng"]
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")

    def _restore_rng(self):
        """Last thing before the first resumed epoch, as building anything draws numbers."""
        if self._pending_rng is None:
            return
        (state, loader), self._pending_rng = self._pending_rng, None
        random_state.set_state(state)
        if loader is not None:
            self._train_data.generator.set_state(loader.cpu())

    def _keep_best(self):
        """Save the model that training was resumed from, if it is the best and not there."""
        resumed_from_best = self.start_epoch > 0 and self.cur_step == 0
        if resumed_from_best and not os.path.isfile(self.saved_model_file):
            self._save_checkpoint(self.start_epoch - 1, verbose=False)
