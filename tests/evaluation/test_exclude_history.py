"""``exclude_history``: the metrics are those of a plain loop over exported scores."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import LONG_USER, MAX_LENGTH, write_tiny

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.run import stages  # isort: skip
from recbole_llmemb.cli.main import main  # isort: skip
from recbole_llmemb.config.recbole_config import make_config  # isort: skip
from recbole_llmemb.data.histories import POSITION  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.evaluation.metrics import (  # isort: skip
    excluded_of,
    measure_of,
    measure_of_run,
)
from recbole_llmemb.apps.order_test import order_test  # isort: skip
from recbole_llmemb.apps.tune.plan import make_plan  # isort: skip

KEPT, REMOVED, BUT_TARGET = VALUES = (False, True, "keep_target")
METRICS = ["Hit", "NDCG", "MRR", "Precision", "Recall", "MAP", "GAUC"]
CUTOFFS = (3, 5)
LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
RATIO = {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "TO", "group_by": "user"}


@pytest.fixture(scope="module")
def repeats(tmp_path_factory):
    """A dataset of 14 items, which users meet again and again; one has met nearly all."""
    return write_tiny(tmp_path_factory.mktemp("data"), n_items=14, seed=3)


@pytest.fixture
def settings(repeats, tiny_settings):
    """Settings for it by model name."""

    def make(model="LLMEmbSASRec", split=LEAVE_ONE_OUT, mode="full", **overrides):
        values = tiny_settings(model, data_path=str(repeats.folder.parent), topk=list(CUTOFFS))
        values |= {"valid_metric": "NDCG@3", "metrics": METRICS, "eval_args": {**split}}
        values["eval_args"]["mode"] = mode
        if model.startswith("LLMEmb"):
            values |= {"item_embedding": "id", "loss_type": "CE"}
        return values | overrides

    return make


@pytest.fixture
def run(settings):
    """``run(model, **overrides)``: configuration, data, model and trainer."""

    def make(model="LLMEmbSASRec", **overrides):
        config = make_config(model, "tiny", overrides=settings(model, **overrides))
        data = stages.prepare_data(config)
        model, trainer = stages.build(config, data)
        with torch.no_grad():  # far enough from zero that no two scores tie
            torch.manual_seed(4)
            model.item_embedding.weight.normal_()
        return config, data, model.eval(), trainer

    return make


def rows_of(split, tiny):
    """Row number, user token and place of the target in the user's sequence, of each row."""
    users = split.id2token("user_id", split.inter_feat["user_id"].numpy())
    by_user: dict = {}
    for row, user in enumerate(users):
        by_user.setdefault(str(user), []).append(row)
    for user, rows in by_user.items():
        if POSITION in split.inter_feat.interaction:
            rows = sorted(rows, key=lambda row: int(split.inter_feat[POSITION][row]))
        for place, row in enumerate(reversed(rows), start=1):
            yield row, user, len(tiny.sequences[user]) - place


def naive(split, tiny, model, excluded, candidates=None, keep=None):
    """Metrics of a test split, user by user, from the scores of all items."""
    names = [str(token) for token in split.field2id_token["item_id"]]
    ranks, aucs, missed = [], [], 0
    for row, user, place in rows_of(split, tiny):
        sequence = tiny.sequences[user]
        target, history = sequence[place], set(sequence[:place])
        if keep is not None and not keep(user, target):
            continue
        with torch.no_grad():
            batch = split[np.array([row])]
            scores = dict(zip(names, model.full_sort_predict(batch).view(-1).tolist()))
        among = set(names[1:]) if candidates is None else {names[i] for i in candidates[row]}
        among.add(target)
        if excluded:
            among -= history
        if excluded == BUT_TARGET:
            among.add(target)
        others = [scores[item] for item in among - {target}]
        missed += target in history
        if target in among:
            ranks.append(1 + sum(score > scores[target] for score in others))
            aucs.append(1 - (ranks[-1] - 1) / len(others) if others else math.nan)
        else:
            ranks.append(math.inf)
            aucs.append(0.0 if others else math.nan)
    assert missed or keep  # else nothing is tested here
    found = {}
    for k in CUTOFFS:
        hits = [rank <= k for rank in ranks]
        gains = {
            "hit": [1.0 if hit else 0.0 for hit in hits],
            "ndcg": [1 / math.log2(rank + 1) if hit else 0 for rank, hit in zip(ranks, hits)],
            "mrr": [1 / rank if hit else 0 for rank, hit in zip(ranks, hits)],
            "precision": [1 / k if hit else 0 for hit in hits],
        }
        gains |= {"recall": gains["hit"], "map": gains["mrr"]}
        found |= {f"{name}@{k}": sum(each) / len(each) for name, each in gains.items()}
    aucs = [auc for auc in aucs if auc == auc]  # RecBole leaves out who has no other candidate
    found["gauc"] = sum(aucs) / len(aucs) if aucs else math.nan
    return found, len(ranks)


