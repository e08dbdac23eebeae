"""The shipped variants: known keys, told in the docs, and each of them trains."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.cli.main import main  # isort: skip
from recbole_llmemb.config.keys import declared  # isort: skip
from recbole_llmemb.config.recbole_config import make_config, preset_file, properties_folder  # isort: skip
from recbole_llmemb.config.values import bundled_file, property_files  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.run.teacher import teacher_config  # isort: skip
from recbole_llmemb.table import EmbeddingTable  # isort: skip

PRESETS = {file.stem: file for file in sorted((ROOT / "properties/preset").glob("*.yaml"))}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_a_whole_variant(name):
    """Whatever a dataset's defaults say, the same items and scores come out."""
    file = preset_file(name)
    assert file == properties_folder() / "preset" / f"{name}.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert file.read_text(encoding="utf-8").startswith("# ")  # what it is, and whose
    assert {"item_embedding", "align_weight"} <= set(values)
    assert_meant("LLMEmbSASRec", file, values)


def assert_meant(model, file, values):
    """Every key is one that there is, and has the preset's value whatever the dataset's is."""
    known = {name for name, _ in declared()}
    for dataset in ("tiny", "ml-100k", "Amazon_Beauty"):
        config = make_config(model, dataset, [str(file)])
        for key, value in values.items():
            if key == "eval_args":
                value = {**value, "mode": dict.fromkeys(("valid", "test"), value["mode"])}
            found = config[key]
            if key in ("eval_args", "train_neg_sample_args"):  # which have more that is RecBole's
                found = {name: found[name] for name in value}
            assert key in known and found == value, key


@pytest.mark.parametrize("model", [f"LLMEmb{b}" for b in ("SASRec", "GRU4Rec", "BERT4Rec")]
                         + ["LLMEmbNARM", "LLMSRec"])  # fmt: skip
def test_the_authors_settings_of_each_model(model):
    """A model has a file of its own, or that of all; what differs is what they do differently."""
    file, folder = preset_file("authors", model), properties_folder() / "preset"
    own = model in ("LLMEmbGRU4Rec", "LLMSRec")
    assert file == folder / (f"authors/{model}.yaml" if own else "authors.yaml")
    assert property_files({"model": model, "preset": "authors"}) == [str(file)]
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    if model == "LLMEmbNARM":  # which trains on prefixes
        return
    assert_meant(model, file, values)
    if model == "LLMEmbGRU4Rec":
        rest = yaml.safe_load((folder / "authors.yaml").read_text(encoding="utf-8"))
        differs = {key for key in values | rest if values.get(key) != rest.get(key)}
        assert differs == {"train_targets"} and values["train_targets"] == "last"
    config = make_config(model, "ml-100k", [str(file)])
    teacher = teacher_config(config, values["hidden_size"])
    for key, value in values["align_teacher_config"].items():
        assert teacher[key] == value, key
    assert teacher["train_targets"] == "every" and teacher["hidden_size"] == values["hidden_size"]
    assert teacher["loss_type"] == "BCE" and teacher["initialization"] == "xavier"
    assert teacher["MAX_ITEM_LIST_LENGTH"] == values["MAX_ITEM_LIST_LENGTH"]


def test_a_preset_of_one_model_alone():
    file = preset_file("strong", "LLMSRec")
    assert_meant("LLMSRec", file, yaml.safe_load(file.read_text(encoding="utf-8")))
    assert property_files({"model": "LLMSRec", "preset": "strong"}) == [str(file)]
    with pytest.raises(UserError) as caught:
        preset_file("strong", "LLMEmbSASRec")
    assert caught.value.key == "preset"


def test_short_names_of_bundled_files():
    """Presets stand below protocols, and both below one's own files."""
    typed = {"preset": "longtail", "protocol": "paper", "config_files": "a.yaml b.yaml", "x": 1}
    folder = properties_folder()
    assert property_files(typed) == [
        *map(str, (folder / "preset/longtail.yaml", folder / "protocol/paper.yaml")), "a.yaml",
        "b.yaml",
    ]  # fmt: skip
    assert typed == {"x": 1}
    assert property_files({"config_files": [Path("my own.yaml")]}) == ["my own.yaml"]
    assert bundled_file("protocol", "full").name == "full_ce.yaml"
    assert bundled_file("space", "llmemb") == folder / "tune/llmemb.yaml"
    assert bundled_file("preset", "both").name == "both.yaml"  # and not both_cosine's beginning
    for option, name in (
        ("preset", "whitened"),
        ("protocol", "papre"),
        ("space", ""),
        ("preset", 3),
    ):
        with pytest.raises(UserError) as caught:
            bundled_file(option, name)
        assert caught.value.key == option


def test_variants_differ_from_each_other_and_llmemb_is_the_default():
    found = {}
    for name, file in PRESETS.items():
        config = make_config("LLMEmbSASRec", "tiny", [str(file)])
        keys = ("item_embedding", "adapter", "llm_freeze", "offset_decay", "item_similarity",
                "align_weight", "learn_temperature", "loss_type", "adapter_dropout",
                "popularity_adjustment", "initialization", "softmax_negatives",
                "n_layers")  # fmt: skip
        found.setdefault(json.dumps([config[key] for key in keys]), []).append(name)
    assert all(len(names) == 1 for names in found.values()), found
    plain = make_config("LLMEmbSASRec", "tiny")
    same = make_config("LLMEmbSASRec", "tiny", [str(PRESETS["llmemb"])])
    assert plain.final_config_dict == same.final_config_dict


