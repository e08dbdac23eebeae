"""Adapters, item embeddings, losses and metrics of somebody's own, by import path."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from recbole.model.sequential_recommender import SASRec

from recbole_llmemb import Recommender
from recbole_llmemb.cli.main import main
from recbole_llmemb.core import checkpoint, registry
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.registry import Registry
from recbole_llmemb.models import registry as models
from recbole_llmemb.run.stages import run_file
from recbole_llmemb.run.teacher import teacher_config

MINE = """
import torch
from recbole.evaluator.base_metric import TopkMetric
from torch import nn

from recbole_llmemb.models.llmemb.item_embedding import TableItemEmbedding
from recbole_llmemb.models.losses import Loss


class Doubled(nn.Linear):
    def forward(self, rows):
        return 2 * super().forward(rows.float())


class Bounded(TableItemEmbedding):
    def _all_rows(self):
        return super()._all_rows().clamp(-0.5, 0.5)

    def _some_rows(self, ids):
        return super()._some_rows(ids).clamp(-0.5, 0.5)


class Hinge(Loss):
    def forward(self, positive, negative):
        return torch.relu(1 - positive + negative).mean()


class Squared(Loss):
    samples_negatives = False

    def forward(self, states, items, targets, bias=None, padding=False):
        wanted = nn.functional.one_hot(targets, len(items))
        return (states @ items.t() - wanted).square().mean()


class Misses(TopkMetric):
    smaller = True

    def calculate_metric(self, dataobject):
        hits, _ = self.used_info(dataobject)
        missed = (hits.cumsum(axis=1) == 0).astype(float)
        return self.topk_result("misses", missed)


class Hit(TopkMetric):
    pass
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """A module ``mine_<n>`` of somebody's, which nobody has imported yet."""
    name = f"mine_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_trusted", set())
    yield name
    sys.modules.pop(name, None)


