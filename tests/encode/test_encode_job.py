"""Encoding jobs: the vectors, shards, being killed, the cache, and two at once."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from encode_models import encode_job, make_model, many_items, write_dataset

from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.encode import item_prompts, read_items
from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.job import encode_new_items, run_job
from recbole_llmemb.encode.source import find_encoder
from recbole_llmemb.table import EmbeddingTable


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("models") / "tiny", "bert"))


@pytest.fixture
def job(tmp_path, encoder):
    return lambda **options: encode_job(
        **{
            "item_file": tmp_path / "tiny" / "tiny.item",
            "encoder": encoder,
            "device": "cpu",
            **options,
        }
    )


@pytest.fixture
def items(tmp_path):
    return write_dataset(tmp_path)


@pytest.fixture
def encoded_texts(monkeypatch):
    """What the encoder is given, call by call."""
    calls = []
    original = Encoder.encode

    def encode(self, texts):
        calls.append(list(texts))
        return original(self, texts)

    monkeypatch.setattr(Encoder, "encode", encode)
    return calls


def test_same_as_sentence_transformers(tmp_path, job, encoder):
    """Whatever is sorted and deduplicated inside, the table is in file order."""
    from sentence_transformers import SentenceTransformer

    write_dataset(tmp_path, text=many_items(50))
    result = run_job(job(prompt="The item:", shard_size=16, batch_size=4), tmp_path / "out")
    table = EmbeddingTable.load(tmp_path / "out")
    read = read_items(tmp_path / "tiny" / "tiny.item")
    texts = item_prompts(read.attributes, "The item:")
    expected = SentenceTransformer(encoder, device="cpu").encode(texts, convert_to_tensor=True)
    assert table.tokens == read.tokens == [f"i{i}" for i in range(50)]
    assert torch.allclose(table.vectors, expected, atol=1e-5)
    assert (result.rows, result.width, result.encoded) == (50, 16, len(set(texts)))


def test_texts_are_encoded_once_and_longest_first(tmp_path, job, items, encoded_texts):
    lines = []
    result = run_job(job(), tmp_path / "out", report=lines.append)
    [texts] = encoded_texts
    assert len(texts) == 4 == result.unique  # five items, two with the same text
    tokens = [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]
    assert tokens == sorted(tokens, reverse=True) and len(set(tokens)) > 2
    table = EmbeddingTable.load(tmp_path / "out")
    assert torch.equal(table.vectors[0], table.vectors[3])
    assert not torch.equal(table.vectors[0], table.vectors[1])
    assert any("1 items have no text" in line for line in lines)


def test_code_that_is_run_makes_another_table(tmp_path, job, items, monkeypatch):
    plain, trusted = job(), job(trust_remote_code=True)
    assert plain.key != trusted.key
    new, here = [{"title": "red soap"}], {"device": "cpu"}
    table = str(run_job(trusted, tmp_path / "trusted").path)
    assert len(encode_new_items(table, new, here | _TRUST)) == 1
    with pytest.raises(UserError, match="trust_remote_code"):
        encode_new_items(table, new, here)
    table, asked = str(run_job(plain, tmp_path / "plain").path), []
    monkeypatch.setattr(
        "recbole_llmemb.encode.job.find_encoder",
        lambda name, revision, trusted: asked.append(trusted) or find_encoder(name, revision),
    )
    for more in ({}, _TRUST):  # another thing may be trusted
        encode_new_items(table, new, here | more)
    assert asked == [False, False]


_TRUST = {"llm_trust_remote_code": True}


def test_manifest(tmp_path, job, items, encoder):
    run_job(job(fields=["title"], prompt="P:", pooling="last", max_length=9), tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["encoder"] == encoder
    assert manifest["revision"].startswith("files:")
    assert (manifest["pooling"], manifest["prompt"], manifest["fields"]) == (
        "last",
        "P:",
        ["title"],
    )
    assert (manifest["encoder_dtype"], manifest["dtype"]) == ("float32", "float32")
    assert (manifest["count"], manifest["width"], manifest["max_length"]) == (5, 16, 9)
    assert torch.__version__.startswith(manifest["versions"]["torch"].partition("+")[0])
    assert len(manifest["texts_hash"]) == len(manifest["inputs_hash"]) == 20


def test_nothing_but_the_table_remains(tmp_path, job, items):
    run_job(job(), tmp_path / "deep" / "out")
    assert sorted(os.listdir(tmp_path / "deep")) == [".out.lock", "out"]


def test_second_run_is_a_cache_hit(tmp_path, job, items, encoded_texts):
    first = run_job(job(), tmp_path / "out")
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    encoded_texts.clear()
    lines = []
    second = run_job(job(batch_size=7, shard_size=3), tmp_path / "out", report=lines.append)
    assert encoded_texts == [] and second.cache_hit and not first.cache_hit
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before
    assert len(lines) == 1 and f"cache hit {tmp_path / 'out'} (5 × 16" in lines[0]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "another:"},
        {"fields": ["title"]},
        {"pooling": "last"},
        {"dtype": "bfloat16"},
        {"max_length": 5},
        {"normalize": True},
        {"pca_dim": 2},
        {"value_max_chars": 3},
    ],
)
def test_other_inputs_are_refused_unless_overwritten(tmp_path, job, items, change):
    run_job(job(), tmp_path / "out")
    before = EmbeddingTable.load(tmp_path / "out").fingerprint
    with pytest.raises(TableError, match="already holds an embedding table.*--overwrite"):
        run_job(job(**change), tmp_path / "out")
    assert EmbeddingTable.load(tmp_path / "out").fingerprint == before
    run_job(job(**change), tmp_path / "out", overwrite=True)
    assert EmbeddingTable.load(tmp_path / "out").fingerprint != before


def test_default_pooling_asked_for_is_the_same_table(tmp_path, job, items):
    run_job(job(), tmp_path / "out")
    assert run_job(job(pooling="mean"), tmp_path / "out").cache_hit


def test_changed_text_or_encoder_is_another_job(tmp_path, job, items):
    key = job().key
    assert job().key == key
    items.write_text(items.read_text().replace("blue gel", "blue gels"))
    assert job().key != key
    other = make_model(tmp_path / "other", "bert", seed=5)
    items.write_text(items.read_text().replace("blue gels", "blue gel"))
    assert job().key == key
    assert job(encoder=str(other)).key != key


def test_hit_in_a_cache_that_can_only_be_read(tmp_path, job, items, monkeypatch):
    run_job(job(), tmp_path / "cache" / "out")

    def refuses(*args, **kwargs):  # permissions do not hold the superuser back
        raise PermissionError("read-only")

    monkeypatch.setattr("recbole_llmemb.core.artifacts.FileLock", refuses)
    assert run_job(job(), tmp_path / "cache" / "out").cache_hit
    with pytest.raises(UserError, match="cannot be opened: read-only"):
        run_job(job(prompt="else"), tmp_path / "cache" / "else")


def test_out_of_memory_is_one_sentence(tmp_path, job, items, monkeypatch):
    from sentence_transformers import SentenceTransformer

    def fails(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory\nmany\nlines")

    monkeypatch.setattr(SentenceTransformer, "encode", fails)
    with pytest.raises(UserError, match="64 texts at once .* memory of cpu; .*llm_batch_size"):
        run_job(job(), tmp_path / "out")


def test_damaged_table_is_no_hit(tmp_path, job, items):
    run_job(job(), tmp_path / "out")
    path = tmp_path / "out" / "embeddings.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(TableError):
        run_job(job(), tmp_path / "out")
    assert not run_job(job(), tmp_path / "out", overwrite=True).cache_hit
    assert EmbeddingTable.load(tmp_path / "out").width == 16


def test_something_else_is_in_the_way(tmp_path, job, items):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(TableError, match="something else"):
        run_job(job(), tmp_path / "out", overwrite=True)


def test_pca(tmp_path, job, items):
    result = run_job(job(pca_dim=2), tmp_path / "out")
    table = EmbeddingTable.load(tmp_path / "out")
    assert result.width == table.width == 2
    assert table.manifest["pca"]["source_width"] == 16
    assert run_job(job(pca_dim=2), tmp_path / "out").cache_hit
    with pytest.raises(TableError, match="reduced to 1 to 16"):
        run_job(job(pca_dim=17), tmp_path / "other")


def test_encoder_overflow_names_the_item(tmp_path, job, items, monkeypatch):
    original = Encoder.encode

    def overflows(self, texts):
        vectors = original(self, texts)
        vectors[["blue" in text for text in texts].index(True)] = float("inf")
        return vectors

    monkeypatch.setattr(Encoder, "encode", overflows)
    with pytest.raises(UserError, match="NaN or infinity for 1 texts, the first of item 'b2'"):
        run_job(job(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"batch_size": 0}, ["llm_batch_size is 0", "from 1"]),
        ({"shard_size": -1}, ["shard_size is -1", "at least 1"]),
        ({"max_length": 0}, ["max_length is 0"]),
        ({"value_max_chars": -5}, ["item_value_max_chars is -5", "from 0"]),
        ({"field_separator": ""}, ["field_separator is empty"]),
        ({"pooling": "max"}, ["pooling is 'max'", "'mean'", "'last'"]),
        ({"device": ","}, ["llm_device ','"]),
        ({"device": "meta"}, ["llm_device 'meta'"]),
    ],
    ids=str,
)
def test_impossible_options(tmp_path, job, items, options, tokens):
    with pytest.raises(UserError) as caught:
        run_job(job(**options), tmp_path / "out")
    assert all(token in str(caught.value) for token in tokens)


# Runs a job slowly: one shard of four texts per quarter of a second.
SLOW_RUN = """
import time
from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.job import EncodeJob, run_job
from recbole_llmemb.encode.settings import EncodeSettings
original = Encoder.encode
def slow(self, texts):
    time.sleep(0.25)
    return original(self, texts)
