"""The table a configuration asks for: given, found, built, reduced."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from encode_models import make_model, write_dataset

from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.encode import ensure_table, item_prompts, read_items
from recbole_llmemb.encode.build_or_load import tell_unused
from recbole_llmemb.encode.settings import EncodeSettings
from recbole_llmemb.table import EmbeddingTable


@pytest.fixture
def config(tmp_path):
    path = write_dataset(tmp_path)
    return {
        "dataset": "tiny",
        "data_path": str(path.parent),
        "llm_encoder": str(make_model(tmp_path / "encoder", "bert")),
        "llm_cache_dir": str(tmp_path / "cache"),
        "llm_device": "cpu",
        "item_prompt": "The item:",
    }


def tables(cache):
    return sorted(name for name in os.listdir(cache) if not name.startswith("."))


def test_built_then_found(config, tmp_path):
    lines = []
    path = ensure_table(config, report=lines.append)
    assert path.parent == tmp_path / "cache" and path.name.startswith("tiny-encoder-")
    assert lines[0].startswith(f"table: building {path} (5 items, 4 different texts, encoder")
    assert lines[-1].startswith(f"table: built {path} (5 × 16, ")
    lines.clear()
    assert ensure_table(config, report=lines.append) == path
    assert len(lines) == 1 and lines[0].startswith(f"table: cache hit {path} (5 × 16, ")
    assert EmbeddingTable.load(path).manifest["prompt"] == "The item:"


def test_recbole_config_gives_none_for_missing_keys(config):
    class Config(dict):
        def __missing__(self, key):
            return None

    assert ensure_table(Config(config)) == ensure_table(config)


def test_each_configuration_has_its_own_folder(config, tmp_path):
    first = ensure_table(config)
    second = ensure_table({**config, "item_prompt": "Else:"})
    third = ensure_table({**config, "item_text_fields": ["title"]})
    assert len({first, second, third}) == 3
    assert ensure_table(config) == first
    assert len(tables(tmp_path / "cache")) == 3


def test_damaged_table_in_the_cache_is_built_again(config):
    path = ensure_table(config)
    (path / "items.txt").unlink()
    lines = []
    assert ensure_table(config, report=lines.append) == path
    assert "damaged" in lines[0] and "building" in lines[1]
    assert len(EmbeddingTable.load(path)) == 5


def test_given_table(config, tmp_path):
    made = ensure_table(config)
    shutil.copytree(made, tmp_path / "mine")
    lines = []
    given = {**config, "llm_table": str(tmp_path / "mine"), "llm_encoder": "never/asked"}
    assert ensure_table(given, report=lines.append) == tmp_path / "mine"
    assert lines == [f"table: using {tmp_path / 'mine'}"]
    with pytest.raises(TableError, match="no embedding table at .*gone.*llm_table"):
        ensure_table({**config, "llm_table": str(tmp_path / "gone")})


def test_a_given_table_of_other_texts_is_told(config, tmp_path):
    """What counts is each item's text, not where in the file it stands, nor new items."""
    from recbole_llmemb.encode.build_or_load import tell_other_texts

    table, path, lines = ensure_table(config), next(tmp_path.rglob("tiny.item")), []
    header, *items = path.read_text(encoding="utf-8").splitlines()
    columns = len(header.split("\t"))

    def told(*items, **other):
        path.write_text("\n".join([header, *items]) + "\n", encoding="utf-8")
        tell_other_texts(table, {**config, "item_prompt": "Else:", **other}, lines.append)
        return [lines.pop() for _ in list(lines)]

    new = "\t".join(["brandnew", *["words"] * (columns - 1)])
    assert told(*items) == told(new, *items[::-1]) == told(*items[1:]) == []
    changed = "\t".join([items[0].split("\t")[0], *["other"] * (columns - 1)])
    (line,) = told(changed, *items[1:])
    assert str(table) in line and str(path) in line
    assert told(changed, *items[1:], ITEM_ID_FIELD="gone") == []  # not to be known


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, []),
        ({"llm_encoder": "other"}, ["llm_encoder"]),
        ({"llm_adapter": "a", "llm_max_length": 7}, ["llm_adapter", "llm_max_length"]),
        ({"item_prompt": "Else:", "llm_normalize": True}, ["llm_normalize", "item_prompt"]),
    ],
)
def test_settings_that_a_given_table_was_not_made_by_are_told(config, asked, told):
    """Beside it they would change nothing, and the result file would name them."""
    table, lines = ensure_table(config), []
    tell_unused(table, {**config, **asked}, lines.append)
    assert [key for key in EncodeSettings.model_fields if key in str(lines)] == told
    for line in lines:
        assert str(table) in line


def test_a_run_tells_them(tiny_config):
    from recbole_llmemb.run.artifacts import item_table
    from recbole_llmemb.run.stages import prepare_data

    config, lines = tiny_config(llm_max_length=7), []
    item_table(config, prepare_data(config, artifacts=False).parts[0], lines.append)
    assert sum("llm_max_length" in line for line in lines) == 1


