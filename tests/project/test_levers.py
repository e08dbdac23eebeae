"""The levers of a study: their formulas, and that it trains, sums, ranks and tables them."""

import importlib
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_llmemb.cli.run import parse
from recbole_llmemb.models import registry
from recbole_llmemb.run.schema import refuse_typed
from recbole_llmemb.table import EmbeddingTable


@pytest.fixture(scope="module")
def levers_study():
    """The study, whose models are known here and in no other test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "MODELS", dict(registry.MODELS))
        yield importlib.import_module("benchmarks.levers_study")


@pytest.fixture(scope="module")
def levers(levers_study):
    return importlib.import_module("benchmarks.levers")


def test_smoothing_spreads_a_tenth_of_the_mass(levers):
    positive, negative = torch.tensor([1.0, 0.5]), torch.tensor([[0.2, -0.4], [0.3, -torch.inf]])
    expected = []
    for target, others in ((1.0, (0.2, -0.4)), (0.5, (0.3, -1e4))):
        scores = [target, *others]
        norm = math.log(sum(math.exp(s) for s in scores))
        losses = [norm - s for s in scores]
        expected.append(0.9 * losses[0] + 0.1 * sum(losses) / len(losses))
    assert float(levers.smoothed(positive, negative)) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_a_filter_begins_as_none_and_sees_no_later_item(levers):
    model = SimpleNamespace(filter=torch.nn.Conv1d(3, 3, levers.TAPS, groups=3, bias=False))
    embedded = torch.randn(2, 10, 3)
    mixed, rest = levers.LLMEmbFilteredSASRec._mix(model, None, (embedded, "mask"))
    assert rest == "mask"
    for position in range(10):
        expected = embedded[:, position].clone()
        for back in range(min(levers.TAPS, position + 1)):
            weight = model.filter.weight[:, 0, levers.TAPS - 1 - back]
            expected += weight * embedded[:, position - back]
        assert torch.allclose(mixed[:, position], expected, atol=1e-5)


def test_alignments_of_unit_vectors(levers, tiny_run):
    """Soft targets at the scores' own temperature, and hard ones; both of cosines."""
    teacher, adapted = torch.randn(4, 6, dtype=torch.double), torch.randn(4, 6, dtype=torch.double)

    def cosine(a, b):
        return float(a @ b / a.norm() / b.norm()) / 0.1

    def softmax(scores):
        total = sum(math.exp(score) for score in scores)
        return [math.exp(score) / total for score in scores]

    soft, hard, k = 0.0, 0.0, range(4)
    targets = [
        softmax([(cosine(teacher[i], teacher[j]) + cosine(adapted[i], adapted[j])) / 2 for j in k])
        for i in k
    ]
    for i in k:
        row = softmax([cosine(teacher[i], adapted[j]) for j in k])
        column = softmax([cosine(adapted[i], teacher[j]) for j in k])
        hard -= (math.log(row[i]) + math.log(column[i])) / 8
        for j in k:
            soft -= (targets[i][j] * math.log(row[j]) + targets[j][i] * math.log(column[j])) / 8
    given = {"align_weight": 0.5, "align_teacher_config": {"epochs": 1}}
    for name, expected in (("Unit", soft), ("Contrast", hard)):
        _, _, model, _ = tiny_run(f"LLMEmb{name}AlignedSASRec", **given)
        assert float(model.alignment(teacher, adapted)) == pytest.approx(expected, rel=1e-6)


TRAINED = {
    "loss_type": "CE", "adapter": "whitening", "llm_whiten": 0.3, "llm_freeze": False,
    "align_weight": 0, "item_similarity": "cosine", "learning_rate": 0.1, "epochs": 2,
}  # fmt: skip


def _trained(tiny_run, name, **settings):
    """Item embeddings before and after two epochs, padding left out, and the model."""
    _, data, model, trainer = tiny_run(name, **(TRAINED | settings))
    before = model.item_embedding.weight.detach().clone()
    trainer.fit(data.train, data.valid, show_progress=False)
    return before[1:], model.item_embedding.weight.detach()[1:], model


def test_of_a_null_space_the_first_components_stay(tiny_run, levers, monkeypatch):
    monkeypatch.setattr(levers, "NULL_SPACE", 3)
    before, after, _ = _trained(tiny_run, "LLMEmbNullSpaceSASRec")
    assert torch.equal(before[:, :-3], after[:, :-3])
    assert (before[:, -3:] != after[:, -3:]).any(0).all()


def test_a_bounded_item_ends_at_the_bound(tiny_run, levers):
    before, after, _ = _trained(tiny_run, "LLMEmbBoundedSASRec")
    moved = (after - before).norm(dim=1) / before.norm(dim=1)
    assert moved.max() == pytest.approx(levers.BOUND, rel=1e-4)
    free, end, _ = _trained(tiny_run, "LLMEmbSASRec")
    assert ((end - free).norm(dim=1) / free.norm(dim=1)).max() > 2 * levers.BOUND


def test_a_table_that_is_whitened_twice_passes_one_head(tiny_run, levers):
    settings = {"adapter": "mlp", "llm_freeze": True, "llm_whiten": 1}
    *_, model = _trained(tiny_run, "LLMEmbTwiceWhitenedSASRec", **settings)
    layer = model.eval().item_embedding
    whole, grouped = layer.table[1:].double().chunk(2, dim=1)
    width = whole.shape[1]
    for rows, columns in ((whole, width), (grouped, width // levers.GROUPS)):
        block = rows[:, :columns].T.cov(correction=0)
        assert torch.allclose(block, torch.eye(columns).double(), atol=0.05)
    first, _, second, _, last = layer.adapter.head

    def head(x):
        for weight in (first, second):
            x = F.gelu(x @ weight.weight.T + weight.bias)
        return x @ last.weight.T + last.bias

    expected = head(whole.float()) + head(grouped.float())
    assert torch.allclose(layer.weight[1:], expected, atol=1e-4)


def test_the_bonus_is_the_likest_text_of_the_history(tiny_run, levers_study):
    config, data, model, _ = tiny_run()
    run = SimpleNamespace(data=data, config=config, model=model)
    scored = levers_study.with_bonus(2.0)(run)
    histories = torch.tensor([[3, 1, 0], [2, 0, 0]])
    batch = Interaction({model.ITEM_SEQ: histories})
    own = torch.zeros(2, data.train._dataset.item_num)
    found = scored(batch, own)
    table = EmbeddingTable.load(config["llm_table"])
    rows = dict(zip(table.tokens, torch.as_tensor(table.vectors).float()))
    tokens = data.train._dataset.field2id_token["item_id"]
    for candidate in (1, 4, 5):
        text = rows[tokens[candidate]]
        alike = [F.cosine_similarity(text, rows[tokens[i]], dim=0) for i in (3, 1)]
        assert found[0, candidate] == pytest.approx(2 * float(max(alike)), abs=1e-5)
    assert found[1, 2] == pytest.approx(2.0, abs=1e-5)


def test_every_training_is_a_command(levers_study):
    names = {"model", "dataset", "config_files", "preset"}
    for _, arguments in levers_study.jobs("data"):
        typed = parse(arguments)
        given = {key: typed[key] for key in typed.keys() - names}
        refuse_typed(given, typed["model"])
        assert typed["preset"] == "best"
