"""What version 0.1.0 left on disk is found, answers as it did, and goes on where it stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT, child_env
from kept.commands import COMMANDS, LISTS, recommend
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from recbole_llmemb.cli.main import main

# Checkpoints name their tables by absolute paths, of a folder that is no more.
MOVED = dict.fromkeys(LISTS, ["--llm_table=tables/items"])
MOVED |= {
    "gru4rec": ["--llm_table=cache/kept-encoder-4ee3a58a9bb3"],
    "longtail": ["--llm_table=cache/items-pca8-27a7fd03cc3d"],
    "stock": [],
}


@pytest.fixture(autouse=True)
def _work(tmp_path, monkeypatch):
    """The folder of that version, to work in."""
    with tarfile.open(ROOT / "tests" / "kept" / "work.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("RECBOLE_LLMEMB_CACHE", "cache")


@pytest.fixture
def steps():
    """Optimizer steps since the test began."""
    taken = []
    hook = register_optimizer_step_post_hook(lambda *_: taken.append(1))
    yield taken
    hook.remove()


def contents(*folders):
    """Every file below folders but locks: its bytes, and when it was written."""
    return {
        str(file): (file.read_bytes(), file.stat().st_mtime_ns)
        for folder in folders
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file() and file.suffix != ".lock"
    }


def result_of(name):
    return json.loads(Path(f"results/{name}.json").read_text())


def checkpoint_of(name):
    return os.path.normpath(Path("results", result_of(name)["checkpoint"]))


def losses(result):
    return [sum(row["train_loss"]) for row in result["curve"]]


@pytest.mark.parametrize("name", ["table", "adapter", "adapted_table"])
def test_what_is_finished_is_found(name, steps):
    before = contents("tables", "adapters")
    assert main(COMMANDS[name]) == 0
    assert contents("tables", "adapters") == before and not steps


@pytest.mark.parametrize("name", ["gru4rec", "reduced", "longtail", "aligned", "llmsrec"])
def test_runs_find_their_tables_and_teachers(name):
    """A table encoded for a run, reduced copies of one, teachers."""
    before, earlier = contents("cache"), result_of(name)
    Path("results", earlier["checkpoint"]).touch()  # not all of them were kept
    assert main(COMMANDS[name]) == 0
    assert contents("cache") == before
    # Called the same, where something of that name is left, so that interrupted ones are found.
    assert result_of(name)["checkpoint"] == earlier["checkpoint"]
    assert losses(result_of(name)) == pytest.approx(losses(earlier), rel=1e-3)


def teacher_of(name):
    """Where the teacher of an LLM-SRec is now."""
    state = torch.load(checkpoint_of(name), weights_only=True)
    return Path("cache/teachers", Path(state["config"]["teacher_used"]["path"]).name)


def move_teacher(name):
    """Say so in the checkpoint, as no option of ``recommend`` does."""
    state = torch.load(checkpoint_of(name), weights_only=True)
    state["config"]["teacher_used"]["path"] = str(teacher_of(name))
    torch.save(state, checkpoint_of(name))


@pytest.mark.parametrize("name", LISTS)
def test_checkpoints_recommend_what_they_did(name):
    Path("again").mkdir()
    if name == "llmsrec":
        move_teacher(name)
    assert main(recommend(name, checkpoint_of(name), "again", *MOVED[name])) == 0
    rows = [
        [json.loads(line) for line in Path(folder, f"{name}.jsonl").read_text().splitlines()]
        for folder in ("found", "again")
    ]
    for then, now in zip(*rows, strict=True):
        assert now["user"] == then["user"]
        expected = {item["item"]: pytest.approx(item["score"], rel=1e-3, abs=1e-5)
                    for item in then["items"]}  # fmt: skip
        assert {item["item"]: item["score"] for item in now["items"]} == expected


@pytest.mark.parametrize("name", ["sasrec", "longtail", "stock", "llmsrec"])
def test_checkpoints_are_tested_as_they_were(name):
    options = ["--shuffles=1", "--quiet", "--no-teacher", "--out=order", "--use_gpu=False"]
    if name == "llmsrec":
        options.append(f"--align_teacher={teacher_of(name)}")
    if name != "stock":  # which it reduces itself
        options.append("--llm_table=tables/items")
    checkpoint = f"--checkpoint={checkpoint_of(name)}"
    assert main(["order-test", checkpoint, "--topk=10", *options]) == 0
    (test,) = json.loads(Path("order/order.json").read_text())["tests"]
    before = result_of(name)["test_result"]
    assert test["true"] == {key: pytest.approx(before[key], abs=1e-6) for key in test["true"]}


def test_results_are_compared_and_vectors_exported():
    names = ["sasrec", "longtail"]
    files = [f"{name}=results/{name}.json" for name in names]
    assert main(["compare", *files, "--out=report"]) == 0
    table = Path("report/table.md").read_text()
    for name in names:
        assert f"{result_of(name)['test_result']['ndcg@10']:.4f}" in table
    checkpoint = f"--checkpoint={checkpoint_of('longtail')}"
    assert main(["export", checkpoint, "--out=served", *MOVED["longtail"]]) == 0
    tokens = Path("served/items.txt").read_text().split()
    (vectors,) = load_file("served/items.safetensors").values()
    assert len(tokens) == len(vectors) == 40


@pytest.mark.parametrize("name", ["interrupted_run", "interrupted_llmsrec"])
def test_an_interrupted_run_goes_on(name, steps):
    (resume,) = Path("saved").glob(f"{'LLMSRec' if 'llm' in name else 'LLMEmb'}*.resume.pth")
    state = torch.load(resume, weights_only=True)
    done = state["epoch"] + 1
    assert main(COMMANDS[name]) == 0
    resumed, taken = result_of(name), len(steps)
    assert not resume.exists() and Path(str(resume).replace(".resume", "")).exists()
    rows = [row["train_loss"] for row in resumed["curve"][:done]]
    assert rows == [
        list(row["train_loss"]) if isinstance(row["train_loss"], (list, tuple))
        else [row["train_loss"]] for row in state["history"]
    ]  # fmt: skip
    steps.clear()
    assert main([*COMMANDS[name], "--resume=False"]) == 0
    assert 0 < done < result_of(name)["epochs"] == resumed["epochs"]
    before = int(next(iter(state["optimizer"]["state"].values()))["step"])
    assert before > 0 and before + taken == len(steps)
    assert losses(resumed) == pytest.approx(losses(result_of(name)), rel=1e-3)


def test_an_interrupted_encoding_goes_on():
    (work,) = Path("tables").glob(".interrupted.work-*")
    shards = [load_file(file)["vectors"] for file in sorted(work.glob("shard-*"))]
    kept = torch.cat(shards)  # 1 more than what the encoder gives
    assert main(COMMANDS["interrupted_encoding"]) == 0
    found = load_file("tables/interrupted/embeddings.safetensors")["embeddings"]
    off = (found - load_file("tables/items/embeddings.safetensors")["embeddings"]).mean(dim=1)
    assert len(kept) == 18 and not work.exists()
    assert all((found == row).all(dim=1).any() for row in kept)
    near = torch.stack([off.abs() < 1e-4, (off - 1).abs() < 1e-4])
    assert near.any(dim=0).all() and near[0].any() and near[1].sum() >= 18


def test_an_interrupted_fine_tuning_goes_on(steps):
    pytest.importorskip("peft")
    (work,) = Path("adapters").glob(".interrupted.work-*")
    assert main(COMMANDS["interrupted_scft"]) == 0
    assert len(steps) == 4 and not work.exists()  # of 8
    resumed = load_file("adapters/interrupted/adapter_model.safetensors")
    assert main([*COMMANDS["interrupted_scft"][:-1], "--out=adapters/anew"]) == 0
    assert len(steps) == 4 + 8
    for name, weight in load_file("adapters/anew/adapter_model.safetensors").items():
        assert torch.allclose(weight, resumed[name], atol=1e-5)


def test_an_interrupted_search_goes_on(tmp_path):
    pytest.importorskip("ray.tune")
    record = Path("tune/search/search.json")
    record.write_text(record.read_text().replace("@HERE@", str(tmp_path)))
    results = [Path(f"tune/search/trial_0000{number}/result.json") for number in (1, 2)]
    before = [file.read_text() for file in results]
    assert len(before[1].splitlines()) < 12
    # In a process of its own: a Ray that another test has left here has that test's folders.
    script = [sys.executable, str(ROOT / "run_recbole_llm.py")]
    subprocess.run(
        [*script, *COMMANDS["interrupted_search"], "--resume"], env=child_env(), check=True
    )
    after = [file.read_text() for file in results]
    assert after[0] == before[0]
    epochs = [json.loads(line)["epoch"] for line in after[1].splitlines()]
    assert epochs[-1] == 12 and epochs.count(1) == 1  # not from the beginning
    assert json.loads(Path("tune/search/best.json").read_text())["trial"] in (1, 2)
