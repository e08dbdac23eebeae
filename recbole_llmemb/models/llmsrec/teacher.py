"""The collaborative sequence model that LLM-SRec distils, frozen."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path

import torch
from recbole.data.interaction import Interaction

from recbole_llmemb.config.plain import config_for
from recbole_llmemb.core import checkpoint, random_state
from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.data.trained_on import check_same
from recbole_llmemb.models.llmemb.backbones.examine import roles_of
from recbole_llmemb.run.teacher import is_checkpoint


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


def load_teacher(path, config, dataset):
    """Read the teacher of a run from a checkpoint of any RecBole sequential model.

    ``config``: of the run. One that comes from a checkpoint names the teacher the model was trained
    with; a new one is given its name.
    ``dataset``: of the run.
    """
    state = checkpoint.load(path)
    found = checkpoint.fingerprint(state.get("state_dict", {}))
    needed = config["teacher_used"]
    if needed and needed["fingerprint"] != found:
        raise UserError(
            f"{path} is not the CF model this model was trained with (fingerprint {found}, not "
            f"{needed['fingerprint']}, then in {needed['path']}); set align_teacher to that one."
        )
    if not needed and is_checkpoint(config["align_teacher"]):
        check_same(config, state.get("config"), path)
    where = str(Path(path).absolute())  # a checkpoint may be read from another folder
    config["teacher_used"] = {"path": where, "fingerprint": found}
    model, tokens = rebuild(state, path, dataset, config["device"])
    if not torch.is_tensor(getattr(getattr(model, "item_embedding", None), "weight", None)):
        raise UserError(
            f"Checkpoint {path} is of {state['config']['model']}, which has no item_embedding, so "
            "it cannot be the CF model; give a sequential model with one (align_teacher)."
        )
    ours = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    number = {token: i for i, token in enumerate(tokens)}
    absent = [token for token in ours[1:] if token not in number]
    if absent:
        raise UserError(
            f"CF model {path} does not know {len(absent)} of the dataset's items "
            f"({name_some(absent)}); train one on this dataset (align_teacher)."
        )
    ids = torch.tensor([0, *(number[token] for token in ours[1:])])
    device = config["device"]
    teacher = FrozenTeacher(model.to(device), ids.to(device))
    if not _gives_states(teacher, device):
        raise UserError(
            f"Checkpoint {path} is of {state['config']['model']}, which does not turn a history of "
            "items into one state as wide as an item embedding, so it cannot be the CF model; give "
            "another (align_teacher)."
        )
    return teacher


def _gives_states(teacher, device):
    one = torch.ones(1, 1, dtype=torch.long, device=device)
    try:
        state = teacher.user_states(one, one[0])
    except (KeyError, TypeError, AttributeError, RuntimeError, IndexError):
        return False  # one that wants users, features or a mask
    return state.shape == (1, teacher.item_embeddings.shape[1])


def rebuild(state, path, dataset=None, device=None):
    """The model of a checkpoint, and the item tokens it was trained with.

    ``state``: what :func:`checkpoint.load` read from ``path``.
    ``dataset``: used where it has the same items; the checkpoint's own data is read otherwise.
    ``device``: what the model is to be moved to.
    """
    from recbole.data import create_dataset
    from recbole.utils import ModelType, get_model

    try:
        config = config_for(state["config"], torch.device(device or "cpu"))
    except KeyError:
        raise UserError(f"Checkpoint {path} has no configuration; give one of a trainer.") from None
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise UserError(f"Checkpoint {path} is of {config['model']}, which is no sequential model.")
    config["align_weight"] = 0.0  # which only training needs
    tokens = state.get("item_tokens")
    ours = None if dataset is None else dataset.field2id_token[dataset.iid_field]
    if ours is None or tokens is None or [str(token) for token in ours] != list(tokens):
        dataset = create_dataset(config)
        tokens = tokens or [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    with random_state.preserve():
        model = get_model(config["model"])(config, dataset)
    try:
        model.load_state_dict(state["state_dict"])
    except (RuntimeError, KeyError) as error:
        text = str(error).splitlines()[0].rstrip(":. ")
        raise UserError(f"Checkpoint {path} does not fit its own configuration ({text}).") from None
    model.load_other_parameter(state.get("other_parameter"))
    getLogger().info(f"CF model: {config['model']} of {path}")
    return model, tokens
