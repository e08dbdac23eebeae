# ruff: noqa: F811 (fixtures come by name)
"""A user's own backbone: a class in one line, which says of itself what it can do."""

import sys

import pytest
import torch
from backbone_runs import built, small  # noqa: F401
from conftest import ROOT

import recbole_llmemb

from recbole_llmemb import llmemb  # isort: skip
from recbole_llmemb import plugin  # isort: skip
from recbole_llmemb.models import registry  # isort: skip
from recbole_llmemb.cli.main import main  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.testing import verify_backbone  # isort: skip
from recbole.model.sequential_recommender import GRU4Rec, NARM, NextItNet, SASRec  # isort: skip
from recbole.quick_start import load_data_and_model, run_recbole  # isort: skip
from recbole.utils import get_model  # isort: skip


class Mine(GRU4Rec):
    """What a user might write: a dot product after something of theirs."""

    def forward(self, item_seq, item_seq_len):
        return torch.tanh(super().forward(item_seq, item_seq_len))


class Causal(SASRec):
    one_pass, products, padding_free, size_key = "causal", True, True, "hidden_size"

    def forward(self, item_seq, item_seq_len):
        return super().forward(item_seq, item_seq_len) * 2


class Leaks(SASRec):
    """Says that it is causal and is not."""

    causal = True

    def get_attention_mask(self, item_seq, bidirectional=False):
        return super().get_attention_mask(item_seq, bidirectional=True)


class OwnLoss(GRU4Rec):
    losses = ("BCE", "BPR", "CE")

    def calculate_loss(self, interaction):
        return super().calculate_loss(interaction) + 0.1 * self.dense.weight.norm()


class OwnScores(GRU4Rec):
    losses = ("BCE", "BPR", "CE")

    def full_sort_predict(self, interaction):
        return super().full_sort_predict(interaction).clamp(max=1.0)


class NoItems(SASRec):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.items, self.item_embedding = self.item_embedding, None


@pytest.fixture
def forget():
    """Take a test's models out of the registry again."""
    before = set(registry.MODELS)
    yield
    for name in set(registry.MODELS) - before:
        if registry.MODELS[name].__bases__[-1].__module__ == __name__:
            del registry.MODELS[name]
            sys.modules.pop(f"recbole.model.sequential_recommender.{name.lower()}", None)


def test_a_users_class_in_one_line(small, tmp_path, forget, capsys):
    LLMEmbMine = llmemb(Mine)
    settings = small("Mine", num_layers=1, dropout_prob=0.0)
    result = run_recbole(model=LLMEmbMine, dataset="tiny", config_dict=settings)
    by_name = run_recbole(model="LLMEmbMine", dataset="tiny", config_dict=settings)
    assert result["test_result"] == by_name["test_result"] and result["test_result"]["hit@10"] > 0
    assert llmemb(Mine) is LLMEmbMine and "LLMEmbMine" in registry.names()
    file = sorted((tmp_path / "saved").glob("LLMEmbMine-*.pth"))[0]
    config, model, *_, test = load_data_and_model(file)
    # Nobody said that it is causal, so it is not trained as if it were.
    assert config["train_mode"] == "prefix" and isinstance(model, LLMEmbMine)
    assert model.uses_backbone_loss and not model.padding_free and config["loss_type"] == "CE"
    from recbole_llmemb.run.execute import execute

    found = execute({"model": LLMEmbMine, "dataset": "tiny", **settings})
    assert found["model"] == "LLMEmbMine" and found["test_result"] == result["test_result"]


def test_a_users_class_that_is_causal(small, tiny_run, forget):
    llmemb(Causal)
    config, data, model, trainer = tiny_run("LLMEmbCausal", **small("Causal", loss_type="CE"))
    assert config["train_mode"] == "sequence" and not model.uses_backbone_loss
    trainer.fit(data.train, data.valid)
    assert trainer.evaluate(data.test)["hit@10"] > 0
    tiny_run("LLMEmbCausal", **small("Causal", train_mode="prefix", prefix_trim=True))


def test_what_a_class_says_and_does_not_keep(forget):
    """Wrong words about itself are found by who asks, not by who trains."""
    with pytest.raises(UserError) as caught:
        verify_backbone(Leaks)
    assert caught.value.key == "one_pass" and "later items" in str(caught.value)
    lying = type("Lying", (OwnScores,), {"products": True, "__module__": __name__})
    with pytest.raises(UserError) as caught:
        verify_backbone(lying)
    assert caught.value.key == "products"
    padded = type("Padded", (NextItNet,), {"padding_free": True, "__module__": __name__})
    with pytest.raises(UserError) as caught:
        verify_backbone(padded)
    assert caught.value.key == "padding_free"
    with pytest.raises(UserError, match="one_pass"):
        llmemb(type("Unsaid", (SASRec,), {"one_pass": "causal", "products": False}))


