"""Finding out about a backbone that this package does not know: a user's own class.

Its weights are made random and large for a moment, so that every difference shows, and it
is asked about histories that differ where it should not matter.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager

import torch
from recbole.data.interaction import Interaction

from recbole_llmemb.core import random_state
from recbole_llmemb.core.errors import UserError

# RecBole's models call the arguments of ``forward`` by these names.
_ROLES = {
    "item_seq": "items", "seq_item": "items",
    "item_seq_len": "lengths", "seq_item_len": "lengths",
    "user": "user",
}  # fmt: skip
_ROWS = 6


def roles_of(forward) -> tuple:
    """What a backbone's ``forward`` takes, in its order.

    Parameters
    ----------
    forward : callable
        Bound to its model.

    Returns
    -------
    tuple of str or None
        ``items``, ``lengths`` or ``user`` per argument; None for one that is called otherwise.
        Arguments with a default are left to it.
    """
    found = []
    for name, parameter in inspect.signature(forward).parameters.items():
        if name in _ROLES:
            found.append(_ROLES[name])
        elif parameter.default is parameter.empty:
            found.append(None)
    return tuple(found)


def settle_unknown(model, config, dataset) -> None:
    """Examine a model and set what ``LLMEmbMixin`` declares.

    A model whose scores are products of a state and ``item_embedding`` and whose loss is that
    of RecBole's models gets the losses of this package; any other keeps its own.

    Raises
    ------
    UserError
        ``train_mode: sequence`` for a model that is not causal or does not give its output at
        every position; settings that do not apply to a model that keeps its own loss.
    """
    with _random_weights(model):
        batch = _batch(model, dataset)
        model.own, model.trims = True, False
        if _scores_are_products(model, batch) and _loss_is_recboles(model, batch):
            model.own = False
            model.trims = _padding_changes_nothing(model, batch)
        why = _not_causal(model, batch) if config["train_mode"] == "sequence" else ""
    name = config["model"]
    if why:
        raise UserError(
            f"{name} cannot be trained with train_mode: sequence, because {why}; "
            "set train_mode: prefix."
        )
    if config["prefix_trim"] and config["train_mode"] == "prefix" and not model.trims:
        raise UserError(
            f"prefix_trim is on, but padding after a history changes what {name} gives; "
            "set prefix_trim: False."
        )
    if not model.own:
        return
    refuse_similarity(model, name)
    if config["loss_type"] == "BCE" and not _takes_a_pairwise_loss(model, batch):
        raise UserError(
            f"{name} has a loss of its own, which loss_type: BCE would replace; "
            "set loss_type to one that it knows."
        )


def refuse_similarity(model, name) -> None:
    """Refuse other scores than the backbone's for a model that keeps these."""
    if not model.item_scores.plain or model.log_popularity is not None:
        raise UserError(
            f"{name} has a loss or scores of its own, to which item_similarity, temperatures and "
            "popularity_adjustment do not apply; leave them at their defaults."
        )


