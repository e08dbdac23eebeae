"""Items without a training interaction: what their text says, and nothing else."""

import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.table import EmbeddingTable  # isort: skip

COLD = "i60"  # stands in the .item file, nobody meets it
EVERY_ITEM = {"inter": ["user_id", "item_id", "timestamp", "rating"], "item": ["item_id"]}


@pytest.fixture
def twins(tiny, tmp_path):
    """A table in which a cold item has the text of the most popular one; that one's token."""
    counts: dict = {}
    for items in tiny.sequences.values():
        for item in items[:-2]:
            counts[item] = counts.get(item, 0) + 1
    popular = max(counts, key=counts.get)
    tokens = [*tiny.items, "i60", "i61"]
    vectors = torch.randn(len(tokens), 16, generator=torch.Generator().manual_seed(2))
    vectors[tokens.index(COLD)] = vectors[tokens.index(popular)]
    path = tmp_path / "twins"
    EmbeddingTable(tokens, vectors, {}).save(path)
    return str(path), popular


@pytest.fixture
def trained(tiny_run, twins):
    """``trained(**settings)``: dataset, model and the ids of the twins after two epochs."""

    def run(name="LLMEmbSASRec", **settings):
        _, data, model, trainer = tiny_run(
            name, llm_table=twins[0], load_col=EVERY_ITEM, learning_rate=0.05, **settings
        )
        for epoch in range(2):
            trainer._train_epoch(data.train, epoch)
        ids = [data.dataset.token2id("item_id", token) for token in (COLD, twins[1])]
        return data, model.eval(), ids

    return run


def test_items_of_the_item_file_are_in_the_catalog_where_it_is_read(tiny_data, twins):
    _, data = tiny_data(llm_table=twins[0])
    assert data.dataset.item_num == 61
    _, more = tiny_data(llm_table=twins[0], load_col=EVERY_ITEM)
    assert more.dataset.item_num == 63
    before, after = (d.dataset.field2id_token["item_id"].tolist() for d in (data, more))
    assert after[:61] == before and set(after[61:]) == {"i60", "i61"}
    counts = more.train._dataset.training_counts(more.train._dataset)[0]
    assert counts[61:].tolist() == [0, 0]


OPTIMISERS = [
    {},
    {"weight_decay": 0.1},
    {"learner": "adamw", "weight_decay": 0.1},
    {"learner": "sgd"},
    {"item_learning_rate": 0.5, "offset_decay": 1.0},
]


@pytest.mark.parametrize("optimizer", OPTIMISERS, ids=str)
@pytest.mark.parametrize("loss_type", ["CE", "BCE"])
@pytest.mark.parametrize("kind", ["residual", "both"])
def test_what_never_was_trained_on_stays_exactly_zero(trained, kind, loss_type, optimizer):
    """Though CE's gradient reaches every item, and BCE draws it as a negative."""
    if kind == "both":
        optimizer = {key: value for key, value in optimizer.items() if key != "offset_decay"}
    data, model, (cold, popular) = trained(item_embedding=kind, loss_type=loss_type, **optimizer)
    counts = data.train._dataset.training_counts(data.train._dataset)[0]
    assert counts[cold] == 0 and counts[popular] > 3
    own = model.item_embedding.offsets.weight.detach()
    assert not own[counts == 0].any()
    if kind == "residual":  # BCE may not have met all of the others
        assert own[popular].any() and own[counts > 0].any(1).double().mean() > 0.9
    else:
        assert own[1:][counts[1:] > 0].any(1).all()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("adapter", ["linear", "mlp", "none", "whitening"])
@pytest.mark.parametrize("kind", ["residual", "both"])
def test_same_text_same_score(trained, kind, adapter, similarity):
    """A cold item scores as its popular twin would by its text alone, and can be ranked."""
    data, model, (cold, popular) = trained(
        item_embedding=kind, adapter=adapter, item_similarity=similarity, loss_type="CE"
    )
    batch = next(iter(data.test))[0]
    layer = model.item_embedding
    with torch.no_grad():
        scores = model.full_sort_predict(batch)
        assert scores.shape[1] == 63 and scores[:, cold].std() > 0
        assert not torch.allclose(scores[:, cold], scores[:, popular], atol=1e-3)
        text = layer.adapter(layer.table[[popular]].float())
        states, text = model.item_scores.project(model.states(batch), text)
        assert torch.allclose(scores[:, cold], (states @ text.t())[:, 0], atol=1e-5)


def test_same_text_same_item_without_offsets(trained):
    _, model, (cold, popular) = trained(loss_type="CE")
    weight = model.item_embedding.weight
    assert torch.equal(weight[cold], weight[popular]) and weight[cold].any()


def test_which_items_are_cold_is_part_of_the_checkpoint(trained, tiny_run, twins):
    """A model that is built over other data knows what its offsets were trained on."""
    _, model, (cold, _) = trained(item_embedding="residual", loss_type="CE")
    _, _, other, _ = tiny_run(
        llm_table=twins[0], load_col=EVERY_ITEM, item_embedding="residual", loss_type="CE"
    )
    other.item_embedding.offsets.trained.fill_(True)
    other.load_state_dict(model.state_dict())
    trained_on = model.item_embedding.offsets.trained
    assert not trained_on[cold] and torch.equal(other.item_embedding.offsets.trained, trained_on)


def test_item_from_outside_is_scored_like_its_twin_in_the_catalog(trained, twins):
    """No dataset, no id: only a vector."""
    data, model, (cold, _) = trained(item_embedding="residual", adapter="mlp", loss_type="CE")
    table = EmbeddingTable.load(twins[0])
    vector = table.vectors[table.tokens.index(COLD)].unsqueeze(0)
    batch = next(iter(data.test))[0]
    with torch.no_grad():
        items = model.item_embedding.embed(vector)
        states, items = model.item_scores.project(model.states(batch), items)
        expected = model.full_sort_predict(batch)[:, [cold]]
    assert torch.allclose(states @ items.t(), expected, atol=1e-4)
