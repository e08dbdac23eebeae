"""RecBole's own entry points know the models, and nothing else of RecBole's has changed."""

import importlib.util
import inspect
import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, child_env

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole.config import Config  # isort: skip
from recbole.data.dataloader import FullSortEvalDataLoader, TrainDataLoader  # isort: skip
from recbole.data.dataset import SequentialDataset  # isort: skip
from recbole.model.sequential_recommender import SASRec  # isort: skip
from recbole.quick_start import load_data_and_model, run_recbole  # isort: skip
from recbole.trainer import Trainer  # isort: skip
from recbole.utils import get_model, get_trainer  # isort: skip
from recbole_llmemb import plugin  # isort: skip
from recbole_llmemb.models import registry  # isort: skip
from recbole_llmemb.data.dataset import LazySequentialDataset  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.models.llmemb.model import LLMEmbMixin  # isort: skip
from recbole_llmemb.training import LLMEmbTrainer, StockTrainer  # isort: skip

MODELS = ["LLMEmbSASRec", "LLMEmbGRU4Rec", "LLMEmbBERT4Rec"]


def child(code, folder):
    """What a fresh interpreter prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=child_env(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("mode", ["sequence", "prefix"])
@pytest.mark.parametrize("name", MODELS)
def test_run_recbole_and_load_data_and_model(tiny_settings, tmp_path, name, mode):
    settings = tiny_settings(name, train_mode=mode, topk=[10])
    result = run_recbole(model=name, dataset="tiny", config_dict=dict(settings))
    assert set(result["test_result"]) == {"hit@10", "ndcg@10"}
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@10"]
    (file,) = (tmp_path / "saved").glob(f"{name}-*.pth")
    config, model, dataset, train, valid, test = load_data_and_model(file)
    assert isinstance(model, get_model(name)) and isinstance(dataset, LazySequentialDataset)
    assert config["train_mode"] == mode
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    assert type(trainer) is LLMEmbTrainer
    for loader, expected in ((test, "test_result"), (valid, "best_valid_result")):
        assert trainer.evaluate(loader, load_best_model=False) == result[expected]
    loss = model.train().calculate_loss(next(iter(train)))
    assert loss.isfinite()


def test_in_a_fresh_interpreter(tiny_settings, tmp_path):
    """``import recbole_llmemb`` is all; anomaly detection, which RecBole switches on, is off."""
    settings = tiny_settings("LLMEmbSASRec", align_weight=0.01)
    code = f"""
import json, torch
import recbole_llmemb
off = torch.is_anomaly_enabled()
from recbole.quick_start import run_recbole
result = run_recbole(model="LLMEmbSASRec", dataset="tiny", config_dict={settings!r})
print()
print(json.dumps([off, torch.is_anomaly_enabled(), result["test_result"]]))
"""
    before, after, result = child(code, tmp_path)
    assert not before and not after
    here = run_recbole(model="LLMEmbSASRec", dataset="tiny", config_dict=settings)
    assert result == here["test_result"]


def test_places_where_recbole_looks():
    import recbole.data.dataset
    import recbole.trainer

    for name in MODELS:
        model_class = get_model(name)
        assert model_class.__name__ == name and issubclass(model_class, LLMEmbMixin)
        assert registry.is_ours(name) and registry.MODELS[name] is model_class
        module = f"recbole.model.sequential_recommender.{name.lower()}"
        assert importlib.util.find_spec(module).name == module
        assert getattr(recbole.data.dataset, f"{name}Dataset") is LazySequentialDataset
        assert getattr(recbole.trainer, f"{name}Trainer") is LLMEmbTrainer
    assert not registry.is_ours("SASRec")
    with pytest.raises(ValueError, match="LLMEmbNone"):
        get_model("LLMEmbNone")


def test_another_backbone_is_a_few_lines(tiny_run):
    from recbole.model.sequential_recommender import LightSANs

    name = "LLMEmbLightSANs"
    made = type(name, (LLMEmbMixin, LightSANs), {"__module__": __name__, "causal": False})
    try:
        plugin.register(made)
        settings = {"k_interests": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
                    "initializer_range": 0.02}  # fmt: skip
        _, data, model, trainer = tiny_run(name, train_mode="prefix", **settings)
        trainer.fit(data.train, data.valid)
        assert model.item_embedding.adapter.up.weight.grad is not None
        assert trainer.evaluate(data.test)["ndcg@10"] > 0
    finally:
        registry.MODELS.pop(name)


def test_stock_models_are_as_they_were(tiny_run, tiny_config):
    config, data, model, trainer = tiny_run("SASRec")
    assert type(model) is SASRec and type(trainer).__bases__ == (StockTrainer, Trainer)
    assert type(data.train) is TrainDataLoader
    assert type(data.valid) is type(data.test) is FullSortEvalDataLoader
    assert type(data.dataset) is SequentialDataset
    ours = ("llm_", "align_", "item_text", "train_mode")
    assert not any(key.startswith(ours) for key in config.final_config_dict)
    with pytest.raises(UserError):
        tiny_config("SASRec", loss_type="CE", train_neg_sample_args={"distribution": "uniform"})


STRINGS = {
    "a": "[1, 2]", "b": "1e-3", "c": "True", "d": "text", "e": "{'x': (1, None)}", "f": "None",
    "g": "false", "h": "3", "i": "a b", "j": "[a]", "k": "-1.5", "l": "none",
}  # fmt: skip


def stock_configurations():
    """Every setting of some models that are not ours, as text."""
    found = {}
    for name in ("SASRec", "BPR", "BERT4Rec", "FM"):
        for dataset in ("tiny", "ml-100k"):
            extra = dict(STRINGS)
            if name in ("SASRec", "BERT4Rec"):
                extra["train_neg_sample_args"] = None
            config = Config(name, dataset, config_dict=extra)
            settings = {key: repr(value) for key, value in config.final_config_dict.items()}
            found[f"{name} on {dataset}"] = settings
    return found


def test_configurations_of_stock_models_are_as_they_were(tmp_path):
    """Against a process in which RecBole is healed but knows nothing of our models."""
    code = f"""
import json, sys, types
package = types.ModuleType("recbole_llmemb")
package.__path__ = [{str(ROOT / "recbole_llmemb")!r}]
sys.modules["recbole_llmemb"] = package
from recbole_llmemb import compat
compat.apply()
from recbole.config import Config
STRINGS = {STRINGS!r}
{inspect.getsource(stock_configurations)}
assert not hasattr(Config, "restored")
print(json.dumps(stock_configurations()))
"""
    assert child(code, tmp_path) == stock_configurations()


def test_values_are_read_not_run(tmp_path):
    """RecBole evaluates every text as Python; here it stays a text."""
    trap = f"open({str(tmp_path / 'trap')!r}, 'w').close()"
    config = Config("SASRec", "tiny", config_dict={"x": trap, "train_neg_sample_args": None})
    assert config["x"] == trap and not (tmp_path / "trap").exists()


def test_registering_twice_changes_nothing():
    load = Config._load_internal_config_dict
    plugin.install()
    assert Config._load_internal_config_dict is load
    assert not torch.is_anomaly_enabled()
