"""Logit adjustment: popularity in the training softmax, and nowhere else."""

from collections import Counter

import pytest
import torch

from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.core.errors import UserError

CE = {"loss_type": "CE", "align_weight": 0, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


def training_counts(data, tiny):
    """How often each item id occurs in training; who has a single interaction is not in it."""
    ids = data.dataset.field2token_id["item_id"]
    counts = Counter()
    for items in tiny.sequences.values():
        held_out = max(0, min(2, len(items) - 2))
        counts.update(ids[item] for item in items[: len(items) - held_out] if len(items) > 1)
    return torch.tensor([float(counts[i]) for i in range(data.dataset.item_num)])


@pytest.mark.parametrize("mode", ["sequence", "prefix"])
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_loss_is_that_of_shifted_logits(tiny_run, tiny, mode, weight):
    settings = {**CE, "train_mode": mode, "popularity_adjustment": weight}
    _, data, model, _ = tiny_run("LLMEmbSASRec", **settings)
    batch = next(iter(data.train))
    loss = model.eval().calculate_loss(batch)

    shift = weight * torch.log(training_counts(data, tiny) + 1)
    targets = batch[model.POS_ITEM_ID]
    if mode == "sequence":
        states = model.position_states(batch).flatten(0, 1)[batch["loss_position"]]
        logits = (states @ model.item_embedding.weight.t() + shift)[:, 1:]
        expected = torch.nn.functional.cross_entropy(logits, targets - 1)
    else:  # RecBole's candidates have padding among them
        states = model.forward(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
        logits = states @ model.item_embedding.weight.t() + shift
        expected = torch.nn.functional.cross_entropy(logits, targets)
    torch.testing.assert_close(loss, expected)
    assert (shift > 0).sum() > 5


def test_ranking_knows_nothing_of_it(tiny_run):
    scores = []
    for weight in (0.0, 1.0):
        _, data, model, _ = tiny_run("LLMEmbSASRec", **CE, popularity_adjustment=weight)
        with torch.no_grad():
            scores.append(model.eval().full_sort_predict(next(iter(data.test))[0]))
    torch.testing.assert_close(*scores, rtol=0, atol=0)


def test_bias_of_the_backbone_is_kept(tiny_run):
    _, data, model, _ = tiny_run("LLMEmbBERT4Rec", **CE, popularity_adjustment=0.5)
    torch.nn.init.normal_(model.output_bias)
    batch = next(iter(data.train))
    loss = model.eval().calculate_loss(batch)
    states = model.position_states(batch).flatten(0, 1)[batch["loss_position"]]
    items = model.item_embedding.weight[: model.n_items]
    logits = states @ items.t() + model.output_bias + model.log_popularity
    expected = torch.nn.functional.cross_entropy(logits[:, 1:], batch[model.POS_ITEM_ID] - 1)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        ("LLMEmbSASRec", {"popularity_adjustment": -1}, "popularity_adjustment is -1"),
        ("LLMEmbSASRec", {"popularity_adjustment": 0.5, "loss_type": "BPR"}, "loss_type is 'BPR'"),
        ("LLMEmbCORE", {"popularity_adjustment": 0.5}, "LLMEmbCORE makes scores in a way"),
    ],
)
def test_refused(model, settings, said):
    with pytest.raises(UserError, match=said):
        make_config(model, "ml-100k", overrides={"loss_type": "CE", **settings})
