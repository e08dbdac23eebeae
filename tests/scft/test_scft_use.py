"""Encoding with an adapter, the whole chain in one run, and the command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from encode_models import make_model
from safetensors.torch import load_file, save_file
from scft_data import item_file, settings

pytest.importorskip("peft")
pytest.importorskip("datasets")

from recbole_llmemb.cli.main import main  # noqa: E402
from recbole_llmemb.core.errors import UserError  # noqa: E402
from recbole_llmemb.encode.adapters import find_adapter  # noqa: E402
from recbole_llmemb.encode.encoder import Encoder, load_pipeline  # noqa: E402
from recbole_llmemb.encode.job import encode_new_items  # noqa: E402
from recbole_llmemb.encode.source import find_encoder  # noqa: E402
from recbole_llmemb.records.items import read_items  # noqa: E402
from recbole_llmemb.scft import (  # noqa: E402
    ensure_adapter,
    ensure_table,
    job_from_config,
    run_job,
)
from recbole_llmemb.table import EmbeddingTable  # noqa: E402


@pytest.fixture
def adapter(tmp_path):
    job = job_from_config(settings(tmp_path, scft_learning_rate=0.01))
    return run_job(job, tmp_path / "adapter", report=lambda line: None).path


@pytest.fixture
def config(tmp_path):
    return {**settings(tmp_path), "scft": False}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])  # merged, and not
def test_encoder_applies_it(adapter, tmp_path, dtype):
    from peft import PeftModel
    from transformers import AutoModel

    source = find_encoder(str(tmp_path / "encoder-bert"))
    texts = ["red soap", "blue gel one two"]
    encoder = Encoder(source, device="cpu", dtype=dtype, adapter=find_adapter(adapter))
    got = encoder.encode(texts).float()
    tokens = encoder.model.preprocess(texts)
    base = AutoModel.from_pretrained(source.location)
    tokens = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        states = PeftModel.from_pretrained(base, str(adapter)).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    want = (states * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(got, want, atol=1e-5 if dtype == "float32" else 0.05, rtol=1e-4)
    plain = Encoder(source, device="cpu", dtype=dtype).encode(texts).float()
    assert (plain - want).abs().max() > 0.1


def test_its_fingerprint_is_in_key_and_manifest(config, adapter, tmp_path):
    plain = EmbeddingTable.load(ensure_table(config))
    assert "adapter" not in plain.manifest
    path = ensure_table({**config, "llm_adapter": str(adapter)})
    table = EmbeddingTable.load(path)
    assert table.manifest["adapter"]["fingerprint"] == find_adapter(adapter).fingerprint
    assert table.manifest["inputs_hash"] != plain.manifest["inputs_hash"]
    assert (table.vectors - plain.vectors).abs().max() > 1e-3
    # A copy is the same adapter; other weights are another.
    shutil.copytree(adapter, tmp_path / "copy")
    assert ensure_table({**config, "llm_adapter": str(tmp_path / "copy")}) == path
    change_weights(tmp_path / "copy", lambda value: value * 1.01)
    (tmp_path / "copy/scft.json").unlink()  # which says what was written
    assert ensure_table({**config, "llm_adapter": str(tmp_path / "copy")}) != path


def change_weights(folder, change):
    file = folder / "adapter_model.safetensors"
    save_file({name: change(value) for name, value in load_file(file).items()}, file)


def test_new_items_are_read_as_the_tables_were(config):
    plain = EmbeddingTable.load(ensure_table(config))
    assert "end_token" not in plain.manifest
    path = ensure_table({**config, "llm_end_token": True, "item_lines": True})
    table = EmbeddingTable.load(path)
    assert table.manifest["end_token"] is True
    assert table.manifest["inputs_hash"] != plain.manifest["inputs_hash"]
    items = read_items(Path(config["data_path"]) / f"{config['dataset']}.item")
    found = encode_new_items(str(path), items.attributes, {"device": "cpu"})
    where = [table.tokens.index(token) for token in items.tokens]
    torch.testing.assert_close(found, table.vectors[where].float(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, plain.vectors[where].float(), atol=1e-3)


def test_pooling_and_length_it_was_trained_with(tmp_path, config):
    trained = {"llm_pooling": "last", "llm_max_length": 20, "llm_end_token": True}
    job = job_from_config(settings(tmp_path, **trained))
    adapter = run_job(job, tmp_path / "adapter", report=lambda line: None).path
    table = EmbeddingTable.load(ensure_table({**config, "llm_adapter": str(adapter)}))
    assert table.manifest["pooling"] == "last" and table.manifest["max_length"] == 20
    assert table.manifest["end_token"] is True
    with pytest.raises(UserError, match="trained with last pooling, but llm_pooling is 'mean'"):
        ensure_table({**config, "llm_adapter": str(adapter), "llm_pooling": "mean"})


def test_adapter_of_another_encoder_is_refused(config, adapter, tmp_path):
    other = make_model(tmp_path / "other", "llama", pad=False)
    use = {**config, "llm_adapter": str(adapter), "llm_encoder": str(other)}
    with pytest.raises(UserError, match="was trained for the encoder .*encoder-bert.*not for"):
        ensure_table(use)
    (adapter / "scft.json").unlink()  # as peft alone would have written it
    with pytest.raises(UserError, match="adapter .* (cannot be loaded|does not fit)"):
        ensure_table(use)


def test_adapter_that_does_not_fit_is_refused(config, adapter):
    state = load_file(adapter / "adapter_model.safetensors")
    first = sorted(state)[0]
    del state[first]
    save_file(state, adapter / "adapter_model.safetensors")
    (adapter / "scft.json").unlink()  # as one from elsewhere, which has no digests
    with pytest.raises(UserError, match="does not fit the encoder .*they differ in 1 weights"):
        ensure_table({**config, "llm_adapter": str(adapter)})


def test_bad_adapter_directories(config, adapter, tmp_path):
    with pytest.raises(UserError, match="no adapter at .*gone.*adapter_config.json is missing"):
        ensure_table({**config, "llm_adapter": str(tmp_path / "gone")})
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UserError, match="adapter_model.safetensors is missing"):
        ensure_table({**config, "llm_adapter": str(adapter)})


def test_scft_in_a_configuration(tmp_path):
    """Adapter and table are built once, and each again when its inputs change."""
    lines = []
    first = ensure_table(settings(tmp_path), report=lines.append)
    assert any(line.startswith("scft: trained") for line in lines)
    lines.clear()
    assert ensure_table(settings(tmp_path), report=lines.append) == first
    assert ["cache hit" in line for line in lines] == [True, True]
    lines.clear()
    # Encoded otherwise: the adapter is found. Trained otherwise: neither is.
    assert ensure_table(settings(tmp_path, llm_normalize=True), report=lines.append) != first
    assert "scft: cache hit" in lines[0] and "table: building" in lines[1]
    changed = settings(tmp_path, scft_loss="infonce")
    assert ensure_table(changed, report=lines.append) != first
    assert len(list((tmp_path / "cache" / "adapters").glob("tiny-encoder-bert-*"))) == 2


@pytest.mark.parametrize("key", ["llm_adapter", "llm_table"])
def test_scft_beside_what_would_not_use_it(tmp_path, key):
    with pytest.raises(UserError, match=f"scft is set, but {key} is 'x'"):
        ensure_adapter(settings(tmp_path, **{key: "x"}))


def test_one_run_does_all(tiny, tiny_settings, tmp_path, capsys):
    """Stage 1, encoding and RAT from one command, and again from the cache."""
    import json

    encoder = make_model(tmp_path / "encoder", "bert")
    values = tiny_settings("LLMEmbSASRec", llm_table=None, epochs=1)
    typed = {
        **{k: v for k, v in values.items() if not isinstance(v, dict)},
        "model": "LLMEmbSASRec",
        "dataset": "tiny",
        "llm_encoder": str(encoder),
        "scft": True,
        "scft_steps": 3,
        "scft_batch_size": 8,
        "checkpoint_dir": str(tmp_path / "saved"),
    }
    from recbole_llmemb.run.execute import execute

    lines = []
    execute({**typed, "result_json": str(tmp_path / "a.json")}, lines.append)
    text = "\n".join(lines)
    assert text.index("scft: trained") < text.index("table: built") < text.index("train: ")
    lines.clear()
    execute({**typed, "result_json": str(tmp_path / "b.json")}, lines.append)
    assert "scft: cache hit" in "\n".join(lines)
    results = [json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab"]
    assert results[0]["test_result"] == results[1]["test_result"]


@pytest.fixture
def command(tmp_path):
    values = settings(tmp_path)
    return [
        "scft",
        "--dataset=tiny",
        f"--data_path={tmp_path}",
        f"--encoder={values['llm_encoder']}",
        f"--out={tmp_path / 'out'}",
        "--device=cpu",
        "--steps=4",
        "--save_steps=2",
        "--batch_size=8",
    ]


def test_command(command, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "map.png"
    assert main([*command, "--loss=infonce", f"--figure={figure}"]) == 0
    out = capsys.readouterr().out
    assert "other view found" in out and f"adapter: {tmp_path / 'out'}" in out
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert main([*command, "--scft_loss=infonce"]) == 0  # the key's name does too
    assert "scft: cache hit" in capsys.readouterr().out
    table = tmp_path / "table"
    encode = [part for part in command[1:4]]
    options = [f"--adapter={tmp_path / 'out'}", f"--out={table}", "--device=cpu"]
    assert main(["encode", *encode, *options]) == 0
    assert EmbeddingTable.load(table).manifest["adapter"]["path"] == str(tmp_path / "out")
    assert np.isfinite(EmbeddingTable.load(table).vectors).all()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--loss=triplet", "--loss is 'triplet'; it must be one of 'soft', 'infonce'"),
        ("--steps=0", "--steps is 0; it must be a whole number from 1"),
        ("--drop_ratio=1.5", "--drop_ratio is 1.5; it must be a number from 0 to 1"),
        ("--temperature=0", "--temperature is 0.0; it must be a number from 0.0001 to"),
        ("--precision=int8", "--precision is 'int8'; it must be one of"),
        ("--quantize=3", "--quantize is '3'; it must be one of 4, 8"),
        ("--fields=plot", "has no field 'plot'"),
        ("--figure=map.txt", "--figure is 'map.txt'; its name must end in .png"),
        ("--figure=/proc/none/map.png", "The file /proc/none/map.png cannot be written"),
        ("--dataset=gone", "The dataset 'gone' has no item file"),
    ],
)
def test_user_errors_of_the_command(command, tmp_path, capsys, option, message):
    name = option.partition("=")[0]
    others = [word for word in command if not word.startswith(f"{name}=")]
    assert main([*others, option]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_fails_over_texts(command, tmp_path, capsys):
    folder = Path(next(word.partition("=")[2] for word in command if "--encoder" in word))
    load_pipeline(find_encoder(folder)).save(str(folder))
    file = folder / "sentence_bert_config.json"
    settings = json.loads(file.read_text())
    settings["modality_config"] = {"text": {"method": "forward", "method_output_name": "nope"}}
    file.write_text(json.dumps(settings))
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "llm_encoder" in error and len(error.strip().splitlines()) == 1


def test_help_names_every_key():
    """Options of the command and keys of a run are the same."""
    from recbole_llmemb.cli.scft import build_parser
    from recbole_llmemb.scft.settings import ScftSettings

    text = build_parser().format_help()
    for name, field in ScftSettings.model_fields.items():
        assert name == "scft" or f"--{name.removeprefix('scft_')} " in text.replace(",", " "), name
        if name not in ("scft", "scft_gradient_checkpointing"):
            value = "4" if name == "scft_quantize" else str(field.default or 3)
            typed = build_parser().typed(["--dataset=d", "--out=o", f"--{name}={value}"])
            assert name in typed


def test_numbers_are_as_the_command_has_always_had_them():
    """Adapters are found by them: 16 is 16.0 where the command was told so, as ever."""
    from recbole_llmemb.cli.scft import build_parser
    from recbole_llmemb.scft.settings import ScftSettings

    typed = build_parser().typed(["--dataset=d", "--out=o", "--lora_alpha=16", "--lora_rank=4"])
    assert repr(typed["scft_lora_alpha"]) == "16.0" and repr(typed["scft_lora_rank"]) == "4"
    assert repr(ScftSettings.of({}).scft_lora_alpha) == "32"


def test_item_file_is_made_of_several_words():
    """The tests' own data can be told apart."""
    lines = item_file().splitlines()[1:]
    assert len({line.split("\t", 1)[1] for line in lines}) > 35
