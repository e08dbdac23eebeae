"""The contract of models: what one needs and is given, says of itself, and does for others."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from recbole_llmemb.config.keys import Settings
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data import loaders
from recbole_llmemb.data.histories import over_shuffled
from recbole_llmemb.data.windows import length_buckets
from recbole_llmemb.models.adapters import Affine
from recbole_llmemb.models.losses import Items
from recbole_llmemb.table import EmbeddingTable, match
from recbole_llmemb.table.format import read_projection

__all__ = ["Method", "Needs"]


@dataclass(frozen=True)
class Needs:
    """What is to be there before a model is built."""

    table: bool = False
    table_width: int | None = None  # A wider table is reduced to it, where nothing learns to
    teacher: Literal["", "items", "states"] = ""  # Its item embeddings, or the whole frozen model
    teacher_size: int | None = None  # Of the item embeddings of one that is trained for it
    llm: bool = False
    titles: bool = False  # Of items, for prompts


class ItemTable:
    """A table on disk (``reduced`` by ``llm_pca_dim``, maybe), and its rows by a dataset's ids."""

    def __init__(self, path, tokens, missing="error", reduced=False):
        self.path, self.tokens, self.missing, self.reduced = path, tokens, missing, reduced
        self.width = self._rows = None

    def load(self) -> EmbeddingTable:
        """The whole table, whose rows are kept for the first who asks for :meth:`rows`."""
        table = EmbeddingTable.load(self.path)
        self.width = table.width
        self._rows = match(table, self.tokens, self.missing, where=str(self.path))
        return table

    def rows(self):
        """``(n_items, D)`` by item id; row 0, padding, is zero."""
        if self._rows is None:
            self.load()
        rows, self._rows = self._rows, None  # which need not be there twice
        return rows

    def rows_of(self, tokens):
        """Rows of items that the dataset does not have, ``(n, D)``."""
        table = EmbeddingTable.load(self.path)
        return match(table, ["[PAD]", *tokens], self.missing, where=str(self.path))[1:]

    def projection(self):
        """What ``llm_pca_dim`` did to the encoder's vectors, or None."""
        found = read_projection(self.path) if self.reduced else None
        return None if found is None else Affine(found["mean"], found["matrix"])


@dataclass
class Given:
    """What was made or found for a model; it hangs on the training split, as ``given``."""

    table: ItemTable | None = None
    teacher: Any = None  # (n_items, d) by item id, or a model with ``user_states``
    llm: Any = None
    titles: list[str] | None = None  # By item id
    config: Any = None  # That it was made for

    @classmethod
    def of(cls, dataset, config) -> Given | None:
        """What hangs on a split for this configuration, if anything does."""
        found = getattr(dataset, "given", None)
        return found if found is not None and found.config is config else None


def given_to(dataset, config, what: str):
    """What a model cannot be built without: ``table``, ``teacher``, ``llm`` or ``titles``."""
    found = getattr(Given.of(dataset, config), what, None)
    if found is None:
        told = f"{config['model']} was given no {what}; run it by run_recbole, or call"
        raise UserError(f"{told} recbole_llmemb.run.artifacts.provide(config, dataset) before.")
    return found


def is_checkpoint(teacher) -> bool:
    """Whether ``align_teacher`` is a file; names of models are identifiers, paths are not."""
    return bool(teacher) and not str(teacher).isidentifier()