def measured(trainer, data):
    trainer.evaluator.know_groups(data.train._dataset)
    result = trainer.evaluate(data.test, load_best_model=False)
    return {name: float(value) for name, value in result.items()}


@pytest.mark.parametrize("excluded", VALUES, ids=str)
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"train_mode": "prefix"},
        {"split": RATIO},
        {"model": "LLMEmbGRU4Rec"},
        {"model": "LLMEmbBERT4Rec"},
        {"model": "LLMEmbCORE"},
    ],
    ids=str,
)
def test_full_ranking(run, repeats, overrides, excluded):
    config, data, model, trainer = run(**overrides, exclude_history=excluded)
    test = data.test._dataset
    lengths = test.inter_feat["item_length"]
    assert int(lengths.max()) == MAX_LENGTH < len(repeats.sequences[LONG_USER]) - 1
    expected, _ = naive(test, repeats, model, excluded)
    assert measured(trainer, data) == pytest.approx(expected, abs=1e-6)


def test_the_three_differ(run, repeats):
    found = {}
    for excluded in VALUES:
        _, data, _, trainer = run(exclude_history=excluded)
        found[excluded] = measured(trainer, data)["mrr@5"]
    assert found[BUT_TARGET] > found[KEPT] != found[REMOVED] < found[BUT_TARGET]


def test_validation_has_training_items_as_its_history(run, repeats):
    _, data, model, trainer = run(exclude_history=REMOVED)
    found = trainer.evaluate(data.valid, load_best_model=False)
    hits = []
    for row in range(len(data.valid._dataset)):
        split = data.valid._dataset
        (user,) = split.id2token("user_id", split.inter_feat["user_id"][[row]].numpy())
        sequence = repeats.sequences[user][:-1]
        with torch.no_grad():
            scores = model.full_sort_predict(split[np.array([row])]).view(-1).tolist()
        score = dict(zip(split.field2id_token["item_id"], scores))
        others = set(list(score)[1:]) - set(sequence)
        above = sum(score[item] > score[sequence[-1]] for item in others)
        hits.append(above < 3 and sequence[-1] not in sequence[:-1])
    assert float(found["hit@3"]) == pytest.approx(sum(hits) / len(hits), abs=1e-6)


@pytest.mark.parametrize("excluded", VALUES, ids=str)
@pytest.mark.parametrize("mode", ["uni6", "pop6", "uni2"])
def test_sampled_candidates(run, repeats, mode, excluded):
    _, data, model, trainer = run(mode=mode, exclude_history=excluded)
    candidates = data.test.negatives.tolist()
    expected, _ = naive(data.test._dataset, repeats, model, excluded, candidates)
    found = measured(trainer, data)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("excluded", VALUES, ids=str)
@pytest.mark.parametrize("mode", ["full", "uni6"])
def test_groups(run, repeats, mode, excluded):
    _, data, model, trainer = run(mode=mode, exclude_history=excluded, tail_item_threshold=8)
    measured(trainer, data)
    # The last two are held out, as long as a user has two training items.
    training = {u: items[: max(2, len(items) - 2)] for u, items in repeats.sequences.items()}
    counts = {item: sum(i == item for s in training.values() for i in s) for item in repeats.items}
    groups = {
        "tail_items": lambda user, item: counts[item] < 8,
        "head_items": lambda user, item: counts[item] >= 8,
        "short_users": lambda user, item: len(training[user]) < 9,
        "long_users": lambda user, item: len(training[user]) >= 9,
    }
    candidates = data.test.negatives.tolist() if mode != "full" else None
    for name, keep in groups.items():
        expected, users = naive(data.test._dataset, repeats, model, excluded, candidates, keep)
        found = dict(trainer.groups_of_last_evaluation[name])
        assert found.pop("users") == users > 0
        found = {k: math.nan if value is None else value for k, value in found.items()}
        assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("excluded", VALUES, ids=str)
