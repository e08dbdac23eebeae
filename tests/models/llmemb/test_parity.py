"""The same numbers as RecBole where the same is computed, step by step."""

import random

import numpy as np
import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole.data.interaction import Interaction  # isort: skip
from recbole_llmemb.models.llmemb.parts import LOSSES  # isort: skip
from recbole_llmemb.data.loaders import LOSS_POSITION  # isort: skip

PLAIN_TABLE = {"adapter_hidden_size": 0, "llm_freeze": False, "llm_pca_dim": 8}
STOCK_NEGATIVES = {"distribution": "uniform", "sample_num": 1}


def assert_same_batch(one, other):
    assert set(one.interaction) == set(other.interaction)
    for name in one.interaction:
        assert torch.equal(one[name], other[name]), name


def steps(model, trainer, loader, epochs, seed):
    """Losses of every step of training, and the batches."""
    losses, batches = [], []
    calculate = model.calculate_loss

    def noted(batch):
        batches.append(batch)
        torch.manual_seed(seed + len(losses))  # for dropout
        loss = calculate(batch)
        losses.append(loss.item())
        return loss

    random.seed(seed), np.random.seed(seed)  # of RecBole's masks and negatives
    for epoch in range(epochs):
        trainer._train_epoch(loader, epoch, loss_func=noted)
    return losses, batches


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", [PLAIN_TABLE, {"item_embedding": "id"}], ids=["table", "id"])
@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_training_and_metrics_of_prefix_mode(tiny_run, name, loss_type, kind, dropout):
    settings = {
        "loss_type": loss_type,
        "hidden_dropout_prob": dropout,
        "attn_dropout_prob": dropout,
        "dropout_prob": dropout,
        "train_neg_sample_args": STOCK_NEGATIVES if loss_type == "BPR" else None,
        "learning_rate": 0.01,
    }
    _, stock_data, stock, stock_trainer = tiny_run(name, **settings)
    _, data, ours, trainer = tiny_run(
        f"LLMEmb{name}", train_mode="prefix", align_weight=0, **settings, **kind
    )
    assert type(ours).__bases__[-1] is type(stock)
    ours.load_state_dict(stock.state_dict())
    expected, their_batches = steps(stock, stock_trainer, stock_data.train, 4, seed=5)
    found, batches = steps(ours, trainer, data.train, 4, seed=5)
    assert len(found) == len(expected) == 4 * len(stock_data.train) >= 32
    for one, other in zip(batches, their_batches):
        assert_same_batch(one, other)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[-1] < found[0]
    weights = ours.state_dict()
    for key, value in stock.state_dict().items():
        # Softmax does not see a key's bias: its gradient is rounding alone, which Adam enlarges.
        if not key.endswith("key.bias"):
            assert torch.allclose(weights[key], value, rtol=1e-3, atol=1e-4), key
    for loader in ("valid", "test"):
        results = [
            one.evaluate(getattr(two, loader), load_best_model=False)
            for one, two in ((trainer, data), (stock_trainer, stock_data))
        ]
        assert results[0] == pytest.approx(results[1], abs=1e-6)
        assert 0 < results[0]["ndcg@10"] < 1


@pytest.mark.parametrize("kind", [PLAIN_TABLE, {"item_embedding": "id"}], ids=["table", "id"])
@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_bert4rec_in_prefix_mode(tiny_run, loss_type, kind):
    """RecBole's masking of augmented rows; its scoring differs (see ``append_mask``)."""
    settings = {
        "loss_type": loss_type,
        "train_neg_sample_args": STOCK_NEGATIVES if loss_type == "BPR" else None,
        "mask_ratio": 0.6,
        "ft_ratio": 0.5,
    }
    _, stock_data, stock, stock_trainer = tiny_run("BERT4Rec", **settings)
    _, data, ours, trainer = tiny_run("LLMEmbBERT4Rec", train_mode="prefix", **settings, **kind)
    ours.load_state_dict(stock.state_dict())
    expected, their_batches = steps(stock, stock_trainer, stock_data.train, 2, seed=5)
    found, batches = steps(ours, trainer, data.train, 2, seed=5)
    assert len(found) == len(expected) > 10
    for one, other in zip(batches, their_batches):
        assert_same_batch(one, other)
    assert found == pytest.approx(expected, rel=1e-4)


def test_table_is_what_training_starts_from(tiny_run, tiny_table):
    """Without adapter the trainable table is the model's embedding, row by item token."""
    from recbole_llmemb.table import EmbeddingTable, reduce_pca

    _, data, model, _ = tiny_run(train_mode="prefix", **PLAIN_TABLE)
    table = reduce_pca(EmbeddingTable.load(tiny_table), 8)
    vectors = dict(zip(table.tokens, table.vectors))
    tokens = data.dataset.field2id_token["item_id"]
    assert isinstance(model.item_embedding, torch.nn.Embedding)
    assert not model.item_embedding.weight[0].any()
    for token, row in zip(tokens[1:], model.item_embedding.weight[1:]):
        assert torch.allclose(row, vectors[token])


