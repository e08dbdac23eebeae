# ruff: noqa: F811 (fixtures come by name)
"""Nothing that lies in a folder or stands in a checkpoint is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from llmsrec_fixtures import cf_model, llms, llmsrec, settings  # noqa: F401
from recbole.data import create_dataset, data_preparation
from serve_runs import encoder, saved  # noqa: F401

from recbole_llmemb.cli.main import main
from recbole_llmemb.config.recbole_config import config_from_plain, config_to_plain
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.source import find_encoder
from recbole_llmemb.models.registry import is_ours
from recbole_llmemb.run.execute import execute
from recbole_llmemb.run.stages import train_and_evaluate
from recbole_llmemb.table import EmbeddingTable


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


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_a_run_reads_no_pickle(tiny_settings, planted, plant, model):
    planted("saved")
    settings = tiny_settings(model, epochs=1, dataset_save_path=plant("theirs.pth"))
    if model == "SASRec":
        settings = {key: settings[key] for key in ("data_path", "load_col", "dataset_save_path")}
        settings |= {"epochs": 1, "train_neg_sample_args": None, "loss_type": "CE"}
    execute({"model": model, "dataset": "tiny", **settings}, report=lambda _: None)


def test_processes_that_recbole_starts_import_this_package():
    """As ``recbole.quick_start.run(nproc=2)`` does, whatever its script imported."""
    from recbole.quick_start import run_recboles

    kept = pickle.dumps(run_recboles)
    assert b"recbole_llmemb.compat" in kept and pickle.loads(kept) is run_recboles


def test_a_trial_of_a_search_reads_no_pickle(tiny_data, planted):
    from recbole_llmemb.apps.tune.prepare import data_key, load_data, pack_data

    planted("saved")
    config, data = tiny_data()
    packed = {data_key(config): pack_data(config, data)}
    again = load_data(config, packed)
    assert len(again.train._dataset) == len(data.train._dataset)


def test_fine_tuning_and_encoding_read_no_pickle(tiny, encoder, planted, capsys):
    planted("saved")
    place = ["--dataset=tiny", f"--data_path={tiny.folder.parent}", f"--encoder={encoder}"]
    assert main(["encode", *place, "--out=table"]) == 0
    assert main(["scft", *place, "--out=adapter", "--steps=1", "--batch_size=2"]) == 0


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


# -- configurations that come out of files --------------------------------------------------

HOSTILE = {
    "llm_trust_remote_code": True,
    "save_dataset": True,
    "save_dataloaders": True,
    "log_wandb": True,
}


@pytest.fixture
def hostile(saved, planted, plant):
    """``hostile(model, **settings)``: a checkpoint that asks for everything that it may not."""

    def make(model="LLMEmbSASRec", **settings):
        path = saved(model)
        state = checkpoint.load(path)
        folder = path.parent / "theirs"
        planted(folder)
        more = {
            "checkpoint_dir": str(folder),
            "dataset_save_path": plant(folder / "data.pth"),
            "dataloaders_save_path": plant(folder / "loaders.pth"),
        }
        state["config"] |= HOSTILE | more | settings
        checkpoint.save(state, path)
        return path

    return make


def test_a_configuration_from_a_file_is_data(tiny_config):
    plain = config_to_plain(tiny_config())
    own = {**HOSTILE, "dataset_save_path": "a.pth", "dataloaders_save_path": "b.pth"}
    config = config_from_plain({**plain, **own, "align_teacher_config": own})
    assert not any(config[key] for key in own)
    assert config["align_teacher_config"] == {}
    elsewhere = {"checkpoint_dir": "/a", "llm_cache_dir": "/b"}
    config = config_from_plain({**plain, **elsewhere})
    assert (config["checkpoint_dir"], config["llm_cache_dir"]) == ("saved", None)
    assert not any(config_from_plain(plain)[key] for key in own)


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec", "LLMEmbBERT4Rec"])
@pytest.mark.parametrize(
    "command",
    [
        ["recommend", "--users=u3"],
        ["export", "--out=exported"],
        ["order-test", "--shuffles=1", "--quiet", "--out=order"],
    ],
)
def test_commands_on_a_checkpoint_run_nothing(hostile, marker, capsys, command, model):
    first, *rest = command
    no_vectors = first == "export" and model == "SASRec"
    assert main([first, f"--checkpoint={hostile(model)}", *rest]) == (2 if no_vectors else 0)


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_load_data_and_model_runs_nothing(hostile, marker, model):
    from recbole.quick_start import load_data_and_model

    config, *_ = load_data_and_model(hostile(model))
    assert config["model"] == model


def test_load_data_and_model_writes_nowhere_else(tiny_settings, tmp_path, monkeypatch):
    """Neither a teacher, which it has already, nor data that RecBole knows where to get."""
    from recbole.quick_start import load_data_and_model

    cache, made = tmp_path / "cache", tmp_path / "made"
    settings = tiny_settings("LLMEmbSASRec", epochs=1, align_weight=0.1, llm_cache_dir=str(cache))
    settings["align_teacher_config"] = {"epochs": 1}
    execute({"model": "LLMEmbSASRec", "dataset": "tiny", **settings}, report=lambda _: None)
    (path,) = Path("saved").glob("*.pth")
    state = checkpoint.load(path)
    state["config"] |= {"checkpoint_dir": str(made), "llm_cache_dir": str(made)}
    checkpoint.save(state, path)
    monkeypatch.setenv("RECBOLE_LLMEMB_CACHE", str(made))
    config, *_ = load_data_and_model(path)
    assert config["align_teacher_used"]["path"].startswith(str(cache)) and not made.exists()

    state["config"] |= {"dataset": "ml-1m", "data_path": str(made / "ml-1m")}
    checkpoint.save(state, path)
    assert config_from_plain(state["config"])["data_path"] == "dataset/ml-1m"


@pytest.mark.parametrize("key", ["unused_col", "alias_of_item_id", "hidden_act"])
def test_settings_that_make_no_sense_are_told(hostile, capsys, key):
    path = hostile("SASRec", **{key: "x"})
    told = []
    for command in (["recommend", "--users=u3"], ["order-test", "--shuffles=1", "--quiet"]):
        assert main([*command, f"--checkpoint={path}"]) in (0, 2)
        told.append(capsys.readouterr().err)
    assert any("error: " in text for text in told)


def test_a_comparison_runs_nothing(hostile, marker, capsys):
    path = hostile()
    results = {"model": "LLMEmbSASRec", "dataset": "tiny", "seed": 1, "checkpoint": path.name,
               "test_result": {"ndcg@10": 0.1}}  # fmt: skip
    (path.parent / "a.json").write_text(json.dumps(results))
    assert main(["compare", str(path.parent / "a.json"), "--out=report"]) == 0
    assert Path("report/figures").is_dir()
    assert [file.name for file in Path("report/figures").iterdir() if "map" in file.name]


@pytest.mark.parametrize("teacher", ["LLMEmbSASRec", "SASRec"])
def test_a_teacher_runs_nothing(hostile, tiny_settings, marker, teacher):
    path = hostile(teacher, item_embedding="id")
    state = checkpoint.load(path)
    state["item_tokens"] = None  # so that its data are read
    weights = torch.randn(61, 8)
    state["state_dict"] = {"item_embedding.weight": weights}
    checkpoint.save(state, path)
    settings = tiny_settings("LLMEmbSASRec", epochs=1, align_weight=0.1, align_teacher=str(path))
    settings["metrics"] = ["NDCG"]
    execute({"model": "LLMEmbSASRec", "dataset": "tiny", **settings}, report=lambda _: None)


def test_the_cf_model_of_llmsrec_runs_nothing(hostile, tiny_data, marker):
    from recbole_llmemb.run.artifacts import teacher_model

    path = hostile("SASRec")
    state = checkpoint.load(path)
    state["item_tokens"] = None
    model, tokens = teacher_model(state, path, tiny_data("SASRec")[1].dataset)
    assert len(tokens) == 61


# -- code that comes with an encoder --------------------------------------------------------

_CODE = """
import pathlib
pathlib.Path({marker!r}).mkdir()
from transformers import PretrainedConfig, PreTrainedModel
class Config(PretrainedConfig):
    model_type = "foreign"