class Method:
    """Put before a RecBole sequential model in a class's bases."""

    #: How it trains on a whole sequence at once: ``causal``, as no position's output depends on
    #: later items; ``cloze``, on masked items; or not at all, empty.
    one_pass: str = ""
    #: Whether padding after a history changes nothing, so that it can be left out.
    padding_free: bool | str = False
    #: What of a batch it reads: ``items``, ``lengths``, ``users``, ``times``, ``item_fields``.
    reads: frozenset[str] = frozenset({"items", "lengths"})
    #: Whether scores are products of states and items (and a bias); else it has ``own_scores``.
    products = True
    #: Whether ``item_similarity``, temperatures and ``popularity_adjustment`` apply to its scores.
    similarity = True
    #: The values of ``loss_type`` that it offers.
    losses: tuple[str, ...] = ("BCE", "BPR", "CE")
    #: Whether a teacher that is trained for it learns by its own schedule.
    teacher_shares_training = True
    #: Histories that it is best shown at a time in use; None for as many as there is room for.
    rows_at_once: int | None = None
    loss_names: tuple[str, ...] = ()  # of the last step's parts
    Keys: type[Settings] | None = None  # Its own, beside those of every model

    # -- what the class says before there is a model ----------------------------------------

    @classmethod
    def needs(cls, config) -> Needs:
        """What is to be made or found before it is built."""
        return Needs()

    @classmethod
    def samples_negatives(cls, config) -> bool:
        """Whether its training compares targets with sampled items."""
        return False

    @classmethod
    def settled(cls, config, given: Given) -> dict:
        """Settings that follow from what it was given and from the machine, for a checkpoint."""
        return {}

    @classmethod
    def train_loader(cls, config):
        """The class of the loader of its training batches."""
        if config["train_mode"] == "prefix":
            loader = loaders.PrefixTrainDataLoader
        else:
            cloze = cls.one_pass == "cloze"
            loader = loaders.ClozeTrainDataLoader if cloze else loaders.SequenceTrainDataLoader
        return over_shuffled(loader) if config["shuffle_train"] else loader

    @classmethod
    def is_padding_free(cls, config) -> bool:
        """Whether it is under this configuration."""
        return bool(cls.padding_free)

    @classmethod
    def scores_are_products(cls, config) -> bool:
        """Whether they are under this configuration."""
        return cls.products

    @classmethod
    def why_not(cls, ability: str, config) -> str:
        """Why it lacks ``vectors``, ``new_items``, ``cold_items`` or ``user_encoder``; or empty."""
        if cls.scores_are_products(config):
            written = {"vectors": "states", "new_items": "extend", "cold_items": "unseen"}
            wanted = written.get(ability, ability)
            lacks = getattr(cls, wanted) is getattr(Method, wanted)
            return f"{config['model']} defines no {wanted}" if lacks else ""
        return f"scores of {config['model']} are no products of a user's and an item's vector"

    # -- what a model writes ------------------------------------------------------------------

    def states(self, batch):
        """What each row predicts with, ``(b, d)``."""
        raise self._undefined("states")

    def items(self) -> Items:
        """What states are scored against: all items, those of :meth:`extend` after the others."""
        raise self._undefined("items")

    def loss_terms(self, batch) -> dict:
        """The parts of the loss of a training batch by name, weighted."""
        raise self._undefined("loss_terms")

    def own_scores(self, batch):
        """Scores of all items ``(b, n)``, where they are no products."""
        raise self._undefined("own_scores")

    def _undefined(self, name: str) -> UserError:
        return UserError(f"{type(self).__name__} defines no {name}; every method has to.")

    # -- what it may write --------------------------------------------------------------------

    def before_training(self, loader) -> None:
        """Called with the loader of the training batches, before the first of them."""

    def fetch(self, batch):
        """Begin to bring what a step needs from the host, as ``fetched`` of its batch."""
        return None

    def extend(self, vectors) -> None:
        """Append new items, given by vectors ``(m, D)`` as the encoder of its table makes them."""
        raise NotImplementedError

    def new_item_note(self) -> str:
        """What to know about how it places new items; empty where nothing is."""
        return ""

    def unseen(self, config, dataset, tokens) -> Items:
        """Items that were held out of the dataset, as it scores them."""
        raise NotImplementedError

    def user_encoder(self) -> nn.Module:
        """Its way from ids of items, lengths and ids of users to queries, without a table."""
        raise NotImplementedError

    @property
    def first_new_id(self) -> int:
        """How a history names the first item of :meth:`extend`; the others follow."""
        return len(self.items().vectors)

    def item_parameters(self) -> list:
        """Parameters that are learned per item (``item_learning_rate``)."""
        return []

    def start_from_xavier(self) -> None:
        """Draw every matrix that is trained anew (``initialization: xavier``)."""
        layers = [m for m in cast(nn.Module, self).modules() if type(m) is nn.Embedding]
        ids = {id(layer.weight) for layer in layers}
        started = {id(one) for one in self.item_parameters()} - ids  # as their texts, or at zero
        for weight in cast(nn.Module, self).parameters():
            matrix = weight.requires_grad and weight.dim() > 1 < len(weight)
            if matrix and id(weight) not in started:
                nn.init.xavier_normal_(weight)
        for layer in layers:
            if layer.padding_idx is not None:
                layer.weight.data[layer.padding_idx] = 0

    def user_embeddings(self, n_users: int) -> list:
        """Layers that learn something per user, by RecBole's names; row 0 is of unknown ones."""
        layers = cast(nn.Module, self).named_modules()
        named = [layer for name, layer in layers if name.rpartition(".")[2].startswith("user")]
        return [one for one in named if getattr(one, "num_embeddings", None) == n_users]

    def frozen_parameters(self) -> int:
        """Numbers that take part, are not trained and are no parameters of the module."""
        return 0

    # -- scores are made here and nowhere else --------------------------------------------------

    def scores(self, batch, ids=None):
        """Scores of all items ``(b, n)``, or of these ``(b, c)``, for each row's history."""
        if not self.products:
            found = self.own_scores(batch)
            return found if ids is None else found.gather(1, ids)
        return self.item_scores.scores(self.states(batch), self.items(), ids)

    def full_sort_predict(self, interaction):
        """RecBole's scoring of all items, ``(b, n_items)``."""
        return self.scores(interaction)

    def predict(self, interaction):
        """RecBole's scoring of one item per row, ``(b,)``."""
        return self.scores(interaction, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)

    def calculate_loss(self, interaction):
        """RecBole's training entry: one loss, or the parts of it, named in ``loss_names``."""
        terms = self.loss_terms(interaction)
        self.loss_names, parts = tuple(terms), tuple(terms.values())
        return parts if len(parts) > 1 else parts[0]

    @torch.no_grad()
    def item_matrix(self):
        """Vectors ``(n, d)`` whose inner products with :meth:`queries` are the scores."""
        items = self.items()
        rows = self.item_scores.of_all_items(items.vectors)
        if items.bias is not None:  # a column, which every query meets with a one
            rows = torch.cat([rows, items.bias.to(rows.dtype).unsqueeze(1)], dim=1)
        return rows.detach().float().contiguous()

    def query_of(self, states):
        """States ``(b, d)`` as vectors that meet those of :meth:`item_matrix`."""
        states = self.item_scores.of_states(states)
        return states if self.items().bias is None else F.pad(states, (0, 1), value=1.0)

    @torch.no_grad()
    def queries(self, batch):
        """Vectors ``(b, d)`` of a batch of histories, the short ones read apart if they can be."""
        lengths = batch[self.ITEM_SEQ_LEN]
        if not self.padding_free or len(lengths) < 2:
            return self.query_of(self.states(batch)).float()
        ordered, order = torch.sort(lengths.cpu(), stable=True)
        chunks, order = length_buckets(ordered), order.to(lengths.device)
        columns = {name: column[order] for name, column in batch.interaction.items()}
        found = self.query_of(self.states(loaders.LengthSortedBatch(columns, chunks))).float()
        return torch.empty_like(found).index_copy_(0, order, found)


