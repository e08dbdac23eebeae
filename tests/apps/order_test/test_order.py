# ruff: noqa: F811 (fixtures come by name)
"""The order test: what it compares, what it writes, and training on shuffled sequences."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from llmsrec_fixtures import cf_model, llms, llmsrec, settings  # noqa: F401

from recbole_llmemb.apps.order_test import (
    Order,
    draw,
    order_test,
    render_files,
    teacher_of,
    to_text,
)
from recbole_llmemb.apps.serve import Recommender
from recbole_llmemb.cli.main import main
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.histories import (
    POSITION,
    with_sampled_users,
    with_shuffled_histories,
    with_shuffled_sequences,
)
from recbole_llmemb.run.stages import build, train_and_evaluate


@pytest.fixture
def trained(llmsrec):
    """The checkpoint of an LLM-SRec, and its test result."""
    config, data, model, trainer = llmsrec("llama", epochs=1, learning_rate=0.01)
    outcome = train_and_evaluate(config, data, model, trainer)
    return outcome.checkpoint, outcome.test_result


def test_true_order_is_the_test_result(trained):
    path, result = trained
    (order,) = order_test(path, shuffles=2, report=lambda _: None)
    assert order.true == pytest.approx(dict(result)) and order.mode == "full"
    assert len(order.shuffled) == 2 and order.seeds == [2020, 2021]
    assert order.shuffled[0] != order.shuffled[1] and order.true not in order.shuffled
    again = order_test(path, shuffles=2, report=lambda _: None)[0]
    assert again.shuffled == order.shuffled
    other = order_test(path, shuffles=2, seed=7, report=lambda _: None)[0]
    assert other.shuffled != order.shuffled and other.true == order.true


def test_shuffled_is_what_shuffled_histories_score(trained, llmsrec):
    path, _ = trained
    (order,) = order_test(path, shuffles=1, seed=5, report=lambda _: None)
    _, data, model, _ = llmsrec("llama")
    model.load_state_dict(checkpoint.load(path)["state_dict"])
    rows = with_shuffled_histories(data.test._dataset, 5)[list(range(len(data.test._dataset)))]
    scores = model.eval().full_sort_predict(rows)
    scores[:, 0] = -torch.inf
    hits = scores.topk(10).indices.eq(rows["item_id"].unsqueeze(1)).any(1).float().mean()
    assert order.shuffled[0]["hit@10"] == pytest.approx(hits.item(), abs=1e-6)


def test_a_model_that_reads_sets_loses_nothing(tiny_run, monkeypatch):
    config, data, model, trainer = tiny_run("LLMEmbSASRec", epochs=1)
    path = train_and_evaluate(config, data, model, trainer).checkpoint
    kind = type(model)

    def mean(self, interaction):
        return self.item_embedding(interaction[self.ITEM_SEQ]).sum(1)

    monkeypatch.setattr(kind, "states", mean)
    (order,) = order_test(path, shuffles=3, report=lambda _: None)
    assert all(each == pytest.approx(order.true) for each in order.shuffled)
    assert order.summary()["ndcg@10"]["drop"] == pytest.approx(0, abs=1e-6)


def test_sampled_items_and_sampled_users(trained):
    path, _ = trained
    changes = {"mode": ["full", "uni20"], "user_sample": 9, "topk": [5], "metrics": ["Hit"]}
    full, sampled = order_test(path, shuffles=1, changes=changes, report=lambda _: None)
    assert (full.mode, sampled.mode) == ("full", "uni20")
    assert 4 < full.users == sampled.users <= 9
    assert set(full.true) == {"hit@5"} and sampled.true["hit@5"] >= full.true["hit@5"]


def test_sampled_users_who_are_not_tested(trained, monkeypatch):
    def nobody(split, count):
        return with_sampled_users(split, 0)

    monkeypatch.setattr("recbole_llmemb.apps.order_test.with_sampled_users", nobody)
    with pytest.raises(UserError) as refused:
        order_test(trained[0], changes={"user_sample": 1}, report=lambda _: None)
    assert refused.value.key == "user_sample"


@pytest.mark.parametrize("name", ["GRU4Rec", "LLMEmbBERT4Rec"])
@pytest.mark.parametrize("mode", ["full", "uni20"])
def test_other_models(tiny_run, name, mode):
    config, data, model, trainer = tiny_run(name, epochs=1)
    outcome = train_and_evaluate(config, data, model, trainer)
    changes = {"mode": [mode]} | ({} if mode == "full" else {"user_sample": 9})
    (order,) = order_test(outcome.checkpoint, shuffles=1, changes=changes, report=lambda _: None)
    assert order.model == name and order.users > 0
    if mode != "full":
        assert order.users <= 9 < len(data.test._dataset)
    else:
        assert order.users == len(data.test._dataset)
        assert order.true == pytest.approx(dict(outcome.test_result))


@pytest.mark.parametrize("name", ["GRU4Rec", "LLMEmbSASRec"])
def test_candidates_come_from_the_seed_alone(tiny_run, name):
    config, data, model, trainer = tiny_run(name, epochs=1)
    path = train_and_evaluate(config, data, model, trainer).checkpoint
    found = []
    for state in (1, 2):
        np.random.seed(state)
        torch.manual_seed(state)
        changes = {"mode": ["uni20"]}
        found += order_test(path, shuffles=1, changes=changes, report=lambda _: None)
        assert np.random.randint(1 << 30) == np.random.RandomState(state).randint(1 << 30)
    assert found[0].true == found[1].true and found[0].shuffled == found[1].shuffled


def test_with_and_without_what_users_met(trained, capsys):
    """Of an LLM-SRec and of the CF model that it reads through."""
    path, _ = trained
    options = ["--shuffles=0", "--exclude_history=False,True", "--out=found", "--quiet"]
    assert main(["order-test", f"--checkpoint={path}", *options]) == 0
    assert "histories as they are" in capsys.readouterr().out
    tests = json.loads(Path("found/order.json").read_text())["tests"]
    assert [t["model"] for t in tests] == ["LLMSRec"] * 2 + ["LLMEmbSASRec"] * 2
    assert [t["exclude_history"] for t in tests] == [False, True] * 2
    for kept, removed in (tests[:2], tests[2:]):
        assert kept["true"] != removed["true"] and kept["users"] == removed["users"]


def test_recboles_own_without_what_users_met(tiny_run):
    """The result of the run that was under the same measure."""
    config, data, model, trainer = tiny_run("GRU4Rec", epochs=1, exclude_history=True)
    outcome = train_and_evaluate(config, data, model, trainer)
    changes = {"exclude_history": [True, False]}
    removed, kept = order_test(outcome.checkpoint, 0, changes=changes, report=lambda _: None)
    assert removed.true == pytest.approx(dict(outcome.test_result)) and kept.true != removed.true


def test_metrics_that_read_the_training_data(trained):
    path, _ = trained
    changes = {"metrics": ["AveragePopularity", "ItemCoverage", "NDCG"], "topk": [5]}
    (order,) = order_test(path, shuffles=1, changes=changes, report=lambda _: None)
    assert order.true["averagepopularity@5"] > 0 < order.true["itemcoverage@5"] <= 1


def test_the_teacher_comes_along(trained, cf_model, capsys, tmp_path):
    path, _ = trained
    assert teacher_of(path) == str(cf_model) and teacher_of(cf_model) is None
    status = main(
        [
            "order-test",
            f"--checkpoint=ou\x1brs\ufffe={path}",
            "--shuffles=2",
            "--out=found",
            "--quiet",
        ]
        + ["--metrics=NDCG,Hit", "--topk=10"]
    )
    said = capsys.readouterr().out
    assert status == 0 and "CF model of ou rs?" in said and "relative drop" in said
    found = json.loads((tmp_path / "found" / "order.json").read_text())["tests"]
    assert [each["name"] for each in found] == ["ou rs?", "CF model of ou rs?"]
    assert found[0]["summary"]["ndcg@10"]["true"] == found[0]["true"]["ndcg@10"]
    ElementTree.parse(tmp_path / "found" / "order.svg")
    assert (tmp_path / "found" / "order.md").read_text().startswith("| ")
    assert len(list((tmp_path / "found").iterdir())) == 3
    alone = main(["order-test", f"--checkpoint={path},{cf_model}", "--shuffles=1", "--no-teacher"])
    assert alone == 0 and "CF model of" not in capsys.readouterr().out


def hand_made(**changes):
    values = {"name": "A", "checkpoint": "a.pth", "model": "M", "dataset": "tiny", "mode": "full"}
    values |= {"users": 1234, "last": None, "seeds": [1, 2]}
    true, shuffled = {"ndcg@10": 0.5}, [{"ndcg@10": 0.2}, {"ndcg@10": 0.4}]
    return Order(**values | {"true": true, "shuffled": shuffled} | changes)


def test_numbers_by_hand():
    found = hand_made().summary()["ndcg@10"]
    assert found["mean"] == pytest.approx(0.3) and found["std"] == pytest.approx(0.02**0.5)
    assert found["drop"] == pytest.approx(0.4)
    none = hand_made(true={"ndcg@10": 0.0}, shuffled=[{"ndcg@10": 0.0}]).summary()["ndcg@10"]
    assert none["drop"] is None and none["std"] is None
    text = to_text([hand_made(), hand_made(name="B", mode="uni99")])
    assert "0.3000 ± 0.1414" in text and "40.0%" in text
    shown = render_files([hand_made(name="A|B")])["order.md"].decode()
    assert "1,234 users" in shown and r"| A\|B " in shown
    figure = draw([hand_made(), hand_made(name="B", mode="uni99")])
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    assert heights == [[0.5, pytest.approx(0.3)]] * 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--checkpoint=nowhere.pth"], "'nowhere.pth'"),
        (["--checkpoint=,"], "--checkpoint"),
        (["--checkpoint=a.pth", "--out=file/x"], "file/x"),
        *(
            (["--checkpoint=a.pth", option], option.partition("=")[0])
            for option in (
                "--shuffles=-1", "--seed=-1", "--topk=ten", "--topk=", "--topk=0,5",
                "--metrics=Banana", "--metrics=AUC,NDCG", "--metrics=", "--mode=labeled",
                "--mode=,", "--exclude_history=maybe", "--exclude_history=", "--last=0",
                "--use_gpu=maybe", "--quiet=maybe", "--llm_table=nowhere",
                "--align_teacher=SASRek",
            )
        ),
        (["--checkpoint=a.pth", "--mode=uni0"], "mode is 'uni0'"),
        (["--checkpoint=a.pth", "--mode=uni-5"], "mode is 'uni-5'"),
    ],
)  # fmt: skip
def test_what_cannot_work(arguments, message, capsys, tmp_path):
    """Each names the option or file, and nothing of how it is read."""
    (tmp_path / "file").write_text("")
    assert main(["order-test", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert "_switch" not in said and "pydantic" not in said


def test_a_checkpoint_that_reads_no_histories(tmp_path, trained):
    path, _ = trained
    state = checkpoint.load(path)
    state["item_tokens"] = state["item_tokens"][:-1]
    checkpoint.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match="are unknown to the checkpoint"):
        order_test(tmp_path / "other.pth", report=lambda _: None)


@pytest.mark.parametrize("mode", ["sequence", "prefix"])
def test_training_sequences_are_shuffled_and_nothing_else(tiny_data, mode):
    _, plain = tiny_data("LLMEmbSASRec", train_mode=mode)
    _, other = tiny_data("LLMEmbSASRec", train_mode=mode, shuffle_train=True)
    one, two = plain.train._dataset, other.train._dataset
    store = one.sorted_interactions
    users, true = store.fields["user_id"], store.fields["item_id"]
    shuffled = two.sorted_interactions.fields["item_id"]
    assert not torch.equal(true, shuffled)
    last = {}
    for user, position in zip(
        one.inter_feat["user_id"].tolist(), one.inter_feat[POSITION].tolist()
    ):
        last[user] = max(position, last.get(user, 0))
    for user in users.unique().tolist():
        places = (users == user).nonzero().squeeze(1)
        trained = places[places <= last.get(user, int(places[0]))]
        held_out = places[places > last.get(user, int(places[0]))]
        assert sorted(true[trained].tolist()) == sorted(shuffled[trained].tolist())
        assert torch.equal(true[held_out], shuffled[held_out])
    counts = zip(one.training_counts(one), two.training_counts(two))
    assert all(torch.equal(a, b) for a, b in counts)
    rows = [d.test._dataset[list(range(20))] for d in (plain, other)]
    for name in ("item_id", "item_id_list", "timestamp_list"):
        assert torch.equal(rows[0][name], rows[1][name]), name
    batch = next(iter(other.train))
    pairs = {(u, i) for u, i in zip(users.tolist(), true.tolist())}
    owners = batch["user_id"]
    lists = batch["item_id_list"]
    found = [(int(u), int(i)) for u, row in zip(owners, lists) for i in row if i]
    assert set(found) <= pairs
    again = with_shuffled_sequences(one, 2020).sorted_interactions.fields["item_id"]
    assert torch.equal(again, shuffled)


def test_a_model_trained_on_shuffled_sequences(tiny_config, tiny_data):
    config, data = tiny_data("LLMEmbSASRec", shuffle_train=True, epochs=1)
    outcome = train_and_evaluate(config, data, *build(config, data))
    assert 0 <= outcome.test_result["ndcg@10"] <= 1
    with pytest.raises(UserError, match="shuffle_train is 'yes'"):
        tiny_config("LLMEmbSASRec", shuffle_train="yes")


def test_two_models_of_one_name(capsys):
    assert main(["order-test", "--checkpoint=x=a.pth,x=b.pth"]) == 2
    assert "--checkpoint" in capsys.readouterr().err


def test_a_dataset_that_has_moved(tiny_run, tiny, tmp_path):
    """As everywhere, data_path is the folder that holds the dataset's folder."""
    config, data, model, trainer = tiny_run("LLMEmbSASRec", epochs=1)
    outcome = train_and_evaluate(config, data, model, trainer)
    shutil.copytree(tiny.folder, tmp_path / "elsewhere" / "tiny")
    changes = {"data_path": str(tmp_path / "elsewhere")}
    (order,) = order_test(outcome.checkpoint, shuffles=1, changes=changes, report=lambda _: None)
    assert order.true == pytest.approx(dict(outcome.test_result))
    with pytest.raises(UserError, match="nowhere"):
        order_test(outcome.checkpoint, changes={"data_path": str(tmp_path / "nowhere")})