@pytest.mark.parametrize("name", PRESETS)
def test_preset_trains(name, tiny_settings, capsys):
    """The whole command: table, training, evaluation."""
    given = tiny_settings("LLMEmbSASRec", epochs=1)
    given.pop("align_weight")
    typed = [f"--{key}={value}" for key, value in given.items()]
    typed += ["--model=LLMEmbSASRec", "--dataset=tiny", f"--preset={name}"]
    typed += ["--result_json=out.json"] + ["--align_teacher_config={'epochs': 1}"]
    assert main(typed) == 0
    with open("out.json", encoding="utf-8") as file:
        result = json.load(file)
    assert result["epochs"] == 1 and result["test_result"]["ndcg@10"] >= 0
    out = capsys.readouterr().out
    assert ("teacher: SASRec" in out) == (name in ("llmemb", "authors"))
    without = yaml.safe_load(PRESETS[name].read_text(encoding="utf-8"))
    reduced = without.get("adapter") in ("none", "whitening")
    assert ("table: 16 wide and no adapter to learn, so llm_pca_dim is 8" in out) == reduced


@pytest.mark.parametrize("model", ["LLMEmbGRU4Rec", "LLMEmbBERT4Rec"])
def test_the_authors_settings_train(model, tiny_settings, capsys):
    given = tiny_settings(model, epochs=1)
    for key in ("align_weight", "eval_args"):
        given.pop(key)
    typed = [f"--{key}={value}" for key, value in given.items()]
    typed += [f"--model={model}", "--dataset=tiny", "--preset=authors", "--result_json=out.json"]
    assert main([*typed, "--align_teacher_config={'epochs': 1}"]) == 0
    result = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert result["epochs"] == 1 and result["test_result"]["ndcg@10"] >= 0
    assert result["config"]["exclude_history"] == "keep_target"
    assert "uni100" in str(result["config"]["eval_args"])
    assert ("train_targets" in result["config"]) == (model == "LLMEmbGRU4Rec")


@pytest.mark.parametrize("name", ["llm2x", "longtail", "residual_init", "whitened_init", "llmemb"])
@pytest.mark.parametrize("width", [16, 64])
def test_presets_on_fewer_items_than_the_model_is_wide(name, width, tmp_path, capsys):
    """Twelve items; item embeddings of 16 numbers, and of more than the table has."""
    data = tmp_path / "data" / "few"
    data.mkdir(parents=True)
    lines = [f"u{u}\ti{(u * 5 + k * k) % 12}\t{k}" for u in range(15) for k in range(6)]
    head = "user_id:token\titem_id:token\ttimestamp:float"
    (data / "few.inter").write_text("\n".join([head, *lines]) + "\n")
    tokens = [f"i{i}" for i in range(12)]
    EmbeddingTable(tokens, torch.randn(12, 40)).save(tmp_path / "table")
    typed = ["--model=LLMEmbSASRec", "--dataset=few", f"--preset={name}", "--epochs=1",
             f"--data_path={tmp_path / 'data'}", f"--llm_table={tmp_path / 'table'}",
             f"--hidden_size={width}", "--topk=[5]", "--valid_metric=NDCG@5",
             "--align_teacher_config={'epochs': 1}", "--show_progress=False"]  # fmt: skip
    done = main(typed)
    err = capsys.readouterr().err
    if width > 40 and name != "llmemb":  # and the advice works
        assert done == 2 and "use an adapter" in err
        typed.append("--adapter=linear")
        done = main(typed)
    assert done == 0


def test_files_and_arguments_win_over_a_preset(tiny_settings, tmp_path, monkeypatch, capsys):
    seen = []
    from recbole_llmemb.run import execute as module

    original = module.make_config

    def spied(*given, **more):
        seen.append(original(*given, **more))
        raise UserError("enough")

    monkeypatch.setattr(module, "make_config", spied)
    (tmp_path / "a.yaml").write_text("offset_decay: 3.0\nllm_whiten: 0.5\n")
    settings = tiny_settings("LLMEmbSASRec", llm_whiten=0.7)
    typed = [f"--{key}={value}" for key, value in settings.items()]
    typed += ["--model=LLMEmbSASRec", "--dataset=tiny", "--config_files=a.yaml"]
    assert main([*typed, "--preset=residual"]) == 2
    (config,) = seen
    assert config["item_embedding"] == "residual"
    assert config["offset_decay"] == 3.0 and config["llm_whiten"] == 0.7
    assert capsys.readouterr().err == "error: enough\n"


@pytest.mark.parametrize("name", ["residuals", "nothing", 7])
def test_unknown_preset(name, capsys):
    assert main(["--model=LLMEmbSASRec", f"--preset={name}"]) == 2
    err = capsys.readouterr().err
    assert f"--preset is {name!r}" in err and ", ".join(PRESETS) in err
    assert ("did you mean residual?" in err) == (name == "residuals")
    assert err.count("\n") == 1


def test_help_lists_presets(capsys):
    assert main(["run", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(name in out for name in PRESETS)


def test_docs_tell_every_preset():
    page = (ROOT / "docs/variants.md").read_text(encoding="utf-8")
    overview = page.split("## Presets")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", overview, re.MULTILINE)
    assert sorted(listed) == sorted(PRESETS)
    shown = re.findall(r"^<!-- keys: preset/(\w+)\.yaml -->$", page, re.MULTILINE)
    assert sorted(shown) == sorted(PRESETS)