# RecBole's models call the arguments of ``forward`` by these names.
_ROLES = {
    "item_seq": "items", "seq_item": "items",
    "item_seq_len": "lengths", "seq_item_len": "lengths",
    "user": "users",
}  # fmt: skip


def forward_roles(forward) -> tuple:
    """What a backbone's bound ``forward`` takes, in its order: ``items``, ``lengths``, ``users``.

    None stands for an argument that is called otherwise; those with a default are left to it.
    """
    taken = inspect.signature(forward).parameters.values()
    return tuple(_ROLES.get(a.name) for a in taken if a.name in _ROLES or a.default is a.empty)


class StockModel(Method):
    """A model of RecBole's own, which makes its scores itself."""

    products = False

    def __init__(self, model):
        self.model = model

    @classmethod
    def why_not(cls, ability, config):
        if ability == "new_items":
            return f"the items of this {config['model']} have learned IDs and no text"
        return super().why_not(ability, config)

    def states(self, batch):
        given = {"items": batch[self.model.ITEM_SEQ], "lengths": batch[self.model.ITEM_SEQ_LEN]}
        return self.model(*[given[role] for role in forward_roles(self.model.forward)])

    def own_scores(self, batch):
        return self.model.full_sort_predict(batch).view(len(batch), -1)

    def items(self):
        weight = getattr(getattr(self.model, "item_embedding", None), "weight", None)
        if not torch.is_tensor(weight):
            told = f"{type(self.model).__name__} has no embeddings of items"
            raise UserError(f"{told}; take a model that has some.")
        return Items(weight)

    def named_modules(self):
        return self.model.named_modules()


def as_method(model) -> Method:
    """A model as the rest of the package asks it: as it is, or RecBole's own through an adapter."""
    return model if isinstance(model, Method) else StockModel(model)