@pytest.mark.parametrize("mode", ["full", "uni6"])
def test_ties(run, repeats, mode, excluded, monkeypatch):
    """Between all equals above and all below the target; half of them for GAUC."""
    _, data, model, trainer = run(mode=mode, exclude_history=excluded)

    def coarse(batch):
        return torch.arange(15.0).remainder(3).expand(len(batch), -1).clone()

    monkeypatch.setattr(model, "full_sort_predict", coarse)
    monkeypatch.setattr(model, "scores", lambda b, c: coarse(b).gather(1, c))
    candidates = data.test.negatives.tolist() if mode != "full" else None
    found = measured(trainer, data)
    bounds = []
    for sign in (-1e-3, 1e-3):  # the target's own score a little below or above its equals
        split, rows = data.test._dataset, list(range(len(data.test._dataset)))
        targets = split.inter_feat["item_id"]

        class Moved:
            @staticmethod
            def full_sort_predict(batch, sign=sign):
                scores = coarse(batch)
                scores[0, batch["item_id"][0]] += sign
                return scores

        assert len(targets) == len(rows)
        bounds.append(naive(split, repeats, Moved, excluded, candidates)[0])
    for name, value in found.items():
        if name != "gauc":
            assert bounds[0][name] - 1e-6 <= value <= bounds[1][name] + 1e-6
    if mode == "full" or not excluded:
        assert found["gauc"] == pytest.approx((bounds[0]["gauc"] + bounds[1]["gauc"]) / 2, abs=1e-6)


@pytest.mark.parametrize("mode", ["full", "uni6"])
def test_short_lists_hold_no_item_that_was_met(run, repeats, mode):
    """Where less than k candidates are left, lists end in padding, which is no item."""
    config, data, model, trainer = run(
        mode=mode, exclude_history=REMOVED, metrics=["NDCG", "ItemCoverage"]
    )
    collected = []
    collect = trainer.eval_collector.data_struct.update_tensor

    def keep(name, value):
        collected.append((name, value))
        collect(name, value)

    trainer.eval_collector.data_struct.update_tensor = keep
    trainer.eval_collector.data_collect(data.train)
    trainer.evaluate(data.test, load_best_model=False)
    parts = {n: torch.cat([v for name, v in collected if name == n]) for n, _ in collected}
    test, short = data.test._dataset, 0
    for user, items in zip(parts["row.user"].tolist(), parts["rec.items"].tolist()):
        (token,) = test.id2token("user_id", [user])
        seen = set(repeats.sequences[token][:-1])
        listed = [test.id2token("item_id", item) for item in items if item]
        assert not seen & set(listed)
        short += len(listed) < len(items)
    assert short


def test_rows_that_hold_their_history(run, repeats):
    """Without the place of their target, rows have what their list says."""
    from recbole_llmemb.evaluation.loaders import history_of

    config, data, *_ = run(exclude_history=REMOVED)
    test = data.test._dataset
    index = np.arange(len(test))
    lazy = history_of(config, test, index)
    plain = test.copy(test.inter_feat.materialize())
    found = history_of(config, plain, index)
    whole = test.inter_feat["item_length"] < MAX_LENGTH
    pairs = [
        {(r, i) for r, i in zip(p.rows.tolist(), p.columns.tolist()) if whole[r]}
        for p in (lazy, found)
    ]
    assert pairs[0] == pairs[1] and len(found.rows) < len(lazy.rows)


# -- RecBole's own models -----------------------------------------------------------------


@pytest.mark.parametrize("excluded", VALUES, ids=str)
@pytest.mark.parametrize("length", [1, 4])
def test_recboles_own(run, tmp_path, excluded, length):
    """Full ranking by RecBole's own trainer, of histories longer than the model is shown."""
    often = write_tiny(tmp_path, n_items=30, seed=1)
    _, data, model, trainer = run(
        "SASRec", exclude_history=excluded, MAX_ITEM_LIST_LENGTH=length, metrics=METRICS[:-1],
        data_path=str(tmp_path),
    )  # fmt: skip
    expected, _ = naive(data.test._dataset, often, model, excluded)
    found = trainer.evaluate(data.test, load_best_model=False)
    assert {k: float(v) for k, v in found.items()} == pytest.approx(
        {k: v for k, v in expected.items() if k != "gauc"}, abs=1e-6
    )


@pytest.mark.parametrize(
    ("model", "overrides", "words"),
    [
        ("SASRec", {"mode": "uni6"}, "own SASRec lacks it for sampled candidates"),
        ("SASRec", {}, "own SASRec lacks it for GAUC"),
        ("SASRec", {"metrics": ["Hit", "NDCG"]}, "leaves a user fewer than 5 items"),
        ("LLMEmbSASRec", {"split": RATIO, "mode": "uni6"}, "ranks a user's targets together"),
        ("LLMEmbSASRec", {"exclude_history": "yes"}, "exclude_history is 'yes'"),
        ("LLMEmbSASRec", {"metrics": ["AUC"], "valid_metric": "AUC", "mode": "uni6"},
         "rank nothing"),
        ("BPR", {}, "RecBole removes all but the target"),
    ],
    ids=str,
)  # fmt: skip
def test_refused(settings, model, overrides, words):
    values = settings(model, **{"exclude_history": True, **overrides})
    with pytest.raises(UserError, match=words):
        stages.prepare_data(make_config(model, "tiny", overrides=values))


