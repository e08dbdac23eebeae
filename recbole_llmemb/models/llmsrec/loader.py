"""Training batches of LLM-SRec: histories, their next items, and random other items."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_llmemb.data.batching import plan_batches, trim_histories
from recbole_llmemb.data.histories import sampled_users, with_shuffled_histories
from recbole_llmemb.data.lazy import POSITION
from recbole_llmemb.data.loaders import SequenceTrainDataLoader

#: The next item and the random ones of each row, ``(b, 1 + k)``, as rows of the next column.
CANDIDATES = "candidate_rows"
#: The distinct items among them, ``(m,)``.
CANDIDATE_ITEMS = "candidate_items"


class PairTrainDataLoader(SequenceTrainDataLoader):
    """Batches of (history → next item) pairs of about equal prompt lengths.

    ``train_targets`` says which pairs make an epoch: ``one`` of each user, drawn anew each
    epoch; each user's ``last``; or ``every`` one.

    ``config, dataset, sampler, shuffle``: as for :class:`SequenceTrainDataLoader`.

    ``form``: makes the prompts beside the batch. The model sets it before training.
    """

    def __init__(self, config, dataset, sampler=None, shuffle=True):
        if config["shuffle_train"]:
            dataset = with_shuffled_histories(dataset, config["seed"], config["history_items"])
        super().__init__(config, dataset, sampler, shuffle)
        self.form = None
        self.negatives_per_target = config["negative_items"]
        self.negatives = self._negative_sampler({"distribution": "uniform"})
        self.time_list = dataset.time_field + config["LIST_SUFFIX"]
        self.rows = dataset.inter_feat
        users = self.rows[self.uid_field].numpy()
        order = np.lexsort((self.rows[POSITION].numpy(), users))
        if config["user_sample"]:
            chosen = sampled_users(dataset, config["user_sample"])
            order = order[chosen[users[order]]]
        self.order = order
        _, self.first, self.count = np.unique(users[order], return_index=True, return_counts=True)

    def pairs(self):
        """Row numbers of an epoch's pairs."""
        kind = self.config["train_targets"]
        if kind == "every":
            return self.order
        if kind == "last":
            return self.order[self.first + self.count - 1]
        draw = torch.rand(len(self.first), generator=self.generator).numpy()
        return self.order[self.first + (draw * self.count).astype(np.int64)]

    def _draw_plan(self):
        rows = self.pairs()
        costs, size = np.ones(len(rows), dtype=np.int64), self.config["train_batch_size"]
        batches = plan_batches(self._sizes(rows), costs, size, self.generator, self.shuffle)
        return [rows[batch] for batch in batches]

    def _sizes(self, rows):
        chosen = self.rows[rows]
        lengths = chosen[self.length_field]
        if self.form is None:
            return lengths.numpy()
        parts = torch.arange(len(rows)).split(65_536)  # histories of all rows would be large
        sizes = [self.form.prompt_sizes(chosen[p][self.list_field], lengths[p]) for p in parts]
        return torch.cat(sizes).numpy()

    def collate(self, index):
        """Build the batch of these rows.

        Shapes: ``index`` (b,).
        Returns RecBole's fields of the rows, histories cut to the longest; :data:`CANDIDATES`,
        :data:`CANDIDATE_ITEMS`; and the prompts.
        """
        batch = self.rows[index].materialize()
        suffix, width = self.config["LIST_SUFFIX"], self.config["MAX_ITEM_LIST_LENGTH"]
        trim_histories(batch, self.length_field, suffix, width)
        targets = batch[self.iid_field]
        k = self.negatives_per_target
        owners = batch[self.uid_field].repeat_interleave(k)
        drawn = self.negatives.sample(owners, targets.repeat_interleave(k)).view(-1, k)
        candidates = torch.cat([targets.unsqueeze(1), drawn], dim=1)
        items, places = torch.unique(candidates, return_inverse=True)
        columns = dict(batch.interaction) | {CANDIDATES: places, CANDIDATE_ITEMS: items}
        if self.form is not None:
            lists, lengths = batch[self.list_field], batch[self.length_field]
            times = batch.interaction.get(self.time_list)
            columns |= self.form.prompts(lists, lengths, times, items)
        return Interaction(columns)
