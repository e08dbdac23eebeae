"""Whole searches on a Ray of one machine: outcome, failures, resuming, reproduction."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from conftest import ROOT, child_env
from tune_settings import settings_for

pytest.importorskip("ray.tune")
pytestmark = pytest.mark.cluster

from recbole_llmemb.apps.tune import report, search, searching  # noqa: E402
from recbole_llmemb.core.errors import UserError  # noqa: E402
from recbole_llmemb.run.execute import execute  # noqa: E402

# Of three heads, which do not divide 8, the trial fails.
SPACE = {
    "n_heads": {"choice": [3, 1, 2]},
    "item_embedding": {"choice": ["table", "residual"]},
    "offset_decay": {"loguniform": [1e-4, 1e-2], "when": {"item_embedding": "residual"}},
    "learning_rate": {"loguniform": [1e-3, 1e-1]},
}


@pytest.fixture(scope="module")
def ray_here():
    """One Ray for the module's searches, for it takes seconds to start."""
    from recbole_llmemb.apps.tune import require_ray

    ray = require_ray()
    os.environ["PYTHONPATH"] = str(ROOT)
    few = {"num_cpus": 1, "object_store_memory": 100 << 20}
    ray.init(address="local", include_dashboard=False, log_to_driver=False, **few)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def found(ray_here, tiny, tiny_table, tmp_path_factory):
    """A search of five trials by Optuna, for the ranking of tail items."""
    return search(
        "LLMEmbSASRec",
        "tiny",
        SPACE,
        num_samples=5,
        search="optuna",
        metric="tail_items ndcg@10",
        storage=tmp_path_factory.mktemp("searches"),
        report=lambda line: None,
        **settings_for(tiny, tiny_table),
    )


def test_failed_trials_are_recorded_and_the_others_go_on(found):
    assert [trial.number for trial in found.trials] == [1, 2, 3, 4, 5]
    for trial in found.trials:
        if trial.settings["n_heads"] == 3:
            assert "n_heads is 3" in trial.failed and trial.score is None
        else:
            assert trial.failed is None and trial.epochs == len(trial.curve)
            assert trial.epochs == 3 or trial.stopped
    assert {trial.settings["n_heads"] for trial in found.trials} > {3}
    assert found.best.score == max(t.score for t in found.trials if t.score is not None)


def test_the_best_configuration_reproduces_its_score_through_run(found):
    again = execute(
        {"model": "LLMEmbSASRec", "config_files": str(found.folder / "best.yaml")},
        report=lambda line: None,
    )
    assert again["valid_groups"]["tail_items"]["ndcg@10"] == found.best.score
    assert again["best_valid_result"] == found.valid["result"]
    assert again["test_result"] == found.test["result"]
    assert again["groups"] == found.test["groups"]


