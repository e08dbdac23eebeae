"""The schedule of LLM-SRec, and prompts made beside the batches."""

from __future__ import annotations

from recbole_llmemb.training.trainer import LLMEmbTrainer


class LLMSRecTrainer(LLMEmbTrainer):
    """The learning rate of epoch e is ``learning_rate · learning_rate_decay ** e``."""

    def _train_epoch(self, train_data, epoch_idx, *args, **kwargs):
        decay = self.config["learning_rate_decay"] or 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * decay**epoch_idx
        if hasattr(train_data, "book"):
            form = self.model.form
            train_data.book = form.book
            train_data.item_prompts = getattr(form, "item_prompts", None)
        return super()._train_epoch(train_data, epoch_idx, *args, **kwargs)
