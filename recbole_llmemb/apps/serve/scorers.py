"""How a model's scores are made: as inner products of a user's and an item's vector, or not."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction
from torch import nn
from torch.nn.functional import pad

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.prefixes import length_buckets
from recbole_llmemb.models.llmemb.model import LLMEmbMixin


class ProductScorer:
    """Scores that are inner products: of LLMEmb models and of LLM-SRec.

    A bias that a backbone adds to scores is a column of the item vectors, which every user's
    vector meets with a one. So the vectors alone say everything, to an index too.

    ``model``: in evaluation mode.

    ``items``: (n_items, d): Vectors of all items, computed once; row 0 is padding.
    """

    def __init__(self, model):
        self.model = model
        self._ours = isinstance(model, LLMEmbMixin)
        self.bias = model.item_bias if self._ours else None
        with torch.no_grad():
            rows = model._all_items() if self._ours else model.item_matrix()
            self.items = self.item_side(rows, self.bias)

    def item_side(self, rows, bias=None):
        """Item embeddings ``(m, h)``, and a bias for each ``(m,)``, as vectors ``(m, d)``."""
        if self._ours:
            rows = self.model.item_scores.sides(rows[:0], rows)[1]
        if self.bias is not None:
            rows = torch.cat([rows, bias.to(rows.dtype).unsqueeze(1)], dim=1)
        return rows.detach().float().contiguous()

    def query_side(self, states):
        """States ``(b, h)`` as vectors ``(b, d)``."""
        if self._ours:
            states = self.model.item_scores.sides(states, states[:0])[0]
        return states if self.bias is None else pad(states, (0, 1), value=1.0)

    @torch.no_grad()
    def queries(self, batch: Interaction):
        """Vectors ``(b, d)`` of a batch of histories, in its order.

        Where padding changes nothing, short histories are read apart from long ones.
        """
        model, lengths = self.model, batch[self.model.ITEM_SEQ_LEN]
        if model.trims is not True or len(lengths) < 2:
            return self.query_side(model.sequence_output(batch)).float()
        order = torch.argsort(lengths.cpu(), stable=True)
        chunks = length_buckets(lengths.cpu()[order])
        order = order.to(lengths.device)
        columns = {name: column[order] for name, column in batch.interaction.items()}
        parts = []
        for begin, end, width in chunks:
            part = {name: column[begin:end] for name, column in columns.items()}
            part[model.ITEM_SEQ] = part[model.ITEM_SEQ][:, :width]
            parts.append(self.query_side(model.sequence_output(Interaction(part))).float())
        found = torch.cat(parts)
        return torch.empty_like(found).index_copy_(0, order, found)


class ModelScorer:
    """Scores that only the model itself can make, of all items at once."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def scores(self, batch: Interaction):
        """``(b, n_items)``, the model's own."""
        return self.model.full_sort_predict(batch).float().view(len(batch), -1)


def scorer_of(model):
    """The scorer for a model, by what it is."""
    return ProductScorer(model) if scores_are_products(model) else ModelScorer(model)


def scores_are_products(model) -> bool:
    """Whether a model's scores are known to be products of a user's and an item's vector."""
    from recbole_llmemb.models.llmsrec.model import LLMSRec

    if isinstance(model, LLMSRec):
        return True
    own_way = getattr(type(model), "full_sort_predict", None)
    return (
        isinstance(model, LLMEmbMixin)
        and not model.own
        and own_way is LLMEmbMixin.full_sort_predict
    )


def refuse_without_products(model, what: str) -> None:
    """Refuse what needs vectors of users and items from a model that has none."""
    if not scores_are_products(model):
        raise UserError(
            f"{type(model).__name__} makes its scores in a way of its own, not as products of a "
            f"user's and an item's vector, so {what}; take a model such as LLMEmbSASRec."
        )


def give_strangers_the_mean(model, n_users: int) -> bool:
    """Let user 0, who stands for anybody new, have the mean of what users have learnt.

    ``model``: changed in place, if it learns something per user.
    ``n_users``: the dataset's, padding included.
    Returns whether it does.
    """
    found = False
    for name, layer in model.named_modules():
        last = name.rpartition(".")[2]
        embeds = isinstance(layer, nn.Embedding) and layer.num_embeddings == n_users
        if embeds and last.startswith("user"):
            found = True
            with torch.no_grad():
                layer.weight[0] = layer.weight[1:].mean(0)
    return found
