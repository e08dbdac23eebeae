"""Nothing that lies in a folder or stands in a checkpoint is run."""

from __future__ import annotations

import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation

from recbole_llmemb.errors import UserError
from recbole_llmemb.registry import is_ours


class Marker:
    """An object that, when it is unpickled, makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def marker(tmp_path):
    """A folder that appears when a pickle of ``plant`` is read; it must not."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


@pytest.fixture
def plant(marker):
    """Write such a pickle: ``plant(path)``."""

    def write(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(pickle.dumps(Marker(marker)))
        return str(path)

    return write


CLASSES = ("Dataset", "SequentialDataset", "LazySequentialDataset", "KnowledgeBasedDataset")


@pytest.fixture
def planted(plant):
    """``planted(folder)``: one in every place where RecBole looks into ``checkpoint_dir``."""

    def everywhere(folder, models=("LLMEmbSASRec", "SASRec")):
        names = [f"tiny-{kind}.pth" for kind in CLASSES]
        names += [f"tiny-for-{model}-dataloader.pth" for model in models]
        return [plant(Path(folder) / name) for name in names]

    return everywhere


def test_the_marker_works(tmp_path):
    """That is, the tests below would see a pickle that is read."""
    pickle.loads(pickle.dumps(Marker(tmp_path / "m")))
    assert (tmp_path / "m").is_dir()


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec", "BPR"])
def test_pickles_in_the_folder_of_checkpoints_are_not_read(tiny_config, planted, caplog, model):
    files = planted("saved", ["LLMEmbSASRec", "SASRec", "BPR"])
    config = tiny_config(model)
    dataset = create_dataset(config)
    train, *_ = data_preparation(config, dataset)
    assert dataset.user_num == 41 and len(train.dataset if is_ours(model) else train) > 0
    told = " ".join(record.getMessage() for record in caplog.records if "not read" in record.msg)
    assert f"tiny-for-{model}-dataloader.pth" in told
    assert sum(file in told for file in files) == 2  # one of data, one of loaders


@pytest.mark.parametrize("key", ["dataset_save_path", "dataloaders_save_path"])
def test_pickles_that_a_setting_names_are_not_read(tiny_config, plant, caplog, key):
    config = tiny_config("SASRec", **{key: plant("elsewhere/data.pth")})
    data_preparation(config, create_dataset(config))
    assert "elsewhere/data.pth is not read" in caplog.text


def test_no_pickles_are_written(tiny_config, caplog):
    config = tiny_config("SASRec", save_dataset=True, save_dataloaders=True)
    data_preparation(config, create_dataset(config))
    assert not list(Path("saved").glob("*-*Dataset.pth")) + list(Path("saved").glob("*loader.pth"))
    assert "save_dataset is passed over" in caplog.text
    assert "save_dataloaders is passed over" in caplog.text


def test_a_run_reads_the_file_as_it_is_now(tiny_config, tiny, tmp_path):
    """RecBole's saved data set hid that the file had changed."""
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    lines = (tiny.folder / "tiny.inter").read_text().splitlines()
    rows = []
    for kept in (len(lines), len(lines) - 20):
        (folder / "tiny.inter").write_text("\n".join(lines[:kept]) + "\n")
        config = tiny_config("SASRec", data_path=str(folder.parent), save_dataset=True)
        rows.append(len(create_dataset(config)))
    assert rows == [len(lines) - 1, len(lines) - 21]


# -- settings of RecBole's models that name files, or were run as expressions ---------------


@pytest.mark.parametrize(
    ("model", "settings", "key"),
    [
        ("S3Rec", {"train_stage": "finetune", "item_attribute": "categories"}, "pre_model_path"),
        ("ConvNCF", {"train_method": "after_pretrain"}, "pre_model_path"),
        ("NeuMF", {"use_pretrain": True, "mlp_pretrain_path": ""}, "mf_pretrain_path"),
        ("NAIS", {}, "pretrain_path"),
        ("RaCT", {"train_stage": "finetune"}, "pre_model_path"),
        ("KD_DAGFM", {"phase": "distillation"}, "warm_up"),
        ("LLMEmbS3Rec", {"item_attribute": "categories", "llm_missing": "zero"}, "pre_model_path"),
    ],
)
def test_weights_that_a_setting_names_are_read_as_data(
    tiny_config, marker, tmp_path, monkeypatch, model, settings, key
):
    from recbole.utils import get_model

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # the default of PyTorch < 2.6
    file = tmp_path / "weights.pth"
    torch.save({"state_dict": Marker(marker)}, file)
    columns = {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "item": ["item_id", "categories"],
    }
    config = tiny_config(model, load_col=columns, **settings, **{key: str(file)})
    dataset = create_dataset(config)
    train, *_ = data_preparation(config, dataset)
    with pytest.raises(UserError, match="weights.pth.*pickled Python objects"):
        get_model(model)(config, train._dataset)


def test_the_teacher_of_kd_dagfm_is_a_name(tiny_config, marker):
    from recbole.utils import get_model

    expression = f"__import__('os').mkdir({str(marker)!r}) or CrossNet"
    config = tiny_config("KD_DAGFM")
    dataset = create_dataset(config)
    train, *_ = data_preparation(config, dataset)
    config["teacher"] = expression
    with pytest.raises(UserError, match="teacher is .*CrossNet"):
        get_model("KD_DAGFM")(config, train._dataset)
    config["teacher"] = "CrossNet"
    network = get_model("KD_DAGFM")(config, train._dataset).teacher_network
    assert type(network).__name__ == "CrossNet"


def test_arrays_of_ldiffrec_hold_numbers(tiny_config, tiny, tmp_path, marker):
    from recbole.utils import get_model

    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.inter").write_bytes((tiny.folder / "tiny.inter").read_bytes())
    np.save(folder / "item_emb.npy", np.array([Marker(marker)]), allow_pickle=True)
    config = tiny_config("LDiffRec", data_path=str(folder.parent), n_cate=2)
    train, *_ = data_preparation(config, create_dataset(config))
    with pytest.raises(UserError, match="item_emb.npy"):
        get_model("LDiffRec")(config, train._dataset)


def test_the_choices_of_a_search_are_no_expressions(tmp_path, marker, monkeypatch):
    from recbole.trainer import hyper_tuning

    hp = types.SimpleNamespace(choice=lambda name, values: values)
    monkeypatch.setitem(sys.modules, "hyperopt", types.SimpleNamespace(hp=hp))
    expression = f"[__import__('os').mkdir({str(marker)!r})]"
    (tmp_path / "hyper.test").write_text(f"a choice {expression}\n")
    with pytest.raises(ValueError, match="malformed"):
        hyper_tuning.HyperTuning._build_space_from_file(tmp_path / "hyper.test")
    (tmp_path / "hyper.test").write_text("a choice [0.1, 'b', '[64]']\n")
    space = hyper_tuning.HyperTuning._build_space_from_file(tmp_path / "hyper.test")
    assert space == {"a": [0.1, "b", "[64]"]}


def test_yaml_is_data(tmp_path, marker, capsys):
    from recbole_llmemb.cli.main import main

    (tmp_path / "c.yaml").write_text(f"a: !!python/object/apply:os.mkdir [{marker}]\n")
    assert main(["--model=LLMEmbSASRec", f"--config_files={tmp_path / 'c.yaml'}"]) == 2
    assert "c.yaml" in capsys.readouterr().err
