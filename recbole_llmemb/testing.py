"""Finding out what a model of your own can do, and whether it says so rightly."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from recbole.data.interaction import Interaction
from recbole.utils import get_model

from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.core.devices import preserve_random_state
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.contract import Method
from recbole_llmemb.models.registry import llmemb
from recbole_llmemb.run.stages import prepare_data

__all__ = ["Verdict", "verify_backbone"]

_ROWS, _USERS, _ITEMS = 6, 12, 40


@dataclass
class Verdict:
    """What a backbone can do, and why not the rest.

    Attributes
    ----------
    products : bool
        Whether scores are products of a state and ``item_embedding``, and the loss is RecBole's.
    one_pass : str
        ``causal``, if it can be trained at every position of a sequence at once.
    padding_free : bool
        Whether padding after a history changes nothing.
    losses : tuple of str
        Values of ``loss_type`` that it can be trained with.
    reasons : dict
        By attribute, why it does not hold.
    """

    products: bool
    one_pass: str
    padding_free: bool
    losses: tuple[str, ...]
    reasons: dict[str, str]

    def __str__(self):
        lines = []
        for name in ("products", "one_pass", "padding_free", "losses"):
            reason = f"  # {self.reasons[name]}" if name in self.reasons else ""
            lines.append(f"{name} = {getattr(self, name)!r}{reason}")
        return "\n".join(lines)


def verify_backbone(backbone: type, **settings) -> Verdict:
    """Find out which attributes of a backbone hold for a sequential model.

    Its weights are made random and large, so that every difference shows, and it is asked about
    histories that differ where it should not matter. Printed, the result is what to write into the
    class.

    Parameters
    ----------
    backbone : type
        A RecBole sequential model that reads its items through ``self.item_embedding``.
    **settings
        What its constructor reads from the configuration beside RecBole's defaults.

    Returns
    -------
    Verdict

    Raises
    ------
    UserError
        An attribute of the class does not hold; the message says why.
    """
    with tempfile.TemporaryDirectory() as folder, preserve_random_state():
        torch.manual_seed(0)
        _write_interactions(Path(folder) / "verify")
        own = {
            "data_path": folder, "item_embedding": "id", "align_weight": 0.0, "use_gpu": False,
            "gpu_id": "", "train_mode": "prefix", "MAX_ITEM_LIST_LENGTH": 10, "loss_type": "CE",
        }  # fmt: skip
        config = make_config(llmemb(backbone), "verify", overrides=own | settings)
        data = prepare_data(config).train._dataset
        model = get_model(config["model"])(config, data).eval()
        model.padding_free = False
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
            found = _examine(model, _batch(model, data))
    said = type(model)
    for name in ("products", "one_pass", "padding_free"):
        if getattr(said, name) and not getattr(found, name):
            claim = f"{backbone.__name__} says {name} = {getattr(said, name)!r}"
            raise UserError(f"{claim}, which is not so: {found.reasons[name]}.", key=name)
    return found


def _write_interactions(folder):
    folder.mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(_USERS):
        items = torch.randperm(_ITEMS)[:14].tolist()
        lines += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(items)]
    (folder / "verify.inter").write_text("\n".join(lines) + "\n")


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


def _examine(model, batch):
    reasons, losses = {"products": _why_no_products(model, batch)}, Method.losses
    if reasons["products"]:
        reasons["one_pass"] = "its loss or its scores are its own"
        pairwise = _takes_a_pairwise_loss(model, batch)
        losses = ("BCE", "BPR", "CE") if pairwise else ("CE", "BPR")
    else:
        reasons["one_pass"] = _why_not_causal(model, batch)
    if not _padding_changes_nothing(model, batch):
        reasons["padding_free"] = "what it gives depends on the padding after a history"
    reasons = {name: why for name, why in reasons.items() if why}
    lacks = reasons.keys()
    one_pass = "" if "one_pass" in lacks else "causal"
    return Verdict("products" not in lacks, one_pass, "padding_free" not in lacks, losses, reasons)


def _same(one, other):
    scale = other.abs().max().clamp(min=1e-6)
    return one.shape == other.shape and bool(((one - other).abs().max() / scale) < 1e-4)


def _try(question):
    """What a model answers; None where it fails over the question."""
    try:
        return question()
    except Exception:  # anything may happen in somebody else's code
        return None


def _why_no_products(model, batch):
    theirs = _try(lambda: model.own_scores(batch))
    states = None if None in model._roles else _try(lambda: model.states(batch))
    if states is None or states.dim() != 2:
        return "its forward does not give one state per history from items, lengths and users"
    items = model.items().vectors
    fits = theirs is not None and states.shape[1] == items.shape[1] and model.item_bias is None
    if not fits or not _same(theirs.view(len(states), -1), states @ items.t()):
        return "its scores are not products of what forward gives and item_embedding"
    loss = _try(lambda: super(Method, model).calculate_loss(batch))
    ours = torch.nn.functional.cross_entropy(states @ items.t(), batch[model.ITEM_ID])
    if not isinstance(loss, torch.Tensor) or not _same(loss.reshape(1), ours.reshape(1)):
        return "its loss is not that of RecBole's models"
    return ""


def _takes_a_pairwise_loss(model, batch):
    """Whether the backbone hands pairs of scores to ``self.loss_fct``, which can be replaced."""
    calls, criterion, kept = [], getattr(model, "loss_fct", None), model.loss_type
    if not isinstance(criterion, torch.nn.Module):
        return False
    handle = criterion.register_forward_hook(lambda module, inputs, output: calls.append(inputs))
    model.loss_type = "BPR"
    _try(lambda: super(Method, model).calculate_loss(batch))
    model.loss_type = kept
    handle.remove()
    scores = [[x.shape for x in inputs] for inputs in calls]
    return len(scores) == 1 and len(scores[0]) == 2 and scores[0][0] == scores[0][1]


def _padding_changes_nothing(model, batch):
    cut = Interaction(dict(batch.interaction))
    cut[model.ITEM_SEQ] = cut[model.ITEM_SEQ][:, : int(cut[model.ITEM_SEQ_LEN].max())]
    states = _try(lambda: model.sequence_forward(*model._inputs(cut)))
    return states is not None and _same(states, model.sequence_forward(*model._inputs(batch)))


def _why_not_causal(model, batch):
    """Why a model cannot be trained at every position; empty where it can."""
    full = Interaction(dict(batch.interaction))
    width = model.max_seq_length
    full[model.ITEM_SEQ] = torch.randint(1, model.item_count, (_ROWS, width))
    full[model.ITEM_SEQ_LEN] = torch.full((_ROWS,), width)
    before = _try(lambda: model.position_states(full))
    if before is None or before.dim() != 3 or before.shape[:2] != (_ROWS, width):
        return "its forward does not end in gather_indexes over an output at every position"
    if not _same(before[:, -1], model.states(full)):
        return "its output at the last position is not what it predicts with"
    for place in range(1, width):
        changed = Interaction(dict(full.interaction))
        changed[model.ITEM_SEQ] = full[model.ITEM_SEQ].clone()
        later = changed[model.ITEM_SEQ][:, place:]
        later.copy_(torch.randint_like(later, 1, model.item_count))
        if not _same(model.position_states(changed)[:, :place], before[:, :place]):
            return "its output at a position depends on later items"
    return ""
