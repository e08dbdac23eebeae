"""LLM-SRec (arXiv 2502.13909) as a RecBole model."""

from __future__ import annotations

from functools import partial

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_llmemb.core.devices import refuse_too_large
from recbole_llmemb.data.histories import over_sampled, over_shuffled
from recbole_llmemb.data.loaders import LOSS_POSITION, SequenceTrainDataLoader
from recbole_llmemb.models.adapters import whiten
from recbole_llmemb.models.contract import Method, Needs, as_method, given_to
from recbole_llmemb.models.llmsrec import item_inputs, layers, prompts
from recbole_llmemb.models.losses import EvalCache, Items, ItemScores, item_cross_entropy
from recbole_llmemb.models.settings import LLMSRecSettings


class LLMSRec(Method, SequentialRecommender):
    """A frozen LLM that reads histories through a frozen sequence model's item embeddings.

    Trained are the projections into the LLM's input, the learned tokens and the heads
    (section 4 of the paper); the LLM and the CF model are not even part of the module, so no
    optimizer, checkpoint or change of mode reaches them.

    ``form``: How items come before the LLM (``item_input``).
    """

    input_type = InputType.POINTWISE
    losses = ("CE",)
    Keys = LLMSRecSettings
    similarity = False
    #: The CF model is trained by its own schedule, not by the LLM's.
    teacher_shares_training = False

    @classmethod
    def needs(cls, config):
        table = config["item_input"] == "table"
        size = config["hidden_size"]
        return Needs(table, teacher="states", teacher_size=size, llm=True, titles=not table)

    @classmethod
    def train_loader(cls, config):
        if config["causal_pass"]:
            return over_shuffled(over_sampled(SequenceTrainDataLoader))
        return prompts.PairTrainDataLoader

    @classmethod
    def why_not(cls, ability, config):
        return {
            "new_items": "an item of LLMSRec is its vector in the CF model, too",
            "cold_items": "LLMSRec reads its items through a CF model, which knows no others",
            "user_encoder": "LLMSRec reads a history by an LLM, which is no part of an export",
        }.get(ability, "")

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        given = partial(given_to, dataset, config)
        self.llm, self.teacher = given("llm"), given("teacher")
        self.time_list = config["TIME_FIELD"] + config["LIST_SUFFIX"]
        if config["item_input"] == "table":
            table = given("table").rows()
            if config["llm_whiten"]:
                table = whiten(table, config["llm_whiten"])
            refuse_too_large(*table.shape, table.dtype, config["device"])
            table = table.to(config["device"])
            form = item_inputs.CausalForm if config["causal_pass"] else item_inputs.TableForm
            self.form = form(config, self.llm, self.teacher, table)
        else:
            time_scaling = dataset.time_scaling if prompts.has_dates(config, dataset) else None
            self.form = item_inputs.TextForm(
                config, self.llm, self.teacher, given("titles"), time_scaling
            )
        hidden, size = config["head_hidden_size"], config["representation_size"]
        cf_size = self.teacher.item_embeddings.shape[1]
        self.user_head = layers.two_layers(self.llm.width, hidden, size)
        self.item_head = layers.two_layers(self.form.item_width, hidden, size)
        self.teacher_head = layers.two_layers(cf_size, size, size, nn.GELU)
        self.settings = LLMSRecSettings.of(config)
        if self.settings.cosine_temperature:
            self.user_head.append(layers.UnitLength(1 / self.settings.cosine_temperature))
            self.item_head.append(layers.UnitLength())
        self.show_progress = bool(config["show_progress"])
        self.item_scores = ItemScores()
        self.rows_at_once = self.settings.eval_batch_size  # each is a prompt
        if self.form.time_scaling is not None:
            self.reads = self.reads | {"times"}
        self._catalog = EvalCache()
        if config["initialization"] == "xavier":
            self.start_from_xavier()

    def frozen_parameters(self):
        """The numbers of the LLM, the CF model and the table."""
        table = getattr(self.form, "table", None)
        count = self.llm.parameters + self.teacher.parameters
        return count + (0 if table is None else table.numel())

    def user_vectors(self, interaction):
        """Representations of the users of a batch, ``(b, s)``."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        codes = interaction.interaction.get(item_inputs.USER_PROMPT)
        if codes is None:
            times = interaction.interaction.get(self.time_list)
            codes = self.form.user_prompts(items, lengths, times)
        return self.user_head(self.form.user_states(items, lengths, codes))

    forward = user_vectors

    def item_vectors(self, ids, interaction=None):
        """Representations of these items ``(m,)``, none of them padding, ``(m, s)``."""
        made = {} if interaction is None else interaction.interaction
        return self.item_head(self.form.item_states(ids, made.get(item_inputs.ITEM_PROMPT)))

    @torch.no_grad()
    def items(self):
        """Representations of all items, ``(n_items, s)``; row 0, padding, is zero.

        Beside them stand their CF vectors where ``cf_score_weight`` counts these.
        """
        return Items(self._catalog.get(self.parameters(), self._read_catalog))

    def _read_catalog(self):
        rows = self.form.encode_catalog(self.item_head, self.show_progress)
        rows = torch.cat([rows.new_zeros(1, rows.shape[1]), rows])
        if self.settings.cf_score_weight:
            rows = torch.cat([rows, self.teacher.item_embeddings], dim=1)
        return rows

    def before_training(self, loader):
        """Let prompts be made beside the batches, where there are any."""
        loader.form = self.form

    def loss_terms(self, interaction):
        """Retrieval, distillation and uniformity, those that count."""
        self._catalog.forget()
        own = self.settings
        history = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        if own.causal_pass:
            states = self.form.position_states(*history)
            trained = self.user_head(states.flatten(0, 1)[interaction[LOSS_POSITION]])
            rows = self.item_vectors(torch.arange(1, self.n_items, device=states.device))
            targets = interaction[self.POS_ITEM_ID] - 1
            terms = {"retrieval": item_cross_entropy(trained, rows, targets, padding=True)}
            ends = torch.arange(len(states), device=states.device), history[1] - 1
            users = self.user_head(states[ends])
        else:
            users = self.user_vectors(interaction)
            rows = self.item_vectors(interaction[prompts.CANDIDATE_ITEMS], interaction)
            chosen, targets = rows[interaction[prompts.CANDIDATES]], interaction[self.POS_ITEM_ID]
            shared = targets if own.in_batch_negatives else None
            terms = {"retrieval": layers.retrieval_loss(users, chosen, shared)}
        if own.distill_weight or own.uniformity_weight:
            states = self.teacher.user_states(*history, dropout=own.cf_dropout)
            teachers = self.teacher_head(states)
        if own.distill_weight:
            if own.distill_loss == "contrastive":
                loss = layers.contrastive_distillation(users, teachers, own.distill_temperature)
            else:
                loss = layers.mse_distillation(users, teachers)
            terms["distillation"] = own.distill_weight * loss
        if own.uniformity_weight:
            both = layers.uniformity_loss(users) + layers.uniformity_loss(teachers)
            terms["uniformity"] = own.uniformity_weight * both
        return terms

    def states(self, interaction):
        users, weight = self.user_vectors(interaction), self.settings.cf_score_weight
        if not weight:
            return users
        history = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        parts, items = [users, self.teacher.user_states(*history)], self.items().vectors[1:]
        rows = items.split([part.shape[1] for part in parts], dim=1)
        even = [part / layers.score_spread(part, vectors) for part, vectors in zip(parts, rows)]
        return torch.cat([even[0], weight * even[1]], dim=1)


class FrozenTeacher:
    """Item embeddings E and user states O_u of a trained model. Not a module of ours.

    ``ids`` (n_items,): the model's id of each of our items.

    ``item_embeddings``: (n_items, d): By our item ids; row 0 is zero.
    """

    def __init__(self, model, ids):
        self.model, self.ids = as_method(model.eval().requires_grad_(False)), ids
        self.set_mode = model.train  # of RecBole's own models, too, which another stands for
        with torch.no_grad():
            rows = model.item_embedding.weight[ids].float().clone()
        rows[0] = 0
        self.item_embeddings = rows
        self.width = model.max_seq_length
        self.fields = model.ITEM_SEQ, model.ITEM_SEQ_LEN
        self.parameters = sum(parameter.numel() for parameter in model.parameters())

    @torch.no_grad()
    def user_states(self, items, lengths, dropout=False):
        """O_u of right-padded histories ``(b, w)`` of these lengths ``(b,)``, ``(b, d)``.

        Of a history longer than the model reads, the last items count.

        ``dropout``: whether the model is in training mode, though nothing of it is trained.
        """
        self.set_mode(dropout)
        shown = prompts.recent(items, lengths, self.width)
        shown = nn.functional.pad(shown, (0, self.width - shown.shape[1]))
        read = self.ids[shown], lengths.clamp(max=self.width)
        return self.model.states(Interaction(dict(zip(self.fields, read)))).float()

    def gives_states(self):
        """Whether it turns a history of items into one state as wide as an item embedding."""
        one = torch.ones(1, 1, dtype=torch.long, device=self.ids.device)
        try:
            state = self.user_states(one, one[0])
        except (KeyError, TypeError, AttributeError, RuntimeError, IndexError):
            return False  # one that wants users, features or a mask
        return state.shape == (1, self.item_embeddings.shape[1])
