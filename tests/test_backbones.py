"""Every backbone of RecBole, and a user's own: each trains, ranks, and is what is said of it."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT, child_env

import recbole_llmemb

from recbole_llmemb import llmemb, registry  # isort: skip
from recbole_llmemb.cli.main import main  # isort: skip
from recbole_llmemb.data.prefixes import chunks_of  # isort: skip
from recbole_llmemb.errors import UserError  # isort: skip
from recbole_llmemb.model.backbones import BACKBONES  # isort: skip
from recbole_llmemb.model.ranking import Ranking  # isort: skip
from recbole.data.interaction import Interaction  # isort: skip
from recbole.model.sequential_recommender import GRU4Rec, NARM, SASRec  # isort: skip
from recbole.quick_start import load_data_and_model, run_recbole  # isort: skip
from recbole.utils import get_model, get_trainer  # isort: skip

SERVED = [name for name, traits in BACKBONES.items() if not traits.refused]
REFUSED = [name for name in BACKBONES if name not in SERVED]
CAUSAL = [name for name in SERVED if BACKBONES[name].causal]
# Those whose prefix loss is RecBole's formula over our scores, plus terms of the backbone's.
OURS = [n for n in SERVED if BACKBONES[n].similarity and n != "BERT4Rec"]
NEGATIVES = {"distribution": "uniform", "sample_num": 1}


@pytest.fixture
def small(tiny_settings, tiny):
    """``small(name, **overrides)``: settings of a quick run of ``LLMEmb<name>``."""

    def settings(name, **overrides):
        values = tiny_settings(f"LLMEmb{name}", embedding_size=8, topk=[10], epochs=1)
        for key in ("n_layers", "n_heads", "num_layers", "hidden_dropout_prob", "dropout_prob",
                    "attn_dropout_prob", "inner_size"):  # fmt: skip
            values.pop(key, None)  # what the backbone's own defaults are for
        if BACKBONES.get(name) and BACKBONES[name].features:
            values["llm_missing"] = "mean"  # the .item file has two items that nobody met
        if name == "FEARec":
            values["n_layers"] = 2
        if "CPR" in name:
            values["reranker_CAN_NUM"] = 10
        return values | overrides

    return settings


@pytest.fixture
def built(small, tiny_run):
    """``built(name, **overrides)``: data and a model whose weights make every difference show."""

    def make(name, **overrides):
        quiet = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0}
        settings = small(name, **quiet, dropout_probs=[0.0, 0.0], **overrides)
        _, data, model, _ = tiny_run(f"LLMEmb{name}", **settings)
        torch.manual_seed(3)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if parameter.dim() > 1 or key in ("T", "lambda_"):
                    parameter.normal_(0, 0.3)
            if "NARM" not in name and BACKBONES[name].trims != "never":
                model.item_embedding.weight[0].zero_()
        return data, model

    return make


def batch_of(*histories, width=10):
    rows = torch.zeros(len(histories), width, dtype=torch.long)
    for row, history in zip(rows, histories):
        row[: len(history)] = torch.tensor(history)
    return Interaction(
        {
            "user_id": torch.arange(1, len(rows) + 1),
            "item_id_list": rows,
            "item_length": torch.tensor([len(history) for history in histories]),
            "item_id": torch.arange(len(rows)) + 7,
            "neg_item_id": torch.arange(len(rows)) + 23,
        }
    )


HISTORIES = [[4], [3, 2], [12, 13, 12, 15], [5, 9, 2, 40, 9, 31, 7]]


def backbones(model):
    """The backbone's own methods, on the model."""
    return super(Ranking, model)


