"""Checkpoints of a training: from any of them it continues to the result it would have had."""

from __future__ import annotations

import os

import torch
from recbole.utils import set_color

from recbole_llmemb.config.recbole_config import config_to_plain
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.devices import random_state, set_random_state
from recbole_llmemb.core.errors import UserError, explained

# What a run reads beside its data, as noted in its configuration: key, in words, what tells it.
_USED = (
    ("llm_table_used", "embedding table (llm_table)", "fingerprint"),
    ("llm_model_used", "LLM (llm_model)", "identity"),
    ("align_teacher_used", "teacher (align_teacher)", "fingerprint"),
    ("teacher_used", "CF model (align_teacher)", "fingerprint"),
)
# What a trainer carries on with, by the names of its attributes.
_KEPT = (
    "cur_step", "best_valid_score", "best_valid_result", "best_valid_groups", "history",
    "epoch_seconds",
)  # fmt: skip


def item_tokens(dataset) -> list[str]:
    """A dataset's items by id, padding first."""
    return [str(token) for token in dataset.field2id_token[dataset.iid_field]]


def load_weights(model, state) -> None:
    """Give a model what a checkpoint's state has of it."""
    model.load_state_dict(state["state_dict"])
    model.load_other_parameter(state.get("other_parameter"))
    require_finite(model)


def require_finite(model) -> None:
    """Refuse weights of which some are no numbers: whatever they score is none either."""
    broken = [name for name, one in model.named_parameters() if not torch.isfinite(one).all()]
    if broken:
        raise UserError(
            f"The model's weights {broken[0]} are no longer numbers; train anew with a lower "
            "learning_rate or with clip_grad_norm, or take another checkpoint."
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
        self.resume_file = self.best_valid_groups = None
        self.epoch_seconds, self.history = [], []
        self._train_data = self._pending_rng = None

    def _state(self, epoch):
        data = self._train_data  # None before any training
        generator = getattr(data, "generator", None)
        return {
            "config": config_to_plain(self.config),
            "epoch": epoch,
            **{name: getattr(self, name) for name in _KEPT},
            "state_dict": self.model.state_dict(),
            "other_parameter": self.model.other_parameter(),
            "optimizer": self.optimizer.state_dict(),
            "item_tokens": None if data is None else item_tokens(data._dataset),
            "rng": random_state(),
            "loader_rng": None if generator is None else generator.get_state(),
        }

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
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
        with explained(
            f"Checkpoint {resume_file} does not fit this configuration ({{reason}}); use the one "
            "it was trained with.",
            RuntimeError, ValueError, where=resume_file,
        ):  # fmt: skip
            load_weights(self.model, state)
            self.optimizer.load_state_dict(state["optimizer"])
        self.start_epoch = state["epoch"] + 1
        for name in _KEPT:
            setattr(self, name, state[name])
        self._pending_rng = state["rng"], state["loader_rng"]
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}")

    def _restore_rng(self):
        """Last thing before the first resumed epoch, as building anything draws numbers."""
        if self._pending_rng is None:
            return
        (state, loader), self._pending_rng = self._pending_rng, None
        set_random_state(state)
        if loader is not None:
            self._train_data.generator.set_state(loader.cpu())

    def _keep_best(self):
        """Save the model that training was resumed from, if it is the best and not there."""
        resumed_from_best = self.start_epoch > 0 and self.cur_step == 0
        if resumed_from_best and not os.path.isfile(self.saved_model_file):
            self._save_checkpoint(self.start_epoch - 1, verbose=False)
