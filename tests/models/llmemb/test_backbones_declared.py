# ruff: noqa: F811 (fixtures come by name)
"""Which backbones are served, which settings they take, and what is said to the others."""

import subprocess
import sys

import pytest
import torch
from backbone_runs import REFUSED, SERVED, small  # noqa: F401
from conftest import child_env

from recbole_llmemb import Recommender  # isort: skip
from recbole_llmemb.models import registry  # isort: skip
from recbole_llmemb.cli.main import main  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.models.llmemb.backbones import BACKBONES  # isort: skip
from recbole.utils import get_model  # isort: skip


def test_every_backbone_of_recbole_is_declared():
    import recbole.model.sequential_recommender as package
    from recbole.model.abstract_recommender import SequentialRecommender

    theirs = {
        name
        for name, found in vars(package).items()
        if isinstance(found, type) and issubclass(found, SequentialRecommender)
    }
    assert theirs == set(BACKBONES)
    assert [n for n in registry.names() if n in [f"LLMEmb{name}" for name in SERVED]]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(capsys, name):
    with pytest.raises(UserError, match=f"{name} is no backbone, as it "):
        get_model(f"LLMEmb{name}")
    assert main([f"--model=LLMEmb{name}"]) == 2
    error = capsys.readouterr().err
    assert f"LLMEmb{name}" in error and error.count("\n") == 1 and "Traceback" not in error


@pytest.mark.parametrize(
    ("typed", "near"),
    [("LLMEmbNarm", "LLMEmbNARM"), ("LLMEmbSASrec", "LLMEmbSASRec"), ("llmembcore", "LLMEmbCORE"),
     ("LLMEmbNextItNett", "LLMEmbNextItNet")],
)  # fmt: skip
def test_misspelt(capsys, typed, near):
    assert main([f"--model={typed}"]) == 2
    error = capsys.readouterr().err
    assert repr(typed) in error and near in error and error.count("\n") == 1
    with pytest.raises(ValueError, match=typed):  # RecBole's own look-up
        get_model(typed)


