# ruff: noqa: F811 (fixtures come by name)
"""Training, evaluation and checkpoints on a GPU; the same tests hold on a CPU."""

import copy
import math

import pytest
import torch
from gpu_devices import device, placed  # noqa: F401
from recbole.model.layers import MultiHeadAttention

from recbole_llmemb import Recommender
from recbole_llmemb.config.recbole_config import preset_file
from recbole_llmemb.config.values import read_settings
from recbole_llmemb.core import checkpoint, devices
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.evaluation import loaders
from recbole_llmemb.models.llmemb.parts import FusedAttention
from recbole_llmemb.run.stages import train_and_evaluate

KINDS = {
    "table": {"item_embedding": "table"},
    "longtail": read_settings(preset_file("longtail")),
    "id": {"item_embedding": "id"},
}


def with_loss(kind, loss):
    settings = KINDS[kind] | {"loss_type": loss}
    if loss != "CE":
        settings.pop("popularity_adjustment", None)
    return settings


def tensors_of(trainer):
    model = trainer.model
    yield from model.named_parameters()
    yield from model.named_buffers()
    for number, state in enumerate(trainer.optimizer.state.values()):
        yield from ((f"state {number} {k}", v) for k, v in state.items() if torch.is_tensor(v))


@pytest.mark.parametrize("mode", ["sequence", "prefix"])
@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_where_it_is_computed(tiny_run, device, placed, kind, mode):
    _, data, model, trainer = tiny_run("LLMEmbSASRec", train_mode=mode, **KINDS[kind], **placed)
    trainer._train_epoch(data.train, 0)
    names = dict(tensors_of(trainer))
    assert len(names) > 20
    assert {name: t.device.type for name, t in names.items() if t.device.type != device.type} == {}
    batch = trainer._to_device(next(iter(data.train)))
    assert {t.device.type for t in batch.interaction.values()} == {device.type}
    assert model.full_sort_predict(batch).device.type == device.type


