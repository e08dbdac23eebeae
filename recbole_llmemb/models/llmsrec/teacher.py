"""The collaborative sequence model that LLM-SRec distils, frozen."""

from __future__ import annotations

import torch
from recbole.data.interaction import Interaction

from recbole_llmemb.models.llmemb.backbones.examine import roles_of


class FrozenTeacher:
    """Item embeddings E and user states O_u of a trained model. Not a module of ours.

    ``model``: on its device.
    ``ids`` (n_items,): the model's id of each of our items.

    ``item_embeddings``: (n_items, d): By our item ids; row 0 is zero.
    """

    def __init__(self, model, ids):
        self.model = model.eval().requires_grad_(False)
        self.ids, self.roles = ids, roles_of(model.forward)
        with torch.no_grad():
            rows = model.item_embedding.weight[ids].float().clone()
        rows[0] = 0
        self.item_embeddings = rows
        self.width = model.max_seq_length

    @property
    def parameters(self):
        """Number of parameters, none of them trained here."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @torch.no_grad()
    def user_states(self, items, lengths):
        """O_u of right-padded histories ``(b, w)`` of these lengths ``(b,)``, ``(b, d)``.

        Of a history longer than the model reads, the last items count.
        """
        model = self.model
        shown = lengths.clamp(max=self.width)
        offsets = torch.arange(self.width, device=items.device)
        index = ((lengths - shown).unsqueeze(1) + offsets).clamp(max=items.shape[1] - 1)
        inside = offsets < shown.unsqueeze(1)
        sequence = self.ids[items.gather(1, index) * inside]
        if hasattr(model, "sequence_output"):
            columns = {model.ITEM_SEQ: sequence, model.ITEM_SEQ_LEN: shown}
            return model.sequence_output(Interaction(columns)).float()
        given = {"items": sequence, "lengths": shown}
        return model(*[given[role] for role in self.roles]).float()

    def gives_states(self):
        """Whether it turns a history of items into one state as wide as an item embedding."""
        one = torch.ones(1, 1, dtype=torch.long, device=self.ids.device)
        try:
            state = self.user_states(one, one[0])
        except (KeyError, TypeError, AttributeError, RuntimeError, IndexError):
            return False  # one that wants users, features or a mask
        return state.shape == (1, self.item_embeddings.shape[1])
