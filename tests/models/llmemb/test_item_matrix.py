"""The matrix of all items: computed once where once is enough, and never out of date."""

import copy
import pickle

import pytest
import torch
from item_layers import close, make, naive


def test_matrix_is_kept_in_evaluation_until_something_changes(adaptations):
    layer = make(extra=1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)
    other = make(extra=1, seed=5).state_dict()
    with torch.no_grad():
        for _ in range(3):
            assert close(layer.weight, naive(layer))
            assert close(layer(torch.arange(21)), naive(layer))
        assert adaptations == [19]
    layer(torch.arange(21)).pow(2).sum().backward()
    adaptations.clear()
    before = naive(layer)
    optimizer.step()
    with torch.no_grad():
        assert not torch.allclose(naive(layer), before)
        assert close(layer.weight, naive(layer)) and close(layer(torch.arange(21)), naive(layer))
        assert adaptations == [19]
        layer.load_state_dict(other)
        assert close(layer(torch.arange(21)), naive(layer)) and close(layer.weight, naive(layer))
        assert adaptations == [19, 19]
        layer.double()
        assert layer.weight.dtype == torch.double and close(layer.weight, naive(layer))


@pytest.mark.parametrize("way", ["lookup", "weight", "step", "step of some"])
def test_matrix_is_forgotten_when_a_gradient_may_follow(way):
    """By a fused optimizer, which leaves no trace, without a change of mode in between."""
    layer, ids = make(), torch.arange(1, 5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, fused=True)
    with torch.no_grad():
        before = layer.weight
    if way.startswith("step"):
        with layer.step(ids if way == "step of some" else None):
            found = layer(ids)
    else:
        found = layer(ids) if way == "lookup" else layer.weight
    found.sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert close(layer.weight, naive(layer)) and not torch.allclose(layer.weight, before)


def test_matrix_of_evaluation_carries_no_gradient_into_training():
    layer = make()
    with torch.no_grad():
        assert len(layer.weight) == 20
    assert layer.weight.requires_grad and layer(torch.tensor([1])).requires_grad
    with torch.no_grad():
        assert not layer.weight.requires_grad


def test_copies(adaptations):
    layer = make()
    with torch.no_grad():
        assert len(layer.weight) == 20
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._whole._kept is None
        with torch.no_grad():
            twin.adapter.up.bias.add_(1)
            assert close(twin.weight, naive(twin)) and close(layer.weight, naive(layer))


@pytest.mark.parametrize("loss_type", ["CE", "BPR", "BCE"])
@pytest.mark.parametrize("model", ["LLMEmbSASRec", "LLMEmbGRU4Rec", "LLMEmbBERT4Rec"])
def test_once_per_training_step_and_once_per_evaluation(tiny_run, adaptations, model, loss_type):
    _, data, model, trainer = tiny_run(model, loss_type=loss_type)
    model.train()
    batches = list(data.train)
    adaptations.clear()
    for batch in batches:
        model.calculate_loss(batch)
    assert len(adaptations) == len(batches) > 2
    if loss_type == "CE":  # every item is a candidate
        assert set(adaptations) == {60}
    else:
        assert adaptations == [len(batch["batch_items"]) for batch in batches]
    adaptations.clear()
    trainer.evaluate(data.valid, load_best_model=False)
    assert len(data.valid) > 1 and adaptations == [60]


def test_each_evaluation_sees_the_last_step(tiny_run):
    """The trainer's fused optimizer changes parameters without changing their versions."""
    _, data, model, trainer = tiny_run(learning_rate=0.5)
    for epoch in range(3):
        trainer._train_epoch(data.train, epoch)
        trainer.evaluate(data.valid, load_best_model=False)
        batch = next(iter(data.valid))[0]
        with torch.no_grad():
            states = model.states(batch)
            scores = states @ naive(model.item_embedding).float().t()
            assert torch.allclose(model.full_sort_predict(batch), scores, atol=1e-4)