def prefixes_with_negatives(batches):
    """One row per trained position of these batches, as prefix mode has it."""
    rows = {"user_id": [], "item_id_list": [], "item_length": [], "item_id": [], "neg_item_id": []}
    for batch in batches:
        width = batch["item_id_list"].shape[1]
        for place, target, negative in zip(
            batch[LOSS_POSITION].tolist(), batch["item_id"], batch["neg_item_id"]
        ):
            row, column = divmod(place, width)
            history = torch.zeros(50, dtype=torch.long)
            history[: column + 1] = batch["item_id_list"][row, : column + 1]
            for name, value in (
                ("user_id", batch["user_id"][row]),
                ("item_id_list", history),
                ("item_length", torch.tensor(column + 1)),
                ("item_id", target),
                ("neg_item_id", negative),
            ):
                rows[name].append(value)
    return Interaction({name: torch.stack(values) for name, values in rows.items()})


@pytest.mark.parametrize("item_embedding", ["table", "id"])
@pytest.mark.parametrize("loss_type", ["CE", "BPR", "BCE"])
@pytest.mark.parametrize("name", ["LLMEmbSASRec", "LLMEmbGRU4Rec"])
def test_one_pass_loss_is_the_mean_of_the_prefix_losses(tiny_run, name, loss_type, item_embedding):
    """And its gradient is theirs. RecBole's CE counts padding as a candidate, ours does not."""
    settings = {
        "loss_type": "BPR" if loss_type == "CE" else loss_type,  # so that negatives are drawn
        "item_embedding": item_embedding,
        "MAX_ITEM_LIST_LENGTH": 50,
        "train_batch_size": 100,
    }
    _, data, model, _ = tiny_run(name, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    model.loss_type, model.item_loss = loss_type, LOSSES[loss_type]()
    (batch,) = data.train
    rows = prefixes_with_negatives([batch])
    assert len(rows) == len(batch["item_id"]) == 117
    one_pass = model.calculate_loss(batch)
    if loss_type == "CE":
        states = model.sequence_forward(rows["item_id_list"], rows["item_length"])
        scores = states @ model.item_embedding.weight.t()
        target = scores.gather(1, rows["item_id"].unsqueeze(1)).squeeze(1)
        prefix = (scores[:, 1:].logsumexp(1) - target).mean()
    else:
        prefix = model.calculate_loss(rows)
        states = model.sequence_forward(rows["item_id_list"], rows["item_length"])
        pairs = [
            ((state * model.item_embedding(p)).sum(), (state * model.item_embedding(n)).sum())
            for state, p, n in zip(states, rows["item_id"], rows["neg_item_id"])
        ]
        if loss_type == "BPR":
            by_hand = sum(-torch.log(torch.sigmoid(p - n)) for p, n in pairs) / len(pairs)
        else:
            by_hand = -sum(torch.sigmoid(p).log() + torch.sigmoid(-n).log() for p, n in pairs)
            by_hand = by_hand / len(pairs)
        assert torch.allclose(prefix, by_hand, rtol=1e-4)
    assert torch.allclose(one_pass, prefix, rtol=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(one_pass, parameters, allow_unused=True)
    expected = torch.autograd.grad(prefix, parameters, allow_unused=True)
    for one, other in zip(found, expected):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss_type", ["CE", "BPR", "BCE"])
def test_cloze_loss_by_hand(tiny_run, loss_type):
    _, data, model, _ = tiny_run("LLMEmbBERT4Rec", loss_type=loss_type)
    with torch.no_grad():
        model.output_bias.normal_()
    batch = max(data.train, key=lambda batch: len(batch["item_id"]))
    states = model.forward(batch["item_id_list"])
    masked = (batch["item_id_list"] == model.n_items).nonzero().tolist()
    weight, bias = model.item_embedding.weight, model.output_bias
    losses = []
    for i, ((row, column), target) in enumerate(zip(masked, batch["item_id"].tolist())):
        score = weight[: model.n_items] @ states[row, column] + bias
        if loss_type == "CE":
            losses.append(score[1:].logsumexp(0) - score[target])
            continue
        negative = score[batch["neg_item_id"][i]]
        if loss_type == "BPR":
            losses.append(-torch.sigmoid(score[target] - negative).log())
        else:
            losses.append(-torch.sigmoid(score[target]).log() - torch.sigmoid(-negative).log())
    assert len(losses) == len(batch["item_id"]) > 10
    assert torch.allclose(model.calculate_loss(batch), torch.stack(losses).mean(), rtol=1e-4)


@pytest.mark.parametrize("name", ["LLMEmbSASRec", "LLMEmbGRU4Rec", "LLMEmbBERT4Rec"])
def test_every_mode_learns(tiny_run, name):
    """Each loss in each mode goes down by training, with the table and with IDs."""
    for mode in ("sequence", "prefix"):
        for loss_type in ("CE", "BPR", "BCE"):
            for kind in ("table", "id"):
                _, data, _, trainer = tiny_run(
                    name,
                    train_mode=mode,
                    loss_type=loss_type,
                    item_embedding=kind,
                    llm_whiten=0,  # a random table is as wide as it needs to be for a few steps
                    learning_rate=0.02,
                    train_batch_size=8 if mode == "sequence" else 64,
                )
                losses = []
                for epoch in range(10):  # mean losses, for the number of steps may differ
                    count = len(data.train)
                    losses.append(trainer._train_epoch(data.train, epoch) / count)
                assert min(losses[5:]) < 0.97 * losses[0], (mode, loss_type, kind, losses)
