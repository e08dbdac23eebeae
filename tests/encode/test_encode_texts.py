"""The texts of a catalog, held in memory and spooled to the disk."""

import hashlib
import json
import random
import tracemalloc

import pytest

from recbole_llmemb.encode import item_prompts, read_items
from recbole_llmemb.encode.options import EncodeJob
from recbole_llmemb.encode.texts import hash_lists, item_prompt, read_catalog
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
def catalog_file(request, tmp_path):
    """3,000 items, many with the title of others, some with none."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    draw = random.Random(3)
    titles = [draw.choice([None, f"título {draw.randrange(2500)} ☂"]) for _ in range(2000)]
    titles = [f"first {i}" for i in range(5)] + titles + [f"last {i}" for i in range(995)]
    return write(tmp_path / f"many.{request.param}", titles)


@pytest.mark.parametrize("spooled", [False, True])
def test_it_is_the_file(catalog_file, tmp_path, spooled):
    read = read_items(catalog_file)
    prompts = item_prompts(read.attributes)
    spool = tmp_path / "new" if spooled else None
    found = read_catalog(open_items(catalog_file), item_prompt, spool)
    unique = list(dict.fromkeys(prompts))
    assert found.tokens == read.tokens and len(found.texts) == len(unique) < len(prompts)
    assert list(found.texts) == unique and found.prompts == prompts
    assert found.attributes == ([] if spooled else read.attributes)
    assert found.bare == sum(not attributes for attributes in read.attributes) > 100
    digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in unique]
    assert found.digests.tobytes() == b"".join(digests)
    assert found.token_of(5) == read.tokens[prompts.index(unique[5])]
    assert not spooled or not list((tmp_path / "new").iterdir())  # the file has no name


def test_one_key_however_it_is_read(catalog_file, tmp_path):
    job, spooled = EncodeJob(item_file=catalog_file), EncodeJob(item_file=catalog_file)
    assert spooled.prepare(tmp_path).attributes == [] and job.key == spooled.key
    assert spooled.prepare().attributes == job.prepare().attributes != []  # asked for otherwise
    # What tables have been filed under ever since.
    pairs = json.dumps([job.items.tokens, job.items.prompts], ensure_ascii=False)
    wanted = hashlib.blake2b(pairs.encode(), digest_size=10).hexdigest()
    assert job.items.texts_hash == wanted


@pytest.mark.parametrize("lists", [([], []), (["a"], ["b"]), (list("ab") * 5000, ["é"] * 513)])
def test_hash_of_lists(lists):
    whole = json.dumps(list(lists), ensure_ascii=False).encode()
    assert hash_lists(*lists) == hashlib.blake2b(whole, digest_size=10).hexdigest()


def test_a_folder_that_cannot_be_written_is_not_needed(tmp_path):
    path = write(tmp_path / "x.item", ["a", "b", "a"])
    (tmp_path / "file").touch()
    found = read_catalog(open_items(path), item_prompt, tmp_path / "file" / "below")
    assert len(found.texts) == 2


def test_texts_are_not_held(tmp_path):
    """Twenty megabytes of text in a fraction of it."""
    path = write(tmp_path / "x.item", (f"{i} " + "long " * 200 for i in range(20_000)))
    assert path.stat().st_size > 20_000_000
    file = open_items(path)
    tracemalloc.start()
    try:
        found = read_catalog(file, lambda item: item_prompt(item, value_max_chars=None), tmp_path)
        texts = [found.texts[i] for i in range(3072, 5120)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(texts) == 2048 and texts[0].startswith("The item has")
    del texts
    assert peak < 10_000_000, peak  # among it the texts of two shards
