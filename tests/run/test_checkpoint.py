"""Checkpoints: plain on disk, whole or absent, and enough to rebuild a Config."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from recbole_llmemb import compat
from recbole_llmemb.config.recbole_config import config_from_plain, config_to_plain, without_argv
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import DamagedError, UserError

compat.apply()


class Thing:
    """Stands for any object that pickle would have to store by reference."""


def test_what_is_saved_comes_back(tmp_path):
    module = torch.nn.BatchNorm1d(3)
    state = {
        "state_dict": module.state_dict(),
        "optimizer": torch.optim.Adam(module.parameters()).state_dict(),
        "score": np.float64(0.25),
        "count": np.int64(7),
        "flag": np.bool_(True),
        "nested": {"pair": (1, "a"), "list": [None, 2.5], 3: "integer key"},
    }
    checkpoint.save(state, tmp_path / "new" / "a.pth")
    raw = torch.load(tmp_path / "new" / "a.pth", weights_only=True)
    assert type(raw["score"]) is float and type(raw["count"]) is int and raw["flag"] is True
    back = checkpoint.load(tmp_path / "new" / "a.pth")
    assert back["nested"] == state["nested"]
    assert isinstance(back["state_dict"], OrderedDict)
    assert back["state_dict"]._metadata[""] == {"version": 2}
    for key, value in module.state_dict().items():
        assert torch.equal(back["state_dict"][key], value)
    assert os.listdir(tmp_path / "new") == ["a.pth"]


def test_arrays_and_sparse_matrices_come_back_as_they_were(tmp_path):
    dense = np.arange(6, dtype=np.float32).reshape(2, 3)
    state = {
        "array": dense,
        "matrix": np.asmatrix(dense),
        "csr": scipy.sparse.csr_matrix(dense),
        "csc": scipy.sparse.csc_array(dense),
    }
    checkpoint.save(state, tmp_path / "a.pth")
    back = checkpoint.load(tmp_path / "a.pth")
    assert back["array"].dtype == np.float32
    assert {key: type(value) for key, value in back.items()} == {
        key: type(value) for key, value in state.items()
    }
    for key in ("csr", "csc"):
        np.testing.assert_array_equal(back[key].toarray(), dense)
    np.testing.assert_array_equal(back["matrix"], dense)


def test_an_object_is_refused_by_name_and_leaves_no_file(tmp_path):
    with pytest.raises(UserError, match=r"'extra\.inner\[1\]' is a Thing"):
        checkpoint.save({"extra": {"inner": [1, Thing()]}}, tmp_path / "a.pth")
    assert not any(tmp_path.iterdir())


def test_a_failed_write_keeps_the_file_before_it(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    checkpoint.save({"epoch": 1}, path)

    def full_disk(state, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match="No space"):
        checkpoint.save({"epoch": 2}, path)
    monkeypatch.undo()
    assert checkpoint.load(path) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["a.pth"]


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="There is no checkpoint at"):
        checkpoint.load(tmp_path / "absent.pth")


DISKS = b"PK\x06\x07" + b"\0\0\0\0" + bytes(8) + b"\2\0\0\0" + b"PK\x05\x06" + bytes(18)


@pytest.mark.parametrize("kept", [0, 3, 200, 4000, -40])
def test_damaged_file(tmp_path, kept):
    path = tmp_path / "a.pth"
    checkpoint.save({"weight": torch.arange(1000)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(path)


# The last one: the end of a zip archive of two disks.
@pytest.mark.parametrize("data", [b"weights of a model\n", b"junk", b"X\x01", b"(R", DISKS])
def test_other_files_are_no_checkpoints(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(tmp_path / "a.pth")


def test_bare_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "a.pth")
    with pytest.raises(UserError, match="holds a Tensor"):
        checkpoint.load(tmp_path / "a.pth")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "how", [{"pickle_protocol": 4}, {}, {"_use_new_zipfile_serialization": False}]
)
def test_pickled_objects_are_refused_unread(tmp_path, how):
    sprung = tmp_path / "sprung"
    torch.save({"config": Trap(sprung)}, tmp_path / "a.pth", **how)
    with pytest.raises(UserError, match="holds pickled Python objects") as caught:
        checkpoint.load(tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert not sprung.exists()


def build_config(**settings):
    from recbole.config import Config

    with without_argv():
        return Config(model="SASRec", dataset="somewhere", config_dict=settings)


def test_config_comes_back_equal(tmp_path):
    config = build_config(
        data_path=str(tmp_path),
        train_neg_sample_args=None,
        learning_rate=1e-4,
        topk=[5, 20],
        eval_args={"mode": "uni100"},
        clip_grad_norm={"max_norm": np.float64(5.0)},
        note="[1, 2",
        val_interval={"rating": "[3,inf)"},
    )
    (tmp_path / "somewhere").mkdir()
    config["added_later"] = Path("a/b")
    plain = config_to_plain(config)
    checkpoint.save({"config": plain}, tmp_path / "a.pth")
    again = config_from_plain(checkpoint.load(tmp_path / "a.pth")["config"])
    assert type(again) is type(config)
    config["added_later"] = "a/b"
    assert again.final_config_dict == config.final_config_dict
    assert again["data_path"] == str(tmp_path / "somewhere")
    assert again["MODEL_TYPE"] is config["MODEL_TYPE"]
    assert again["device"] == config["device"]


def test_config_keeps_negative_sampling(tmp_path):
    config = build_config(
        data_path=str(tmp_path), loss_type="BPR", train_neg_sample_args={"sample_num": 3}
    )
    again = config_from_plain(config_to_plain(config))
    assert again["train_neg_sample_args"]["sample_num"] == 3
    assert again["train_neg_sample_args"] == config["train_neg_sample_args"]
    assert again["MODEL_INPUT_TYPE"] is config["MODEL_INPUT_TYPE"]


def test_config_finds_the_bundled_data_on_another_machine():
    from recbole.config import Config

    with without_argv():
        config = Config(model="BPR", dataset="ml-100k")
    plain = config_to_plain(config)
    plain["data_path"] = "/nowhere/recbole/config/../dataset_example/ml-100k"
    assert config_from_plain(plain)["data_path"] == config["data_path"]


def test_config_of_one_process_of_many_is_rebuilt_for_one(tmp_path):
    config = build_config(data_path=str(tmp_path), train_neg_sample_args=None)
    config["local_rank"], config["single_spec"] = 0, False
    again = config_from_plain(config_to_plain(config))
    assert again["single_spec"] is True


def test_config_strings_are_never_evaluated(tmp_path):
    sprung = tmp_path / "sprung"
    config = build_config(data_path=str(tmp_path), train_neg_sample_args=None)
    plain = config_to_plain(config)
    plain["note"] = f"__import__('pathlib').Path({str(sprung)!r}).touch()"
    assert config_from_plain(plain)["note"] == plain["note"]
    assert not sprung.exists()


def test_config_is_rebuilt_without_the_command_line(tmp_path, monkeypatch):
    config = build_config(data_path=str(tmp_path), train_neg_sample_args=None, epochs=3)
    monkeypatch.setattr(sys, "argv", ["program", "--epochs=99", "--new_key=1"])
    again = config_from_plain(config_to_plain(config))
    assert again["epochs"] == 3
    assert "new_key" not in again
    assert sys.argv == ["program", "--epochs=99", "--new_key=1"]


def test_config_entry_that_is_no_data_is_named(tmp_path):
    config = build_config(data_path=str(tmp_path), train_neg_sample_args=None)
    config["callback"] = {"after": len}
    with pytest.raises(UserError, match=r"'config\.callback\.after' is a builtin"):
        config_to_plain(config)


def test_config_of_an_unknown_model(tmp_path):
    config = build_config(data_path=str(tmp_path), train_neg_sample_args=None)
    plain = config_to_plain(config)
    plain["model"] = "NobodysRec"
    with pytest.raises(UserError, match="'NobodysRec' is not known to RecBole"):
        config_from_plain(plain)
    del plain["model"]
    with pytest.raises(UserError, match="has no 'model'"):
        config_from_plain(plain)


def _itself():
    """A list in itself, which a pickle can say."""
    found = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    "value",
    [
        _itself(),
        {"__recbole_llmemb__": "array"},
        {"__recbole_llmemb__": "sparse", "data": torch.ones(1), "row": torch.tensor([5]),
         "column": torch.tensor([0]), "shape": (2, 2), "is_array": True, "format": "csr"},
    ],
)  # fmt: skip
def test_entries_that_nobody_wrote_are_damage(tmp_path, value):
    torch.save({"a": value}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="a.pth.*damaged"):
        checkpoint.load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "state",
    [
        {"config": 3},
        {"config": {}, "state_dict": 3},
        {"state_dict": None},
        {"state_dict": {3: torch.zeros(1)}},
        {"item_tokens": [["a"]]},
        {"item_tokens": torch.zeros(2)},
        {"other_parameter": [1]},
        {"item_tokens": {"a": 1}},
        {"user_tokens": {"a": 1}},
        {"config": {"eval_args": "x"}},
        {"config": {"eval_args": None}},
        {"config": {"llm_table_used": "x"}},
        {"config": {"teacher_used": {"path": 3}}},
    ],
)
def test_entries_of_other_kinds_are_damage(tmp_path, state):
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match="a.pth.*damaged"):
        checkpoint.load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "changed", [{"dataset": ["a"]}, {"metrics": 3}, {"model": 3}, {"eval_args": 3}]
)
def test_settings_of_other_kinds_are_told(tiny_config, changed):
    plain = config_to_plain(tiny_config())
    with pytest.raises(UserError):
        config_from_plain({**plain, **changed})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [True, False])
def test_bytes_that_changed_are_damage(tmp_path, zipped):
    file = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3), "b": [1, "x"]}, file, _use_new_zipfile_serialization=zipped)
    whole, draw = file.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        changed = np.frombuffer(whole, np.uint8).copy()
        changed[draw.integers(min(len(whole), 600), size=2)] = draw.integers(256, size=2)
        file.write_bytes(changed.tobytes())
        with contextlib.suppress(UserError):
            checkpoint.load(file)


def test_a_part_that_is_marked_as_a_folder_is_damage(tmp_path):
    """PyTorch reads nothing of it, and says nothing."""
    file = tmp_path / "a.pth"
    checkpoint.save({"a": torch.ones(3)}, file)
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        start, count = archive.start_dir, len(archive.infolist())
    for _ in range(count):
        changed = bytearray(whole)
        changed[start + 38] |= 0x10  # of the attributes, in the archive's list of contents
        file.write_bytes(changed)
        with pytest.raises(DamagedError):
            checkpoint.load(file)
        assert not checkpoint.is_whole(file)
        name, extra, comment = struct.unpack("<HHH", whole[start + 28 : start + 34])
        start += 46 + name + extra + comment