class Model(PreTrainedModel):
    config_class = Config
"""


@pytest.fixture
def foreign(tmp_path, marker, monkeypatch):
    """An encoder's folder whose code makes the marker."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "foreign"
    folder.mkdir()
    settings = {
        "model_type": "foreign",
        "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "code.py").write_text(_CODE.format(marker=str(marker)))
    return folder


@pytest.fixture
def over_foreign(saved, tiny_table, foreign, tmp_path):
    """A checkpoint over a table that says to be of that encoder, and new items for it."""
    source = find_encoder(foreign)
    manifest = {"encoder": str(foreign), "revision": source.revision, "prompt": "",
                "fields": ["title"], "encoder_dtype": "float32"}  # fmt: skip
    table = EmbeddingTable.load(tiny_table)
    EmbeddingTable(table.tokens, table.vectors, manifest).save(tmp_path / "table")
    path = saved(llm_table=str(tmp_path / "table"))
    state = checkpoint.load(path)
    state["config"]["llm_trust_remote_code"] = True
    checkpoint.save(state, path)
    new = tmp_path / "new.item"
    new.write_text("item_id:token\ttitle:token_seq\nnew\tred soap\n")
    return [f"--checkpoint={path}", f"--new_items={new}"]


@pytest.mark.parametrize("command", [["recommend", "--users=u3"], ["export", "--out=exported"]])
def test_a_checkpoint_cannot_have_its_encoders_code_run(over_foreign, marker, capsys, command):
    assert main([*command, *over_foreign]) == 2
    told = capsys.readouterr().err
    assert "foreign" in told and "--trust_remote_code" in told
    assert len(told.strip().splitlines()) == 1


def test_whoever_types_the_command_can(over_foreign, marker, capsys):
    assert main(["recommend", "--users=u3", *over_foreign, "--trust_remote_code"]) == 2
    assert marker.is_dir()  # its code ran, and was found to be no encoder
    marker.rmdir()


def write_json(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def module(kind, path=""):
    return [{"idx": 0, "name": "0", "path": path, "type": kind}]


@pytest.mark.parametrize("kind", ["modules", "router", "words", "dense", "tokenizer", "adapter"])
def test_files_of_an_encoder_name_no_code(foreign, encoder, tmp_path, marker, capsys, kind):
    """Where sentence-transformers, transformers and peft look for names of code."""
    folder = tmp_path / "encoder"
    shutil.copytree(encoder, folder)
    (folder / "code.py").write_bytes((foreign / "code.py").read_bytes())
    theirs = "sentence_transformers.models."
    if kind == "modules":
        write_json(folder / "modules.json", module("code.Model"))
    elif kind == "router":
        write_json(folder / "modules.json", module(theirs + "Router"))
        types = {"a": "code.Model"}
        write_json(folder / "router_config.json", {"types": types, "structure": {"a": ["a"]}})
    elif kind == "words":
        write_json(folder / "modules.json", module(theirs + "WordEmbeddings"))
        write_json(folder / "wordembedding_config.json", {"tokenizer_class": "code.Model"})
    elif kind == "dense":
        write_json(folder / "modules.json", module(theirs + "Dense"))
        settings = {"in_features": 4, "out_features": 4, "bias": True}
        write_json(folder / "config.json", {**settings, "activation_function": "code.Model"})
    elif kind == "tokenizer":
        settings = {"tokenizer_class": "Model", "auto_map": {"AutoTokenizer": ["code.Model", None]}}
        write_json(folder / "tokenizer_config.json", settings)
    else:
        settings = {"peft_type": "LORA", "base_model_name_or_path": str(foreign)}
        write_json(folder / "adapter_config.json", settings)
        (folder / "config.json").unlink()
    (tmp_path / "x.item").write_text("item_id:token\ttitle:token_seq\na\tred soap\n")
    common = [f"--items={tmp_path / 'x.item'}", f"--encoder={folder}"]
    status = main(["encode", *common, f"--out={tmp_path / 'made'}"])
    told = capsys.readouterr().err
    assert status == 2 and len(told.strip().splitlines()) == 1, told
    if kind == "modules":
        assert "--trust_remote_code" in told


_KERNELS = "somebody/kernels"


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("sub/modules.json", module("code.Model")),
        ("modules.json", ["code.Model"]),
        ("config.json", {"_attn_implementation": _KERNELS}),
        ("config.json", {"text_config": {"attn_implementation": _KERNELS}}),
        ("config.json", {"attn_implementation": {"text_config": _KERNELS}}),
        ("sub/sentence_bert_config.json", {"model_args": {"attn_implementation": _KERNELS}}),
        ("sentence_bert_config.json", {"model_kwargs": {"use_kernels": True}}),
        ("adapter_config.json", {"megatron_config": {"a": 1}, "megatron_core": "code"}),
    ],
)
def test_settings_that_libraries_do_not_ask_about_are_refused(
    encoder, tmp_path, marker, capsys, file, settings
):
    """Kernels of the hub are compiled code; other versions of the libraries import the rest."""
    from recbole_llmemb.models.llmsrec.llm import load_llm

    folder = tmp_path / "encoder"
    shutil.copytree(encoder, folder)
    old = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    write_json(folder / file, {**old, **settings} if isinstance(settings, dict) else settings)
    (tmp_path / "x.item").write_text("item_id:token\ttitle:token_seq\na\tred soap\n")
    command = ["encode", f"--items={tmp_path / 'x.item'}", f"--encoder={folder}", "--out=made"]
    assert main(command) == 2
    assert "--trust_remote_code" in capsys.readouterr().err
    config = dict.fromkeys(("llm_model_used", "llm_quantize", "llm_trust_remote_code"))
    config |= {"llm_model": str(folder), "device": "cpu", "llm_model_dtype": "float32"}
    with pytest.raises(UserError, match="trust_remote_code"):
        load_llm(config, report=lambda _: None)