def test_reduced(config, tmp_path):
    whole = ensure_table(config)
    lines = []
    path = ensure_table({**config, "llm_pca_dim": 3}, report=lines.append)
    reduced = EmbeddingTable.load(path, expected_width=3)
    assert path.name.startswith(whole.name + "-pca3-")
    assert reduced.manifest["pca"]["source_fingerprint"] == EmbeddingTable.load(whole).fingerprint
    assert "cache hit" in lines[0] and "reduced to 3" in lines[1]
    lines.clear()
    assert ensure_table({**config, "llm_pca_dim": 3}, report=lines.append) == path
    assert all("cache hit" in line for line in lines)


def test_a_reduced_copy_of_another_table_is_made_again(config):
    path = ensure_table({**config, "llm_pca_dim": 3})
    own = EmbeddingTable.load(path)
    manifest = {**own.manifest, "pca": {**own.manifest["pca"], "source_fingerprint": "another"}}
    EmbeddingTable(own.tokens, -own.vectors, manifest).save(path, overwrite=True)
    ensure_table({**config, "llm_pca_dim": 3})
    assert EmbeddingTable.load(path).fingerprint == own.fingerprint


def test_given_table_reduced(config, tmp_path):
    shutil.copytree(ensure_table(config), tmp_path / "mine")
    given = {**config, "llm_table": str(tmp_path / "mine"), "llm_pca_dim": 2}
    path = ensure_table(given)
    assert path.parent == tmp_path / "cache" and path.name.startswith("mine-pca2-")
    assert EmbeddingTable.load(path).width == 2
    assert EmbeddingTable.load(tmp_path / "mine").width == 16


def test_auto_device_is_that_of_training(config):
    from recbole_llmemb.encode.build_or_load import job_from_config

    training = torch.device("cpu")
    for asked, device in {"auto": training, "cuda:1": "cuda:1"}.items():
        assert job_from_config({**config, "device": training, "llm_device": asked}).device == device


def test_cache_of_the_environment_and_of_the_home(config, tmp_path, monkeypatch):
    config["llm_cache_dir"] = None
    monkeypatch.setenv("RECBOLE_LLMEMB_CACHE", str(tmp_path / "from-env"))
    assert ensure_table(config).parent == tmp_path / "from-env"
    monkeypatch.delenv("RECBOLE_LLMEMB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert ensure_table(config).parent == tmp_path / "home/.cache/recbole-llmemb"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "other"}, "dataset 'other' has no item file .*other.item"),
        ({"llm_pooling": "max"}, "llm_pooling.* is 'max'"),
        ({"llm_dtype": "int4"}, "llm_dtype.* is 'int4'"),
        ({"llm_pca_dim": 99}, "llm_pca_dim is 99.*16 wide.*1 to 16"),
        ({"llm_pca_dim": "many"}, "llm_pca_dim is 'many'; it must be a whole number"),
        ({"llm_encoder": "/not/here"}, "no encoder directory /not/here"),
        ({"item_text_fields": ["color"]}, "no field 'color'"),
        ({"ITEM_ID_FIELD": "sku"}, "no field 'sku'"),
        ({"llm_device": "abacus"}, "llm_device 'abacus'"),
    ],
)
def test_refusals(config, change, message):
    with pytest.raises(UserError, match=message) as caught:
        ensure_table({**config, **change})
    assert "\n" not in str(caught.value)


def test_real_items_with_the_bundled_encoder(tmp_path):
    """50 films of ml-100k against a plain run of the model over the same prompts."""
    from sentence_transformers import SentenceTransformer

    from recbole_llmemb.encode.source import find_encoder

    source = Path(find_spec("recbole").origin).parent / "dataset_example/ml-100k/ml-100k.item"
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    path = write_dataset(tmp_path, "films", "".join(lines[:51]))
    config = {
        "dataset": "films",
        "data_path": str(path.parent),
        "llm_cache_dir": str(tmp_path / "cache"),
        "llm_device": "cpu",
        "item_text_fields": ["movie_title", "release_year", "class"],
        "item_prompt": "The movie has the following attributes:",
    }
    table = EmbeddingTable.load(ensure_table(config))
    items = read_items(path)
    prompts = item_prompts(items.attributes, config["item_prompt"])
    assert prompts[0] == (
        "The movie has the following attributes: movie_title is Toy Story; release_year is 1995; "
        "class is Animation Children's Comedy"
    )
    model = SentenceTransformer(find_encoder().location, device="cpu")
    assert table.tokens == [str(i) for i in range(1, 51)]
    assert torch.allclose(table.vectors, model.encode(prompts, convert_to_tensor=True), atol=1e-5)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_cache_that_can_be_no_folder(config, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RECBOLE_LLMEMB_CACHE", str(tmp_path / place))
    with pytest.raises(UserError) as caught:
        ensure_table({**config, "llm_cache_dir": None})
    assert caught.value.key == "llm_cache_dir" and caught.value.where == str(tmp_path / "file")
    assert "RECBOLE_LLMEMB_CACHE" in str(caught.value)
    EmbeddingTable(["a"], torch.ones(1, 2), {}).save(tmp_path / "ready")  # which needs no cache
    ready = {**config, "llm_cache_dir": None, "llm_table": str(tmp_path / "ready")}
    assert ensure_table(ready) == tmp_path / "ready"
