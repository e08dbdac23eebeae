"""A frozen table in the host's memory: the same numbers, by the rows that a step looks up."""

import pytest
import torch
from item_layers import draw, make

from recbole_llmemb.models.llmemb import item_embedding, parts

RUNS = {
    "BCE": ("LLMEmbSASRec", {}),
    "CE": ("LLMEmbSASRec", {"loss_type": "CE"}),
    "prefix": ("LLMEmbGRU4Rec", {"train_mode": "prefix", "prefix_trim": True}),
    "mask": ("LLMEmbBERT4Rec", {}),
    "two layers": ("LLMEmbHGN", {"embedding_size": 8}),
    "own loss": ("LLMEmbNextItNet", {"embedding_size": 8, "train_mode": "prefix"}),
    "hidden layer": ("LLMEmbSASRec", {"loss_type": "CE", "adapter": "mlp", "adapter_dropout": 0.5}),
    "residual": ("LLMEmbSASRec", {"item_embedding": "residual", "offset_decay": 0.1}),
    "no adapter": ("LLMEmbSASRec", {"adapter": "none"}),
}


@pytest.mark.parametrize("run", RUNS)
def test_the_same_to_the_last_bit(tiny_run, run):
    name, settings = RUNS[run]
    found = []
    for place in ("device", "cpu"):
        _, data, model, trainer = tiny_run(name, llm_table_device=place, **settings)
        assert model.item_embedding.on_host is (place == "cpu")
        losses = [trainer._train_epoch(data.train, epoch) for epoch in range(2)]
        result = trainer.evaluate(data.valid, load_best_model=False)
        found.append((losses, result, model.state_dict(), model.frozen_parameters()))
    (losses, result, state, frozen), other = found
    assert (losses, result, frozen) == (*other[:2], other[3]) and state.keys() == other[2].keys()
    assert all(torch.equal(value, other[2][key]) for key, value in state.items())


def test_a_step_gets_the_rows_that_it_looks_up(tiny_run, monkeypatch):
    _, data, model, trainer = tiny_run("LLMEmbSASRec", llm_table_device="cpu")
    fetched = []
    fetch = model.item_embedding.fetch
    monkeypatch.setattr(
        model.item_embedding, "fetch", lambda ids: fetched.append(ids) or fetch(ids)
    )
    batch = trainer._to_device(next(iter(data.train)))
    model.item_embedding.table.fill_(torch.nan)  # which is not asked again
    assert torch.isfinite(model.calculate_loss(batch))
    assert [ids.tolist() for ids in fetched] == [batch["batch_items"].tolist()]


@pytest.mark.parametrize("freed", [True, False])
def test_all_of_it_block_by_block(monkeypatch, freed):
    layer, whole = make(extra=1), make(extra=1)
    layer.keep_on_host(pinned=False)
    monkeypatch.setattr(item_embedding, "_BLOCK", 7 * layer.table[0].nbytes)
    seen = []
    layer.adapter.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    g = draw(21, 8)
    with torch.no_grad() if freed else layer.step():
        found = layer.weight
    expected = whole.weight
    torch.testing.assert_close(found, expected)
    assert seen == [7, 7, 5]
    if not freed:  # no block is kept for the way back
        (found * g).sum().backward()
        (expected * g).sum().backward()
        assert len(seen) == 6
        for one, other in zip(layer.parameters(), whole.parameters()):
            torch.testing.assert_close(one.grad, other.grad)


def test_it_stays_where_it_is():
    layer = make()
    assert "table" in dict(layer.named_buffers())
    layer.keep_on_host(pinned=False)
    moved = layer.to("meta")
    assert moved.table.device.type == "cpu" and moved.adapter.up.weight.device.type == "meta"


def test_where_it_does_not_fit(tiny_run, monkeypatch):
    """As it is where nobody asked for one place or the other."""
    asked = []
    monkeypatch.setattr(parts, "fits", lambda *facts: asked.append(facts))
    _, _, model, _ = tiny_run("LLMEmbSASRec")
    assert model.item_embedding.on_host and asked[0][:3] == (61, 16, torch.float32)


def test_new_items(tiny_run):
    found = []
    for place in ("device", "cpu"):
        _, _, model, _ = tiny_run("LLMEmbSASRec", llm_table_device=place)
        model.eval().extend(draw(3, 16))
        found.append(model.items().vectors)
    assert torch.equal(*found) and len(found[0]) == 64