def test_what_a_search_leaves(found):
    written = {file.name for file in found.folder.iterdir()}
    assert written >= {"best.yaml", "best.json", "trials.csv", "report.html", "parameters.svg",
                       "parallel.svg", "curves.svg"}  # fmt: skip
    rows = list(csv.DictReader((found.folder / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["1", "2", "3", "4", "5"]
    failed = [row for row in rows if row["status"] == "failed"]
    assert failed and all(row["n_heads"] == "3" and row["reason"] for row in failed)
    page = (found.folder / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)  # it needs no other file
    assert "n_heads is 3" in page and str(found.best.number) in page
    results = page.partition("The best trial")[2].partition("<h2>")[0]
    assert "<pre" not in page.partition("Its configuration")[0] and "<td" in results
    tail = f"{found.test['groups']['tail_items']['hit@10']:.4f}"
    assert (
        tail in results
        and f"trial {found.best.number}," in (found.folder / "curves.svg").read_text().lower()
    )
    best = json.loads((found.folder / "best.json").read_text())
    assert best["score"] == found.best.score and best["trial"] == found.best.number
    settings = yaml.safe_load((found.folder / "best.yaml").read_text())
    assert settings["learning_rate"] == found.best.settings["learning_rate"]


def test_a_search_is_not_begun_over_another(found, tiny, tiny_table, monkeypatch):
    options = {"storage": found.folder.parent, "num_samples": 5, "search": "optuna",
               "metric": "tail_items ndcg@10"}  # fmt: skip
    settings = settings_for(tiny, tiny_table)
    with pytest.raises(UserError, match="There is a search in .* already; continue it with --re"):
        search("LLMEmbSASRec", "tiny", SPACE, **options, **settings)
    other = {**SPACE, "n_heads": {"choice": [1]}}
    with pytest.raises(UserError, match="was begun with other space"):
        search("LLMEmbSASRec", "tiny", other, resume=True, **options, **settings)
    monkeypatch.setattr(searching, "read_beside", lambda plan: {"code": ["of somebody"]})
    with pytest.raises(UserError, match="was begun with other code"):
        search("LLMEmbSASRec", "tiny", SPACE, resume=True, **options, **settings)


def test_a_checkpoint_that_ray_removed_is_an_empty_folder(tmp_path):
    place, trial = searching.Storage(tmp_path, "search"), tmp_path / "search" / "trial_00001"
    for name in ("checkpoint_000004", "checkpoint_000005", "checkpoint_of_mine"):
        (trial / name).mkdir(parents=True)
    (tmp_path / "search" / "trial_notes.txt").write_text("mine")
    place.find_removed_checkpoints()
    assert sorted(one.name for one in trial.glob("checkpoint_0*"))[0] == "checkpoint_000003"
    assert len(list(trial.iterdir())) == 4


def test_damage_of_what_ray_keeps_changes_no_result(ray_here, tiny, tiny_table, tmp_path):
    said = []

    def searched():
        space = {"learning_rate": {"choice": [0.001, 0.1]}}
        given = {"num_samples": 2, "scheduler": "none", "storage": tmp_path, "resume": True}
        own = {"search": "optuna", "max_concurrent": 1, **settings_for(tiny, tiny_table)}
        return search("LLMEmbSASRec", "tiny", space, report=said.append, **given, **own)

    whole = searched()
    wanted = (whole.best.number, whole.best.settings, whole.best.score, whole.best.curve)
    for kind, end in (
        ("experiment_state", b""),
        ("search_gen_state", b""),
        ("searcher-state", b"."),
    ):
        file = max(whole.folder.glob(f"{kind}-*"))
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] + end)
        said.clear()
        found = searched()  # begun anew
        place = whole.folder if end else file  # the last is found damaged by what Ray makes of it
        (warning,) = (line for line in said if line.startswith("warning"))
        assert len(found.trials) == 2 and str(place) in warning
        best = found.best
        assert (best.number, best.settings, best.score, best.curve) == wanted
    noted = max(whole.folder.glob("experiment_state-*.json"))
    text = noted.read_text()  # as it is before Ray notes what it has removed
    for name in ("checkpoint_00000{}", b"checkpoint_00000".hex() + "3{}"):
        assert name.format(2) in text
        text = text.replace(name.format(2), name.format(0))
    noted.write_text(text.replace("TERMINATED", "RUNNING"))
    best = searched().best
    assert (best.number, best.settings, best.score, best.curve) == wanted
    rest = next(whole.folder.glob("trial_00002/checkpoint_*3/rest.pth"))
    own, (one,) = rest.read_bytes(), whole.folder.glob("trial_00001/checkpoint_*3/rest.pth")
    rest.write_bytes(one.read_bytes())
    with pytest.raises(UserError) as caught:
        searched()
    assert str(caught.value.where) == str(rest.parent)
    rest.write_bytes(own)
    (whole.folder / "best.json").unlink()
    kept = [next(whole.folder.glob(f"trial_0000{n}/checkpoint_*3/best.pth")) for n in (1, 2)]
    contents = [file.read_bytes() for file in kept]
    for file, content in zip(kept, reversed(contents), strict=True):
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        searched()
    assert str(caught.value.where) == str(kept[best.number - 1])
    for file, content in zip(kept, contents, strict=True):
        file.write_bytes(content)
    tuner = whole.folder / "tuner.pkl"  # which is never read as it was
    told = [whole.folder / f"trial_0000{number}" / "result.json" for number in (1, 2)]
    reached = [file.read_text() for file in told]
    for damage in (lambda: os.truncate(tuner, 0), tuner.unlink):
        damage()
        best = searched().best
        assert [file.read_text() for file in told] == reached  # not trained anew
        assert (best.number, best.settings, best.score, best.curve) == wanted
    os.truncate(rest, 10)
    with pytest.raises(UserError) as caught:
        searched()
    assert str(caught.value.where).endswith("rest.pth")
    tuner.unlink()
    tuner.mkdir()
    with pytest.raises(UserError) as caught:
        searched()
    assert caught.value.key == "name"


def test_a_trial_that_asha_stopped_is_reproduced_as_far_as_it_went(found, tiny, tiny_table):
    from recbole_llmemb.apps.tune.plan import Metric, Plan
    from recbole_llmemb.apps.tune.report import best_settings

    stopped = next(trial for trial in found.trials if trial.stopped)
    assert stopped.epochs < 3 and stopped.status == "stopped early"
    metric = Metric("tail_items ndcg@10", "tail_items", "max")
    own = settings_for(tiny, tiny_table)
    settings = best_settings(Plan("LLMEmbSASRec", "tiny", own, metric, 3), stopped)
    assert settings["epochs"] == stopped.epochs
    again = execute({"model": "LLMEmbSASRec", **settings}, report=lambda line: None)
    assert again["valid_groups"]["tail_items"]["ndcg@10"] == stopped.score


def test_recboles_own_models_are_searched_too(ray_here, tiny, tmp_path):
    settings = {
        "data_path": str(tiny.folder.parent),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "hidden_size": 8,
        "inner_size": 16,
        "n_layers": 1,
        "epochs": 1,
        "train_neg_sample_args": None,
        "topk": [5, 10],
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": "full",
        },
    }
    space = {"learning_rate": {"choice": [0.001]}, "MAX_ITEM_LIST_LENGTH": {"choice": [5]}}
    found = search("SASRec", "tiny", space, num_samples=1, metric="ndcg@10", storage=tmp_path,
                   report=lambda line: None, **settings)  # fmt: skip
    users = found.test["users"]
    last = report.final_table(found).splitlines()[-1].split()
    assert users and last[:3] == ["test,", "all", str(users)]
    again = execute({"model": "SASRec", "config_files": str(found.folder / "best.yaml")})
    assert again["best_valid_result"] == found.valid["result"]
    assert again["test_result"] == found.test["result"]