def test_weights_that_would_run_code_are_named_so(encoder, tmp_path, marker):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder, folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Marker(str(marker))}))
    with pytest.raises(UserError, match="save them as safetensors") as caught:
        Encoder(find_encoder(folder), device="cpu")
    assert "\x1b" not in str(caught.value)


def test_a_linked_folder_names_no_code(encoder, tmp_path):
    from recbole_llmemb.encode.source import refuse_code

    folder, elsewhere = tmp_path / "encoder", tmp_path / "elsewhere"
    shutil.copytree(encoder, folder)
    elsewhere.mkdir()
    write_json(elsewhere / "config.json", {"_attn_implementation": _KERNELS})
    (folder / "0_Transformer").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ValueError, match="trust_remote_code"):
        refuse_code(find_encoder(folder))


def test_settings_that_name_no_code_are_not_refused(encoder, tmp_path):
    from recbole_llmemb.encode.source import refuse_code

    folder = tmp_path / "encoder"
    shutil.copytree(encoder, folder)
    settings = {"_attn_implementation": "sdpa", "megatron_config": None, "use_kernels": False}
    old = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**old, **settings, "_name_or_path": "some/model"})
    refuse_code(find_encoder(folder))


def test_the_llm_of_a_checkpoint_is_not_trusted(llmsrec, foreign, marker, capsys):
    config, data, model, trainer = llmsrec("llama", epochs=1)
    path = train_and_evaluate(config, data, model, trainer).checkpoint
    state = checkpoint.load(path)
    used = {"name": str(foreign), "identity": find_encoder(foreign).identity}
    state["config"] |= {"llm_model": str(foreign), "llm_model_used": used}
    state["config"]["llm_trust_remote_code"] = True
    checkpoint.save(state, path)
    for command in (["recommend", "--users=u3"], ["order-test"], ["export", "--out=exported"]):
        assert main([*command, f"--checkpoint={path}"]) == 2
        assert "--trust_remote_code" in capsys.readouterr().err