@pytest.mark.parametrize("name", SERVED)
def test_a_run(small, tmp_path, name):
    """From nothing but a name: defaults, one epoch, ranking, a checkpoint that ranks the same."""
    model = f"LLMEmb{name}"
    result = run_recbole(model=model, dataset="tiny", config_dict=small(name))
    assert set(result["test_result"]) == {"hit@10", "ndcg@10"}
    (file,) = (tmp_path / "saved").glob(f"{model}-*.pth")
    config, loaded, dataset, train, valid, test = load_data_and_model(file)
    assert config["train_mode"] == ("sequence" if name in [*CAUSAL, "BERT4Rec"] else "prefix")
    assert config["loss_type"] == ("CE" if "BCE" not in BACKBONES[name].losses else "BCE")
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, loaded)
    assert trainer.evaluate(test, load_best_model=False) == result["test_result"]
    layer = loaded.item_embedding
    assert layer.table.shape[1] == 16 and not layer.table.requires_grad
    assert trainer.evaluator.groups is None and trainer.model is loaded
    loss = loaded.train().calculate_loss(next(iter(train)))
    loss.backward()
    assert layer.adapter.up.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["NARM", "HGN", "CORE", "TransRec", "S3Rec", "SASRecCPR"])
def test_alignment_groups_candidates_and_resuming(small, tiny_run, tmp_path, name):
    """What every model of this package does, with backbones that differ in how they score."""
    uni = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni20"}
    settings = small(name, align_weight=0.1, eval_args=uni, align_teacher_config={"epochs": 1})
    if name == "S3Rec":
        settings["item_attribute"] = "categories"
    results = []
    for epochs in ((2,), (1, 2)):
        for until in epochs:
            _, data, model, trainer = tiny_run(f"LLMEmb{name}", **settings | {"epochs": until})
            trainer.resume_file = str(tmp_path / f"{epochs}.pth")
            if until > epochs[0]:
                trainer.resume_checkpoint(trainer.resume_file)
            trainer.fit(data.train, data.valid)
        results.append(trainer.evaluate(data.test, load_best_model=False))
        assert trainer.groups_of_last_evaluation["tail_items"]["users"] > 0
    assert results[0] == results[1] and 0 < results[0]["ndcg@10"] < 1
    assert isinstance(model.train().calculate_loss(next(iter(data.train))), tuple)


@pytest.mark.parametrize("kind", ["table", "id"])
@pytest.mark.parametrize("name", SERVED)
def test_scores(built, name, kind):
    """All ways of scoring agree, and with RecBole's own scoring of all items."""
    data, model = built(name, item_embedding=kind)
    model.eval()
    learnt = [
        key
        for key, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and module.embedding_dim > 1
        if module.num_embeddings >= data.dataset.item_num
    ]
    if kind == "table":  # nothing is left of RecBole's own layers of items, but one without a use
        assert learnt == ["embedding_seq_item"] * (name == "NPE")
    batch = batch_of(*HISTORIES)
    candidates = torch.tensor([[7, 1, 60], [3, 3, 4], [9, 60, 2], [1, 2, 3]])
    with torch.no_grad():
        every = model.full_sort_predict(batch).view(4, -1)
        assert every.shape == (4, data.dataset.item_num)
        assert torch.allclose(model.rank_candidates(batch, candidates), every.gather(1, candidates))
        assert torch.allclose(model.predict(batch), every[torch.arange(4), batch["item_id"]])
        if name == "SHAN":  # RecBole forgets to reverse the history
            batch["item_id_list"] = torch.stack([row.roll(-len(h)) for row, h in zip(
                batch["item_id_list"], HISTORIES)])  # fmt: skip
        if name == "BERT4Rec":  # keeps the oldest item where RecBole drops it
            return
        if name == "NextItNet":
            assert not torch.allclose(every, backbones(model).full_sort_predict(batch))
            data, model = built(name, item_embedding=kind, train_mode="prefix")
            every = model.eval().full_sort_predict(batch)
        theirs = backbones(model).full_sort_predict(batch).view(4, -1)
    assert torch.allclose(every, theirs[:, : every.shape[1]], atol=1e-4)


# RecBole takes HGN's negatives from its input embeddings, and S3Rec's mask for an item.
ODD = [("HGN", "BPR"), ("S3Rec", "CE")]