Encoder.encode = slow
keys = EncodeSettings(llm_encoder={encoder!r})
job = EncodeJob(item_file={item_file!r}, settings=keys, device="cpu", shard_size=4)
run_job(job, {out!r})
"""


def test_killed_and_continued(tmp_path, job, encoder, encoded_texts):
    path = write_dataset(tmp_path, text=many_items(30))
    out = tmp_path / "out"
    script = SLOW_RUN.format(item_file=str(path), encoder=encoder, out=str(out))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.work-*/shard-00001.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    [work] = tmp_path.glob(".out.work-*")
    kept = len(list(work.glob("shard-*.safetensors")))
    assert 2 <= kept < 8

    lines = []
    result = run_job(job(shard_size=4), out, report=lines.append)
    assert result.unique == 30 and not result.cache_hit
    assert result.encoded == sum(map(len, encoded_texts)) == 30 - 4 * kept
    assert any(f"{4 * kept} texts were encoded by an interrupted run" in line for line in lines)
    assert not list(tmp_path.glob(".out.work-*"))

    run_job(job(shard_size=4), tmp_path / "uninterrupted")
    continued, whole = EmbeddingTable.load(out), EmbeddingTable.load(tmp_path / "uninterrupted")
    assert continued.tokens == whole.tokens
    assert torch.allclose(continued.vectors, whole.vectors, atol=1e-6)


def test_two_at_once_make_one_table(tmp_path, job, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    write_dataset(tmp_path, text=many_items(12))
    original = Encoder.encode

    def slow(self, texts):
        time.sleep(0.3)
        return original(self, texts)

    monkeypatch.setattr(Encoder, "encode", slow)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run_job, job(shard_size=4), tmp_path / "out") for _ in range(2)]
        results = sorted((run.result() for run in runs), key=lambda result: result.encoded)
    assert [result.encoded for result in results] == [0, 12]
    assert [result.cache_hit for result in results] == [True, False]
    assert len(EmbeddingTable.load(tmp_path / "out")) == 12