@pytest.mark.parametrize(
    ("made", "products", "one_pass", "padding_free"),
    [
        (Mine, True, "causal", True),
        (Causal, True, "causal", True),
        (OwnLoss, False, "", True),
        (OwnScores, False, "", True),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_what_a_class_may_say(forget, made, products, one_pass, padding_free):
    before = torch.get_rng_state()
    found = verify_backbone(made)
    assert torch.equal(torch.get_rng_state(), before)
    assert (found.products, found.one_pass, found.padding_free) == (
        products,
        one_pass,
        padding_free,
    )
    said: dict = {}
    exec(str(found), said)  # it can be written into the class as it is printed
    assert said["products"] == products and said["losses"] == ("BCE", "BPR", "CE")
    assert bool(found.reasons) != products


@pytest.mark.parametrize("loss_type", ["BCE", "BPR", "CE"])
@pytest.mark.parametrize("made", [OwnLoss, OwnScores], ids=lambda made: made.__name__)
def test_a_users_loss_and_scores_are_kept(small, tiny_run, forget, made, loss_type):
    llmemb(made)
    settings = small(made.__name__, loss_type=loss_type, dropout_prob=0.0)
    _, data, model, trainer = tiny_run(f"LLMEmb{made.__name__}", **settings)
    assert model.uses_backbone_loss and not model.padding_free
    batch = next(iter(data.train))
    model.eval()
    if made is OwnLoss:
        loss = model.calculate_loss(batch)
        _, _, plain, _ = tiny_run("LLMEmbGRU4Rec", **settings | {"train_mode": "prefix"})
        plain.load_state_dict(model.state_dict())
        term = 0.1 * model.dense.weight.norm()
        assert torch.allclose(loss, plain.eval().calculate_loss(batch) + term, rtol=1e-5)
    else:
        with torch.no_grad():
            model.item_embedding.adapter.up.weight.mul_(1000)
            assert model.full_sort_predict(batch).max() == 1.0
            assert model.predict(batch).max() <= 1.0
    trainer.fit(data.train, data.valid)


@pytest.mark.parametrize(
    "settings",
    [
        {"train_mode": "sequence"},
        {"prefix_trim": True, "train_mode": "prefix"},
        {"item_similarity": "cosine"},
    ],
    ids=str,
)
def test_settings_that_a_users_class_cannot_have(small, tiny_run, forget, settings):
    llmemb(OwnLoss)
    with pytest.raises(UserError, match="LLMEmbOwnLoss") as caught:
        tiny_run("LLMEmbOwnLoss", **small("OwnLoss", **settings))
    assert caught.value.key == next(iter(settings))


def test_what_gets_no_table(small, tiny_run, forget):
    from recbole.model.general_recommender import BPR
    from recbole.model.sequential_recommender import FPMC

    assert llmemb(NARM) is get_model("LLMEmbNARM")
    for wrong in (BPR, torch.nn.Linear, "SASRec", None):
        with pytest.raises(UserError, match="is no sequential model of RecBole"):
            llmemb(wrong)
    with pytest.raises(UserError, match="FPMC is no backbone"):
        llmemb(FPMC)
    with pytest.raises(UserError, match="LLMEmbSASRec is a model already"):
        llmemb(type("SASRec", (Mine,), {}))
    llmemb(NoItems)
    with pytest.raises(UserError, match="NoItems has no nn.Embedding of its items"):
        tiny_run("LLMEmbNoItems", **small("NoItems"))
    again = type("Mine", (Mine,), {"__module__": __name__})  # a cell of a notebook run again
    assert llmemb(Mine) is not llmemb(again) is registry.MODELS["LLMEmbMine"]


@pytest.mark.parametrize("name", ["NARM", "TransRec", "GRU4RecF"])
def test_command_line(small, tiny, tiny_table, tmp_path, capsys, name):
    settings = small(name, result_json=str(tmp_path / "out.json"))
    settings.pop("load_col")
    if name == "TransRec":
        settings.pop("hidden_size")  # which it does not have, and an unknown key is refused
    words = [f"--{key}={value}" for key, value in settings.items() if value not in ("", None)]
    assert main([f"--model=LLMEmb{name}", "--dataset=tiny", *words]) == 0
    assert "tail items" in capsys.readouterr().out
    assert (tmp_path / "out.json").is_file() and (ROOT / "run_recbole_llm.py").is_file()


def test_exported():
    assert recbole_llmemb.llmemb is plugin.llmemb
