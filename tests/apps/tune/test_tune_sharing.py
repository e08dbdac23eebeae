"""What trials share: data, files, and where they find them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tune_settings import RATES, plan_of

from recbole_llmemb.apps.tune.plan import make_plan
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
from recbole_llmemb.apps.tune.space import read_space
from recbole_llmemb.run import stages


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
