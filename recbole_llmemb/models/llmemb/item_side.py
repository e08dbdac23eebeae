"""The items of an LLMEmb model: what they need, what scores them, new ones and held-out ones."""

from __future__ import annotations

import copy

import torch
from torch import nn

from recbole_llmemb.models.contract import Method, Needs, given_to
from recbole_llmemb.models.llmemb.item_embedding import TrainedRows, WithNewItems
from recbole_llmemb.models.llmemb.parts import LOSSES, prepared, table_dtype
from recbole_llmemb.models.losses import Items
from recbole_llmemb.models.settings import ItemSettings


class ItemSide(Method):
    """The part of :class:`~recbole_llmemb.models.llmemb.model.LLMEmbMixin` that knows items."""

    products = similarity = False
    size_key = ""

    @classmethod
    def needs(cls, config):
        settings = ItemSettings.of(config)
        if settings.item_embedding == "id":
            return Needs()
        if cls.size_key:
            size = config[cls.size_key]
        else:
            size = config["embedding_size"] or config["hidden_size"]
        width = None if settings.learns_adapter else size
        if not settings.align_weight:
            return Needs(table=True, table_width=width)
        return Needs(table=True, table_width=width, teacher="items", teacher_size=size)

    @classmethod
    def samples_negatives(cls, config):
        return LOSSES[config["loss_type"]].samples_negatives

    @classmethod
    def settled(cls, config, given):
        settings = ItemSettings.of(config)
        if given.table is None or not settings.llm_freeze:
            return {}
        kept = table_dtype(settings.llm_table_dtype, given.table.width, config["device"])
        return {"llm_table_dtype": str(kept).removeprefix("torch.")}

    @classmethod
    def is_padding_free(cls, config):
        if cls.padding_free == "table":
            return ItemSettings.of(config).item_embedding != "id"
        return super().is_padding_free(config)

    @classmethod
    def why_not(cls, ability, config):
        if ability == "new_items" and ItemSettings.of(config).item_embedding == "id":
            return f"the items of this {config['model']} have learned IDs and no text"
        return super().why_not(ability, config)

    @property
    def output_items(self):
        """The layer whose embeddings of the items make their scores."""
        return self.item_embedding

    #: A bias per item that the backbone adds to scores, or None.
    item_bias = None

    def scored(self, rows):
        """What scores are made of, of item embeddings."""
        return rows

    def items(self):
        known = Items(self.scored(self.output_items.weight[: self.item_count]), self.item_bias)
        return known if self._added is None else _joined(known, self._added)

    def own_scores(self, batch):
        return super(Method, self).full_sort_predict(self._trim_padding(batch))

    @property
    def first_new_id(self):
        return _trained(self.item_embedding).num_embeddings

    @torch.no_grad()
    def extend(self, vectors):
        layer, trained = self.item_embedding, _trained(self.item_embedding)
        items = self._new_items(self.output_items.embed(vectors))
        rows = trained.embed(vectors).float()
        if self._added is not None:
            items = _joined(self._added, items)
            rows = torch.cat([layer.weight[trained.num_embeddings :], rows])
        self._added = items
        self._replace_items(layer, WithNewItems(trained, rows))

    def new_item_note(self):
        if not isinstance(_trained(self.item_embedding), TrainedRows):
            return ""
        return "this model's table was trained; new items lie beside the known ones of like text"

    @torch.no_grad()
    def unseen(self, config, dataset, tokens):
        """Held-out items: from a table, prepared and adapted like the others', with nothing
        learned for the item itself; with learned IDs, rows as they were before training.
        """
        layer = self.output_items
        if self.needs(config).table:
            table = given_to(dataset, config, "table")
            rows = prepared(config, table, tokens).to(layer.weight.device)
            return self._new_items(layer.embed(rows, prepared=True).float())
        torch.manual_seed(config["seed"])
        fresh = nn.Embedding(len(tokens), layer.embedding_dim)
        getattr(self, "_init_weights", lambda layer: nn.init.xavier_normal_(layer.weight))(fresh)
        return self._new_items(fresh.weight.to(layer.weight.device))

    def _new_items(self, rows):
        """Items of which no more is known than their embeddings, with the mean of the biases."""
        bias = self.item_bias
        bias = None if bias is None else bias[1:].mean().expand(len(rows))
        return Items(self.scored(rows), bias)

    def item_parameters(self):
        names = ("weight", "table", "offsets.weight")
        return [p for name, p in self.item_embedding.named_parameters() if name in names]

    def frozen_parameters(self):
        table = getattr(self.item_embedding, "table", None)
        return 0 if table is None or table.requires_grad else table.numel()

    def user_encoder(self):
        return UserEncoder(self)

    def _replace_items(self, old, new):
        self.item_embedding = new
        for name, module in self._modules.items():
            if module is old:  # under another name, too
                self._modules[name] = new


class UserEncoder(nn.Module):
    """Histories to queries; items are looked up in a finished matrix, so no table is copied."""

    def __init__(self, model):
        super().__init__()
        own = model.item_embedding
        with torch.no_grad():
            matrix = own.weight.detach().clone()
        # Neither what makes scores nor data that training looks at is needed.
        memo = {id(model.output_items): nn.Identity(), id(getattr(model, "dataset", None)): None}
        memo[id(own)] = nn.Embedding.from_pretrained(matrix)
        self.model = copy.deepcopy(model, memo).eval().requires_grad_(False)
        self.has_bias = model.item_bias is not None
        self.item_count = model.item_count
        self.shift = 0 if model._added is None else model.first_new_id - model.item_count

    def forward(self, items, lengths, users=None):
        """Vectors ``(b, d)`` of histories ``(b, w)``, oldest item first, then zeros.

        ``items`` (b, w): an item's id is its line in ``items.txt``, from 1.
        ``lengths`` (b,): at least 1.
        ``users`` (b,): for models that learn something per user; 0 for users they do not know.
        """
        if self.shift:
            items = items + self.shift * (items >= self.item_count)
        states = self.model.sequence_forward(items, lengths, users)
        states = self.model.item_scores.of_states(states)
        return nn.functional.pad(states, (0, 1), value=1.0) if self.has_bias else states


def _trained(layer):
    return layer.layer if isinstance(layer, WithNewItems) else layer


def _joined(one, other):
    bias = None if one.bias is None else torch.cat([one.bias, other.bias])
    return Items(torch.cat([one.vectors, other.vectors.to(one.vectors)]), bias)
