"""Splits without a test part or without a validation part."""

import contextlib
import json
import shutil

import pytest
import torch
import yaml

from recbole_llmemb.cli.main import main
from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.evaluation import GROUP_NAMES
from recbole_llmemb.run.stages import build, prepare_data, train_and_evaluate

NO_TEST = [{"LS": "valid_only"}, {"RS": [0.8, 0.2, 0.0]}, {"TS": [7, 3, 0]}]
NO_VALID = [{"LS": "test_only"}, {"RS": [8, 0, 2]}]


def eval_args(split, mode="full", group_by="user"):
    return {"split": split, "order": "TO", "group_by": group_by, "mode": mode}


@pytest.fixture
def command(tiny_settings, tmp_path, capsys):
    """Run the command: its exit status, output, errors and result file."""

    def run(model="LLMEmbSASRec", **settings):
        settings = tiny_settings(model, **settings)
        settings.pop("gpu_id")
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
        file = tmp_path / "result.json"
        file.unlink(missing_ok=True)
        argv = [f"--model={model}", "--dataset=tiny", f"--config_files={tmp_path}/settings.yaml"]
        status = main([*argv, f"--result_json={file}"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err, file.exists() and json.loads(file.read_text())

    return run


@pytest.mark.parametrize("split", NO_TEST, ids=str)
@pytest.mark.parametrize("more", [{}, {"train_mode": "prefix", "eval_args": "uni20"}], ids=str)
def test_without_a_test_part_groups_are_of_the_best_validation(command, split, more):
    mode = more.get("eval_args", "full")
    more = {**more, "eval_args": eval_args(split, mode), "tail_item_threshold": 3}
    status, out, err, result = command(epochs=3, learning_rate=0.05, **more)
    assert (status, err) == (0, "")
    assert result["test_result"] == result["groups"] == result["bins"] == {}
    best, groups = result["best_valid_result"], result["valid_groups"]
    assert list(groups) == list(GROUP_NAMES)
    # Among sampled candidates a user's targets are ranked together, and are of no one item group.
    together = mode != "full" and "LS" not in split
    for pair in (GROUP_NAMES[2:], GROUP_NAMES[:2])[: 1 if together else 2]:
        parts = [groups[name] for name in pair if groups[name]["users"]]
        total = sum(part["users"] for part in parts)
        for name, value in best.items():
            mean = sum(part["users"] * part[name] for part in parts) / total
            assert mean == pytest.approx(value, abs=1e-7), name
    assert "test, all" not in out and "validation, all" in out
    table = out[out.index("validation, all") :]
    for title, name in (("tail items", "tail_items"), ("long users", "long_users")):
        shown = next(line for line in table.splitlines() if title in line).split()
        assert shown[-5] == str(groups[name]["users"])
        assert shown[-1] == f"{groups[name]['ndcg@10']:.4f}"


@pytest.mark.parametrize("mode", ["full", "uni20"])
@pytest.mark.parametrize("split", [*NO_TEST, *NO_VALID], ids=str)
def test_recboles_own_models_do_without_a_part(command, split, mode):
    status, out, err, result = command("SASRec", epochs=1, eval_args=eval_args(split, mode))
    assert (status, err) == (0, "")
    assert bool(result["test_result"]) == (split in NO_VALID)
    assert bool(result["best_valid_result"]) == (split in NO_TEST)


@pytest.mark.parametrize("mode", ["full", "uni20"])
@pytest.mark.parametrize("split", NO_VALID, ids=str)
def test_without_a_validation_part_all_epochs_are_trained(command, split, mode):
    status, out, err, result = command(epochs=3, stopping_step=0, eval_args=eval_args(split, mode))
    assert (status, err) == (0, "")
    assert result["epochs"] == 3 and result["best_valid_result"] == {}
    assert "no validation part, so all 3 epochs" in out and "validation, all" not in out
    assert result["test_result"] and list(result["groups"]) == list(GROUP_NAMES)
    assert "valid_groups" not in result


def test_the_model_that_is_left_is_the_best(tiny_run):
    """Cold items are ranked by it, though there is no test that would have loaded it."""
    settings = {"epochs": 3, "eval_args": eval_args({"LS": "valid_only"})}
    config, data, model, trainer = tiny_run(**settings)
    validate, scores = trainer._valid_epoch, iter([0.5, 0.4, 0.3])
    trainer._valid_epoch = lambda *a, **k: (next(scores), validate(*a, **k)[1])
    outcome = train_and_evaluate(config, data, model, trainer)
    state = checkpoint.load(outcome.checkpoint)
    assert state["epoch"] == 0 and outcome.epochs == 3
    found = model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state["state_dict"].items())
    assert outcome.groups == {} and outcome.valid_groups == state["best_valid_groups"]
    result = trainer.evaluate(data.valid)
    assert trainer.groups_of_last_evaluation == outcome.valid_groups
    assert dict(result) == outcome.best_valid_result


@pytest.mark.parametrize("split", [NO_TEST[0], NO_VALID[0]], ids=str)
def test_recboles_entry_point_does_without_a_part(tiny_settings, split):
    from recbole.quick_start import run_recbole

    settings = tiny_settings("LLMEmbSASRec", epochs=1, eval_args=eval_args(split))
    result = run_recbole("LLMEmbSASRec", "tiny", config_dict=settings)
    assert bool(result["test_result"]) == (split in NO_VALID)


def test_what_reads_a_run_without_a_test_part(command, tiny, capsys, tmp_path):
    """Lists are made; what needs a test says that there is none."""
    settings = {"epochs": 1, "eval_args": eval_args({"LS": "valid_only"}), "save_users": True}
    status, out, _, result = command(**settings)
    assert status == 0 and "per user:   nothing" in out and "users_file" not in result
    file = tmp_path / result["checkpoint"]

    def run(*argv):
        status = main([*map(str, argv)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    recommend = ["recommend", f"--checkpoint={file}", "--users=all", "--topk=3"]
    validated = sum(len(items) > 2 for items in tiny.sequences.values())
    for split, lines in (("all", 40), ("valid", validated)):
        status, out, _ = run(*recommend, f"--split={split}", f"--out={tmp_path}/{split}.jsonl")
        assert status == 0
        assert len((tmp_path / f"{split}.jsonl").read_text().splitlines()) == lines
    for argv, word in (
        ([*recommend, "--split=test"], "no test part"),
        (["order-test", f"--checkpoint={file}"], "leave no test set"),
        (["compare", tmp_path / "result.json"], "has no metrics"),
    ):
        status, _, err = run(*argv)
        assert status == 2 and word in err and len(err.strip().splitlines()) == 1


def test_a_search_needs_a_validation_part(tiny_settings):
    from recbole_llmemb.apps.tune.plan import make_plan
    from recbole_llmemb.apps.tune.prepare import prepare
    from recbole_llmemb.apps.tune.space import read_space

    space = read_space({"learning_rate": {"choice": [0.001, 0.01]}})
    settings = tiny_settings("LLMEmbSASRec", eval_args=eval_args({"LS": "test_only"}))
    plan, config = make_plan("LLMEmbSASRec", "tiny", (), settings, space)
    with pytest.raises(UserError, match="needs a validation part.*eval_args"):
        prepare(plan, config, report=lambda line: None)


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_a_search_does_without_a_test_part(tiny_settings, tmp_path, model):
    pytest.importorskip("ray.tune")
    from types import SimpleNamespace

    from recbole_llmemb.apps.tune import report
    from recbole_llmemb.apps.tune.plan import make_plan
    from recbole_llmemb.apps.tune.prepare import prepare
    from recbole_llmemb.apps.tune.space import read_space
    from recbole_llmemb.apps.tune.trial import BEST, EXTRA, evaluate
    from recbole_llmemb.core import checkpoint

    space = read_space({"learning_rate": {"choice": [0.001, 0.01]}})
    settings = tiny_settings(model, eval_args=eval_args({"LS": "valid_only"}), epochs=1)
    if model == "SASRec":
        settings = {k: v for k, v in settings.items() if k not in ("embedding_size", "num_layers")}
        settings.pop("dropout_prob")
    plan, config = make_plan(model, "tiny", (), settings, space)
    prepared = prepare(plan, config, report=lambda line: None)
    config = make_config(model, "tiny", overrides=settings)
    data = prepare_data(config)
    built, trainer = build(config, data)
    outcome = train_and_evaluate(config, data, built, trainer)
    (tmp_path / "kept").mkdir()
    shutil.copyfile(outcome.checkpoint, tmp_path / "kept" / BEST)
    best = {"best_epoch": checkpoint.load(outcome.checkpoint)["epoch"] + 1}
    checkpoint.save({"run_key": outcome.run_key, "best": best}, tmp_path / "kept" / EXTRA)
    kept = SimpleNamespace(as_directory=lambda: contextlib.nullcontext(tmp_path / "kept"))
    valid, test = evaluate(prepared, {"learning_rate": 0.001}, kept, 1, 0)
    assert valid["result"] == outcome.best_valid_result
    assert test["result"] == {} and not test["groups"] and test["users"] == 0
    table = report.final_table(SimpleNamespace(valid=valid, test=test))
    assert "validation, all" in table and "test, all" not in table
    assert ("tail items" in table) == (model != "SASRec")