@contextmanager
def _random_weights(model):
    """Weights in which everything matters, for a while, without dropout and without a trace."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    training = model.training
    with random_state.preserve(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        model.eval()
        try:
            yield
        finally:
            model.load_state_dict(kept)
            model.train(training)


def _batch(model, dataset):
    """A few random histories, none as long as the model allows, as RecBole would present them."""
    width = model.max_seq_length
    lengths = torch.arange(_ROWS) % max(1, width - 1) + 1
    draw = torch.randint(1, dataset.item_num, (_ROWS, width))
    return Interaction(
        {
            model.USER_ID: torch.arange(_ROWS) % (dataset.user_num - 1) + 1,
            model.ITEM_SEQ: draw * (torch.arange(width) < lengths.unsqueeze(1)),
            model.ITEM_SEQ_LEN: lengths,
            model.ITEM_ID: torch.randint(1, dataset.item_num, (_ROWS,)),
            model.NEG_ITEM_ID: torch.randint(1, dataset.item_num, (_ROWS,)),
        }
    )


def _same(one, other):
    scale = other.abs().max().clamp(min=1e-6)
    return one.shape == other.shape and bool(((one - other).abs().max() / scale) < 1e-4)


def _asked(question):
    """What a model answers; None where it fails over the question."""
    try:
        return question()
    except Exception:  # anything may happen in somebody else's code
        return None


def _scores_are_products(model, batch):
    theirs = _asked(lambda: model.full_sort_predict(batch))
    states = None if None in model._roles else _asked(lambda: model.sequence_output(batch))
    if theirs is None or states is None or states.dim() != 2:
        return False
    items = model._all_items()
    fits = states.shape[1] == items.shape[1] and model.item_bias is None
    return fits and _same(theirs.view(len(states), -1), states @ items.t())


def _loss_is_recboles(model, batch):
    if model.loss_type == "BCE":  # then it thinks that it is BPR
        backbones = super(_mixin(), model).calculate_loss
        theirs = _asked(lambda: _with_loss_type(model, "BPR", lambda: backbones(batch)))
        ours = _with_loss_type(model, "BPR", lambda: _plain_loss(model, batch))
    else:
        theirs = _asked(lambda: super(_mixin(), model).calculate_loss(batch))
        ours = _plain_loss(model, batch)
    return isinstance(theirs, torch.Tensor) and _same(theirs.reshape(1), ours.reshape(1))


def _plain_loss(model, batch):
    states, targets = model.sequence_output(batch), batch[model.ITEM_ID]
    items = model._all_items()
    if model.loss_type == "CE":
        return torch.nn.functional.cross_entropy(states @ items.t(), targets)
    gap = (states * (items[targets] - items[batch[model.NEG_ITEM_ID]])).sum(-1)
    return -torch.log(1e-10 + torch.sigmoid(gap)).mean()


def _with_loss_type(model, loss_type, work):
    kept, model.loss_type = model.loss_type, loss_type
    try:
        return work()
    finally:
        model.loss_type = kept


def _takes_a_pairwise_loss(model, batch):
    """Whether the backbone hands pairs of scores to ``self.loss_fct``, which can be replaced."""
    calls = []
    kept = getattr(model, "loss_fct", None)
    if not isinstance(kept, torch.nn.Module):
        return False
    handle = kept.register_forward_hook(lambda module, inputs, output: calls.append(inputs))
    try:
        _asked(
            lambda: _with_loss_type(
                model, "BPR", lambda: super(_mixin(), model).calculate_loss(batch)
            )
        )
    finally:
        handle.remove()
    scores = [[x.shape for x in inputs] for inputs in calls]
    return len(scores) == 1 and len(scores[0]) == 2 and scores[0][0] == scores[0][1]


def _padding_changes_nothing(model, batch):
    cut = Interaction(dict(batch.interaction))
    cut[model.ITEM_SEQ] = cut[model.ITEM_SEQ][:, : int(cut[model.ITEM_SEQ_LEN].max())]
    states = _asked(lambda: model.sequence_forward(*model._inputs(cut)))
    return states is not None and _same(states, model.sequence_forward(*model._inputs(batch)))


def _not_causal(model, batch):
    """Why a model cannot be trained at every position; empty where it can."""
    if model.own:
        return "it has a loss or scores of its own"
    full = Interaction(dict(batch.interaction))
    width = model.max_seq_length
    full[model.ITEM_SEQ] = torch.randint(1, model.item_count, (_ROWS, width))
    full[model.ITEM_SEQ_LEN] = torch.full((_ROWS,), width)
    before = _asked(lambda: model.position_states(full))
    if before is None or before.dim() != 3 or before.shape[:2] != (_ROWS, width):
        return "its forward does not end in gather_indexes over an output at every position"
    last = model.sequence_output(full)
    if not _same(before[:, -1], last):
        return "its output at the last position is not what it predicts with"
    for place in range(1, width):
        changed = Interaction(dict(full.interaction))
        changed[model.ITEM_SEQ] = full[model.ITEM_SEQ].clone()
        later = changed[model.ITEM_SEQ][:, place:]
        later.copy_(torch.randint_like(later, 1, model.item_count))
        if not _same(model.position_states(changed)[:, :place], before[:, :place]):
            return "its output at a position depends on later items"
    return ""


def _mixin():
    from recbole_llmemb.models.llmemb.model import LLMEmbMixin

    return LLMEmbMixin
