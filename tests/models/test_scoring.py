"""Scores by dot product and by cosine, with a temperature: the same wherever scores are made."""

import math

import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.models import losses as module  # isort: skip
from recbole_llmemb.models.losses import ItemScores  # isort: skip

COSINE = {"item_similarity": "cosine"}
WAYS = {
    "dot": {},
    "dot by 0.5": {"similarity_temperature": 0.5},
    "cosine": COSINE,
    "cosine by 0.2": {**COSINE, "similarity_temperature": 0.2},
    "learned": {**COSINE, "learn_temperature": True},
    "learned dot": {"learn_temperature": True},
}


def temperature(way):
    settings = WAYS[way]
    default = 0.07 if settings.get("item_similarity") == "cosine" else 1.0
    return settings.get("similarity_temperature", default)


def naive(states, items, way):
    """Every state against every item, one by one, in double precision."""
    rows = []
    for state in states.double():
        row = []
        for item in items.double():
            score = (state * item).sum()
            if "item_similarity" in WAYS[way]:
                score = score / max(1e-4, state.norm()) / max(1e-4, item.norm())
            row.append(score / temperature(way))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.fixture
def model_of(tiny_run):
    def make(name="LLMEmbSASRec", **settings):
        _, data, model, trainer = tiny_run(name, **settings)
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.5)
            if "BERT" in name:
                model.output_bias.normal_()
        return data, model, trainer

    return make


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("items", ["table", "id", "residual"])
@pytest.mark.parametrize("name", ["LLMEmbSASRec", "LLMEmbBERT4Rec"])
@pytest.mark.parametrize("grad", [True, False])
def test_every_way_of_ranking(model_of, name, items, way, grad):
    data, model, _ = model_of(name, item_embedding=items, **WAYS[way])
    model.eval()
    batch = next(iter(data.valid))[0]
    candidates = torch.randint(1, 61, (len(batch), 4))
    with torch.set_grad_enabled(grad):
        states = model.states(batch)
        every = model.full_sort_predict(batch)
        some = model.scores(batch, candidates)
        one = model.predict(batch)
    weight = model.item_embedding.weight.detach()[:61]
    expected = naive(states.detach(), weight, way)
    if "BERT" in name:  # its bias is added as it is
        expected = expected + model.output_bias.detach().double()
    assert torch.allclose(every.double(), expected, atol=1e-4)
    assert torch.allclose(some.double(), expected.gather(1, candidates), atol=1e-4)
    targets = batch["item_id"].unsqueeze(1)
    assert torch.allclose(one.double(), expected.gather(1, targets)[:, 0], atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loss_type", ["CE", "BPR", "BCE"])
@pytest.mark.parametrize("name", ["LLMEmbSASRec", "LLMEmbBERT4Rec"])
def test_losses_and_their_gradients(model_of, name, loss_type, way):
    data, model, _ = model_of(name, loss_type=loss_type, **WAYS[way])
    batch = next(iter(data.train))
    targets = batch["item_id"]
    torch.manual_seed(1)
    states = torch.randn(len(targets), 8, requires_grad=True)
    weight = model.item_embedding.weight.detach().clone()
    with model._shared_rows(batch):
        loss = model.position_loss(states, batch)
        model.zero_grad()
        loss.backward()
    again = states.detach().double().requires_grad_()
    scores = naive(again, weight[:61], way)
    if "BERT" in name:
        scores = scores + model.output_bias.detach().double()
    rows = torch.arange(len(targets))
    if loss_type == "CE":
        expected = -torch.log_softmax(scores[:, 1:], 1)[rows, targets - 1].mean()
    else:
        positive, negative = scores[rows, targets], scores[rows, batch["neg_item_id"]]
        if loss_type == "BPR":
            expected = -torch.log(1e-10 + torch.sigmoid(positive - negative)).mean()
        else:
            expected = torch.log1p(torch.exp(-positive)).mean()
            expected = expected + torch.log1p(torch.exp(negative)).mean()
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert torch.allclose(states.grad.double(), again.grad, atol=1e-5)
    assert model.item_embedding.adapter.up.weight.grad.any()


@pytest.mark.parametrize("loss_type", ["CE", "BPR", "BCE"])
@pytest.mark.parametrize("name", ["LLMEmbSASRec", "LLMEmbGRU4Rec", "LLMEmbBERT4Rec"])
def test_prefix_mode_scores_the_same_way(model_of, monkeypatch, name, loss_type):
    """Not by RecBole's own losses, which know dot products only."""
    import recbole.model.sequential_recommender as models

    def recboles(self, interaction):
        raise AssertionError

    backbone = getattr(models, name.removeprefix("LLMEmb"))
    monkeypatch.setattr(backbone, "calculate_loss", recboles)
    settings = {"loss_type": loss_type, "train_mode": "prefix"}
    data, model, _ = model_of(name, **settings, **WAYS["cosine by 0.2"])
    batch = next(iter(data.train))
    seen = []
    original = model.position_loss
    monkeypatch.setattr(
        model,
        "position_loss",
        lambda *given, **more: seen.append(given) or original(*given, **more),
    )
    loss = float(model.calculate_loss(batch).detach())
    ((states, _),) = seen  # what position_loss makes of them is tested above
    masked = (batch[model.POS_ITEMS] > 0).sum() if "BERT" in name else len(batch)
    assert states.shape == (masked, 8)
    model.item_scores.fixed = 0.4
    assert float(model.calculate_loss(batch).detach()) != pytest.approx(loss, rel=1e-4)


# -- the learned temperature ---------------------------------------------------------------


def scores_with(**settings):
    cosine = settings.get("item_similarity") == "cosine"
    temperature = settings.get("similarity_temperature")
    return ItemScores(cosine, temperature, settings.get("learn_temperature", False))


def test_learned_temperature_gets_its_gradient():
    scores = scores_with(**WAYS["learned"])
    states, items = torch.randn(5, 8), torch.randn(7, 8)
    tau = torch.tensor(0.07, dtype=torch.double, requires_grad=True)
    unit = [v.double() / v.double().norm(dim=1, keepdim=True) for v in (states, items)]
    expected = (unit[0] @ unit[1].t() / tau).logsumexp(1).sum()
    expected.backward()
    a, b = scores.project(states, items)
    (a @ b.t()).logsumexp(1).sum().backward()
    (parameter,) = scores.parameters()
    assert parameter.dim() == 0 and float(parameter.detach()) == pytest.approx(math.log(0.07))
    # d/d log τ = τ · d/dτ
    assert float(parameter.grad) == pytest.approx(0.07 * float(tau.grad), rel=1e-4)
    assert list(scores.state_dict()) == ["log_temperature"]
    assert not list(scores_with(**COSINE).parameters())


@pytest.mark.parametrize(("start", "bound"), [(1e-5, 0.01), (1e4, 10.0)])
def test_learned_temperature_stays_between_its_bounds_and_can_come_back(start, bound):
    scores = scores_with(**WAYS["learned"])
    with torch.no_grad():
        scores.log_temperature.fill_(math.log(start))
        assert float(scores.temperature) == pytest.approx(bound)  # in evaluation, unchanged
        assert float(scores.log_temperature) == pytest.approx(math.log(start))
    tau = scores.temperature
    assert float(tau.detach()) == pytest.approx(bound)
    tau.backward()
    assert float(scores.log_temperature.grad) == pytest.approx(bound)  # not cut off
    assert float(scores.log_temperature.detach()) == pytest.approx(math.log(bound))


def test_learned_temperature_is_learned_and_kept(tiny_run, tmp_path):
    settings = {**WAYS["learned"], "loss_type": "CE", "learning_rate": 0.05}
    _, data, model, trainer = tiny_run(**settings)
    trainer._train_epoch(data.train, 0)
    learned = float(model.item_scores.log_temperature.detach())
    assert abs(learned - math.log(0.07)) > 0.05
    _, _, fresh, _ = tiny_run(**settings)
    fresh.load_state_dict(model.state_dict())
    assert float(fresh.item_scores.log_temperature.detach()) == learned


# -- evaluation ---------------------------------------------------------------------------


@pytest.fixture
def normalized(monkeypatch):
    """The shapes that were brought to length one."""
    shapes = []
    original = module.F.normalize

    def counted(vectors, **options):
        shapes.append(tuple(vectors.shape))
        return original(vectors, **options)

    monkeypatch.setattr(module.F, "normalize", counted)
    return shapes


@pytest.mark.parametrize("mode", ["full", "uni20"])
@pytest.mark.parametrize("items", ["table", "id", "residual"])
def test_items_are_normalized_once_per_evaluation(tiny_run, normalized, items, mode):
    evaluation = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    _, data, _, trainer = tiny_run(
        item_embedding=items, eval_args={**evaluation, "mode": mode}, **COSINE
    )
    trainer.evaluate(data.valid, load_best_model=False)
    assert len(data.valid) > 1
    matrices = [shape for shape in normalized if shape == (61, 8)]
    assert len(matrices) == 1
    assert all(len(shape) == 2 for shape in normalized)  # no candidates one by one


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"item_embedding": "id"},
        {"item_embedding": "residual"},
        {"adapter": "none", "llm_freeze": False},
        {"llm_freeze": False},
        {"learn_temperature": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("loss_type", ["CE", "BCE"])
def test_each_evaluation_sees_the_last_step(tiny_run, settings, loss_type):
    """The trainer's fused optimizer changes parameters without changing their versions."""
    _, data, model, trainer = tiny_run(learning_rate=0.3, loss_type=loss_type, **COSINE, **settings)
    batch = next(iter(data.valid))[0]
    seen = []
    for epoch in range(3):
        trainer._train_epoch(data.train, epoch)
        trainer.evaluate(data.valid, load_best_model=False)
        with torch.no_grad():
            found = model.full_sort_predict(batch)
            states = model.states(batch)
        weight = model.item_embedding.weight.detach()  # under autograd: nothing is kept
        states, weight = (v / v.norm(dim=1, keepdim=True).clamp(min=1e-4) for v in (states, weight))
        tau = 0.07
        if model.item_scores.log_temperature is not None:
            tau = float(model.item_scores.log_temperature.detach().exp())
        assert torch.allclose(found, states @ weight.t() / tau, atol=1e-3)
        seen.append(found)
    assert not torch.allclose(seen[0], seen[2], atol=0.1)


def test_kept_items_are_those_of_the_matrix_given():
    """Whatever changes it: another tensor, a change in place, a step without a trace."""
    scores = scores_with(**COSINE).eval()
    layer = torch.nn.Embedding(6, 4)
    states = torch.randn(2, 4)

    def kept():
        with torch.no_grad():
            return scores.of_all_items(layer.weight)

    def unit():
        return layer.weight.detach() / layer.weight.detach().norm(dim=1, keepdim=True)

    assert kept() is kept() and torch.allclose(kept(), unit())
    layer.load_state_dict({"weight": torch.randn(6, 4)})
    assert torch.allclose(kept(), unit())
    for _ in range(2):  # the second is of the same version as the first
        layer.weight = torch.nn.Parameter(torch.randn(6, 4))
        assert torch.allclose(kept(), unit())
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.5, fused=True)
    a, b = scores.project(states, layer.weight)
    (a @ b.t()).square().sum().backward()
    optimizer.step()
    assert torch.allclose(kept(), unit())
    layer.weight.grad.normal_()
    version = layer.weight._version
    optimizer.step()
    assert layer.weight._version == version  # if this fails, versions would do
    scores.train(), scores.eval()
    assert torch.allclose(kept(), unit())


def test_vectors_without_a_direction_do_no_harm():
    scores = scores_with(**COSINE)
    items = torch.zeros(3, 8, requires_grad=True)
    a, b = scores.project(torch.randn(2, 8), items)
    (a @ b.t()).sum().backward()
    assert not b.detach().any() and items.grad.isfinite().all() and items.grad.abs().max() < 1e6
