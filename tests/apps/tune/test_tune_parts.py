"""The parts of a search that need no Ray cluster."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import child_env

from recbole_llmemb.apps.tune import SearchOptions, require_ray
from recbole_llmemb.apps.tune.plan import Metric, Plan, make_plan
from recbole_llmemb.apps.tune.prepare import (
    Files,
    _marks,
    data_key,
    load_data,
    pack,
    pack_data,
    prepare,
    read_beside,
    unpack,
)
from recbole_llmemb.apps.tune.report import _parallel, _parameters
from recbole_llmemb.apps.tune.searching import Storage
from recbole_llmemb.apps.tune.space import read_space
from recbole_llmemb.apps.tune.trial import EXTRA
from recbole_llmemb.apps.tune.tuning import Trial, best_of, collect
from recbole_llmemb.cli.main import main
from recbole_llmemb.cli.tune import _space, read_arguments
from recbole_llmemb.config.values import properties_folder
from recbole_llmemb.core import checkpoint, devices
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.run import stages

RATES = {"learning_rate": {"choice": [0.001, 0.01]}}


def plan_of(settings, space=RATES, model="LLMEmbSASRec", metric=None):
    foreign = ("embedding_size", "num_layers", "dropout_prob")  # that no SASRec knows
    settings = {key: value for key, value in settings(model).items() if key not in foreign}
    return make_plan(model, "tiny", (), settings, read_space(space), metric)


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


# -- the plan ---------------------------------------------------------------------------


def test_the_metric_is_what_early_stopping_watches(tiny_settings):
    plan, config = plan_of(tiny_settings, metric="Hit@5")
    assert plan.metric == Metric("hit@5", None, "max")
    assert plan.settings["valid_metric"] == "Hit@5" == config["valid_metric"]
    plan, config = plan_of(tiny_settings)
    assert plan.metric.name == "ndcg@10" and config["valid_metric"] == "NDCG@10"


def test_a_metric_of_a_group_leaves_early_stopping_alone(tiny_settings):
    plan, _ = plan_of(tiny_settings, metric="tail_items ndcg@10")
    assert plan.metric == Metric("tail_items ndcg@10", "tail_items", "max")
    assert plan.settings["valid_metric"] == "NDCG@10"


def test_where_less_is_better_the_search_minimizes(tiny_settings):
    settings = tiny_settings("LLMEmbSASRec", metrics=["NDCG", "GiniIndex"])
    plan, _ = make_plan("LLMEmbSASRec", "tiny", (), settings, read_space(RATES), "giniindex@10")
    assert plan.metric.mode == "min"
    # Whatever early stopping watches meanwhile.
    asked = "tail_items averagepopularity@10", "tail_items ndcg@10"
    watched = {"metrics": ["NDCG", "AveragePopularity"], "valid_metric": "NDCG@10"}
    for watched["valid_metric"] in ("NDCG@10", "AveragePopularity@10"):
        settings = tiny_settings("LLMEmbSASRec", **watched)
        plans = [make_plan("LLMEmbSASRec", "tiny", (), settings, None, one)[0] for one in asked]
        assert [plan.metric.mode for plan in plans] == ["min", "max"]


def test_the_cache_is_one_folder_for_all_trials(tiny_settings, tmp_path, monkeypatch):
    """Trials run in folders of their own; a cache that is not there yet is meant as well."""
    settings = tiny_settings("LLMEmbSASRec", llm_cache_dir="my_cache")
    plan, _ = make_plan("LLMEmbSASRec", "tiny", (), settings)
    assert plan.settings["llm_cache_dir"] == str(tmp_path / "my_cache")
    monkeypatch.setenv("RECBOLE_LLMEMB_CACHE", "another")
    settings["llm_cache_dir"] = None
    plan, _ = make_plan("LLMEmbSASRec", "tiny", (), settings)
    assert plan.settings["llm_cache_dir"] == str(tmp_path / "another")


@pytest.mark.parametrize(
    ("metric", "model", "message"),
    [
        ("recall@10", "LLMEmbSASRec", "'recall@10'; it must be one of hit@5"),
        ("ndcg@7", "LLMEmbSASRec", "'ndcg@7'; it must be one of"),
        ("rare_items ndcg@10", "LLMEmbSASRec", "group 'rare_items'; it must be one of tail_items"),
        ("tail_items ndcg@10", "SASRec", "RecBole's SASRec has no groups"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused(tiny_settings, metric, model, message):
    with pytest.raises(UserError, match=message):
        plan_of(tiny_settings, model=model, metric=metric)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning_rat": {"choice": [1]}}, "learning_rat is no configuration key of LLMEmbSASRec; "
         "did you mean learning_rate"),
        ({"hidden_size": {"choice": [8]}}, "hidden_size is both set and searched"),
        ({"dataset": {"choice": ["a"]}}, "dataset cannot be searched"),
        ({"checkpoint_dir": {"choice": ["a"]}}, "checkpoint_dir cannot be searched"),
        ({"holdout_items": {"choice": [0.1]}}, "holdout_items cannot be searched"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_searched_is_named(tiny_settings, space, message):
    with pytest.raises(UserError, match=message):
        plan_of(tiny_settings, space)


def test_how_scores_are_rounded_cannot_be_searched(tiny_settings):
    def settings(model):
        return {key: v for key, v in tiny_settings(model).items() if key != "metric_decimal_place"}

    with pytest.raises(UserError, match="metric_decimal_place cannot be searched"):
        plan_of(settings, {"metric_decimal_place": {"choice": [1, 4]}})


def test_trials_share_one_teacher_whatever_they_search(tiny_settings, tiny_config):
    """A teacher learns with the settings of its run: these stay those of the search."""
    from recbole_llmemb.config.recbole_config import make_config
    from recbole_llmemb.run.stages import run_key
    from recbole_llmemb.run.teacher import teacher_config

    settings = tiny_settings("LLMEmbSASRec", align_weight=0.1, learning_rate=0.005)
    del settings["learning_rate"]
    plan, config = make_plan("LLMEmbSASRec", "tiny", (), settings, read_space(RATES))
    assert plan.fixed_teacher_settings == {"epochs": 2, "learning_rate": 0.001}
    keys = set()
    for chosen in ({"learning_rate": 0.001}, {"learning_rate": 0.01}):
        one = make_config("LLMEmbSASRec", "tiny", overrides=plan.values(chosen))
        keys.add(run_key(teacher_config(one, 8)))
    keys.add(run_key(teacher_config(config, 8)))
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_samples", 0),
        ("max_concurrent", 1.5),
        ("gpus_per_trial", -1),
        ("scheduler", "hyperband"),
        ("search", "grid"),
        ("grace_epochs", 0),
        ("grace_epochs", "abc"),
        ("resume", "no"),
    ],
)
def test_wrong_options_are_named(option, value):
    with pytest.raises(UserError) as refused:
        SearchOptions(**{option: value})
    assert refused.value.key == option and str(value) in str(refused.value)


def test_options_of_a_search_are_told_from_keys_of_the_configuration():
    options, settings = read_arguments(
        ["--model=LLMEmbSASRec", "--space", "a.yaml", "--scheduler=none", "--name=2026", "--resume",
         "--gpus_per_trial=0.5", "--epochs", "5", "--seed=1", "--num_samples=3"]
    )  # fmt: skip
    assert options == {
        "model": "LLMEmbSASRec", "space": "a.yaml", "scheduler": "none", "name": "2026",
        "resume": True, "gpus_per_trial": 0.5, "num_samples": 3,
    }  # fmt: skip
    assert settings == {"epochs": 5, "seed": 1}


def test_a_space_of_ours_goes_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(_space("llmemb")).samefile(properties_folder() / "tune/llmemb.yaml")
    assert _space("gone.yaml") == "gone.yaml"  # which the search refuses
    Path("llmemb").write_text("n_layers: [1, 2]")  # a file of somebody's comes first
    assert _space("llmemb") == "llmemb"
    with pytest.raises(UserError) as refused:
        _space("llmenb")
    assert refused.value.key == "space"


@pytest.mark.parametrize(
    ("argument", "key"),
    [("--result_json=r.json", "result_json"), ("--num_samples=no", "num_samples"),
     ("--search=grid", "search")],
)  # fmt: skip
def test_what_a_search_does_not_do_is_refused(argument, key):
    with pytest.raises(UserError) as refused:
        read_arguments(["--model=LLMEmbSASRec", "--space=a.yaml", argument])
    assert refused.value.key == key


def test_trials_that_no_node_has_room_for_are_refused():
    """Ray would wait for such a node without end."""
    pytest.importorskip("ray.tune")
    from recbole_llmemb.apps.tune.searching import _require_room

    nodes = [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}]
    for fits in ((8, 0), (2, 1), (1, 0.5)):
        _require_room(nodes, *fits)
    for cpus, gpus in ((9, 0), (4, 1), (1, 2)):
        with pytest.raises(UserError, match=f"{cpus} CPUs and {gpus} GPUs, .* 2 CPUs and 1 G"):
            _require_room(nodes, cpus, gpus)


def test_a_search_over_changed_data_is_not_continued(tiny, tiny_settings, tmp_path):
    pytest.importorskip("ray.tune")
    from recbole_llmemb.apps.tune import search

    folder = tmp_path / "data" / "tiny"
    shutil.copytree(tiny.folder, folder)
    settings = tiny_settings("LLMEmbSASRec", data_path=str(folder.parent))
    for key in ("embedding_size", "num_layers", "dropout_prob"):
        settings.pop(key, None)
    begun = {"model": "LLMEmbSASRec", "space": read_space(RATES).plain()}
    Storage(str(tmp_path / "tune"), "one").write(begun | {"data": "another"})
    options = {"storage": tmp_path / "tune", "name": "one", "resume": True}
    settings.pop("learning_rate", None)
    with pytest.raises(UserError, match="begun with other data"):
        search("LLMEmbSASRec", "tiny", RATES, **options, **settings)
    Storage(str(tmp_path / "tune"), "two").write(begun | {"table": "another"})
    with pytest.raises(UserError, match="begun with other table"):
        search("LLMEmbSASRec", "tiny", RATES, **options | {"name": "two"}, **settings)
    Storage(str(tmp_path / "tune"), "three").write(begun | {"settings": {"mine": 3}})
    with pytest.raises(UserError, match="begun with other .*mine") as refused:
        search("LLMEmbSASRec", "tiny", RATES, **options | {"name": "three"}, **settings)
    assert refused.value.key == "name" and "settings" not in str(refused.value)


def test_a_search_that_cannot_go_on_is_told_to_begin(tiny, tiny_settings, tmp_path, monkeypatch):
    """As behind a wrong --name."""
    from recbole_llmemb.apps.tune import search, searching

    def stop(*_):
        raise UserError("far enough")

    monkeypatch.setattr(searching, "prepare", stop)
    settings, lines = tiny_settings("LLMEmbSASRec", data_path=str(tiny.folder.parent)), []
    settings.pop("learning_rate", None)
    options = {"storage": tmp_path / "tune", "name": "one", "report": lines.append}
    for resume in (False, True):
        with pytest.raises(UserError, match="far enough"):
            search("LLMEmbSASRec", "tiny", RATES, resume=resume, **options, **settings)
        assert any(str(tmp_path / "tune") in line for line in lines) == resume


# -- sharing ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "LLMEmbBERT4Rec", "SASRec", "BPR"])
def test_shared_data_give_the_batches_of_data_read_from_files(tiny_config, model):
    overrides = {} if model != "BPR" else {
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "alpha": 1.0,
                                  "dynamic": False, "candidate_num": 0},
    }  # fmt: skip
    config = tiny_config(model, **overrides)
    packed = pack_data(config, stages.prepare_data(config))
    shipped = [_read_only(array) for array in packed]
    config = tiny_config(model, train_batch_size=8, **overrides)  # loaders are the trial's own
    known = {data_key(config): shipped}
    fresh, there = stages.prepare_data(config), load_data(config, known)
    for name in ("train", "valid", "test"):
        torch.manual_seed(0)
        np.random.seed(0)
        expected = list(getattr(fresh, name))
        torch.manual_seed(0)
        np.random.seed(0)
        found = list(getattr(there, name))
        assert len(found) == len(expected) > 0
        for one, other in zip(found, expected):
            one, other = (x[0] if isinstance(x, tuple) else x for x in (one, other))
            assert one.interaction.keys() == other.interaction.keys()
            assert all(torch.equal(one[key], other[key]) for key in one.interaction)


def _read_only(array):
    array = array.copy()
    array.flags.writeable = False  # as Ray hands it out
    return array


def test_data_of_other_settings_are_read_anew(tiny_config, monkeypatch):
    config = tiny_config()
    packed = {data_key(config): pack_data(config, stages.prepare_data(config))}
    calls = []
    prepare = stages.prepare_data
    monkeypatch.setattr(stages, "prepare_data", lambda c: calls.append(c) or prepare(c))
    load_data(tiny_config(learning_rate=0.5), packed)
    assert not calls
    load_data(tiny_config(MAX_ITEM_LIST_LENGTH=4), packed)
    assert len(calls) == 1


def test_what_a_search_reads_beside_its_data_is_known_by_its_content(
    tiny_settings, tiny, tmp_path, monkeypatch
):
    """So that no search goes on over another code, teacher or other titles of the same name."""
    (tmp_path / "theirs_of_tune.py").write_text(
        "from recbole_llmemb.models.losses import BPRLoss\nclass Own(BPRLoss): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(tiny.folder, tmp_path / "tiny")
    teacher = tmp_path / "teacher.pth"
    teacher.write_bytes(b"one")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"]}
    settings = tiny_settings("LLMEmbSASRec", load_col=columns, align_weight=0.1)
    settings |= {"data_path": str(tmp_path), "align_teacher": str(teacher)}
    space = {"loss_type": {"choice": ["BCE", "theirs_of_tune:Own"]}}

    def noted(space=space, **own):
        plan = plan_of(lambda model: {**settings, **own}, space)
        return read_beside(plan[0])

    first = noted()
    assert {key for key in first if first[key]} == {"code", "items", "files"} and noted() == first
    for file in ("theirs_of_tune.py", "tiny/tiny.item", "teacher.pth"):
        path = tmp_path / file
        path.write_bytes(path.read_bytes() + b"\n")
    then = noted()
    assert all(then[key] != first[key] for key in ("code", "items", "files"))
    assert not noted(align_weight=0)["files"]
    config = plan_of(lambda model: {**settings, "align_weight": 0})[1]
    for start, wanted in ((str(teacher), then["files"]), (["no path"], [])):
        config["pre_model_path"] = start
        assert [mark for key, mark in _marks(config, set()) if key == "files"] == wanted
    searched = {"llm_table": {"choice": [settings.pop("llm_table")]}, **space}
    assert noted(searched)["tables"]
    # What trials encode themselves, and titles that are read though no column says so.
    pooling, only = {"llm_pooling": {"choice": ["mean", "last"]}}, {"inter": columns["inter"]}
    before = noted(pooling, load_col=only)
    where = {"data_path": str(tmp_path), "item_input": "text"}
    plan = make_plan("LLMSRec", "tiny", (), where, read_space(RATES))[0]
    theirs = read_beside(plan)
    assert theirs["llm"]
    path = tmp_path / "tiny" / "tiny.item"
    path.write_text(path.read_text().replace("number", "another"))
    assert noted(pooling, load_col=only)["tables"] != before["tables"] != []
    assert read_beside(plan)["items"] != theirs["items"] != []


def test_relative_places_of_a_space_are_found_from_anywhere(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "SASRec").mkdir()  # which is a model's name, too
    space = {"llm_adapter": {"choice": [None, "adapter", "none"]},
             "align_teacher": {"choice": ["SASRec"]}}  # fmt: skip
    plan, _ = plan_of(lambda model: tiny_settings(model) | {"llm_table": None}, space)
    monkeypatch.chdir("/")
    found = [plan.values({"llm_adapter": one})["llm_adapter"] for one in (None, "adapter", "none")]
    assert found == [None, str(tmp_path / "adapter"), "none"]
    assert plan.values({"align_teacher": "SASRec"})["align_teacher"] == "SASRec"
    monkeypatch.chdir(tmp_path)
    own = {"llm_table": None, "llm_adapter": "adapter"}
    plan, _ = plan_of(lambda model: tiny_settings(model) | own)
    assert plan.settings["llm_adapter"] == str(tmp_path / "adapter")


def test_large_arrays_are_not_copied():
    big, small, array = torch.arange(10_000), torch.arange(3), np.arange(10_000.0)
    packed = pack({"a": big, "again": big, "b": small, "c": array})
    assert len(packed) == 4 and packed[0].nbytes < 2_000
    found = unpack(packed)
    assert found["a"].data_ptr() == big.data_ptr() == found["again"].data_ptr()
    assert torch.equal(found["b"], small) and np.shares_memory(found["c"], array)


def test_files_given_by_a_relative_path_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("teacher.pth").write_bytes(b"weights")
    files = Files("teacher.pth")
    (tmp_path / "trial").mkdir()
    monkeypatch.chdir("trial")
    assert files.on_this_node("node") == str(tmp_path / "teacher.pth")
    assert not Path("node").exists()


def test_files_are_put_where_they_are_missing(tmp_path):
    there, node = tmp_path / "table", tmp_path / "node"
    there.mkdir()
    (there / "manifest.json").write_text("one")
    (there / "vectors").write_bytes(bytes(range(256)) * 10)
    files = Files(there)
    assert files.on_this_node(node) == str(there) and not node.exists()
    os.utime(there / "vectors", (1, 1))  # a copy of it
    assert files.on_this_node(node) == str(there) and not node.exists()

    (there / "manifest.json").write_text("two")  # another table at the same place
    elsewhere = files.on_this_node(node)
    assert elsewhere != str(there)
    assert (node / elsewhere / "manifest.json").read_text() == "one"
    assert (node / elsewhere / "vectors").read_bytes() == bytes(range(256)) * 10
    assert files.on_this_node(node) == elsewhere

    single = tmp_path / "teacher.pth"
    single.write_bytes(b"weights")
    files = Files(single)
    single.unlink()
    placed = files.on_this_node(node, inner="tiny")
    assert placed.endswith("/tiny/teacher.pth") and Path(placed).read_bytes() == b"weights"


@pytest.mark.parametrize("size", [2 << 20, 5 << 20])
def test_files_that_differ_at_their_end_are_not_taken_for_each_other(tmp_path, size):
    file, node = tmp_path / "tiny.item", tmp_path / "node"
    kept = []
    for end in (b"old", b"new"):
        file.write_bytes(bytes(size) + end)
        kept.append(Files(file))
    file.write_bytes(bytes(size) + b"one")  # nor for what has taken their place
    for files, end in zip(kept, (b"old", b"new")):
        assert Path(files.on_this_node(node)).read_bytes().endswith(end)


def test_a_node_without_our_files_builds_the_same_model(tiny, tiny_settings, tiny_table, tmp_path):
    """Data, table and teacher travel with what is shared; nothing is read where it was."""
    from recbole_llmemb.apps.tune.trial import trial_config

    here = tmp_path / "here"
    shutil.copytree(tiny.folder, here / "data" / "tiny")
    shutil.copytree(tiny_table, here / "table")
    own = {"data_path": str(here / "data"), "llm_table": str(here / "table")}
    own |= {"align_weight": 0.1, "align_teacher_config": {"epochs": 1}}
    own |= {"llm_cache_dir": str(here / "cache")}
    settings = tiny_settings("LLMEmbSASRec", **own)
    plan, config = make_plan("LLMEmbSASRec", "tiny", (), settings, read_space(RATES))
    prepared = prepare(plan, config, report=lambda line: None)

    def built():
        plan.settings["llm_cache_dir"] = str(tmp_path / "node")
        config = trial_config(prepared, {"learning_rate": 0.01}, tmp_path / "s", {"CPU": 1})
        data = load_data(config, prepared.data)
        model, _ = stages.build(config, data)
        return config, model.state_dict()

    config, expected = built()
    assert config["llm_table"] == str(here / "table")
    here.rename(tmp_path / "gone")
    config, found = built()
    assert config["llm_table"].startswith(str(tmp_path / "node"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


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
