"""The results table and the JSON file."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import recbole_llmemb  # noqa: F401
from recbole_llmemb.core import files
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.run.result import (
    RunResult,
    check_writable,
    plain,
    results_table,
    write_result_json,
)

GROUPS = {
    "tail_items": {"users": 3, "ndcg@10": 0.25, "hit@10": 0.5},
    "head_items": {"users": 1197, "ndcg@10": 0.5, "hit@10": 0.75},
    "short_users": {"users": 0, "ndcg@10": None, "hit@10": None},
    "long_users": {"users": 1200, "ndcg@10": 0.125, "hit@10": 0.25},
}
PARTS = {
    "model": "LLMEmbSASRec",
    "dataset": "ml-100k",
    "seed": 2020,
    "best_valid_result": {"ndcg@10": np.float64(0.5)},
    "test_result": {"ndcg@10": torch.tensor(0.25), "gauc": float("nan")},
    "groups": GROUPS,
    "seconds": {"train": 1.5, "evaluate": np.float32(0.5)},
    "epochs": np.int64(3),
    "parameters": {"trainable": 10, "frozen": 20},
}


def test_table():
    table = results_table(
        {"ndcg@10": 0.375, "hit@10": 0.5},
        {"ndcg@10": 0.3, "hit@10": 0.4},
        GROUPS,
        labels={"tail_items": "tail items (< 4)"},
        valid_users=1200,
    )
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["users", "ndcg@10", "hit@10"]
    assert lines[2] == ["validation,", "all", "1,200", "0.3750", "0.5000"]
    assert lines[3] == ["test,", "all", "1,200", "0.3000", "0.4000"]
    assert lines[4] == ["tail", "items", "(<", "4)", "3", "0.2500", "0.5000"]
    assert lines[5] == ["head", "items", "1,197", "0.5000", "0.7500"]
    assert lines[6] == ["short", "users", "0", "-", "-"]
    assert lines[7] == ["long", "users", "1,200", "0.1250", "0.2500"]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_table_without_groups_can_be_told_the_numbers_of_users():
    table = results_table({"hit@10": 0.5}, {"hit@10": 0.4}, None, valid_users=3, test_users=1200)
    assert [line.split()[2] for line in table.splitlines()[2:]] == ["3", "1,200"]


def test_table_columns_can_be_chosen():
    table = results_table(None, {"ndcg@10": 0.3, "hit@10": 0.4}, GROUPS, metrics=["Hit@10"])
    assert table.splitlines()[0].split() == ["users", "hit@10"]
    assert "validation" not in table
    assert "0.4000" in table and "0.3000" not in table


def test_json_follows_the_contract(tmp_path):
    path = tmp_path / "out.json"
    path.write_text("old")
    RunResult(**PARTS).write(path)
    result = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert len(result.pop("sha256")) == 64
    assert result == {
        "model": "LLMEmbSASRec",
        "dataset": "ml-100k",
        "seed": 2020,
        "best_valid_result": {"ndcg@10": 0.5},
        "test_result": {"ndcg@10": 0.25, "gauc": None},
        "groups": GROUPS,
        "seconds": {
            "prepare": None,
            "encode": None,
            "teacher": None,
            "train": 1.5,
            "train_per_epoch": None,
            "evaluate": 0.5,
        },
        "epochs": 3,
        "parameters": {"trainable": 10, "frozen": 20},
    }
    assert os.listdir(tmp_path) == ["out.json"]
    RunResult(**PARTS, valid_groups=GROUPS).write(path)
    assert json.loads(path.read_text())["valid_groups"] == GROUPS


def test_json_keys_outside_the_contract_are_refused(tmp_path):
    with pytest.raises(ValueError, match="warmup"):
        RunResult(**{**PARTS, "seconds": {"warmup": 1.0}}).write(tmp_path / "out.json")
    with pytest.raises(ValueError, match="warmup"):
        RunResult(**PARTS, warmup=1.0)
    assert os.listdir(tmp_path) == []


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    path.write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        RunResult(**PARTS).write(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.json"]


def test_link_keeps_pointing_to_its_file(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    RunResult(**PARTS).write(link)
    assert link.is_symlink()
    assert json.loads(real.read_text())["epochs"] == 3


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="no device files here")
def test_device_file_is_written_to_and_not_replaced():
    check_writable("/dev/null")
    RunResult(**PARTS).write("/dev/null")
    assert not os.path.isfile("/dev/null")


def test_something_else_than_results_is_not_replaced(tmp_path):
    path = tmp_path / "model.pth"
    other = (
        b"PK\x03\x04",
        b"epochs: 3\n",
        b"user_id:token\titem_id:token\n",
        b'{"name": "mine"}',
        b"{",
    )
    for content in [*other, b'{"name": "mine"}']:
        path.write_bytes(content)
        with pytest.raises(UserError, match="model.pth"):
            check_writable(path)
        assert path.read_bytes() == content
    for content in (b"", b"\n", b'{"model": "M", "test_result": {}}'):
        path.write_bytes(content)
        check_writable(path)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no shared memory here")
def test_shared_memory_holds_files_and_no_devices():
    path = Path(f"/dev/shm/recbole-llmemb-{os.getpid()}.inter")
    path.write_text("user_id:token\n")
    try:
        with pytest.raises(UserError, match="shm"):
            check_writable(path)
        with files.atomic_file(path) as fresh:
            assert fresh != path
    finally:
        path.unlink()


def test_writability_is_checked_up_front(tmp_path):
    path = tmp_path / "new" / "folder" / "out.json"
    check_writable(path)
    assert os.listdir(path.parent) == []
    RunResult(**PARTS).write(path)
    check_writable(path)
    assert json.loads(path.read_text())["epochs"] == 3


def test_unwritable_paths_are_told_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "out.json"):
        with pytest.raises(UserError, match="result_json") as error:
            check_writable(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(
    sys.platform == "win32" or (hasattr(os, "geteuid") and os.geteuid() == 0),
    reason="root may write everywhere",
)
def test_read_only_folder(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match="Permission denied"):
        check_writable(folder / "out.json")


def test_what_is_written_is_read(tmp_path):
    """Files beside it are named from its folder, whoever reads it and wherever."""
    point = {"epoch": 0, "train_loss": [1.5, float("nan")], "valid_score": 0.5, "seconds": 1.0}
    written = RunResult(
        **PARTS, config={"a": 1}, curve=[point], bins={}, tested={},
        users_file=tmp_path / "r.users", checkpoint=tmp_path / "saved" / "m.pth",
    )  # fmt: skip
    path = tmp_path / "out" / "r.json"
    written.write(path)
    content = json.loads(path.read_text())
    assert content["checkpoint"] == "../saved/m.pth" and content["users_file"] == "../r.users"
    assert content == written.content(path) and "checkpoint" not in written.content()
    os.rename(tmp_path / "out", tmp_path / "moved")
    read = RunResult.read(tmp_path / "moved" / "r.json")
    assert read.checkpoint.resolve() == tmp_path / "saved" / "m.pth"
    assert (
        read.groups == GROUPS and read.rows == 1200 and read.test == {"ndcg@10": 0.25, "gauc": None}
    )
    again = read.content(path.with_name("s.json"))
    assert again.pop("sha256") != content.pop("sha256")
    assert again == {
        **content, "config": {"exclude_history": False, "a": 1}, "users_file": "../r.users",
    }  # fmt: skip


def test_older_files_hold_less(tmp_path):
    path = tmp_path / "older-7.json"
    path.write_text('{"model": "M", "dataset": "d", "seed": 7, "test_result": {"NDCG@10": 1}}')
    read = RunResult.read(path)
    assert (read.name, read.test, read.rows) == ("older", {"ndcg@10": 1}, None)
    assert (read.groups, read.config, read.curve, read.bins, read.checkpoint) == (
        {},
        {},
        [],
        {},
        None,
    )


def test_the_older_way_to_write(tmp_path):
    with pytest.warns(DeprecationWarning, match="RunResult"):
        write_result_json(tmp_path / "r.json", **PARTS, checkpoint="saved/m.pth")
    assert json.loads((tmp_path / "r.json").read_text())["checkpoint"] == "saved/m.pth"


def test_plain_refuses_what_json_cannot_hold():
    assert plain({"a": [np.float32(0.5), float("inf"), True, None]}) == {
        "a": [0.5, None, True, None]
    }
    with pytest.raises(TypeError, match="set"):
        plain({1, 2})


def test_a_flipped_result_file_is_not_believed(tmp_path):
    """Nor one whose numbers were edited; without its digest it is taken as it is."""
    path = tmp_path / "out.json"
    RunResult(**PARTS).write(path)
    before = RunResult.read(path).test_result
    path.write_text(path.read_text().replace("0.25", "0.26", 1))
    with pytest.raises(UserError) as refused:
        RunResult.read(path)
    assert refused.value.where == str(path)
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert RunResult.read(path).test_result.keys() == before.keys()


def test_a_flipped_file_of_users_is_not_believed(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save

    from recbole_llmemb.run.per_user import _digest, read_users

    path, text = tmp_path / "out.users.safetensors", np.frombuffer(b"a\nb\n", np.uint8)
    two = np.array([1, 2])
    tensors = {"user": text, "item": text, "popularity": two, "history": two}
    tensors["metric.hit@5"] = np.array([0.0, 1.0], np.float32)
    about = {"format": "recbole-llmemb users 1", "metrics": '["hit@5"]'}
    path.write_bytes(save(tensors, about | {"sha256": _digest(about, tensors)}))
    assert read_users(path).users == ["a", "b"]
    with safe_open(path, "np") as file:
        sealed = file.metadata()
    path.write_bytes(save({**load_file(path), "history": two + 1}, sealed))
    with pytest.raises(UserError) as refused:
        read_users(path)
    assert refused.value.where == str(path)
    path.write_bytes(save(tensors, about))  # of an earlier version
    assert read_users(path).users == ["a", "b"]


@pytest.mark.parametrize("odd", [[], {}, [[1]], {"a": {"b": [1]}}], ids=str)
def test_a_container_where_there_is_none_is_told(tmp_path, odd):
    path = tmp_path / "out.json"
    RunResult(**PARTS, valid_groups=GROUPS).write(path)
    whole = json.loads(path.read_text())
    del whole["sha256"]
    for place in (["checkpoint"], ["users_file"], ["seconds", "train"], ["valid_groups", "x"]):
        content = json.loads(json.dumps(whole))
        inner = content
        for key in place[:-1]:
            inner = inner.setdefault(key, {})
        inner[place[-1]] = odd
        path.write_text(json.dumps(content))
        with pytest.raises(UserError) as refused:
            RunResult.read(path)
        assert refused.value.where == str(path) and place[0] in str(refused.value)


def test_half_a_letter_is_damage(tmp_path):
    path = tmp_path / "out.json"
    path.write_text('{"model": "\\ud800"}')
    with pytest.raises(UserError) as refused:
        RunResult.read(path)
    assert refused.value.where == str(path)
