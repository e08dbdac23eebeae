"""``softmax_negatives``: a softmax over the target and items drawn for the step."""

import pytest
import torch

from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.core.errors import UserError

CE = {
    "loss_type": "CE",
    "align_weight": 0,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "softmax_negatives": 7,
}


def naive(states, items, bias, targets, drawn):
    """The mean over positions of −log softmax of the target among itself and what was drawn."""
    losses = []
    for state, target in zip(states, targets):
        others = [item for item in drawn.tolist() if item != int(target)]
        scores = torch.stack([state @ items[i] + bias[i] for i in [int(target), *others]])
        losses.append(scores.exp().sum().log() - scores[0])
    return torch.stack(losses).mean()


def loss_and_states(model, batch):
    torch.manual_seed(5)
    loss = model.eval().calculate_loss(batch)
    torch.manual_seed(5)
    drawn = torch.randint(1, model.item_count, (7,))
    states = model.position_states(batch).flatten(0, 1)[batch["loss_position"]]
    return loss, states, drawn


@pytest.mark.parametrize("kind", ["id", "table", "residual"])
@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_loss_is_that_over_the_target_and_the_drawn(tiny_run, kind, weight):
    settings = {**CE, "item_embedding": kind, "popularity_adjustment": weight}
    _, data, model, _ = tiny_run("LLMEmbSASRec", **settings)
    batch = next(iter(data.train))
    loss, states, drawn = loss_and_states(model, batch)
    bias = model.log_popularity if weight else torch.zeros(model.item_count)
    items = model.item_embedding.weight
    expected = naive(states, items, bias, batch[model.POS_ITEM_ID], drawn)
    torch.testing.assert_close(loss, expected)
    hit = (batch[model.POS_ITEM_ID].unsqueeze(1) == drawn).any()
    assert hit, "no target was drawn, so nothing shows that it counts once"


def test_cosines_and_biases(tiny_run):
    _, data, model, _ = tiny_run("LLMEmbSASRec", **CE, item_similarity="cosine")
    batch = next(iter(data.train))
    loss, states, drawn = loss_and_states(model, batch)
    unit = torch.nn.functional.normalize
    states, items = unit(states) / 0.07, unit(model.item_embedding.weight)
    nothing = torch.zeros(model.item_count)
    expected = naive(states, items, nothing, batch[model.POS_ITEM_ID], drawn)
    torch.testing.assert_close(loss, expected)

    _, data, model, _ = tiny_run("LLMEmbBERT4Rec", **CE)
    torch.nn.init.normal_(model.output_bias)
    batch = next(iter(data.train))
    loss, states, drawn = loss_and_states(model, batch)
    items = model.item_embedding.weight
    expected = naive(states, items, model.output_bias, batch[model.POS_ITEM_ID], drawn)
    torch.testing.assert_close(loss, expected)


def test_prefix_mode_has_the_same_loss_at_each_target(tiny_run):
    _, data, model, _ = tiny_run("LLMEmbSASRec", **CE, train_mode="prefix")
    batch = next(iter(data.train))
    torch.manual_seed(5)
    loss = model.eval().calculate_loss(batch)
    torch.manual_seed(5)
    drawn = torch.randint(1, model.item_count, (7,))
    states = model.forward(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
    nothing = torch.zeros(model.item_count)
    items = model.item_embedding.weight
    expected = naive(states, items, nothing, batch[model.POS_ITEM_ID], drawn)
    torch.testing.assert_close(loss, expected)


def test_a_catalog_no_larger_is_compared_whole(tiny_run):
    losses = []
    for negatives in (None, 10_000):
        _, data, model, _ = tiny_run("LLMEmbSASRec", **CE | {"softmax_negatives": negatives})
        losses.append(model.eval().calculate_loss(next(iter(data.train))))
    torch.testing.assert_close(*losses, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("LLMEmbSASRec", {"softmax_negatives": 0}),
        ("LLMEmbSASRec", {"softmax_negatives": 5, "loss_type": "BPR"}),
        ("LLMEmbCORE", {"softmax_negatives": 5}),
    ],
)
def test_what_cannot_be_is_refused(model, settings):
    with pytest.raises(UserError) as caught:
        make_config(model, "ml-100k", overrides={"loss_type": "CE", **settings})
    assert caught.value.key == "softmax_negatives"
