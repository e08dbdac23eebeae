"""What makes a RecBole sequential model an LLMEmb model: the table, the losses, the pass.

A backbone needs to read its items through ``self.item_embedding(ids)`` and
``self.item_embedding.weight``; then a subclass of :class:`LLMEmbMixin` and the backbone is
the whole model, which :func:`recbole_llmemb.llmemb` makes.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import nn

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.loaders import ALIGN_ITEMS, BATCH_ITEMS, LOSS_POSITION
from recbole_llmemb.models import losses
from recbole_llmemb.models.contract import Method, forward_roles, given_to
from recbole_llmemb.models.llmemb.item_embedding import TableItemEmbedding
from recbole_llmemb.models.llmemb.item_side import ItemSide
from recbole_llmemb.models.llmemb.parts import LOSSES, item_layer, use_fast_ops
from recbole_llmemb.models.settings import ItemSettings

__all__ = ["LLMEmbMixin"]

# Losses that RecBole has.
_RECBOLES = ("CE", "BPR")


def _for_backbone(config, replaced):
    """The configuration as a backbone reads it, which knows CE and BPR only."""
    loss_type = config["loss_type"]
    if loss_type not in _RECBOLES:
        loss_type = "BPR" if LOSSES[loss_type].samples_negatives else "CE"
    found = copy.copy(config)
    found.final_config_dict = config.final_config_dict | {"loss_type": loss_type} | replaced
    return found


class LLMEmbMixin(ItemSide):
    """Put before a RecBole sequential model in a class's bases.

    With ``item_embedding: table`` the backbone's item embedding is replaced by the
    adapted table (LLMEmb §3.3); with ``id`` RecBole's own layer stays, under the same
    training. ``align_weight`` > 0 adds the alignment with a collaborative teacher.

    Beside what :class:`~recbole_llmemb.models.contract.Method` has, a class says the following.
    What nobody says is taken to be what can do no harm.

    Attributes
    ----------
    padding_free : bool or str
        As there; ``table``: where the embedding of padding is zero, as it is with a table.
    uses_backbone_loss : bool or None
        Whether the backbone's own loss and scores are kept as they are; None where they are unless
        scores are products.
    n_special_ids : int
        Ids the backbone uses after the items (BERT4Rec's mask).
    size_key : str
        The key that says how large its item embeddings are.
    uses_recbole_prefix_loss : bool
        Whether prefix mode may leave the loss to RecBole's code; False where ours gives
        the same and RecBole's needs more than the batch has.
    loss_reads_all_items : bool
        Whether a training step reads items beside those of the batch.
    """

    uses_backbone_loss: bool | None = None
    n_special_ids = 0
    uses_recbole_prefix_loss = True
    loss_reads_all_items = False

    def __init__(self, config, dataset):
        self._every_position = False
        self._roles = forward_roles(super().forward)
        super().__init__(_for_backbone(config, self.backbone_settings(config)), dataset)
        self.loss_type, self.item_loss = config["loss_type"], LOSSES[config["loss_type"]]()
        self.products = self.scores_are_products(config)
        if self.uses_backbone_loss is None:
            self.uses_backbone_loss = not self.products
        self.padding_free = self.is_padding_free(config)
        if "users" in self._roles:
            self.reads = self.reads | {"users"}
        self._put_items(config, dataset)
        settings = ItemSettings.of(config)
        self.item_scores = losses.ItemScores(
            settings.item_similarity == "cosine",
            settings.similarity_temperature,
            settings.learn_temperature,
        )
        adjusted, shift = config["popularity_adjustment"], None
        if adjusted:
            shift = losses.log_popularity(dataset.training_counts(dataset)[0], adjusted)
        self.register_buffer("log_popularity", shift, persistent=False)
        self.offset_decay = settings.offset_decay or 0.0
        drawn = config["softmax_negatives"]
        self.softmax_negatives = drawn if drawn and drawn < dataset.item_num - 1 else None
        self.align_weight = 0.0
        if self.needs(config).teacher:
            self._put_teacher(config, dataset, settings)
        self.adjust(config, dataset)
        if config["initialization"] == "xavier":
            self.start_from_xavier()
        if config["train_mode"] == "sequence" or config["prefix_trim"]:
            use_fast_ops(self)

    def _put_items(self, config, dataset):
        replaced = getattr(self, "item_embedding", None)
        if not isinstance(replaced, nn.Embedding):
            told = f"{type(self).__name__} has no nn.Embedding of its items called item_embedding"
            raise UserError(f"{told}, which a table could replace; name it so in the class.")
        self.item_count, self._added = dataset.item_num, None
        self._replace_items(replaced, item_layer(config, dataset, replaced, self.n_special_ids))

    def _put_teacher(self, config, dataset, settings):
        self.align_weight = settings.align_weight
        self.align_positions = settings.align_items == "positions"
        self.alignment = losses.AlignmentLoss(settings.align_temperature)
        teacher = given_to(dataset, config, "teacher")
        size = self.item_embedding.embedding_dim
        if teacher.shape[1] != size:
            told = f"align_teacher {settings.align_teacher} has items of size {teacher.shape[1]}"
            raise UserError(f"{told}, the model of {size}; take another or align_weight: 0.")
        self.register_buffer("teacher", teacher, persistent=False)

    def backbone_settings(self, config):
        """Settings that the backbone is to find changed while it is built, a dict."""
        return {}

    def adjust(self, config, dataset):
        """Called when the item embedding has been put in place; for what else is to change."""

    # -- training ---------------------------------------------------------------------

    def loss_terms(self, interaction):
        with self._shared_rows(interaction):
            one_pass = LOSS_POSITION in interaction
            loss = self._one_pass_loss(interaction) if one_pass else self._prefix_loss(interaction)
            terms = {"recommendation": loss}
            if self.align_weight:
                items = self.aligned_items(interaction)
                term = self.alignment(self.teacher[items], self.item_embedding(items))
                terms["alignment"] = self.align_weight * term
            if self.offset_decay:
                penalty = self.item_embedding.offsets.penalty(self._batch_items(interaction))
                terms["offsets"] = self.offset_decay * penalty
            return terms

    def aligned_items(self, interaction):
        """The positive items of a batch that the alignment compares, ``(k,)``."""
        return interaction[ALIGN_ITEMS]

    def _batch_items(self, interaction):
        """Every item of a batch; the distinct ones where its loader has found them."""
        if BATCH_ITEMS in interaction:
            return interaction[BATCH_ITEMS]
        fields = [self.ITEM_SEQ, self.POS_ITEM_ID, self.NEG_ITEM_ID]
        found = [interaction[field] for field in fields if field in interaction]
        return torch.cat([ids.reshape(-1) for ids in found])

    def _shared_rows(self, interaction):
        """Adapted once per step: all items, or those that a pairwise loss looks up."""
        if not isinstance(self.item_embedding, TableItemEmbedding):
            return nullcontext()
        fetched = getattr(interaction, "fetched", None)
        if fetched is not None:
            return self.item_embedding.step(fetched=fetched)
        return self.item_embedding.step(self._needed_items(interaction))

    def fetch(self, batch):
        if not getattr(self.item_embedding, "on_host", False):
            return None
        ids = self._needed_items(batch)
        return None if ids is None else self.item_embedding.fetch(ids)

    def _needed_items(self, interaction):
        """The distinct items a pairwise step looks up; None for all of them."""
        some = self.item_loss.samples_negatives and not self.loss_reads_all_items
        if self.uses_backbone_loss or not some:
            return None  # every item is a candidate
        if BATCH_ITEMS in interaction:
            return interaction[BATCH_ITEMS]
        if interaction[self.ITEM_SEQ].is_cuda:
            return None  # finding out which would make the host wait for the step before
        items = self._batch_items(interaction)
        return torch.unique(torch.cat([items.new_zeros(1), items]))

    def _one_pass_loss(self, interaction):
        states = self.position_states(interaction)
        states = states.flatten(0, 1).index_select(0, interaction[LOSS_POSITION])
        return self.position_loss(states, interaction) + self.own_terms(states, interaction)

    def _prefix_loss(self, interaction):
        if self.uses_backbone_loss:
            return self._backbones_loss(interaction)
        trimmed = hasattr(interaction, "chunks")
        if self._has_recboles_loss and self.uses_recbole_prefix_loss and not trimmed:
            return super(Method, self).calculate_loss(interaction)
        states = self.states(interaction)
        # RecBole's CE counts padding among the candidates.
        loss = self.position_loss(states, interaction, padding=True)
        return loss + self.own_terms(states, interaction)

    @property
    def _has_recboles_loss(self):
        """Whether RecBole has the loss, over the same scores."""
        plain = self.item_scores.is_dot_product and self.log_popularity is None
        return plain and not self.softmax_negatives and self.loss_type in _RECBOLES

    def _backbones_loss(self, interaction):
        backbone = super(Method, self)
        if self.loss_type in _RECBOLES:
            return backbone.calculate_loss(interaction)
        # The backbone thinks that it computes BPR, from the same pairs of scores.
        kept = self.loss_type, self.loss_fct
        self.loss_type, self.loss_fct = "BPR", self.item_loss
        try:
            return backbone.calculate_loss(interaction)
        finally:
            self.loss_type, self.loss_fct = kept

    def own_terms(self, states, interaction):
        """What the backbone's own loss has beside the loss of its scores."""
        return 0.0

    def position_loss(self, states, interaction, padding=False):
        """Loss of predicting each target from its state ``(n, d)``, by ``loss_type``."""
        targets = interaction[self.POS_ITEM_ID]
        if self.item_loss.samples_negatives:
            positive = self.pair_scores(states, targets)
            return self.item_loss(positive, self.pair_scores(states, interaction[self.NEG_ITEM_ID]))
        if self.softmax_negatives:
            return self._sampled_softmax(states, targets)
        states, items = self.item_scores.project(states, self.items().vectors)
        biases = [b for b in (self.item_bias, self.log_popularity) if b is not None]
        return self.item_loss(states, items, targets, sum(biases) if biases else None, padding)

    def _sampled_softmax(self, states, targets):
        """Each target against the same items, drawn uniformly for this step."""
        drawn = torch.randint(1, self.item_count, (self.softmax_negatives,), device=targets.device)
        positive = self.pair_scores(states, targets)
        sides = self.item_scores.project(states, self.scored(self.output_items(drawn)))
        negative = F.linear(*sides, None if self.item_bias is None else self.item_bias[drawn])
        if self.log_popularity is not None:
            positive = positive + self.log_popularity[targets]
            negative = negative + self.log_popularity[drawn]
        same = drawn == targets.unsqueeze(1)
        return losses.sampled_cross_entropy(positive, negative.masked_fill(same, -torch.inf))

    def pair_scores(self, states, ids):
        """Scores of these items: states ``(n, d)``, ids ``(n,)`` or ``(n, k)``."""
        items = self.scored(self.output_items(ids))
        states, items = self.item_scores.project(states, items)
        if ids.dim() == 1:
            scores = (states * items).sum(-1)
        else:
            scores = torch.einsum("nd,nkd->nk", states, items.to(states.dtype))
        return scores if self.item_bias is None else scores + self.item_bias[ids]

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
        given = {"items": item_seq, "lengths": item_seq_len, "users": user}
        return self.forward(*[given[role] for role in self._roles])

    def states(self, interaction):
        chunks = getattr(interaction, "chunks", None)
        if not chunks:
            return self.sequence_forward(*self._inputs(self._trim_padding(interaction)))
        states, inputs = [], [one for one in self._inputs(interaction) if one is not None]
        for begin, end, width in chunks:
            items, *others = (one[begin:end] for one in inputs)
            states.append(self.sequence_forward(items[:, :width], *others))
        return torch.cat(states)

    def _inputs(self, interaction):
        users = interaction.interaction.get(self.USER_ID)
        return interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], users

    def _trim_padding(self, interaction):
        """The same rows without the columns that are padding in all of them, or with all of them.

        On a GPU they stay as they are: to look would make the host wait.
        """
        items = interaction[self.ITEM_SEQ]
        if self.padding_free and items.is_cuda:
            return interaction
        longest = interaction[self.ITEM_SEQ_LEN].max() if self.padding_free else self.max_seq_length
        missing = int(longest) - items.shape[1]
        if not missing:
            return interaction
        return Interaction(interaction.interaction | {self.ITEM_SEQ: F.pad(items, (0, missing))})

    def other_parameter(self):
        """What a checkpoint holds beside the weights; modules are among these already."""
        found = super().other_parameter()
        return {key: v for key, v in found.items() if not isinstance(v, nn.Module)}