def test_a_fresh_interpreter_makes_none_until_asked(tmp_path):
    """And a class can be found by whoever gets its name from somewhere, pickle included."""
    code = """
import sys, importlib
import recbole_llmemb
from recbole_llmemb.models.registry import MODELS
assert not [name for name in MODELS if name.startswith("LLMEmb")]
assert "recbole.model.general_recommender" not in sys.modules
module = importlib.import_module("recbole.model.sequential_recommender.llmembnarm")
import pickle
assert pickle.loads(pickle.dumps(module.LLMEmbNARM)) is module.LLMEmbNARM
assert [name for name in MODELS if name.startswith("LLMEmb")] == ["LLMEmbNARM"]
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=child_env(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


# -- settings -----------------------------------------------------------------------------


def test_recboles_defaults_of_the_backbone(tiny_settings):
    """Below ours: nothing has to be given by hand, and numbers are numbers."""
    from recbole_llmemb.config.recbole_config import make_config

    config = make_config("LLMEmbNARM", "ml-100k")
    assert config["dropout_probs"] == [0.25, 0.5] and config["n_layers"] == 1
    assert config["train_mode"] == "prefix" and config["loss_type"] == "CE"
    assert config["learning_rate"] == 0.001 and config["stopping_step"] == 10
    assert make_config("LLMEmbCORE", "ml-100k")["layer_norm_eps"] == 1e-12
    assert make_config("LLMEmbFDSA", "ml-100k")["selected_features"] == ["class"]
    assert make_config("LLMEmbFDSA", "ml-100k")["load_col"]["item"] == ["item_id", "class"]
    assert make_config("LLMEmbSASRec", "ml-100k")["inner_size"] == 256
    assert make_config("LLMEmbTransRec", "ml-100k")["loss_type"] == "BPR"
    assert make_config("LLMEmbBERT4Rec", "ml-100k")["train_mode"] == "sequence"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("CORE", {"loss_type": "BCE"}, "offers CE"),
        ("TransRec", {"loss_type": "CE"}, "offers BPR and BCE"),
        ("CORE", {"item_similarity": "cosine"}, "way of its own"),
        ("FEARec", {"item_similarity": "cosine", "contrast": "us"}, "way of its own"),
        ("FEARec", {"n_layers": 1}, "at least 2"),
        ("FEARec", {"MAX_ITEM_LIST_LENGTH": 2}, "at least 3"),
        ("Caser", {"embedding_size": 1}, "at least 2"),
        ("SASRecCPR", {"learn_temperature": True}, "way of its own"),
        ("TransRec", {"similarity_temperature": 0.5}, "way of its own"),
        ("S3Rec", {"train_stage": "pretrain"}, "pre_model_path"),
        ("FDSA", {"selected_features": ["year"]}, "'year'.*title, categories"),
        ("FDSA", {"selected_features": ["item_id"]}, "as the item itself"),
        ("S3Rec", {"item_attribute": "year"}, "'year'.*title, categories"),
    ],
)
def test_settings_that_a_backbone_cannot_have(small, tiny_config, name, settings, words):
    with pytest.raises(UserError, match=words) as caught:
        tiny_config(f"LLMEmb{name}", **small(name, **settings))
    assert caught.value.key == next(iter(settings)) and f"LLMEmb{name}" in str(caught.value)


def test_features_that_no_dataset_has(small, tiny_config, tmp_path):
    (tmp_path / "tiny").mkdir()
    settings = small("GRU4RecF", data_path=str(tmp_path))
    with pytest.raises(UserError, match="LLMEmbGRU4RecF reads fields .* there is no .*tiny.item"):
        tiny_config("LLMEmbGRU4RecF", **settings)
    (tmp_path / "tiny" / "tiny.item").write_text("item_id:token\ttitle:token_seq\n")
    with pytest.raises(UserError, match="has none of class, categories.* what it has: title"):
        tiny_config("LLMEmbGRU4RecF", **settings)


def test_more_candidates_than_items(small, tiny_run):
    with pytest.raises(UserError, match="reranker_CAN_NUM is 100, but there are only 60"):
        tiny_run("LLMEmbGRU4RecCPR", **small("GRU4RecCPR", reranker_CAN_NUM=100))


def test_pretrained_s3rec(small, tiny_run, tmp_path):
    """Weights of RecBole's own pre-training; the items stay the table's."""
    settings = small("S3Rec", item_attribute="categories", load_col=None)
    ours = ("llm_", "align_")
    stock = {k: v for k, v in settings.items() if not k.startswith(ours)}
    stock |= {"train_neg_sample_args": None, "pretrain_epochs": 1, "save_step": 1}
    _, data, theirs, trainer = tiny_run("S3Rec", **stock)
    trainer.fit(data.train, data.valid)
    (file,) = (tmp_path / "saved").glob("S3Rec-*.pth")
    settings["pre_model_path"] = str(file)
    _, data, model, _ = tiny_run("LLMEmbS3Rec", **settings)
    assert torch.equal(model.position_embedding.weight, theirs.position_embedding.weight)
    assert model.item_embedding.table.shape[1] == 16 and model.train_stage == "finetune"
    with pytest.raises(UserError, match="is not of RecBole's S3Rec of the same sizes"):
        tiny_run("LLMEmbS3Rec", **settings | {"hidden_size": 16})
    tuned = {**stock, "train_stage": "finetune", "pre_model_path": str(file)}
    kept = []
    for name, given in (("LLMEmbS3Rec", settings), ("S3Rec", tuned)):
        _, data, _, trainer = tiny_run(name, **given)
        trainer.fit(data.train, data.valid)
        kept.append(trainer.saved_model_file)
    file.unlink()  # a checkpoint has all its weights
    for one in kept:
        found = Recommender(one)
        assert found.recommend(["u1"], topk=3).items and found.config["pre_model_path"] == str(file)


def test_contrast_of_fearec(small, tiny_run):
    """With its contrastive terms it keeps its own loss, whose item loss may be BCE."""
    extra = {"contrast": "us_x", "tau": 1, "sim": "dot", "loss_type": "BCE"}
    _, data, model, trainer = tiny_run("LLMEmbFEARec", **small("FEARec", **extra))
    assert model.uses_backbone_loss
    batch = next(iter(data.train))
    torch.manual_seed(0)
    with_terms = model.calculate_loss(batch)
    trainer.fit(data.train, data.valid)
    torch.manual_seed(0)
    _, _, plain, _ = tiny_run("LLMEmbFEARec", **small("FEARec", loss_type="BCE"))
    assert not plain.uses_backbone_loss and with_terms > plain.calculate_loss(batch) > 0


# -- a user's own ---------------------------------------------------------------------------