# -- what says which measure it is --------------------------------------------------------


def test_in_words(tiny_config):
    assert measure_of(tiny_config()) == "full ranking, history kept"
    removed = tiny_config(exclude_history=True)
    assert measure_of_run(removed) == "full ranking, history removed"
    both = {**LEAVE_ONE_OUT, "mode": {"valid": "uni100", "test": "full"}}
    found = measure_of_run(tiny_config(exclude_history="keep_target", eval_args=both))
    assert found == (
        "full ranking, history removed, target kept (validation: 100 items sampled beside the "
        "target, history removed, target kept)"
    )
    assert measure_of(tiny_config("BPR")) == "full ranking, history removed, target kept"
    assert excluded_of(tiny_config("SASRec")) is False


def test_run_compare_and_order_test(settings, tmp_path, capsys):
    for name, options in (("kept", []), ("removed", ["--exclude_history=True"])):
        values = settings(epochs=1, metrics=["Hit", "NDCG"])
        values.pop("gpu_id")
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(values))
        arguments = ["--model=LLMEmbSASRec", "--dataset=tiny", "--config_files=s.yaml"]
        assert main([*arguments, f"--result_json={name}.json", *options]) == 0
        table = capsys.readouterr().out.partition("s\n\n")[2]
        assert table.splitlines()[0] == f"full ranking, history {name}"
    kept, removed = (json.loads(Path(f"{n}.json").read_text()) for n in ("kept", "removed"))
    assert kept["config"]["exclude_history"] is False
    assert removed["config"]["exclude_history"] is True

    assert main(["compare", "kept.json", "removed.json"]) == 2
    assert "exclude_history: True" in capsys.readouterr().err
    del kept["config"]["exclude_history"], kept["sha256"]  # as an older file
    Path("older.json").write_text(json.dumps({**kept, "seed": 1}))
    assert main(["compare", "kept.json", "older.json"]) == 0
    assert main(["compare", "older.json", "removed.json"]) == 2
    capsys.readouterr()

    options = ["--metrics=Hit,NDCG", "--topk=3,5", "--quiet", "--out=both"]
    both = [f"--checkpoint={kept['checkpoint']}", "--shuffles=0", "--exclude_history=False,True"]
    assert main(["order-test", *both, *options]) == 0
    assert "full, history removed" in capsys.readouterr().out
    tests = json.loads(Path("both/order.json").read_text())["tests"]
    assert [test["exclude_history"] for test in tests] == [False, True]
    assert tests[0]["true"] == pytest.approx(kept["test_result"], abs=1e-6)
    for name, group in kept["groups"].items():
        assert tests[0]["groups"][name] == pytest.approx(group, abs=1e-6)
    assert tests[1]["true"] != tests[0]["true"]
    (again,) = order_test(removed["checkpoint"], shuffles=1, report=lambda _: None)
    assert again.exclude_history is True
    expected = {name: removed["test_result"][name] for name in again.true}
    assert again.true == pytest.approx(expected, abs=1e-6)
    assert main(["order-test", both[0], "--exclude_history=maybe"]) == 2
    assert "--exclude_history is 'maybe'" in capsys.readouterr().err


def test_the_command_knows_the_key_for_recboles_own(tiny_settings, tmp_path, capsys):
    values = tiny_settings("SASRec", epochs=1)
    values.pop("gpu_id")
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(values))
    arguments = ["--dataset=tiny", "--config_files=s.yaml", "--result_json=r.json"]
    assert main(["--model=SASRec", "--exclude_history=True", *arguments]) == 0
    assert "\nfull ranking, history removed\n" in capsys.readouterr().out
    assert json.loads(Path("r.json").read_text())["config"]["exclude_history"] is True
    assert main(["--model=SASRec", *arguments]) == 0
    assert json.loads(Path("r.json").read_text())["config"]["exclude_history"] is False


def test_a_search_is_of_one_measure(settings):
    from recbole_llmemb.apps.tune.space import read_space

    space = read_space({"exclude_history": {"choice": [True, False]}})
    with pytest.raises(UserError, match="exclude_history cannot be searched"):
        make_plan("LLMEmbSASRec", "tiny", settings=settings(), space=space)
    plans = [
        make_plan("LLMEmbSASRec", "tiny", settings=settings(**more))[0]
        for more in ({}, {"exclude_history": True})
    ]
    assert plans[0].settings != plans[1].settings  # by which a search is continued or refused