def test_an_adapters_settings_name_no_code(foreign, encoder, tmp_path, marker, monkeypatch, capsys):
    from safetensors.torch import save_file

    pytest.importorskip("peft")
    (foreign / "foreign_code.py").write_bytes((foreign / "code.py").read_bytes())
    monkeypatch.syspath_prepend(str(foreign))  # where it could be imported from
    adapter = tmp_path / "adapter"
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(foreign),
        "auto_mapping": {"parent_library": "foreign_code", "base_model_class": "Model"},
        "target_modules": ["q_proj"],
        "megatron_config": {"a": 1},
        "megatron_core": "foreign_code",
        "trust_remote_code": True,
    }
    write_json(adapter / "adapter_config.json", settings)
    save_file({"a": torch.zeros(1)}, str(adapter / "adapter_model.safetensors"))
    (tmp_path / "x.item").write_text("item_id:token\ttitle:token_seq\na\tred soap\n")
    common = [f"--items={tmp_path / 'x.item'}", f"--encoder={encoder}", f"--adapter={adapter}"]
    assert main(["encode", *common, f"--out={tmp_path / 'made'}"]) == 2
    assert "megatron_config" in capsys.readouterr().err
    settings.pop("megatron_config")
    write_json(adapter / "adapter_config.json", settings)
    assert main(["encode", *common, f"--out={tmp_path / 'made'}"]) == 2
    assert "does not fit" in capsys.readouterr().err


# -- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", ["os.path", "../../x", ".", "SASRec.x", "sasrec", "__init__", "LLMEmb../x", "a/b"]
)
def test_models_go_by_names(model, tiny_config, capsys):
    assert main([f"--model={model}", "--dataset=tiny"]) == 2
    assert model in capsys.readouterr().err
    plain = config_to_plain(tiny_config())
    with pytest.raises(UserError, match="model"):
        config_from_plain({**plain, "model": model})


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
@pytest.mark.parametrize("kind", ["above", "absolute", "dots", "long"])
def test_datasets_go_by_names(kind, model, tiny_config, tmp_path, capsys):
    """RecBole's defaults of a dataset are a yaml file of its name, wherever that leads."""
    (tmp_path / "theirs.yaml").write_text("llm_trust_remote_code: True\nseed: 7\n")
    above = "../" * 30 + str(tmp_path).lstrip("/") + "/theirs"
    name = {"above": above, "absolute": str(tmp_path / "theirs"), "dots": "..",
            "long": "9" * 400}[kind]  # fmt: skip
    plain = config_to_plain(tiny_config(model))
    with pytest.raises(UserError, match="dataset is "):
        config_from_plain({**plain, "dataset": name})
    given = [f"--model={model}", f"--dataset={name}", "--train_neg_sample_args=None"]
    assert main(given) == 2
    told = capsys.readouterr().err
    assert "dataset is" in told and ("bytes" in told) == (kind == "long")
