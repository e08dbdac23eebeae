"""Item files as a stream, against the same file held whole."""

import hashlib
import json
import random
import tracemalloc

import numpy as np
import pytest
import torch

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode import item_prompts, read_items
from recbole_llmemb.encode.assemble import assemble
from recbole_llmemb.encode.item_stream import hash_lists, read_span, scan
from recbole_llmemb.encode.job import EncodeJob
from recbole_llmemb.encode.prompts import item_prompt
from recbole_llmemb.encode.shards import ShardFolder
from recbole_llmemb.records.items import open_items

KINDS = ["item", "jsonl", "parquet"]


def write(path, titles):
    """Items with these titles, None for none; in the format that the suffix tells."""
    rows = [{"item_id": f"t{i}", "title": title} for i, title in enumerate(titles)]
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [f"{row['item_id']}\t{row['title'] or ''}" for row in rows]
        path.write_text("\n".join(["item_id:token\ttitle:token_seq", *lines, ""]), "utf-8")
    return path


@pytest.fixture(params=KINDS)
def catalogue(request, tmp_path):
    """3,000 items, many with the title of others, some with none."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    draw = random.Random(3)
    titles = [draw.choice([None, f"título {draw.randrange(2500)} ☂"]) for _ in range(2000)]
    titles = [f"first {i}" for i in range(5)] + titles + [f"last {i}" for i in range(995)]
    return write(tmp_path / f"many.{request.param}", titles)


def test_stream_is_the_file(catalogue):
    read = read_items(catalogue)
    texts = item_prompts(read.attributes)
    found = scan(open_items(catalogue), item_prompt)
    unique = list(dict.fromkeys(texts))
    assert found.tokens == read.tokens and found.unique == len(unique) < len(texts)
    assert [unique[number] for number in found.text_of] == texts
    assert [texts[row] for row in found.first_rows] == unique
    assert found.bare == sum(not attributes for attributes in read.attributes) > 100

    size = 100
    shards = -(-len(unique) // size)
    for start, stop in [(0, shards), (3, 4), (shards - 1, shards), (7, 12)]:
        file = open_items(catalogue, read.fields, seen=True)
        parts = list(read_span(file, item_prompt, found.span(start, stop, size)))
        assert parts == [unique[k * size : (k + 1) * size] for k in range(start, stop)]


def test_key_is_that_of_the_local_job(catalogue):
    job, streamed = EncodeJob(catalogue), EncodeJob(catalogue)
    assert streamed.prepare(streamed=True).texts == [] and job.key == streamed.key
    assert streamed.prepare().texts == job.prepare().texts != []  # asked for otherwise
    # What tables have been filed under ever since.
    ready = job.prepare()
    pairs = json.dumps([ready.items.tokens, ready.texts], ensure_ascii=False)
    assert ready.texts_hash == hashlib.blake2b(pairs.encode(), digest_size=10).hexdigest()


@pytest.mark.parametrize("lists", [([], []), (["a"], ["b"]), (list("ab") * 5000, ["é"] * 513)])
def test_hash_of_lists(lists):
    whole = json.dumps(list(lists), ensure_ascii=False).encode()
    assert hash_lists(*lists) == hashlib.blake2b(whole, digest_size=10).hexdigest()


@pytest.mark.parametrize("change", ["other text", "shorter"])
def test_file_changed_meanwhile(tmp_path, change):
    path = write(tmp_path / "x.item", [f"title {i}" for i in range(50)])
    span = scan(open_items(path), item_prompt).span(1, 5, 10)
    text = path.read_text()
    path.write_text(text.replace("title 33", "title 3x") if change[0] == "o" else text[:-40])
    with pytest.raises(UserError, match="changed while it was being read"):
        list(read_span(open_items(path), item_prompt, span))


def test_texts_are_not_held(tmp_path):
    """Twenty megabytes of text in a fraction of it."""
    path = write(tmp_path / "x.item", (f"{i} " + "long " * 200 for i in range(20_000)))
    assert path.stat().st_size > 20_000_000
    file = open_items(path)
    tracemalloc.start()
    try:
        found = scan(file, lambda item: item_prompt(item, value_max_chars=None))
        span = found.span(3, 5, 1024)
        texts = list(read_span(file, lambda item: item_prompt(item, value_max_chars=None), span))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(part) for part in texts] == [1024, 1024]
    del texts
    assert peak < 10_000_000, peak  # among it the texts of two shards


def test_assembled_in_the_order_of_the_items(tmp_path):
    draw = torch.Generator().manual_seed(0)
    text_of = np.random.default_rng(0).integers(0, 23, 60)
    text_of[:23] = np.arange(23)
    for dtype in (torch.float32, torch.bfloat16):
        vectors = torch.randn(23, 5, generator=draw).to(dtype)
        folder = tmp_path / str(dtype)
        shards = ShardFolder(folder, 5, "k{}".format, lambda k: min(5, 23 - 5 * k))
        assert not shards.has(0)
        for shard in (4, 1, 0, 3, 2):
            shards.put(shard, vectors[5 * shard : 5 * shard + 5].clone())
        table = assemble(shards, text_of, 5, folder)
        assert table.dtype == dtype and torch.equal(table, vectors[text_of])
    (folder / "shard-00003.safetensors").unlink()
    with pytest.raises(UserError, match="shard-00003.* is missing or damaged"):
        assemble(shards, text_of, 5, folder)
