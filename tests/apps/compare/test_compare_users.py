"""What a run leaves for comparisons: per-user file, bins, learning curve, settings."""

import importlib
import json

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

import recbole_llmemb  # noqa: F401
from recbole_llmemb.cli.main import main
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.evaluation.groups import bins
from recbole_llmemb.run.per_user import FORMAT, UserResults, read_users
from recbole_llmemb.run.result import RunResult
from recbole_llmemb.run.stages import run_key


@pytest.fixture
def finished(tiny_settings, tmp_path):
    """``finished(*arguments)``: result of a run on ``tiny`` in ``out/r.json``."""

    def run(*more, model="LLMEmbSASRec", **overrides):
        settings = tiny_settings(model, **overrides)
        settings.pop("gpu_id")
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
        argv = [f"--model={model}", "--dataset=tiny", "--config_files=settings.yaml", *more]
        assert main([*argv, "--result_json=out/r.json"]) == 0
        return json.loads((tmp_path / "out/r.json").read_text())

    return run


@pytest.mark.parametrize("mode", ["full", "uni20"])
def test_users_average_to_the_result(finished, tiny, tmp_path, mode):
    evaluation = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": mode}
    metrics = ["Hit", "NDCG", "MRR", "Recall", "Precision", "MAP", "GAUC"]
    result = finished("--save_users=True", eval_args=evaluation, metrics=metrics)
    users = read_users(tmp_path / "out" / result["users_file"])
    assert set(users.values) == set(result["test_result"]) - {"gauc"}
    for name, values in users.values.items():
        assert values.mean() == pytest.approx(result["test_result"][name], abs=1e-7), name
    # Whose rows: everyone with three interactions, with their last item.
    sequences = {user: items for user, items in tiny.sequences.items() if len(items) > 2}
    assert dict(zip(users.users, users.items, strict=True)) == {
        user: items[-1] for user, items in sequences.items()
    }
    trained = [item for items in tiny.sequences.values() for item in train_part(items)]
    for user, item, popularity, history in zip(
        users.users, users.items, users.popularity, users.history, strict=True
    ):
        assert history == len(train_part(sequences[user]))
        assert popularity == trained.count(item)
    # The groups are means over some of these rows.
    tail = users.popularity < 4
    assert result["groups"]["tail_items"]["users"] == tail.sum()
    assert users.values["hit@10"][tail].mean() == pytest.approx(
        result["groups"]["tail_items"]["hit@10"], abs=1e-7
    )
    for kind, counts in (("item_popularity", users.popularity), ("history_length", users.history)):
        rows = result["bins"][kind]
        assert sum(row["users"] for row in rows) == len(users.users)
        for row in rows:
            chosen = (counts >= row["from"]) & (counts <= row["to"])
            assert row["users"] == chosen.sum()
            assert row["ndcg@5"] == pytest.approx(users.values["ndcg@5"][chosen].mean(), abs=1e-7)


def train_part(items):
    """What leave-one-out leaves of a sequence: two interactions, or nothing to train on."""
    return items[: max(2, len(items) - 2)] if len(items) > 1 else []


def test_result_file_tells_what_the_run_was(finished, tmp_path):
    result = finished("--seed=5", epochs=3, adapter_hidden_size=4)
    assert not list(tmp_path.glob("out/*.safetensors")) and "users_file" not in result
    config = result["config"]
    assert config["adapter_hidden_size"] == 4 and config["topk"] == [5, 10]
    assert not {"seed", "data_path", "checkpoint_dir", "save_users", "model"} & set(config)
    assert [row["epoch"] for row in result["curve"]] == [0, 1, 2]
    seconds = [row["seconds"] for row in result["curve"]]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert seconds[-1] / 3 == pytest.approx(result["seconds"]["train_per_epoch"])
    assert max(row["valid_score"] for row in result["curve"]) == pytest.approx(
        result["best_valid_result"]["ndcg@10"]
    )
    assert all(len(row["train_loss"]) == 1 and row["train_loss"][0] > 0 for row in result["curve"])
    run = RunResult.read(tmp_path / "out/r.json")
    assert run.checkpoint.is_file()
    # Another seed is the same run, another width is not.
    again = finished("--seed=6", epochs=3, adapter_hidden_size=4)
    assert again["config"] == config
    assert finished("--seed=6", epochs=3, adapter_hidden_size=5)["config"] != config


def test_keeping_users_changes_nothing_else(tiny_config):
    assert run_key(tiny_config()) == run_key(tiny_config(save_users=True))


def test_refusals(tiny_settings, tmp_path, capsys):
    settings = tiny_settings("SASRec")
    settings.pop("gpu_id")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    argv = ["--dataset=tiny", "--config_files=settings.yaml", "--save_users=True"]
    assert main(["--model=SASRec", *argv, "--result_json=r.json"]) == 2
    assert "save_users needs a model of this package" in capsys.readouterr().err
    settings = tiny_settings("LLMEmbSASRec")
    settings.pop("gpu_id")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    assert main(["--model=LLMEmbSASRec", *argv, "--result_json=/dev/null"]) == 2
    assert "add --result_json=FILE" in capsys.readouterr().err
    assert main(["--model=LLMEmbSASRec", *argv[:2], "--save_users=3", "--result_json=r.json"]) == 2
    assert "save_users is 3; it must be True or False" in capsys.readouterr().err


def test_bins_double():
    counts = np.array([0, 0, 1, 2, 3, 4, 7, 8, -1])
    values = {"hit@1": np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0])}
    assert bins(values, counts) == [
        {"from": 0, "to": 0, "users": 2, "hit@1": 0.5},
        {"from": 1, "to": 1, "users": 1, "hit@1": 1.0},
        {"from": 2, "to": 3, "users": 2, "hit@1": 0.5},
        {"from": 4, "to": 7, "users": 2, "hit@1": 0.0},
        {"from": 8, "to": 15, "users": 1, "hit@1": 1.0},
    ]


def test_several_rows_of_a_user_are_averaged():
    users = UserResults(
        ["b", "a", "b"], ["x", "y", "z"], np.zeros(3), np.zeros(3), {"hit@1": np.array([1, 0, 0])}
    )
    targets, values = users.by_user()
    assert targets == {"a": ["y"], "b": ["x", "z"]} and values["hit@1"].tolist() == [0.0, 0.5]


def test_columns_of_several_lengths_are_damage(tmp_path):
    columns = {name: np.zeros(1) for name in ("popularity", "history", "metric.hit@1")}
    columns |= {name: np.frombuffer(b"a\n", np.uint8) for name in ("user", "item")}
    for name, column in (("whole", np.zeros(1)), ("torn", np.zeros(2))):
        about = {"format": FORMAT, "metrics": '["hit@1"]'}
        save_file(columns | {"history": column}, tmp_path / name, about)
    assert read_users(tmp_path / "whole").users == ["a"]
    with pytest.raises(UserError) as refused:
        read_users(tmp_path / "torn")
    assert refused.value.where == str(tmp_path / "torn")


def test_the_reader_is_found_under_its_older_name():
    with pytest.warns(DeprecationWarning, match="run.per_user"):
        older = importlib.import_module("recbole_llmemb.report.users")
    assert older.read_users is read_users