@pytest.mark.parametrize(
    ("name", "loss_type"),
    [(name, loss) for name in OURS for loss in ("CE", "BPR") if (name, loss) not in ODD],
)
def test_our_loss_is_recboles(built, monkeypatch, name, loss_type):
    """Where our code computes the loss, RecBole's and its gradient come out."""
    settings = {"train_mode": "prefix", "loss_type": loss_type, "reg_weight": 0.05}
    if name in ("HGN", "SHAN"):
        settings["reg_weight"] = [0.05, 0.03]
    _, model = built(name, **settings, train_neg_sample_args=NEGATIVES)
    model.eval()
    batch = batch_of(*HISTORIES)
    if name == "SHAN":
        model.INVERSE_ITEM_SEQ = "inverse"
        rows = zip(batch["item_id_list"], HISTORIES)
        batch["inverse"] = torch.stack([row.roll(-len(h)) for row, h in rows])
    if name == "FEARec":  # which looks every target up in the training data
        batch["item_id"] = torch.tensor(sorted(model.same_item_index)[:4])
    theirs = backbones(model).calculate_loss(batch)
    model.recbole_loss = False
    ours = model.calculate_loss(batch)
    if name == "TransRec":  # its other terms have no gradient
        theirs = theirs - (theirs - ours).detach()
    assert torch.allclose(ours, theirs, rtol=1e-5)
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(ours, parameters, allow_unused=True)
    expected = torch.autograd.grad(theirs, parameters, allow_unused=True)
    for one, other in zip(found, expected):
        one, other = (torch.zeros(1) if g is None else g for g in (one, other))
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CAUSAL)
def test_no_position_sees_the_future(built, name, training):
    _, model = built(name)
    model.train(training)
    history = [5, 9, 2, 40, 9, 31, 7, 8, 1, 60]
    before = model.position_states(batch_of(history))
    assert before.shape[:2] == (1, 10)
    for place in range(10):
        changed = list(history)
        changed[place] = 50
        same = torch.isclose(before, model.position_states(batch_of(changed)), atol=1e-6).all(-1)[0]
        assert same[:place].all() and not same[place], place
    for length in range(1, 11):
        state = model.sequence_output(batch_of(history[:length]))
        assert torch.allclose(state[0], before[0, length - 1], atol=1e-5), length


@pytest.mark.parametrize("name", [n for n in SERVED if n not in CAUSAL and n != "BERT4Rec"])
def test_no_sequence_mode_for_the_others(small, tiny_config, name):
    with pytest.raises(UserError, match=f"LLMEmb{name} is not causal.*set train_mode: prefix"):
        tiny_config(f"LLMEmb{name}", **small(name, train_mode="sequence"))


@pytest.mark.parametrize("kind", ["table", "id"])
@pytest.mark.parametrize("name", [n for n in SERVED if n != "BERT4Rec"])  # test_backbones_trim.py
def test_padding(built, small, tiny_config, name, kind):
    """Where it changes nothing it can be left out; where it can, it is refused."""
    trims = BACKBONES[name].trims
    offered = trims == "always" or trims == "zero" and kind == "table"
    settings = {"train_mode": "prefix", "item_embedding": kind}
    if not offered:
        with pytest.raises(UserError, match=f"LLMEmb{name} does not give the same without"):
            tiny_config(f"LLMEmb{name}", **small(name, prefix_trim=True, **settings))
        return
    data, model = built(name, **settings, prefix_trim=True, item_dropout=0, sess_dropout=0)
    loader = data.train
    losses, gradients = [], []
    index = list(range(len(loader._dataset)))[:64]
    import numpy as np

    np.random.seed(0)
    batch = loader.collate_fn(index)
    lengths = batch["item_length"]
    for chunks in (chunks_of(lengths, fewest=3), None):
        batch.chunks = chunks
        if chunks is None:
            short = batch["item_id_list"]
            batch["item_id_list"] = torch.nn.functional.pad(short, (0, 10 - short.shape[1]))
            model.trims, model.recbole_loss = False, False
        else:
            assert len(chunks) > 2 and chunks[0][2] < 4
        losses.append(model.calculate_loss(batch))
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients.append(torch.autograd.grad(losses[-1], parameters, allow_unused=True))
    assert torch.allclose(*losses, rtol=1e-5)
    for one, other in zip(*gradients):
        one, other = (torch.zeros(1) if g is None else g for g in (one, other))
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)


