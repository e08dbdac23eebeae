"""The texts of a catalog, which wait on the disk."""

import hashlib
import json
import random
import tracemalloc

import pytest

from recbole_llmemb.encode import item_prompts, read_items
from recbole_llmemb.encode.job import EncodeJob
from recbole_llmemb.encode.settings import EncodeSettings
from recbole_llmemb.encode.shards import NOTHING_KNOWN, hash_lists, item_prompt, read_catalog
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


def test_attributes_on_a_line_of_their_own():
    """As the authors' notebooks write them: cut, then one line, and no semicolon in a value."""
    item = {"title": "Red; soft\nsoap", "brand": "x" * 9, "note": ";;;;;;;;;;;;"}
    job = EncodeJob(item_file="none", settings=EncodeSettings(
        item_prompt="The soap has: ", item_lines=True, item_value_max_chars=8,
    ))  # fmt: skip
    assert item_prompt(item, *job.prompt) == (
        "The soap has: \n title is Red. sof; brand is xxxxxxxx; note is ........"
    )
    assert item_prompt({}, *job.prompt) == NOTHING_KNOWN
    plain = EncodeJob(item_file="none", settings=EncodeSettings(item_prompt="The soap has: "))
    assert item_prompt({"title": "a;b"}, *plain.prompt) == "The soap has: title is a;b"


@pytest.fixture(params=KINDS)
def catalog_file(request, tmp_path):
    """3,000 items, many with the title of others, some with none."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    draw = random.Random(3)
    titles = [draw.choice([None, f"título {draw.randrange(2500)} ☂"]) for _ in range(2000)]
    titles = [f"first {i}" for i in range(5)] + titles + [f"last {i}" for i in range(995)]
    return write(tmp_path / f"many.{request.param}", titles)


def test_it_is_the_file(catalog_file):
    read = read_items(catalog_file)
    prompts = item_prompts(read.attributes)
    found = read_catalog(open_items(catalog_file), item_prompt)
    unique = list(dict.fromkeys(prompts))
    assert found.tokens == read.tokens and len(found.texts) == len(unique) < len(prompts)
    assert list(found.texts) == unique and [found.texts[i] for i in found.text_of] == prompts
    assert found.n_without_text == sum(not attributes for attributes in read.attributes) > 100
    digests = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in unique]
    assert found.digests.tobytes() == b"".join(digests)
    assert found.token_of(5) == read.tokens[prompts.index(unique[5])]
    # What tables have been filed under ever since.
    pairs = json.dumps([found.tokens, prompts], ensure_ascii=False)
    wanted = hashlib.blake2b(pairs.encode(), digest_size=10).hexdigest()
    assert EncodeJob(item_file=catalog_file).items.texts_hash == wanted


@pytest.mark.parametrize("lists", [([], []), (["a"], ["b"]), (list("ab") * 5000, ["é"] * 513)])
def test_hash_of_lists(lists):
    whole = json.dumps(list(lists), ensure_ascii=False).encode()
    assert hash_lists(*lists) == hashlib.blake2b(whole, digest_size=10).hexdigest()


def test_texts_are_not_held(tmp_path):
    """Twenty megabytes of text in a fraction of it."""
    path = write(tmp_path / "x.item", (f"{i} " + "long " * 200 for i in range(20_000)))
    assert path.stat().st_size > 20_000_000
    file = open_items(path)
    tracemalloc.start()
    try:
        found = read_catalog(file, lambda item: item_prompt(item, value_max_chars=None))
        texts = [found.texts[i] for i in range(3072, 5120)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(texts) == 2048 and texts[0].startswith("The item has")
    del texts
    assert peak < 10_000_000, peak  # among it the texts of two shards