def test_when_all_trials_fail_there_is_one_sentence(ray_here, tiny, tiny_table, tmp_path):
    with pytest.raises(UserError, match="All 2 trials failed, most of them with: .*n_heads is"):
        search(
            "LLMEmbSASRec",
            "tiny",
            {"n_heads": {"choice": [3, 5]}},
            num_samples=2,
            storage=tmp_path,
            report=lambda line: None,
            **settings_for(tiny, tiny_table),
        )
    # Ray, which would begin each of them again, was not told.
    assert list(tmp_path.glob("*/trial_*")) and not list(tmp_path.glob("*/trial_*/error*"))


def test_killed_trials_and_searches_go_on_and_keep_what_was_finished(tiny, tiny_table, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("learning_rate: {choice: [0.01, 0.02]}\n")
    settings = settings_for(tiny, tiny_table, epochs=60, stopping_step=99)
    command = [sys.executable, str(ROOT / "run_recbole_llm.py"), "tune", "--model=LLMEmbSASRec"]
    command += ["--dataset=tiny", f"--space={space}", f"--storage={tmp_path}", "--name=it"]
    command += ["--num_samples=2", "--max_concurrent=1", "--scheduler=none"]
    command += [f"--{key}={value}" for key, value in settings.items()]
    results = [tmp_path / "it" / f"trial_0000{n}" / "result.json" for n in (1, 2)]

    first = subprocess.Popen(
        command, env=child_env(), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _wait(first, results[1], 4)
    worker = json.loads(_lines(results[1])[-1])["pid"]
    os.kill(worker, signal.SIGKILL)  # the trial's own process: another takes it up
    _wait(first, results[1], len(_lines(results[1])) + 4)
    assert json.loads(_lines(results[1])[-1])["pid"] != worker
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = _lines(results[0])
    assert len(before) == 60 and len(_lines(results[1])) < 60

    done = subprocess.run(
        [*command, "--resume"], env=child_env(), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "finished before" in done.stderr + done.stdout
    assert _lines(results[0]) == before
    second = [json.loads(line) for line in _lines(results[1])]
    assert second[-1]["epoch"] == 60, done.stdout + done.stderr
    continued = [one["epoch"] for one in second]
    assert continued.count(1) == 1  # not from the beginning
    uninterrupted = execute(
        {
            "model": "LLMEmbSASRec",
            "dataset": "tiny",
            **settings,
            "learning_rate": second[-1]["config"]["trial"]["settings"]["learning_rate"],
        },
        report=lambda line: None,
    )
    assert uninterrupted["best_valid_result"]["ndcg@10"] == second[-1]["score"]


def _wait(process, file, count):
    deadline = time.monotonic() + 300
    while len(_lines(file)) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def _lines(file):
    return file.read_text().splitlines() if file.exists() else []
