"""What makes a RecBole sequential model an LLMEmb model: the table, the losses, the pass.

A backbone needs to read its items through ``self.item_embedding(ids)`` and
``self.item_embedding.weight``; then a subclass of :class:`LLMEmbMixin` and the backbone is
the whole model, which :func:`recbole_llmemb.llmemb` makes.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import nn

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.loaders import ALIGN_ITEMS, BATCH_ITEMS, LOSS_POSITION
from recbole_llmemb.models.contract import Method, Needs, given_to
from recbole_llmemb.models.fast_ops import quicken
from recbole_llmemb.models.llmemb.backbones.examine import roles_of, settle_unknown
from recbole_llmemb.models.llmemb.item_embedding import TableItemEmbedding
from recbole_llmemb.models.llmemb.item_layer import has_learnt_adapter, item_layer
from recbole_llmemb.models.losses import (
    AlignmentLoss,
    PairwiseBCE,
    bce_loss,
    bpr_loss,
    item_cross_entropy,
)
from recbole_llmemb.models.popularity import log_popularity
from recbole_llmemb.models.ranking import Ranking
from recbole_llmemb.models.scoring import ItemScores
from recbole_llmemb.models.table_dtype import table_dtype


class _BackboneConfig:
    """The configuration as a backbone reads it: one that has never heard of BCE."""

    def __init__(self, config, replaced):
        self._config = config
        self._replaced = replaced

    def __getitem__(self, key):
        if key in self._replaced:
            return self._replaced[key]
        value = self._config[key]
        return "BPR" if key == "loss_type" and value == "BCE" else value

    def __contains__(self, key):
        return key in self._config


class LLMEmbMixin(Ranking, Method):
    """Put before a RecBole sequential model in a class's bases.

    With ``item_embedding: table`` the backbone's item embedding is replaced by the
    adapted table (LLMEmb §3.3); with ``id`` RecBole's own layer stays, under the same
    training. ``align_weight`` > 0 adds the alignment with a collaborative teacher.

    Attributes
    ----------
    causal : bool or None
        Whether no position's output depends on later items, which is what training at
        every position needs; None where nobody has said.
    cloze : bool
        Whether it can train on masked items of whole sequences instead.
    trims : bool
        Whether padding after a history changes nothing, so that it can be left out; ``zero``:
        where the embedding of padding is, as it is with a table.
    losses : tuple of str
        The values of ``loss_type`` that it offers.
    similarity : bool
        Whether ``item_similarity`` and temperatures apply to its scores.
    extra_rows : int
        Ids the backbone uses after the items (BERT4Rec's mask).
    features : bool
        Whether it reads fields of the items, which are then chosen and loaded for it.
    own : bool
        Whether the backbone's own loss and scores are kept as they are.
    recbole_loss : bool
        Whether prefix mode may leave the loss to RecBole's code; False where ours gives
        the same and RecBole's needs more than the batch has.
    every_item : bool
        Whether a training step reads items beside those of the batch.
    known : bool
        Whether this package's tests vouch for the above; else the model is examined when
        it is built.
    """

    trims = True
    losses = ("BCE", "BPR", "CE")
    similarity = True
    extra_rows = 0
    features = False
    own = False
    recbole_loss = True
    every_item = False
    known = False
    size_key = ""

    @classmethod
    def needs(cls, config):
        table = config["item_embedding"] != "id"
        aligned = table and bool(config["align_weight"])
        narrow = table and not has_learnt_adapter(config)
        return Needs(
            table=table,
            table_width=cls.item_size(config) if narrow else None,
            teacher="items" if aligned else "",
            teacher_size=cls.item_size(config) if aligned else None,
        )

    @classmethod
    def item_size(cls, config):
        """Size of its item embeddings; None where nobody has said."""
        if cls.size_key:
            return config[cls.size_key]
        return config["embedding_size"] or config["hidden_size"]

    @classmethod
    def settled(cls, config, given):
        if given.table is None or not config["llm_freeze"]:
            return {}
        kept = table_dtype(config["llm_table_dtype"], given.table.width, config["device"])
        return {"llm_table_dtype": str(kept).removeprefix("torch.")}

    def __init__(self, config, dataset):
        self._every_position, self._chunks = False, None
        self._roles = roles_of(super().forward)
        super().__init__(_BackboneConfig(config, self.backbone_settings(config)), dataset)
        self.loss_type = config["loss_type"]
        if self.trims == "zero":
            self.trims = config["item_embedding"] != "id"
        self.item_count = dataset.item_num
        replaced = getattr(self, "item_embedding", None)
        if not isinstance(replaced, nn.Embedding):
            raise UserError(
                f"{self.backbone_name} has no self.item_embedding (an nn.Embedding of the items), "
                "which a table could replace; name it so in the class."
            )
        size = replaced.embedding_dim
        self.item_embedding = item_layer(config, dataset, replaced, self.extra_rows)
        for name, module in self._modules.items():
            if module is replaced:  # under another name, too
                self._modules[name] = self.item_embedding
        self.item_scores = ItemScores(config)
        adjusted = config["popularity_adjustment"]
        adjustment = log_popularity(dataset, adjusted) if adjusted else None
        self.register_buffer("log_popularity", adjustment, persistent=False)
        self.align_weight = 0.0
        self.offset_decay = config["offset_decay"] or 0.0
        if config["item_embedding"] != "id" and config["align_weight"]:
            self.align_weight = float(config["align_weight"])
            self.align_positions = config["align_items"] == "positions"
            self.alignment = AlignmentLoss(config["align_temperature"])
            teacher = given_to(config["model"], dataset, config, "teacher")
            if teacher.shape[1] != size:
                raise UserError(
                    f"align_teacher {config['align_teacher']} has item embeddings of size "
                    f"{teacher.shape[1]}, the model of size {size}; train a teacher of that size "
                    "or set align_weight: 0."
                )
            self.register_buffer("teacher", teacher, persistent=False)
        self.adjust(config, dataset)
        if config["train_mode"] == "sequence" or config["prefix_trim"]:
            quicken(self)
        if not self.known:
            settle_unknown(self, config, dataset)

    @property
    def backbone_name(self):
        """What this is a model over."""
        return type(self).__name__.removeprefix("LLMEmb")

    def backbone_settings(self, config):
        """Settings that the backbone is to find changed while it is built, a dict."""
        return {}

    def adjust(self, config, dataset):
        """Called when the item embedding has been put in place; for what else is to change."""

    # -- training ---------------------------------------------------------------------

    def calculate_loss(self, interaction):
        """RecBole's training entry: the loss of a batch of windows, or of prefixes.

        Returns
        -------
        torch.Tensor or tuple of torch.Tensor
            The recommendation loss and, where there are any, the weighted terms of the
            alignment and of the offsets.
        """
        one_pass = LOSS_POSITION in interaction
        with self._shared_rows(interaction, one_pass):
            loss = self._one_pass_loss(interaction) if one_pass else self._prefix_loss(interaction)
            terms = [loss]
            if self.align_weight:
                items = self._align_items(interaction)
                term = self.alignment(self.teacher[items], self.item_embedding(items))
                terms.append(self.align_weight * term)
            if self.offset_decay:
                items = self._batch_items(interaction, one_pass)
                terms.append(self.offset_decay * self.item_embedding.offsets.penalty(items))
            return tuple(terms) if len(terms) > 1 else loss

    def _batch_items(self, interaction, one_pass):
        """Every item of a batch, distinct or not."""
        if one_pass:
            return interaction[BATCH_ITEMS]
        fields = [self.ITEM_SEQ, self.POS_ITEM_ID, self.NEG_ITEM_ID]
        found = [interaction[field] for field in fields if field in interaction]
        return torch.cat([ids.reshape(-1) for ids in found])

    def _align_items(self, interaction):
        if ALIGN_ITEMS in interaction:
            return interaction[ALIGN_ITEMS]
        targets = interaction[self.POS_ITEM_ID]
        return targets if self.align_positions else torch.unique(targets)

    def _shared_rows(self, interaction, one_pass):
        if not isinstance(self.item_embedding, TableItemEmbedding):
            return nullcontext()
        if self.loss_type == "CE" or self.every_item or self.own:  # every item is a candidate
            return self.item_embedding.step()
        return self.item_embedding.step(self._needed_items(interaction, one_pass))

    def _needed_items(self, interaction, one_pass):
        """The distinct items a pairwise step looks up; None for all of them."""
        if one_pass:
            return interaction[BATCH_ITEMS]
        if interaction[self.ITEM_SEQ].is_cuda:
            return None  # finding out which would make the host wait for the step before
        used = [interaction[f] for f in (self.ITEM_SEQ, self.POS_ITEM_ID, self.NEG_ITEM_ID)]
        padding = used[0].new_zeros(1)
        return torch.unique(torch.cat([padding, *[ids.reshape(-1) for ids in used]]))

    def _one_pass_loss(self, interaction):
        states = self.position_states(interaction)
        states = states.flatten(0, 1).index_select(0, interaction[LOSS_POSITION])
        return self.position_loss(states, interaction) + self.own_terms(states, interaction)

    def _prefix_loss(self, interaction):
        self._chunks = getattr(interaction, "chunks", None)
        try:
            if self.own:
                return self._backbones_loss(interaction)
            plain = self.item_scores.plain and self.log_popularity is None
            if self.loss_type != "BCE" and plain and self.recbole_loss and not self._chunks:
                return super().calculate_loss(interaction)
            states = self.sequence_output(interaction)
            # RecBole's CE counts padding among the candidates.
            loss = self.position_loss(states, interaction, padding=True)
            return loss + self.own_terms(states, interaction)
        finally:
            self._chunks = None

    def _backbones_loss(self, interaction):
        if self.loss_type != "BCE":
            return super().calculate_loss(interaction)
        # The backbone thinks that it computes BPR, from the same pairs of scores.
        kept, self.loss_type, self.loss_fct = self.loss_fct, "BPR", PairwiseBCE()
        try:
            return super().calculate_loss(interaction)
        finally:
            self.loss_type, self.loss_fct = "BCE", kept

    def own_terms(self, states, interaction):
        """What the backbone's own loss has beside the loss of its scores."""
        return 0.0

    def position_loss(self, states, interaction, padding=False):
        """Loss of predicting each target from its state ``(n, d)``, by ``loss_type``."""
        targets = interaction[self.POS_ITEM_ID]
        if self.loss_type == "CE":
            states, items = self.item_scores.sides(states, self._all_items())
            biases = [b for b in (self.item_bias, self.log_popularity) if b is not None]
            bias = sum(biases) if biases else None
            return item_cross_entropy(states, items, targets, bias, padding)
        negatives = interaction[self.NEG_ITEM_ID]
        positive = self.scores_of(states, targets)
        negative = self.scores_of(states, negatives)
        return (bpr_loss if self.loss_type == "BPR" else bce_loss)(positive, negative)

    # -- the pass through the backbone -----------------------------------------------------

    def gather_indexes(self, output, gather_index):
        """RecBole's last step; left out while outputs at every position are wanted."""
        return output if self._every_position else super().gather_indexes(output, gather_index)

    def position_states(self, interaction):
        """The backbone's output at every position of the padded sequences, ``(b, w, d)``."""
        self._every_position = True
        try:
            return self.sequence_forward(*self._inputs(interaction))
        finally:
            self._every_position = False

    def sequence_forward(self, item_seq, item_seq_len, user=None):
        """Call the backbone's ``forward`` with what it takes, in its order."""
        given = {"items": item_seq, "lengths": item_seq_len, "user": user}
        return self.forward(*[given[role] for role in self._roles])

    def sequence_output(self, interaction):
        """The state each row predicts with, ``(b, d)``."""
        if not self._chunks:
            return self.sequence_forward(*self._inputs(self._fitted(interaction)))
        items, lengths, users = self._inputs(interaction)
        states = [
            self.sequence_forward(items[begin:end, :width], lengths[begin:end], users[begin:end])
            for begin, end, width in self._chunks
        ]
        return torch.cat(states)

    def _inputs(self, interaction):
        users = None
        if self.USER_ID in interaction:
            users = interaction[self.USER_ID]
        return interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], users

    def _fitted(self, interaction):
        """The same rows without the columns that are padding in all of them, or with all of them.

        In training on a GPU they stay as they are: to look would make the host wait.
        """
        items = interaction[self.ITEM_SEQ]
        width = self.max_seq_length
        if self.trims:
            if self.training and items.is_cuda:
                return interaction
            width = int(interaction[self.ITEM_SEQ_LEN].max())
        if width == items.shape[1]:
            return interaction
        columns = dict(interaction.interaction)
        columns[self.ITEM_SEQ] = F.pad(items, (0, width - items.shape[1]))
        return Interaction(columns)

    def other_parameter(self):
        """What a checkpoint holds beside the weights; modules are among these already."""
        found = super().other_parameter()
        return {key: v for key, v in found.items() if not isinstance(v, nn.Module)}
