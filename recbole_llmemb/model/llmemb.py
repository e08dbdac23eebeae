"""What makes a RecBole sequential model an LLMEmb model: the table, the losses, the pass.

A backbone needs to read its items through ``self.item_embedding(ids)`` and
``self.item_embedding.weight``, and to end its ``forward`` with ``self.gather_indexes``
over per-position outputs; then a subclass of :class:`LLMEmbMixin` and the backbone is
the whole model.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from recbole.data.interaction import Interaction

from recbole_llmemb.data.loaders import ALIGN_ITEMS, BATCH_ITEMS, LOSS_POSITION
from recbole_llmemb.model.item_embedding import TableItemEmbedding
from recbole_llmemb.model.item_layer import item_layer
from recbole_llmemb.model.losses import AlignmentLoss, bce_loss, bpr_loss, item_cross_entropy
from recbole_llmemb.model.quicken import quicken
from recbole_llmemb.model.scoring import ItemScores
from recbole_llmemb.model.sources import teacher_embeddings


class _BackboneConfig:
    """The configuration as a backbone reads it: one that has never heard of BCE."""

    def __init__(self, config):
        self._config = config

    def __getitem__(self, key):
        value = self._config[key]
        return "BPR" if key == "loss_type" and value == "BCE" else value

    def __contains__(self, key):
        return key in self._config


class LLMEmbMixin:
    """Put before a RecBole sequential model in a class's bases.

    With ``item_embedding: table`` the backbone's item embedding is replaced by the
    adapted table (LLMEmb §3.3); with ``id`` RecBole's own layer stays, under the same
    training. ``align_weight`` > 0 adds the alignment with a collaborative teacher.

    Attributes
    ----------
    causal : bool
        Whether no position's output depends on later items, which is what training at
        every position needs.
    extra_rows : int
        Ids the backbone uses after the items (BERT4Rec's mask).
    """

    causal = True
    extra_rows = 0

    def __init__(self, config, dataset):
        super().__init__(_BackboneConfig(config), dataset)
        self.loss_type = config["loss_type"]
        self._every_position = False
        size = self.item_embedding.embedding_dim
        self.item_embedding = item_layer(config, dataset, self.item_embedding, self.extra_rows)
        self.item_scores = ItemScores(config)
        self.align_weight = 0.0
        if config["item_embedding"] == "table" and config["align_weight"]:
            self.align_weight = float(config["align_weight"])
            self.align_positions = config["align_items"] == "positions"
            self.alignment = AlignmentLoss(config["align_temperature"])
            teacher = teacher_embeddings(config, dataset, size)
            self.register_buffer("teacher", teacher, persistent=False)
        if config["train_mode"] == "sequence":
            quicken(self)

    # -- training ---------------------------------------------------------------------

    def calculate_loss(self, interaction):
        """RecBole's training entry: the loss of a batch of windows, or of prefixes.

        Returns
        -------
        torch.Tensor or tuple of torch.Tensor
            The recommendation loss and, where there is an alignment, that term weighted.
        """
        one_pass = LOSS_POSITION in interaction
        with self._shared_rows(interaction, one_pass):
            loss = self._one_pass_loss(interaction) if one_pass else self._prefix_loss(interaction)
            if not self.align_weight:
                return loss
            items = self._align_items(interaction, one_pass)
            term = self.alignment(self.teacher[items], self.item_embedding(items))
            return loss, self.align_weight * term

    def _align_items(self, interaction, one_pass):
        if one_pass:
            return interaction[ALIGN_ITEMS]
        targets = interaction[self.POS_ITEM_ID]
        return targets if self.align_positions else torch.unique(targets)

    def _shared_rows(self, interaction, one_pass):
        if not isinstance(self.item_embedding, TableItemEmbedding):
            return nullcontext()
        if self.loss_type == "CE":  # every item is a candidate
            return self.item_embedding.step()
        return self.item_embedding.step(self._needed_items(interaction, one_pass))

    def _needed_items(self, interaction, one_pass):
        """The distinct items a pairwise step looks up; None for all of them."""
        if one_pass:
            return interaction[BATCH_ITEMS]
        if interaction[self.ITEM_SEQ].is_cuda:
            return None  # finding out which would make the host wait for the step before
        used = [self.ITEM_SEQ, self.POS_ITEM_ID, self.NEG_ITEM_ID]
        return torch.unique(torch.cat([interaction[field].reshape(-1) for field in used]))

    def _one_pass_loss(self, interaction):
        states = self.position_states(interaction)
        states = states.flatten(0, 1).index_select(0, interaction[LOSS_POSITION])
        return self.position_loss(states, interaction)

    def _prefix_loss(self, interaction):
        if self.loss_type == "BCE":
            states = self.sequence_output(interaction)
            return self.position_loss(states, interaction)
        return super().calculate_loss(interaction)

    def position_loss(self, states, interaction):
        """Loss of predicting each target from its state ``(n, d)``, by ``loss_type``."""
        targets = interaction[self.POS_ITEM_ID]
        bias = self.item_bias
        if self.loss_type == "CE":
            states, items = self.item_scores.sides(states, self._all_items())
            return item_cross_entropy(states, items, targets, bias)
        negatives = interaction[self.NEG_ITEM_ID]
        positive = self.scores_of(states, targets)
        negative = self.scores_of(states, negatives)
        return (bpr_loss if self.loss_type == "BPR" else bce_loss)(positive, negative)

    # -- scoring ----------------------------------------------------------------------

    @property
    def item_bias(self):
        """A bias per item that the backbone adds to scores, or None."""
        return None

    def scores_of(self, states, items):
        """Scores of these items: states ``(n, d)``, items ``(n,)`` or ``(n, k)``."""
        states, embeddings = self.item_scores.sides(states, self.item_embedding(items))
        if items.dim() == 1:
            scores = (states * embeddings).sum(-1)
        else:
            scores = torch.einsum("nd,nkd->nk", states, embeddings.to(states.dtype))
        return scores if self.item_bias is None else scores + self.item_bias[items]

    def _all_items(self):
        return self.item_embedding.weight[: self.n_items]

    def gather_indexes(self, output, gather_index):
        """RecBole's last step; left out while outputs at every position are wanted."""
        return output if self._every_position else super().gather_indexes(output, gather_index)

    def position_states(self, interaction):
        """The backbone's output at every position of the padded sequences, ``(b, w, d)``."""
        self._every_position = True
        try:
            return self.sequence_forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        finally:
            self._every_position = False

    def sequence_forward(self, item_seq, item_seq_len):
        """Call the backbone's ``forward``; overridden where its arguments differ."""
        return self.forward(item_seq, item_seq_len)

    def sequence_output(self, interaction):
        """The state each row predicts with, ``(b, d)``."""
        trimmed = self._trimmed(interaction)
        return self.sequence_forward(trimmed[self.ITEM_SEQ], trimmed[self.ITEM_SEQ_LEN])

    def candidate_scores(self, states, candidates):
        """Scores ``(b, c)`` of each row's candidate items ``(b, c)``."""
        return self.scores_of(states, candidates)

    def _trimmed(self, interaction):
        """The same rows without the columns that are padding in all of them."""
        width = int(interaction[self.ITEM_SEQ_LEN].max())
        if width == interaction[self.ITEM_SEQ].shape[1]:
            return interaction
        columns = dict(interaction.interaction)
        columns[self.ITEM_SEQ] = columns[self.ITEM_SEQ][:, :width]
        return Interaction(columns)

    def predict(self, interaction):
        """RecBole's scoring of one item per row, ``(b,)``."""
        return self.scores_of(self.sequence_output(interaction), interaction[self.ITEM_ID])

    def full_sort_predict(self, interaction):
        """RecBole's scoring of all items, ``(b, n_items)``."""
        states = self.sequence_output(interaction)
        states, items = self.item_scores.sides(states, self._all_items())
        return torch.nn.functional.linear(states, items, self.item_bias)