@pytest.mark.parametrize("loss", ["BCE", "CE", "BPR"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_double_precision(tiny_run, placed, kind, loss):
    _, data, model, trainer = tiny_run("LLMEmbSASRec", **with_loss(kind, loss), **placed)
    batch = next(iter(data.train))
    exact = copy.deepcopy(model).cpu().double()
    expected = exact.calculate_loss(copy.deepcopy(batch).to("cpu"))
    expected.backward()
    found = model.calculate_loss(trainer._to_device(batch))
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for (name, one), other in zip(model.named_parameters(), exact.parameters()):
        if other.grad is not None:
            torch.testing.assert_close(
                one.grad.cpu().double(), other.grad, rtol=1e-3, atol=1e-5, msg=name
            )


@pytest.mark.parametrize("loss", ["BCE", "CE"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_changes_a_loss_by_little(tiny_run, placed, kind, loss):
    losses = {}
    for half in (False, True):
        settings = {**with_loss(kind, loss), "enable_amp": half, "epochs": 1, **placed}
        _, data, model, trainer = tiny_run("LLMEmbSASRec", **settings)
        losses[half] = trainer._train_epoch(data.train, 0)
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.02)


def naive_ranks(model, loader, left_out):
    """Rank of each target among all items, by its user, from scores on the CPU."""
    exact = copy.deepcopy(model).cpu().eval()
    found = {}
    for interaction, history, _, targets in loader:
        with torch.no_grad():
            scores = exact.full_sort_predict(interaction.to("cpu")).tolist()
        for row in scores:
            row[0] = -math.inf
        for row, item in zip(*(part.tolist() for part in history)) if left_out else ():
            scores[row][item] = -math.inf
        for user, row, target in zip(interaction["user_id"].tolist(), scores, targets.tolist()):
            missed = row[target] == -math.inf
            found[user] = 1000 if missed else 1 + sum(score > row[target] for score in row)
    return found


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_full_ranking(tiny_run, placed, kind, left_out, monkeypatch):
    monkeypatch.setattr(loaders, "MOST_SCORES", 7 * 61)  # seven rows at a time
    settings = {"exclude_history": left_out, **KINDS[kind], **placed}
    _, data, model, trainer = tiny_run("LLMEmbSASRec", **settings)
    assert data.test.step == 7
    trainer._train_epoch(data.train, 0)
    found = trainer.evaluate(data.test, load_best_model=False)
    ranks = list(naive_ranks(model, data.test, left_out).values())
    hits = [rank <= 10 for rank in ranks]
    gains = [hit / math.log2(rank + 1) for hit, rank in zip(hits, ranks)]
    assert 0 < sum(hits) < len(hits)
    assert found["hit@10"] == pytest.approx(sum(hits) / len(hits))
    assert found["ndcg@10"] == pytest.approx(sum(gains) / len(gains))


def test_sampled_ranking(tiny_run, placed):
    how = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni9"}
    settings = {"eval_args": how, "topk": [3], "valid_metric": "NDCG@3", **placed}
    _, data, model, trainer = tiny_run("LLMEmbSASRec", **settings)
    trainer._train_epoch(data.train, 0)
    found = trainer.evaluate(data.test, load_best_model=False)
    exact, hits = copy.deepcopy(model).cpu().eval(), []
    for interaction, candidates, *_ in data.test:
        with torch.no_grad():
            scores = exact.full_sort_predict(interaction.to("cpu"))
        for row, items in zip(scores.tolist(), candidates.tolist()):
            better = {item for item in items if row[item] > row[items[0]]}
            hits.append(len(better) < 3)
    assert found["hit@3"] == pytest.approx(sum(hits) / len(hits))


class Interrupted(BaseException):
    pass


def test_a_run_goes_on_elsewhere_and_back(tiny_run, placed):
    """Begun on a CPU, continued on the device, ended on a CPU; as on a CPU throughout."""

    def run(until=None, **settings):
        config, data, model, trainer = tiny_run("LLMEmbSASRec", epochs=4, **settings)
        train_epoch = trainer._train_epoch

        def watched(loader, epoch, *args, **kwargs):
            if epoch == until:
                raise Interrupted
            return train_epoch(loader, epoch, *args, **kwargs)

        trainer._train_epoch = watched
        outcome = train_and_evaluate(config, data, model, trainer, report=lambda line: None)
        return [entry["train_loss"] for entry in trainer.history], outcome

    here = {"use_gpu": False, "gpu_id": ""}
    expected, outcome = run(**here, checkpoint_dir="whole")
    for until, where in ((1, here), (3, placed)):
        with pytest.raises(Interrupted):
            run(until, **where, checkpoint_dir="parts")
    found, continued = run(**here, checkpoint_dir="parts")
    assert found == pytest.approx(expected, rel=1e-3)
    assert continued.epochs == outcome.epochs == 4
    kept = checkpoint.load(continued.checkpoint)["state_dict"]
    assert {value.device.type for value in kept.values()} == {"cpu"}


@pytest.mark.parametrize("kind", KINDS)
def test_recommendations_of_a_checkpoint_made_elsewhere(tiny_run, placed, kind, tmp_path):
    _, data, model, trainer = tiny_run("LLMEmbSASRec", **KINDS[kind], **placed)
    trainer._train_epoch(data.train, 0)
    trainer._train_data, path = data.train, tmp_path / "model.pth"
    checkpoint.save(trainer._state(0), path)
    recommender = Recommender(path, device="cpu")
    assert {p.device.type for p in recommender.model.parameters()} == {"cpu"}
    users = ["u3", "u7", "u8"]
    found = recommender.recommend(users, topk=5, split="test")
    batch = next(iter(data.test))[0]
    rows = [batch["user_id"].tolist().index(data.dataset.token2id("user_id", u)) for u in users]
    with torch.no_grad():
        scores = copy.deepcopy(model).cpu().eval().full_sort_predict(batch.to("cpu"))[rows]
    scores[:, 0] = -torch.inf
    torch.testing.assert_close(found.scores, scores.topk(5).values, rtol=1e-4, atol=1e-5)


def test_fused_attention_is_recboles(device):
    torch.manual_seed(0)
    plain = MultiHeadAttention(2, 16, 0.0, 0.0, 1e-12).to(device).eval()
    fused = copy.deepcopy(plain)
    fused.__class__ = FusedAttention
    states = torch.randn(3, 7, 16, device=device)
    lengths = torch.tensor([7, 4, 1], device=device)
    places = torch.arange(7, device=device)
    seen = (places < lengths[:, None])[:, None, None] & (places <= places[:, None])
    mask = torch.where(seen, 0.0, -10000.0)
    torch.testing.assert_close(fused.fused(states, mask), plain(states, mask), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fused.fused(states, torch.zeros_like(mask)), plain(states, mask))


def test_models_get_it(tiny_run, placed, device, monkeypatch):
    calls = []
    attend = FusedAttention.fused
    monkeypatch.setattr(FusedAttention, "fused", lambda *a: calls.append(1) or attend(*a))
    _, data, _, trainer = tiny_run("LLMEmbSASRec", **placed)
    trainer._train_epoch(data.train, 0)
    assert bool(calls) == (device.type == "cuda")


def test_a_table_that_does_not_fit_is_refused(monkeypatch, tiny_run):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**20, 2**30))
    refuse = devices.refuse_too_large
    refuse(1 << 10, 256, torch.float32, "cuda")
    refuse(1 << 40, 256, torch.float32, "cpu")
    with pytest.raises(UserError, match="llm_table_dtype"):
        refuse((1 << 10) + 1, 256, torch.float32, "cuda:0")
    # A run asks before it moves the table.
    monkeypatch.setattr("recbole_llmemb.models.llmemb.parts.refuse_too_large", _refused)
    with pytest.raises(UserError, match="61 16 torch.float32 cpu"):
        tiny_run("LLMEmbSASRec", llm_table_device="device")


@pytest.mark.parametrize("loss", ["BCE", "CE"])
def test_a_table_that_does_not_fit_stays_on_the_host(tiny_run, device, placed, monkeypatch, loss):
    """And trains the same, by rows that are copied while the step before runs."""
    found = []
    for fits in (True, False):
        monkeypatch.setattr("recbole_llmemb.models.llmemb.parts.fits", lambda *_: fits)  # noqa: B023
        _, data, model, trainer = tiny_run("LLMEmbSASRec", loss_type=loss, **placed)
        layer = model.item_embedding
        assert layer.on_host is not fits
        assert layer.table.device.type == (device.type if fits else "cpu")
        assert layer.table.is_pinned() == (not fits and device.type == "cuda")
        for epoch in range(2):
            trainer._train_epoch(data.train, epoch)
        model.eval()
        with torch.no_grad():
            found.append(layer.weight.cpu())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def _refused(*facts):
    raise UserError(" ".join(map(str, facts)))
