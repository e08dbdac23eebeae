"""RecBole's trainer, with group metrics, resumable state and no waiting inside a step."""

from __future__ import annotations

import math
import os
from time import perf_counter

import torch
from recbole.trainer import Trainer
from recbole.utils import get_trainer, set_color
from torch import optim
from torch.nn.utils.clip_grad import clip_grad_norm_

from recbole_llmemb.config.recbole_config import config_to_plain
from recbole_llmemb.config.shared import TrainingSettings
from recbole_llmemb.config.values import blamed
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.devices import moved, random_state, set_random_state
from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.data.dataset import item_tokens, user_tokens
from recbole_llmemb.evaluation.groups import GroupEvaluator
from recbole_llmemb.evaluation.ranking import GroupCollector, evaluate, under_a_bar

__all__ = ["LLMEmbTrainer"]

# What a trainer carries on with, by the names of its attributes.
_KEPT = (
    "cur_step", "best_valid_score", "best_valid_result", "best_valid_groups", "history",
    "epoch_seconds",
)  # fmt: skip


class LLMEmbTrainer(Trainer):
    """Trains and evaluates every model of this package.

    What RecBole's trainer does, it does in the same order. In addition each evaluation leaves the
    metrics of groups in ``groups_of_last_evaluation``, and each validation writes a file from which
    training continues to the same result (``resume_file``).

    ``resumes``: Whether it writes ``resume_file`` and continues from it.
    ``resume_file``: Where each validation leaves the state of the training.
    ``run_key``: What tells its run from others; the state says it.
    ``best_valid_groups``: Group metrics of the best validation.
    ``epoch_seconds``: Wall time of each epoch of training.
    ``history``: Epoch, training losses and validation result of each validation.
    """

    resumes = True

    def __init__(self, config, model):
        super().__init__(config, model)
        self.eval_collector = GroupCollector(config)
        self.evaluator = GroupEvaluator(config, self.eval_collector)
        self.resume_file = self.run_key = self.best_valid_groups = None
        self.epoch_seconds, self.history = [], []
        self._train_data = self._pending_rng = None
        self._rates = [group["lr"] for group in self.optimizer.param_groups]

    @property
    def groups_of_last_evaluation(self):
        """``{group: {"users": n, metric: value}}`` of the last evaluation, or None."""
        return self.evaluator.group_metrics

    @property
    def group_labels(self):
        """What the groups are, in words by name; None before they are known."""
        return None if self.evaluator.groups is None else self.evaluator.groups.labels

    def know_groups(self, train):
        """Tell tail and head items and short and long users apart, by the training split."""
        self.evaluator.know_groups(train)

    def evaluate_per_row(self, eval_data, **kwargs):
        """Metrics as of :meth:`evaluate`, and what it found for each row.

        :class:`~recbole_llmemb.evaluation.groups.PerRowMetrics`, None for metrics without rows.
        """
        self.evaluator.keep_details = True
        try:
            result = self.evaluate(eval_data, **kwargs)
            return result, self.evaluator.details
        finally:
            self.evaluator.keep_details, self.evaluator.details = False, None

    # -- optimizer and step -----------------------------------------------------------

    def _build_optimizer(self, **kwargs):
        params = kwargs.pop("params", None) or self.model.parameters()
        params = self._groups([p for p in params if p.requires_grad])
        learner = kwargs.get("learner", self.learner).lower()
        if (kind := {"adam": optim.Adam, "adamw": optim.AdamW}.get(learner)) is None:
            return super()._build_optimizer(params=params, **kwargs)
        rate = kwargs.get("learning_rate", self.learning_rate)
        decay = kwargs.get("weight_decay", self.weight_decay)
        first, second = TrainingSettings.of(self.config).adam_betas
        # The same update as RecBole's, in one pass over the parameters instead of ten.
        return kind(params, lr=rate, betas=(first, second), weight_decay=decay, fused=True)

    def _groups(self, params):
        """Parameters, those that are learned per item apart where they have a rate of their own."""
        rate = self.config["item_learning_rate"]
        if rate is None:
            return params
        own = {id(p) for p in self.model.item_parameters()}
        items = [p for p in params if id(p) in own]
        if not items:
            self.logger.warning("item_learning_rate is passed over: nothing is learned per item.")
        rest = [p for p in params if id(p) not in own]
        return [{"params": rest}, {"params": items, "lr": rate}] if items else params

    def _to_device(self, interaction):
        interaction.fetched = self.model.fetch(interaction)
        for name, value in interaction.interaction.items():
            interaction.interaction[name] = moved(value, self.device)
        return interaction

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """One epoch; returns the summed loss, or a tuple of summed parts, as RecBole does.

        Losses stay on the device until the epoch is over, so no step waits for the one before.
        """
        began = perf_counter()
        if (decay := TrainingSettings.of(self.config).learning_rate_decay) != 1:
            for group, rate in zip(self.optimizer.param_groups, self._rates):
                group["lr"] = rate * decay**epoch_idx
        train_data.epoch = epoch_idx
        self.model.train()
        loss_func = loss_func or self.model.calculate_loss
        if not self.config["single_spec"] and hasattr(train_data.sampler, "set_epoch"):
            train_data.sampler.set_epoch(epoch_idx)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        amp_dtype = getattr(torch, TrainingSettings.of(self.config).amp_dtype)

        totals, title = None, f"Train {epoch_idx:>5}"
        for interaction in under_a_bar(train_data, title, self.device, show_progress):
            interaction = self._to_device(interaction)
            self.optimizer.zero_grad(set_to_none=True)
            sync_loss = 0
            if not self.config["single_spec"]:
                self.set_reduce_hook()
                sync_loss = self.sync_grad_loss()
            with torch.autocast(self.device.type, amp_dtype, enabled=self.enable_amp):
                losses = loss_func(interaction)
            parts = _parts_of(losses, self.model)
            loss = sum(parts)
            values = torch.stack([part.detach().float() for part in parts])
            totals = values if totals is None else totals + values
            scaler.scale(loss + sync_loss).backward()
            if self.clip_grad_norm:
                scaler.unscale_(self.optimizer)
                clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
            scaler.step(self.optimizer)
            scaler.update()
        if totals is None:
            sampled = self.config["user_sample"]
            who = f"none of the {sampled} of user_sample" if sampled else "no user"
            told = f"There is nothing to train on: {who} has two training interactions."
            raise UserError(told, key=sampled and "user_sample")
        totals = tuple(totals.tolist())
        if not all(math.isfinite(total) for total in totals):
            told = f"The training loss is no longer a number in epoch {epoch_idx}"
            raise UserError(f"{told}; lower learning_rate, set clip_grad_norm or no enable_amp.")
        self.epoch_seconds.append(perf_counter() - began)
        return totals if len(totals) > 1 else totals[0]

    def _generate_train_loss_output(self, epoch_idx, s_time, e_time, losses):
        """RecBole's line of an epoch, in which parts of a loss have names instead of numbers."""
        text = super()._generate_train_loss_output(epoch_idx, s_time, e_time, losses)
        for number, name in enumerate(self.model.loss_names, 1):
            text = text.replace(f"train_loss{number}", f"{name} loss")
        return text

    def _add_train_loss_to_tensorboard(self, epoch_idx, losses, tag="Loss/Train"):
        if not isinstance(losses, tuple):
            super()._add_train_loss_to_tensorboard(epoch_idx, losses, tag)
            return
        for name, loss in zip(self.model.loss_names, losses):
            self.tensorboard.add_scalar(f"{tag} {name}", loss, epoch_idx)

    # -- evaluation -------------------------------------------------------------------

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """As RecBole's; leaves the groups in ``groups_of_last_evaluation``."""
        self.evaluator.group_metrics = self.evaluator.details = None  # as it stays without any row
        if not eval_data:
            return None
        if load_best_model:
            file = model_file or self.saved_model_file
            checkpoint.load_weights(self.model, checkpoint.load(file, self.device))
            self.logger.info(f"Loading model structure and parameters from {file}")
        given, new = (self.config, self.model, eval_data, self.evaluator), not self.history
        result = evaluate(*given, show_progress, checked=new)
        if not self.config["single_spec"]:
            result = self._map_reduce(result, len(eval_data))
        self.wandblogger.log_eval_metrics(result, head="eval")
        return result

    # -- the run ----------------------------------------------------------------------

    def fit(
        self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False,
        callback_fn=None,
    ):  # fmt: skip
        """As RecBole's; also knows the groups and writes ``resume_file`` if one is set."""
        self._train_data = train_data
        self.model.before_training(train_data)
        self.know_groups(train_data._dataset)
        self._restore_rng()
        if saved:
            self._keep_best()
        at_its_end = self.cur_step > self.stopping_step or self.start_epoch >= self.epochs
        if self.start_epoch > 0 and at_its_end:
            self.eval_collector.data_collect(train_data)  # which tests read, too
            return self.best_valid_score, self.best_valid_result

        def after_validation(epoch, score):
            self.history.append(
                {"epoch": epoch, "train_loss": self.train_loss_dict[epoch], "valid_score": score}
            )
            if self.cur_step == 0:
                self.best_valid_groups = self.groups_of_last_evaluation
                if saved:
                    self._save_checkpoint(epoch, verbose=verbose)
            if self.resume_file and self.config["local_rank"] == 0:
                checkpoint.save(self._state(epoch), self.resume_file)
            if callback_fn:
                callback_fn(epoch, score)

        # RecBole saves the best model before it has noted the result that makes it so.
        validates = bool(valid_data) and self.eval_step > 0 and self.epochs > 0
        saves = saved and not validates
        return super().fit(train_data, valid_data, verbose, saves, show_progress, after_validation)

    # -- checkpoints: from any of them training continues to the result it would have had --

    def _state(self, epoch):
        data = self._train_data  # None before any training
        generator = getattr(data, "generator", None)
        users = data is not None and "users" in self.model.reads  # who have numbers of their own
        return {
            "config": config_to_plain(self.config),
            "run_key": self.run_key,
            "epoch": epoch,
            **{name: getattr(self, name) for name in _KEPT},
            "state_dict": self.model.state_dict(),
            "other_parameter": self.model.other_parameter(),
            "optimizer": self.optimizer.state_dict(),
            "item_tokens": None if data is None else item_tokens(data._dataset),
            **({"user_tokens": user_tokens(data._dataset)} if users else {}),
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

    def resume_checkpoint(self, resume_file, state=None):
        """Continue from a file that training wrote (``state``: what was read from it, if it was)
        to the result it would have had."""
        state = state or checkpoint.load(resume_file, map_location=self.device)
        if state["config"]["model"] != self.config["model"]:
            told = f"Checkpoint {resume_file} is of model {state['config']['model']}"
            raise UserError(f"{told}, not {self.config['model']}; give one of this model.")
        now = checkpoint.inputs_of(self.config.final_config_dict)
        for key, before in checkpoint.inputs_of(state["config"]).items():
            if now.get(key, before) != before:
                told = f"{resume_file} is of a training with another {checkpoint.USED[key][0]}"
                advice = "put that one back, or begin anew with resume: False"
                raise UserError(f"{told}: {before}, not {now[key]}; {advice}.")
        told = f"Checkpoint {resume_file} does not fit this configuration ({{reason}})"
        with explained(f"{told}; use its own.", RuntimeError, ValueError, where=resume_file):
            checkpoint.load_weights(self.model, state)
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


def _parts_of(found, model):
    """A loss, or a tuple of its parts, as scalars; those of somebody's own code are checked."""
    parts = found if isinstance(found, tuple) else (found,)
    told = f"The loss of a batch of {type(model).__name__}"
    for part in parts:
        if not isinstance(part, torch.Tensor) or part.numel() != 1:
            shown = (
                f"of shape {tuple(part.shape)}" if isinstance(part, torch.Tensor) else repr(part)
            )
            raise UserError(f"{told} is {shown[:99]}; give a tensor of one.", key="loss_type")
    if not any(part.requires_grad for part in parts):
        raise UserError(f"{told} has no gradient; look for detach in it.", key="loss_type")
    return [part.reshape(()) for part in parts]  # some of RecBole's are of shape (1,)


class StockTrainer:
    """Put before a trainer of RecBole's own: what is asked of trainers, which it does not know."""

    resumes = False
    resume_file = best_valid_groups = groups_of_last_evaluation = group_labels = history = None
    epoch_seconds = ()

    def know_groups(self, train):
        """It measures none."""

    def fit(self, *arguments, **options):  # what a model of RecBole fails over is a setting
        told = f"{self.config['model']} cannot be trained with this configuration: {{reason}}"
        errors = RuntimeError, TypeError, AttributeError, IndexError, AssertionError
        with explained(told + blamed(self.config), *errors, ArithmeticError):
            return super().fit(*arguments, **options)

    def evaluate_per_row(self, eval_data, **kwargs):
        """Its metrics, and no rows."""
        checkpoint.require_finite(self.model)
        return self.evaluate(eval_data, **kwargs), None


def trainer_class(config) -> type:
    """The trainer of a configuration's model, RecBole's own through :class:`StockTrainer`."""
    found = get_trainer(config["MODEL_TYPE"], config["model"])
    if issubclass(found, LLMEmbTrainer):
        return found
    return type(found.__name__, (StockTrainer, found), {})
