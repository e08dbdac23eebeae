"""Each kind of item embedding through a whole run: kept, continued, and seen by evaluation."""

import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.run.stages import train_and_evaluate  # isort: skip

COSINE = {"item_similarity": "cosine", "learn_temperature": True}
KINDS = {
    "mlp": {"adapter": "mlp", "adapter_dropout": 0.2},
    "none": {"adapter": "none"},
    "llm2x": {"adapter": "none", "llm_freeze": False, "llm_init_std": 0.1},
    "whitening": {"adapter": "whitening"},
    "whitened init": {"adapter": "whitening", "llm_freeze": False},
    "trained": {"llm_freeze": False},
    "both": {"item_embedding": "both", **COSINE},
    "residual": {"item_embedding": "residual", "offset_decay": 0.1, "item_learning_rate": 0.1},
    "residual none": {"item_embedding": "residual", "adapter": "none", **COSINE},
    "id": {"item_embedding": "id", **COSINE, "item_learning_rate": 0.1},
}
OWN = {
    "mlp": set(),
    "none": set(),
    "llm2x": {"weight"},
    "whitening": set(),
    "whitened init": {"weight"},
    "trained": {"table"},
    "both": {"offsets.weight", "offsets.trained"},
    "residual": {"offsets.weight", "offsets.trained"},
    "residual none": {"offsets.weight", "offsets.trained"},
    "id": {"weight"},
}


class Interrupted(Exception):
    pass


@pytest.fixture
def whole_run(tiny_run, monkeypatch):
    def run(stop_before=None, **settings):
        config, data, model, trainer = tiny_run(
            epochs=3, learning_rate=0.02, hidden_dropout_prob=0.2, loss_type="CE", **settings
        )
        train_epoch = trainer._train_epoch

        def until(loader, epoch, *args, **kwargs):
            if epoch == stop_before:
                raise Interrupted
            return train_epoch(loader, epoch, *args, **kwargs)

        monkeypatch.setattr(trainer, "_train_epoch", until)
        lines = []
        outcome = train_and_evaluate(config, data, model, trainer, report=lines.append)
        return outcome, model.state_dict(), lines

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_kept_and_continued(whole_run, kind):
    """Frozen tables are named in checkpoints, what is learned lies in them."""
    settings = KINDS[kind]
    expected, weights, lines = whole_run(**settings)
    assert not lines
    names = {name.removeprefix("item_embedding.") for name in weights if "item_emb" in name}
    adapter = {name for name in names if name.startswith("adapter.")}
    assert names - adapter == OWN[kind]
    assert bool(adapter) == (kind in ("mlp", "trained", "both", "residual"))
    with pytest.raises(Interrupted):
        whole_run(stop_before=2, **settings)
    found, resumed, lines = whole_run(**settings)
    assert lines and lines[0].endswith("continuing from epoch 2")
    assert found.test_result == expected.test_result
    assert found.best_valid_result == expected.best_valid_result
    assert resumed.keys() == weights.keys()
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_gives_the_same_scores(whole_run, tiny_run, kind):
    outcome, *_ = whole_run(**KINDS[kind])
    state = torch.load(outcome.checkpoint, weights_only=True)
    from recbole_llmemb.config.recbole_config import config_from_plain
    from recbole_llmemb.run.stages import build, prepare_data

    config = config_from_plain(state["config"])
    data = prepare_data(config)
    model, trainer = build(config, data)
    model.load_state_dict(state["state_dict"])
    assert trainer.evaluate(data.test, load_best_model=False) == outcome.test_result


@pytest.mark.parametrize("kind", KINDS)
def test_each_evaluation_sees_the_last_step(tiny_run, kind):
    """The trainer's fused optimizer changes parameters without changing their versions."""
    settings = {**KINDS[kind], "adapter_dropout": 0.0}
    _, data, model, trainer = tiny_run(learning_rate=0.3, loss_type="CE", **settings)
    batch = next(iter(data.valid))[0]
    seen = []
    for epoch in range(3):
        trainer._train_epoch(data.train, epoch)
        trainer.evaluate(data.valid, load_best_model=False)
        with torch.no_grad():
            found = model.full_sort_predict(batch)
        with torch.enable_grad():  # where nothing is kept from before
            expected = model.full_sort_predict(batch).detach()
        assert torch.allclose(found, expected, atol=1e-4)
        seen.append(found)
    assert not torch.allclose(seen[0], seen[2], atol=1e-2)


@pytest.mark.parametrize("learner", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("both", {"item_embedding.offsets.weight"}),
        ("residual none", {"item_embedding.offsets.weight"}),
        ("id", {"item_embedding.weight"}),
        ("llm2x", {"item_embedding.weight"}),
        ("trained", {"item_embedding.table"}),
        ("mlp", set()),
    ],
)
def test_rate_of_what_is_learned_per_item(tiny_run, caplog, kind, own, learner):
    settings = {**KINDS[kind], "item_learning_rate": 0.5, "learner": learner, "weight_decay": 0.01}
    _, _, model, trainer = tiny_run(learning_rate=0.01, **settings)
    rates = {}
    for group in trainer.optimizer.param_groups:
        assert group["weight_decay"] == 0.01 and group.get("fused") in (None, True, False)
        for parameter in group["params"]:
            (name,) = (n for n, p in model.named_parameters() if p is parameter)
            assert name not in rates
            rates[name] = group["lr"]
    assert rates == {
        name: 0.5 if name in own else 0.01
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert any("item_learning_rate" in message for message in caplog.messages) == (not own)


def test_rate_of_zero_keeps_items_where_they_are(tiny_run):
    _, data, model, trainer = tiny_run(
        adapter="none", llm_freeze=False, item_learning_rate=0.0, loss_type="CE"
    )
    before = model.item_embedding.weight.detach().clone()
    others = [p.detach().clone() for n, p in model.named_parameters() if "item_emb" not in n]
    trainer._train_epoch(data.train, 0)
    assert torch.equal(model.item_embedding.weight, before)
    after = [p for n, p in model.named_parameters() if "item_emb" not in n]
    assert not all(torch.equal(a, b) for a, b in zip(after, others))


@pytest.mark.parametrize("kind", ["mlp", "residual", "both", "trained"])
def test_pairwise_steps_adapt_the_items_they_need(tiny_run, kind, monkeypatch):
    from recbole_llmemb.models import adapters

    given = []
    for name in ("LinearAdapter", "MLPAdapter"):
        forward = getattr(adapters, name).forward
        monkeypatch.setattr(
            getattr(adapters, name),
            "forward",
            lambda self, rows, forward=forward: given.append(len(rows)) or forward(self, rows),
        )
    _, data, model, _ = tiny_run(loss_type="BCE", **KINDS[kind])
    batches = list(data.train)
    for batch in batches:
        model.calculate_loss(batch)
    assert given == [len(batch["batch_items"]) for batch in batches]
    assert max(given) < 60
