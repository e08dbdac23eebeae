"""The parts of a search that need no Ray cluster: Ray itself, outcomes, folders, figures."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from conftest import child_env
from ray import tune

from recbole_llmemb.apps.tune import require_ray
from recbole_llmemb.apps.tune.plan import Metric, Plan
from recbole_llmemb.apps.tune.report import _parallel, _parameters
from recbole_llmemb.apps.tune.searching import Storage
from recbole_llmemb.apps.tune.space import read_space
from recbole_llmemb.apps.tune.trial import EXTRA
from recbole_llmemb.apps.tune.tuning import Halving, Trial, best_of, collect
from recbole_llmemb.cli.main import main
from recbole_llmemb.core import checkpoint, devices
from recbole_llmemb.core.errors import UserError

# -- what must be installed -------------------------------------------------------------


def test_without_ray_there_is_one_sentence(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(UserError, match=r"needs ray, which is not installed; run `pip install"):
        require_ray()


def test_a_ray_that_is_too_old_is_refused_by_version(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.6.3")
    with pytest.raises(UserError, match=r"ray 2\.6\.3 is too old, recbole-llm tune needs 2\.43"):
        require_ray()


def test_a_ray_that_does_not_import_is_told(monkeypatch):
    def broken(name):
        raise ImportError("libray.so: no such file")

    monkeypatch.setattr(devices.importlib, "import_module", broken)
    with pytest.raises(UserError, match=r"cannot be imported \(libray\.so: no such file\)"):
        require_ray()


def test_the_command_exits_with_2_and_no_traceback_where_ray_is_absent(tmp_path):
    code = (
        "import importlib.metadata as m, sys\n"
        "real = m.version\n"
        "def version(name):\n"
        "    if name == 'ray': raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version\n"
        "from recbole_llmemb.cli.main import main\n"
        "sys.exit(main(['tune', '--model=LLMEmbSASRec', '--space=x.yaml']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=child_env(), cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: recbole-llm tune needs ray")
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1


# -- outcomes ---------------------------------------------------------------------------


def test_the_best_of_trials_and_none_at_all():
    metric = Metric("ndcg@10", None, "max")
    trials = [
        Trial(1, {}, 0.1, checkpoint=1),
        Trial(2, {}, 0.3, checkpoint=1),
        Trial(3, {}, 0.3, checkpoint=1),
        Trial(4, {}, failed="out of memory"),
    ]
    assert best_of(trials, metric).number == 2
    assert best_of(trials, Metric("giniindex@10", None, "min")).number == 1
    with pytest.raises(UserError, match="All 1 trials failed, most of them with: out of memory"):
        best_of(trials[3:], metric)


def test_reasons_are_one_line():
    pytest.importorskip("ray.tune")
    from recbole_llmemb.apps.tune.trial import why_failed as reason

    assert reason(UserError("The loss\nis no number.")) == "The loss is no number."
    assert "not enough memory (CUDA" in reason(RuntimeError("CUDA out of memory. Tried"))
    assert "not enough memory" in reason(MemoryError())
    assert reason(ZeroDivisionError("division\nby zero")) == "ZeroDivisionError: division by zero"


def test_the_best_configuration_stops_where_its_trial_was_stopped():
    from recbole_llmemb.apps.tune.report import best_settings

    metric = Metric("ndcg@10", None, "max")
    own = {"epochs": 9, "use_gpu": False}  # the latter of the machine, so it is no part of it
    plan = Plan("LLMEmbSASRec", "tiny", own, metric, 9, None, {"epochs": 9})
    whole = best_settings(plan, Trial(1, {"n_layers": 2}, 0.1, epochs=9))
    assert whole == {"dataset": "tiny", "epochs": 9, "n_layers": 2}
    cut = best_settings(plan, Trial(1, {"n_layers": 2}, 0.1, epochs=3, stopped=True))
    assert cut["epochs"] == 3 and cut["align_teacher_config"] == {"epochs": 9}
    assert yaml.safe_load(yaml.safe_dump(cut)) == cut
    plan.settings["align_teacher_config"] = {"epochs": 5}  # which somebody set
    whole = best_settings(plan, Trial(1, {"n_layers": 2}, 0.1, epochs=9))
    assert whole["align_teacher_config"] == {"epochs": 5} == plan.values({})["align_teacher_config"]


# -- where searches are kept ------------------------------------------------------------


@pytest.mark.parametrize("address", ["{}", "file://{}"])
def test_a_search_is_kept_in_a_folder_or_at_an_address(tmp_path, address):
    place = Storage(address.format(tmp_path / "searches"), "one")
    assert place.read() is None
    place.write_file(".search.json.abc.tmp", b"")  # as a search that was killed leaves one
    place.require_same_search({"space": 1}, resume=True)  # nothing is there: it begins
    (tmp_path / "searches/one/.search.json.abc.tmp").unlink()
    place.write({"space": 1, "metric": "ndcg@10"})
    place.write_file("trials.csv", b"a,b\n")
    assert (tmp_path / "searches" / "one" / "trials.csv").read_bytes() == b"a,b\n"
    assert [file.name for file in (tmp_path / "searches/one").iterdir() if "tmp" in file.name] == []
    again = Storage(address.format(tmp_path / "searches"), "one")
    again.require_same_search({"space": 1}, resume=True)
    with pytest.raises(UserError, match="one already; continue it with --resume"):
        again.require_same_search({"space": 1}, resume=False)
    with pytest.raises(UserError, match="begun with other space"):
        again.require_same_search({"space": 2}, resume=True)


@pytest.mark.parametrize("text", ["[]", "{}", '{"a": 1}', '{"space": 1, "settings": 5}'])
def test_what_is_no_record_of_a_search_is_refused(tmp_path, text):
    place = Storage(tmp_path, "one")
    place.write_file("search.json", text.encode())
    with pytest.raises(UserError) as refused:
        place.require_same_search({"space": 1, "settings": {}}, resume=True)
    assert str(refused.value.where).endswith("search.json")


def test_a_place_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be kept in .*file/one .*; set --storage"):
        Storage(tmp_path / "file", "one")
    with pytest.raises(UserError, match="cannot be kept in nowhere://a/one"):
        Storage("nowhere://a", "one")


def test_a_cluster_that_cannot_be_reached_is_one_sentence(monkeypatch):
    class Ray:
        @staticmethod
        def is_initialized():
            return False

        @staticmethod
        def init(**options):
            raise ConnectionError("Failed to connect.")

        @staticmethod
        def shutdown():
            pass

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with (
        pytest.raises(UserError, match=r"RAY_ADDRESS=10.0.0.1:6379 cannot be reached \(Failed"),
        devices.connected(Ray),
    ):
        pass
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(UserError, match=r"Ray does not start \(Failed"), devices.connected(Ray):
        pass


def test_a_ray_that_does_not_start_at_once_is_tried_again(monkeypatch):
    tries = []

    class Ray:
        @staticmethod
        def init(**options):
            tries.append(options)
            if len(tries) == 1:
                raise Exception("The current node timed out during startup.")

        @staticmethod
        def shutdown():
            pass

    devices._start(Ray, {"address": "local"}, tries=2)
    assert len(tries) == 2


def test_a_configuration_does_not_hide_gpus_from_ray(monkeypatch, tiny_config):
    from recbole_llmemb.core.devices import preserve_cuda_visible_devices

    for visible in ("0,1", None):
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with preserve_cuda_visible_devices():
            tiny_config(gpu_id="0", use_gpu=True)
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


# -- figures ------------------------------------------------------------------------------


def test_labels_of_figures_do_not_overlap():
    pytest.importorskip("matplotlib")
    ways = ["whitened_cosine", "longtail", "residual_init", "both_cosine", "text_cosine"]
    space = read_space({
        "learning_rate": {"loguniform": [1e-6, 1e-2]},
        "weight_decay": {"loguniform": [3e-4, 5e-3]},
        "dropout": {"uniform": [0.0, 0.35]},
        "preset": {"choice": ways},
        "size": {"choice": [16, 32, 64, 128, 256]},
    })  # fmt: skip
    plan = SimpleNamespace(metric=Metric("ndcg@10", None, "max"), model="M", dataset="d")
    drawn = {"learning_rate": 1e-4, "weight_decay": 1e-3, "dropout": 0.1, "size": 64}
    trials = [Trial(n, {**drawn, "preset": way}, score=n / 10) for n, way in enumerate(ways, 1)]
    found = SimpleNamespace(trials=trials, best=trials[-1])
    for figure in (_parameters(plan, space, found), _parallel(plan, space, found)):
        figure.canvas.draw()
        for axes in figure.axes:
            texts = [text for text in [*axes.get_xticklabels(), *axes.texts] if text.get_text()]
            if axes.get_visible() and axes.axison:
                left, right = axes.get_xlim()
                texts = [text for text in texts if left <= text.get_position()[0] <= right]
            boxes = [text.get_window_extent() for text in texts if axes.get_visible()]
            pairs = itertools.combinations(boxes, 2)
            assert not any(one.overlaps(other) for one, other in pairs), axes.get_xlabel()


def test_what_came_of_a_trial_is_read_from_its_checkpoint(tmp_path):
    """Ray gives no rows where its own file of them is damaged, and has no checksum of it."""
    rows = [{"epoch": n, "score": n / 10, "best_epoch": n, "ndcg@10": n / 10} for n in (1, 2)]
    checkpoint.save({"rows": rows, "settings": {"n_layers": 2}}, tmp_path / EXTRA)
    result = SimpleNamespace(
        metrics={"epoch": 1, "score": 0.9},
        metrics_dataframe=pd.DataFrame(),
        config={"trial": {"number": 3, "settings": {"n_layers": 7}}},
        checkpoint=SimpleNamespace(as_directory=lambda: nullcontext(tmp_path)),
        error=None,
    )
    (trial,) = collect([result], Metric("ndcg@10", None, "max"))
    assert (trial.number, trial.settings, trial.failed) == (3, {"n_layers": 2}, None)
    assert (trial.score, trial.epochs, trial.curve) == (0.2, 2, [(1, 0.1), (2, 0.2)])


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ""])
def test_a_search_has_a_name_and_no_path(capsys, name):
    assert main(["tune", "--model=LLMEmbSASRec", "--space=x.yaml", f"--name={name}"]) == 2
    assert "--name" in capsys.readouterr().err


# -- a scheduler that is continued ----------------------------------------------------------


def _halving():
    found = Halving(time_attr="epoch", max_t=18, grace_period=2, reduction_factor=3)
    found.set_search_properties("score", "max")
    return found


def _noted(folder, number, scores, noted=None):
    """A trial as Ray restores it: scores by epoch in its checkpoint, of which some are noted."""
    rows = [{"epoch": epoch, "score": score} for epoch, score in enumerate(scores, 1)]
    (folder / f"trial_{number}" / "checkpoint_000001").mkdir(parents=True)
    newest = folder / f"trial_{number}" / "checkpoint_000001"
    checkpoint.save({"rows": rows, "number": number}, newest / EXTRA)
    return SimpleNamespace(
        trial_id=f"id{number}",
        config={"trial": {"number": number, "settings": {}}},
        last_result=rows[(noted or len(rows)) - 1],
        checkpoint=tune.Checkpoint.from_directory(newest),
    )


def test_a_continued_search_stops_trials_by_those_before(tmp_path):
    scores = {1: [0.1, 0.2, 0.3, 0.3, 0.3, 0.9], 2: [0.1, 0.4], 3: [0.3, 0.3, 0.3]}
    whole, later = _halving(), _halving()
    for number, reached in scores.items():
        trial = _noted(tmp_path, number, reached)
        whole.on_trial_add(None, SimpleNamespace(trial_id=trial.trial_id, last_result={}))
        for epoch, score in enumerate(reached, 1):
            whole.on_trial_result(None, trial, {"epoch": epoch, "score": score})
        later.on_trial_add(None, trial)
    fresh = SimpleNamespace(trial_id="new", last_result=None)
    assert [bracket._rungs for bracket in later._brackets] == [
        bracket._rungs for bracket in whole._brackets
    ]
    later.on_trial_add(None, fresh)
    assert later.on_trial_result(None, fresh, {"epoch": 1, "score": 0.1}) == "CONTINUE"
    assert later.on_trial_result(None, fresh, {"epoch": 2, "score": 0.3}) == "STOP"


def test_what_ray_has_not_noted_of_a_trial_is_decided_when_it_comes_again(tmp_path):
    later, trial = _halving(), _noted(tmp_path, 1, [0.1, 0.2, 0.3], noted=1)
    later.on_trial_add(None, trial)
    assert not any(recorded for _, recorded in later._brackets[0]._rungs)


def test_of_a_trial_whose_checkpoint_is_damaged_the_last_result_counts(tmp_path):
    later, trial = _halving(), _noted(tmp_path, 1, [0.1, 0.2, 0.3])
    (tmp_path / "trial_1" / "checkpoint_000001" / EXTRA).write_bytes(b"half")
    later.on_trial_add(None, trial)
    assert [recorded for _, recorded in later._brackets[0]._rungs if recorded] == [{"id1": 0.3}]