def test_a_dataset_that_is_another_by_now(tiny_run, tiny, tmp_path, caplog):
    """Lines that have gone: what is tested then was trained on."""
    config, data, model, trainer = tiny_run(item_embedding="id", loss_type="CE", epochs=1)
    path = train_and_evaluate(config, data, model, trainer).checkpoint
    order_test(path, shuffles=0, report=lambda _: None)
    assert "trained on other interactions" not in caplog.text
    copied = Path(shutil.copytree(tiny.folder, tmp_path / "moved" / "tiny"))
    file = copied / "tiny.inter"
    lines = file.read_text().splitlines(keepends=True)
    users = [line.split("\t")[0] for line in lines]
    last = max(n for n, user in enumerate(users) if users.count(user) > 4)
    file.write_text("".join(line for n, line in enumerate(lines) if n != last))
    changes = {"data_path": str(copied.parent)}
    order_test(path, shuffles=0, report=lambda _: None, changes=changes)
    assert "trained on other interactions" in caplog.text
    caplog.clear()
    recommender = Recommender(path, **changes)
    recommender.people("all")
    assert "trained on other interactions" not in caplog.text  # new interactions are welcome
    for _ in range(2):
        recommender.people("all", split="test")
    assert caplog.text.count("trained on other interactions") == 1
