# ruff: noqa: F811 (fixtures come by name)
"""Every backbone of RecBole trains, ranks, and is what is said of it."""

import pytest
import torch
from backbone_runs import CAUSAL, HISTORIES, SERVED, batch_of, built, small  # noqa: F401

from recbole_llmemb.data.windows import length_buckets  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.models.llmemb.backbones import BACKBONES  # isort: skip
from recbole_llmemb.models.contract import Method  # isort: skip
from recbole.quick_start import load_data_and_model, run_recbole  # isort: skip
from recbole.utils import get_trainer  # isort: skip

# Those whose prefix loss is RecBole's formula over our scores, plus terms of the backbone's.
OURS = [n for n in SERVED if BACKBONES[n].products and n != "BERT4Rec"]
NEGATIVES = {"distribution": "uniform", "sample_num": 1}


def backbones(model):
    """The backbone's own methods, on the model."""
    return super(Method, model)


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
    learned = [
        key
        for key, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and module.embedding_dim > 1
        if module.num_embeddings >= data.dataset.item_num
    ]
    if kind == "table":  # nothing is left of RecBole's own layers of items, but one without a use
        assert learned == ["embedding_seq_item"] * (name == "NPE")
    batch = batch_of(*HISTORIES)
    candidates = torch.tensor([[7, 1, 60], [3, 3, 4], [9, 60, 2], [1, 2, 3]])
    with torch.no_grad():
        every = model.full_sort_predict(batch).view(4, -1)
        assert every.shape == (4, data.dataset.item_num)
        assert torch.allclose(model.scores(batch, candidates), every.gather(1, candidates))
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
    model.uses_recbole_prefix_loss = False
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
        state = model.states(batch_of(history[:length]))
        assert torch.allclose(state[0], before[0, length - 1], atol=1e-5), length


@pytest.mark.parametrize("name", [n for n in SERVED if n not in CAUSAL and n != "BERT4Rec"])
def test_no_sequence_mode_for_the_others(small, tiny_config, name):
    with pytest.raises(UserError, match=f"LLMEmb{name} is not causal.*set train_mode: prefix"):
        tiny_config(f"LLMEmb{name}", **small(name, train_mode="sequence"))


@pytest.mark.parametrize("kind", ["table", "id"])
@pytest.mark.parametrize("name", [n for n in SERVED if n != "BERT4Rec"])  # test_backbones_trim.py
def test_padding(built, small, tiny_config, name, kind):
    """Where it changes nothing it can be left out; where it can, it is refused."""
    padding_free = BACKBONES[name].padding_free
    offered = kind == "table" if padding_free == "table" else padding_free
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
    for chunks in (length_buckets(lengths, fewest=3), None):
        batch.chunks = chunks
        if chunks is None:
            short = batch["item_id_list"]
            batch["item_id_list"] = torch.nn.functional.pad(short, (0, 10 - short.shape[1]))
            model.padding_free, model.uses_recbole_prefix_loss = False, False
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