def test_each_by_the_command_line(mine, tiny_settings, tmp_path):
    settings = tiny_settings("LLMEmbSASRec", epochs=1, result_json=str(tmp_path / "out.json"))
    settings |= {"adapter": f"{mine}:Doubled", "item_embedding": f"{mine}:Bounded"}
    settings |= {"loss_type": f"{mine}:Hinge", "metrics": ["Hit", f"{mine}:Misses"]}
    settings |= {"valid_metric": "Misses@5", "topk": [5]}
    settings.pop("load_col")
    words = [f"--{key}={value}" for key, value in settings.items() if value not in ("", None)]
    assert main(["--model=LLMEmbSASRec", "--dataset=tiny", *words]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    test = found["test_result"]
    assert test["misses@5"] == pytest.approx(1 - test["hit@5"]) and 0 < test["hit@5"] < 1
    assert found["config"]["metrics"] == ["Hit", "Misses"]


@pytest.mark.parametrize("mode", ["sequence", "prefix"])
@pytest.mark.parametrize("loss", ["Hinge", "Squared"])
def test_a_loss_is_computed_as_it_says(mine, tiny_run, loss, mode):
    settings = {"loss_type": f"{mine}:{loss}", "train_mode": mode, "align_weight": 0}
    config, data, model, trainer = tiny_run("LLMEmbSASRec", **settings)
    batch = next(iter(data.train))
    states = []
    original = model.position_loss
    model.position_loss = lambda s, b, **more: states.append(s) or original(s, b, **more)
    value = model.eval().calculate_loss(batch)
    weight, targets = model.item_embedding.weight, batch["item_id"]
    scores = states[0] @ weight[:61].t()
    if loss == "Hinge":
        rows = torch.arange(len(targets))
        expected = (1 - scores[rows, targets] + scores[rows, batch["neg_item_id"]]).relu().mean()
        assert "neg_item_id" in batch
    else:
        wanted = torch.zeros_like(scores)
        wanted[torch.arange(len(targets)), targets] = 1
        expected = (scores - wanted).square().mean()
        assert "neg_item_id" not in batch
    assert torch.allclose(value, expected, rtol=1e-4)
    trainer.fit(data.train, data.valid)


def test_an_adapter_and_items_are_what_they_say(mine, tiny_run):
    settings = {"adapter": f"{mine}:Doubled", "item_embedding": f"{mine}:Bounded"}
    _, _, model, _ = tiny_run("LLMEmbSASRec", **settings)
    layer = model.item_embedding
    plain = 2 * (layer.table[1:] @ layer.adapter.weight.t() + layer.adapter.bias)
    assert torch.allclose(layer.weight[1:], plain.clamp(-0.5, 0.5), atol=1e-6)
    assert layer.weight.abs().max() <= 0.5 < plain.abs().max()


def test_a_file_imports_nothing(mine, tiny_run, monkeypatch):
    """A checkpoint names the adapter; whoever reads it says whether its code may be run."""
    settings = {"metrics": ["Hit", f"{mine}:Misses"], "valid_metric": "Misses@5", "epochs": 1}
    _, data, _, trainer = tiny_run("LLMEmbSASRec", adapter=f"{mine}:Doubled", **settings)
    trainer.fit(data.train, data.valid)
    monkeypatch.setattr(registry, "_trusted", set())
    from recbole.evaluator.register import metric_types

    monkeypatch.delitem(metric_types, "misses")  # as in a process that never heard of it
    with pytest.raises(UserError, match="trust_remote_code") as caught:
        Recommender(trainer.saved_model_file)
    assert caught.value.key == "adapter"
    known = Recommender(trainer.saved_model_file, trust_remote_code=True)
    assert type(known.model.item_embedding.adapter).__name__ == "Doubled"
    assert known.config["metrics"] == ["Hit"]


def test_code_that_changes_is_another_training(mine, tiny_run, monkeypatch, caplog):
    """A run goes on over the same code alone; whoever reads its checkpoint is told."""
    given = {"adapter": f"{mine}:Doubled", "epochs": 1}
    config, data, _, trainer = tiny_run("LLMEmbSASRec", **given)
    trainer.fit(data.train, data.valid)
    own = run_file(config)
    assert run_file(tiny_run("LLMEmbSASRec", **given)[0]) == own
    checkpoint.save(checkpoint.load(trainer.saved_model_file), own)
    Recommender(own, trust_remote_code=True)
    assert not [one for one in caplog.records if mine in one.getMessage()]
    file = Path(sys.modules[mine].__file__)
    file.write_text(file.read_text() + "\n# another line\n")
    config, _, _, trainer = tiny_run("LLMEmbSASRec", **given)
    assert run_file(config) != own
    with pytest.raises(UserError, match="code"):
        trainer.resume_checkpoint(own)
    Recommender(own, trust_remote_code=True)
    assert [one for one in caplog.records if mine in one.getMessage()]


def test_a_path_that_is_trusted_may_be_a_text(monkeypatch):
    monkeypatch.setattr(registry, "_trusted", set())
    registry.trust("some.module:Name")
    registry.refuse_untrusted({"adapter": "some.module:Name"})


@pytest.mark.parametrize(
    ("files", "changed"),
    [
        (
            {"theirs_more.py": "from theirs_inner import Hinge", "theirs_inner.py": MINE},
            "theirs_inner.py",
        ),
        (
            {"theirs_more/__init__.py": f"{MINE}\nfrom . import help", "theirs_more/help.py": ""},
            "theirs_more/help.py",
        ),
        (
            {"theirs_more.py": f"{MINE}\nfrom theirs_help import ONE", "theirs_help.py": "ONE = 1"},
            "theirs_help.py",
        ),
        (
            {"theirs_more.py": f"{MINE}\ndef f():\n    import theirs_help", "theirs_help.py": ""},
            "theirs_help.py",
        ),
    ],
    ids=["from another module", "a helper of its package", "a helper beside", "one for later"],
)
def test_code_from_elsewhere_tells_trainings_and_teachers_apart(
    tiny_run, tmp_path, monkeypatch, files, changed
):
    """A class may come from another module, or call one; a teacher shares the run's loss."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        given = {"loss_type": "theirs_more:Hinge", "align_weight": 0.01, "epochs": 1}
        config = tiny_run("LLMEmbSASRec", **given)[0]
        before = run_file(config), run_file(teacher_config(config, 8))
        file = tmp_path / changed
        file.write_text(file.read_text() + "\n# another line\n")
        config = tiny_run("LLMEmbSASRec", **given)[0]
        after = run_file(config), run_file(teacher_config(config, 8))
        assert before[0] != after[0] and before[1] != after[1]
    finally:
        for name in [name for name in sys.modules if name.startswith("theirs_")]:
            del sys.modules[name]


def test_whose_code_counts(tmp_path, monkeypatch):
    """Of what is installed a module that is named, and nothing of Python's own."""
    places = tmp_path / "site-packages", tmp_path / "written"
    for place, text in zip(places, ("import json", "import json, theirs_set, theirs_apart.one")):
        (place / "theirs_apart").mkdir(parents=True)
        (place / ("theirs_set.py" if "-" in place.name else "theirs_own.py")).write_text(text)
        monkeypatch.syspath_prepend(str(place))
    (places[0] / "theirs_apart" / "one.py").touch()
    try:
        importlib.import_module("theirs_own")
        assert set(registry.code_digests(set(), {"theirs_own"}, ())) == {"theirs_own"}
        assert set(registry.code_digests({"theirs_set"}, set(), ())) == {"theirs_set"}
        assert not registry.code_digests(set(), {"theirs_set", "theirs_apart.one"}, ())
        assert not registry.code_digests({"theirs_own"}, {"theirs_own"}, ("theirs_own",))
    finally:
        for name in [name for name in sys.modules if name.startswith("theirs_")]:
            del sys.modules[name]


def test_code_of_a_metric_tells_trainings_apart(mine, tiny_config):
    given = {"metrics": ["NDCG", f"{mine}:Misses"]}
    before = run_file(tiny_config(**given))
    Path(sys.modules[mine].__file__).write_text(f"{MINE}# another line\n")
    assert run_file(tiny_config(**given)) != before


def test_code_of_a_model_tells_trainings_apart(mine, tiny_config):
    module = importlib.import_module(mine)
    own = type("Theirs", (SASRec,), {"__module__": mine})
    name = models.llmemb(own).__name__
    try:
        before = run_file(tiny_config(name))
        assert run_file(tiny_config(name)) == before
        Path(module.__file__).write_text(f"{MINE}# another line\n")
        assert run_file(tiny_config(name)) != before
    finally:
        del models.MODELS[name]


@pytest.mark.parametrize(
    ("settings", "key", "word"),
    [
        ({"adapter": "MINE:Nothing"}, "adapter", "Nothing"),
        ({"adapter": "no_such_module:Doubled"}, "adapter", "no_such_module"),
        ({"adapter": "MINE:torch"}, "adapter", "Module"),
        ({"adapter": "conv"}, "adapter", "'conv'"),
        ({"item_embedding": "MINE:Doubled"}, "item_embedding", "TableItemEmbedding"),
        ({"loss_type": "MINE:Doubled"}, "loss_type", "Loss"),
        ({"metrics": ["NDCG", "MINE:Doubled"]}, "metrics", "AbstractMetric"),
        ({"metrics": ["NDCG", "MINE:Hit"]}, "metrics", "RecBole"),
    ],
    ids=str,
)
def test_what_cannot_be_taken(mine, tiny_run, settings, key, word):
    filled = {
        name: [one.replace("MINE", mine) for one in value]
        if isinstance(value, list)
        else value.replace("MINE", mine)
        for name, value in settings.items()
    }
    with pytest.raises(UserError, match=word) as caught:
        tiny_run("LLMEmbSASRec", **filled)
    assert caught.value.key == key


@pytest.mark.parametrize("key", ["adapter", "item_embedding", "loss_type"])
@pytest.mark.parametrize("path", ["no_such_module:Part", "os:path"])
def test_a_part_that_is_none_is_refused_before_data_is_read(tiny_config, key, path):
    with pytest.raises(UserError) as caught:
        tiny_config("LLMEmbSASRec", **{key: path})
    assert caught.value.key == key and path in str(caught.value)


def test_a_backbone_with_a_loss_of_its_own_takes_no_other(mine, tiny_config):
    with pytest.raises(UserError) as caught:
        tiny_config("LLMEmbCORE", loss_type=f"{mine}:Squared", embedding_size=8)
    assert caught.value.key == "loss_type"


def test_a_registered_name(tiny_run, monkeypatch):
    from recbole_llmemb.models.llmemb.parts import ADAPTERS

    names = Registry("adapter", torch.nn.Module, one=torch.nn.Linear)
    names.register("two", torch.nn.Bilinear)
    assert list(names) == ["one", "two"] and names["two"] is torch.nn.Bilinear
    with pytest.raises(UserError):
        names.register("three", dict)
    assert set(ADAPTERS) == {"linear", "mlp", "none", "whitening"}
