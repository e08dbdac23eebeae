"""LLM-SRec (arXiv 2502.13909) as a RecBole model."""

from __future__ import annotations

from functools import partial

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.contract import Method, Needs, given_to
from recbole_llmemb.models.llmsrec import texts
from recbole_llmemb.models.llmsrec.item_inputs import TableForm, TextForm
from recbole_llmemb.models.llmsrec.layers import two_layers
from recbole_llmemb.models.llmsrec.loader import (
    CANDIDATE_ITEMS,
    CANDIDATES,
    ITEM_PROMPT,
    USER_PROMPT,
    PairTrainDataLoader,
)
from recbole_llmemb.models.llmsrec.losses import (
    contrastive_distillation,
    mse_distillation,
    retrieval_loss,
    uniformity_loss,
)
from recbole_llmemb.models.llmsrec.prompt_batch import Prompts
from recbole_llmemb.models.llmsrec.settings import LLMSRecSettings
from recbole_llmemb.models.whitening import whiten


class LLMSRec(Method, SequentialRecommender):
    """A frozen LLM that reads histories through a frozen sequence model's item embeddings.

    Trained are the projections into the LLM's input, the learnt tokens and the heads
    (section 4 of the paper); the LLM and the CF model are not even part of the module, so no
    optimiser, checkpoint or change of mode reaches them.

    ``config``: see ``properties/model/LLMSRec.yaml``.
    ``dataset``: the training split.

    ``form``: How items come before the LLM (``item_input``).
    """

    input_type = InputType.POINTWISE
    causal = cloze = similarity = trims = False
    known = True
    features = ()
    losses = ("CE",)
    Keys = LLMSRecSettings
    #: The CF model is trained by its own schedule, not by the LLM's.
    teacher_shares_training = False

    @classmethod
    def needs(cls, config):
        table = config["item_input"] == "table"
        return Needs(table=table, teacher="states", teacher_size=config["hidden_size"], llm=True)

    @classmethod
    def train_loader(cls, config):
        return PairTrainDataLoader

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        given = partial(given_to, config["model"], dataset, config)
        self.llm, self.teacher = given("llm"), given("teacher")
        self.time_list = config["TIME_FIELD"] + config["LIST_SUFFIX"]
        left = config["llm_padding_side"] == "left"
        if left and not self.llm.keeps_prefixes:
            raise UserError(
                "llm_padding_side is 'left', but this LLM is an encoder, whose positions are "
                "counted from the left; leave it at 'right'."
            )
        if config["item_input"] == "table":
            table = given("table").rows()
            if config["llm_whiten"]:
                table = whiten(table, config["llm_whiten"])
            table = table.to(config["device"])
            self.form = TableForm(config, self.llm, self.teacher, table, left)
        else:
            titles = texts.item_titles(config, dataset)
            clock = dataset.clock if texts.has_dates(config, dataset) else None
            self.form = TextForm(config, self.llm, self.teacher, titles, clock, left)
        hidden, size = config["head_hidden_size"], config["representation_size"]
        cf_size = self.teacher.item_embeddings.shape[1]
        self.user_head = two_layers(self.llm.width, hidden, size)
        self.item_head = two_layers(self.form.item_width, hidden, size)
        self.teacher_head = two_layers(cf_size, size, size, nn.GELU)
        self.distill_weight = config["align_weight"]
        self.distill_loss = config["distill_loss"]
        self.distill_temperature = config["distill_temperature"]
        self.uniformity_weight = config["uniformity_weight"]
        self.in_batch = bool(config["in_batch_negatives"])
        self.show_progress = bool(config["show_progress"])
        self._items = None

    @property
    def frozen_parameters(self):
        """Numbers that take part and are not trained: the LLM's, the CF model's, the table's."""
        table = getattr(self.form, "table", None)
        count = self.llm.parameters + self.teacher.parameters
        return count + (0 if table is None else table.numel())

    # -- representations --------------------------------------------------------------

    def user_vectors(self, interaction):
        """Representations of the users of a batch, ``(b, s)``."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        if f"{USER_PROMPT}tokens" in interaction:
            prompts = Prompts.from_columns(interaction, USER_PROMPT)
        else:
            times = interaction[self.time_list].cpu() if self.time_list in interaction else None
            prompts = self.form.book.prompts(items.cpu(), lengths.cpu(), times).to(items.device)
        return self.user_head(self.form.user_states(items, lengths, prompts))

    def item_vectors(self, ids, interaction=None):
        """Representations of these items ``(m,)``, none of them padding, ``(m, s)``."""
        if interaction is not None and f"{ITEM_PROMPT}tokens" in interaction:
            prompts = Prompts.from_columns(interaction, ITEM_PROMPT)
            return self.item_head(self.form.item_states(ids, prompts))
        return self.item_head(self.form.item_states(ids))

    @torch.no_grad()
    def item_matrix(self):
        """Representations of all items, ``(n_items, s)``; row 0, padding, is zero.

        Computed once, and again only after a parameter changed.
        """
        # Fused optimisers do not count their changes in _version: each step forgets it.
        key = tuple((id(p), p._version) for p in self.parameters())
        if self._items is None or self._items[0] != key:
            rows = self.form.all_item_states(self.item_head, self.show_progress)
            self._items = key, torch.cat([rows.new_zeros(1, rows.shape[1]), rows])
        return self._items[1]

    # -- training ---------------------------------------------------------------------

    def before_training(self, loader):
        """Let prompts be made beside the batches."""
        loader.book = self.form.book
        loader.item_prompts = getattr(self.form, "item_prompts", None)

    def calculate_loss(self, interaction):
        """RecBole's training entry: retrieval, distillation and uniformity, those that count."""
        self._items = None
        users = self.user_vectors(interaction)
        rows = self.item_vectors(interaction[CANDIDATE_ITEMS], interaction)
        candidates = rows[interaction[CANDIDATES]]
        others = (candidates[:, 0], interaction[self.POS_ITEM_ID]) if self.in_batch else ()
        losses = [retrieval_loss(users, candidates, *others)]
        if self.distill_weight or self.uniformity_weight:
            state = self.teacher.user_states(
                interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
            )
            teachers = self.teacher_head(state)
        if self.distill_weight:
            losses.append(self.distill_weight * self._distillation(users, teachers))
        if self.uniformity_weight:
            both = uniformity_loss(users) + uniformity_loss(teachers)
            losses.append(self.uniformity_weight * both)
        return tuple(losses)

    def _distillation(self, users, teachers):
        if self.distill_loss == "contrastive":
            return contrastive_distillation(users, teachers, self.distill_temperature)
        return mse_distillation(users, teachers)

    # -- scoring ----------------------------------------------------------------------

    def forward(self, interaction):
        """The user representations of a batch, ``(b, s)``."""
        return self.user_vectors(interaction)

    def sequence_output(self, interaction):
        """The state each row predicts with, ``(b, s)``."""
        return self.user_vectors(interaction)

    def candidate_scores(self, states, candidates):
        """Scores ``(b, c)`` of each row's candidate items ``(b, c)``."""
        return torch.einsum("bs,bcs->bc", states, self.item_matrix()[candidates])

    def rank_candidates(self, interaction, candidates):
        """Scores ``(b, c)`` of each row's candidate items ``(b, c)``, from its history."""
        return self.candidate_scores(self.sequence_output(interaction), candidates)

    def predict(self, interaction):
        """RecBole's scoring of one item per row, ``(b,)``."""
        items = self.item_matrix()[interaction[self.ITEM_ID]]
        return (self.user_vectors(interaction) * items).sum(1)

    def full_sort_predict(self, interaction):
        """RecBole's scoring of all items, ``(b, n_items)``."""
        return self.user_vectors(interaction) @ self.item_matrix().t()