# -- names --------------------------------------------------------------------------------


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
    with pytest.raises(UserError, match=f"LLMEmb{name} cannot be had: {name} .* because it "):
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
from recbole_llmemb.registry import MODELS
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
    from recbole_llmemb.config import make_config

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
    ("name", "settings", "message"),
    [
        ("CORE", {"loss_type": "BCE"}, "LLMEmbCORE has a loss of its own that offers CE only"),
        ("TransRec", {"loss_type": "CE"}, "offers BPR and BCE only; set loss_type: BPR"),
        ("CORE", {"item_similarity": "cosine"}, "item_similarity is 'cosine', but LLMEmbCORE"),
        ("SASRecCPR", {"learn_temperature": True}, "learn_temperature is True, but"),
        ("TransRec", {"similarity_temperature": 0.5}, "similarity_temperature is 0.5, but"),
        ("S3Rec", {"train_stage": "pretrain"}, "train_stage is 'pretrain', but LLMEmbS3Rec offers"),
        ("FDSA", {"selected_features": ["year"]}, "no field 'year'; set selected_features to what "
                                                  "it has: title, categories"),
        ("S3Rec", {"item_attribute": "year"}, "no field 'year'; set item_attribute to"),
    ],
)  # fmt: skip
def test_settings_that_a_backbone_cannot_have(small, tiny_config, name, settings, message):
    with pytest.raises(UserError, match=message):
        tiny_config(f"LLMEmb{name}", **small(name, **settings))


def test_features_that_no_dataset_has(small, tiny_config, tmp_path):
    (tmp_path / "tiny").mkdir()
    settings = small("GRU4RecF", data_path=str(tmp_path))
    with pytest.raises(UserError, match="LLMEmbGRU4RecF reads fields .* there is no .*tiny.item"):
        tiny_config("LLMEmbGRU4RecF", **settings)
    (tmp_path / "tiny" / "tiny.item").write_text("item_id:token\ttitle:token_seq\n")
    with pytest.raises(UserError, match="has none of class, categories.* what it has: title"):
        tiny_config("LLMEmbGRU4RecF", **settings)


def test_more_candidates_than_items(small, tiny_run):
    with pytest.raises(UserError, match="reranker_CAN_NUM is 100, more than the dataset's 60"):
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
    with pytest.raises(UserError, match="does not hold weights of this S3Rec"):
        tiny_run("LLMEmbS3Rec", **settings | {"hidden_size": 16})


def test_contrast_of_fearec(small, tiny_run):
    """With its contrastive terms it keeps its own loss, whose item loss may be BCE."""
    extra = {"contrast": "us_x", "tau": 1, "sim": "dot", "loss_type": "BCE"}
    _, data, model, trainer = tiny_run("LLMEmbFEARec", **small("FEARec", **extra))
    assert model.own
    batch = next(iter(data.train))
    torch.manual_seed(0)
    with_terms = model.calculate_loss(batch)
    trainer.fit(data.train, data.valid)
    torch.manual_seed(0)
    _, _, plain, _ = tiny_run("LLMEmbFEARec", **small("FEARec", loss_type="BCE"))
    with pytest.raises(UserError, match="LLMEmbFEARec with contrast has a loss or scores of its"):
        tiny_run("LLMEmbFEARec", **small("FEARec", **extra, item_similarity="cosine"))
    assert not plain.own and with_terms > plain.calculate_loss(batch) > 0


# -- a user's own ---------------------------------------------------------------------------


class Mine(GRU4Rec):
    """What a user might write: a dot product after something of theirs."""

    def forward(self, item_seq, item_seq_len):
        return torch.tanh(super().forward(item_seq, item_seq_len))


class Causal(SASRec):
    causal = True

    def forward(self, item_seq, item_seq_len):
        return super().forward(item_seq, item_seq_len) * 2


class Leaks(SASRec):
    """Says that it is causal and is not."""

    causal = True

    def get_attention_mask(self, item_seq, bidirectional=False):
        return super().get_attention_mask(item_seq, bidirectional=True)


class OwnLoss(GRU4Rec):
    def calculate_loss(self, interaction):
        return super().calculate_loss(interaction) + 0.1 * self.dense.weight.norm()


class OwnScores(GRU4Rec):
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
            del sys.modules[f"recbole.model.sequential_recommender.{name.lower()}"]


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
    assert not model.own and model.trims
    from recbole_llmemb.cli.run import execute

    found = execute({"model": LLMEmbMine, "dataset": "tiny", **settings})
    assert found["model"] == "LLMEmbMine" and found["test_result"] == result["test_result"]


def test_a_users_class_that_is_causal(small, tiny_run, forget):
    """Asked for or declared, sequence mode is checked before it is believed."""
    llmemb(Mine), llmemb(Causal), llmemb(Leaks)
    for name, extra in (("Mine", {"train_mode": "sequence"}), ("Causal", {"loss_type": "CE"})):
        config, data, model, trainer = tiny_run(f"LLMEmb{name}", **small(name, **extra))
        assert config["train_mode"] == "sequence"
        trainer.fit(data.train, data.valid)
        assert trainer.evaluate(data.test)["hit@10"] > 0
    with pytest.raises(UserError, match="LLMEmbLeaks cannot be .* because its output at a posi"):
        tiny_run("LLMEmbLeaks", **small("Leaks"))
    config, data, model, trainer = tiny_run("LLMEmbLeaks", **small("Leaks", train_mode="prefix"))
    trainer.fit(data.train, data.valid)


def test_examining_leaves_no_trace(small, tiny_run, forget):
    llmemb(Mine)
    states = []
    for name in ("GRU4Rec", "Mine"):
        torch.manual_seed(0)
        _, _, model, _ = tiny_run(f"LLMEmb{name}", **small(name, train_mode="prefix"))
        states.append((model.state_dict(), torch.rand(3), model.training))
    (one, drawn, training), (other, drawn_too, training_too) = states
    assert all(torch.equal(one[key], other[key]) for key in one) and training == training_too
    assert torch.equal(drawn, drawn_too)


@pytest.mark.parametrize("loss_type", ["BCE", "BPR", "CE"])
@pytest.mark.parametrize("made", [OwnLoss, OwnScores], ids=lambda made: made.__name__)
def test_a_users_loss_and_scores_are_kept(small, tiny_run, forget, made, loss_type):
    llmemb(made)
    settings = small(made.__name__, loss_type=loss_type, dropout_prob=0.0)
    _, data, model, trainer = tiny_run(f"LLMEmb{made.__name__}", **settings)
    assert model.own and not model.trims
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
    ("settings", "message"),
    [
        ({"train_mode": "sequence"}, "because it has a loss or scores of its own; set train_mode"),
        ({"prefix_trim": True}, "prefix_trim is on, but padding after a history changes what"),
        ({"item_similarity": "cosine"}, "LLMEmbOwnLoss has a loss or scores of its own, to which"),
    ],
)
def test_settings_that_a_users_class_cannot_have(small, tiny_run, forget, settings, message):
    llmemb(OwnLoss)
    with pytest.raises(UserError, match=message):
        tiny_run("LLMEmbOwnLoss", **small("OwnLoss", **settings))


def test_what_gets_no_table(small, tiny_run, forget):
    from recbole.model.general_recommender import BPR
    from recbole.model.sequential_recommender import FPMC

    assert llmemb(NARM) is get_model("LLMEmbNARM")
    for wrong in (BPR, torch.nn.Linear, "SASRec", None):
        with pytest.raises(UserError, match="is no sequential model of RecBole"):
            llmemb(wrong)
    with pytest.raises(UserError, match="LLMEmbFPMC cannot be had"):
        llmemb(FPMC)
    with pytest.raises(UserError, match="LLMEmbSASRec is a model already"):
        llmemb(type("SASRec", (Mine,), {}))
    llmemb(NoItems)
    with pytest.raises(UserError, match="NoItems has no self.item_embedding"):
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
    assert recbole_llmemb.llmemb is registry.llmemb
