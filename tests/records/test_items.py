"""Item files: what is read, against RecBole's own reading, and what is refused."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from encode_models import ITEM_FILE, write_dataset

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode import item_prompts, read_items
from recbole_llmemb.encode.shards import NOTHING_KNOWN
from recbole_llmemb.records.items import open_items


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def bundled_file():
    return Path(find_spec("recbole").origin).parent / "dataset_example/ml-100k/ml-100k.item"


def test_attributes_in_file_order_without_the_missing(tmp_path):
    items = read_items(write_dataset(tmp_path))
    assert items.tokens == ["a7", "b2", "c9", "d1", "e5"]
    assert items.fields == ["title", "brand", "price"]
    assert list(items.attributes[0].items()) == [
        ("title", "red soap"),
        ("brand", "one"),
        ("price", "1.5"),
    ]
    assert items.attributes[1] == {"title": "blue gel", "price": "2.0"}
    assert items.attributes[2] == {"title": "red gel one", "brand": "two"}
    assert items.attributes[4] == {}


@pytest.mark.parametrize("fields", [["price", "title"], "price,title", "[price, title]"])
def test_chosen_fields_in_the_order_asked_for(tmp_path, fields):
    items = read_items(write_dataset(tmp_path), fields=fields)
    assert list(items.attributes[0]) == ["price", "title"]


def test_vectors_are_no_text_unless_asked_for(tmp_path):
    path = write(tmp_path / "x.item", "item_id:token\tt:token\tv:float_seq\na\tb\t0.1 0.2\n")
    assert read_items(path).attributes == [{"t": "b"}]
    assert read_items(path, fields=["v"]).attributes == [{"v": "0.1 0.2"}]


def test_a_stray_quote_swallows_nothing(tmp_path):
    text = (
        "item_id:token\ttitle:token_seq\n"
        '1\t"Weird Al" Yankovic\n'
        '2\t"unbalanced\n'
        '3\t27" screen\n'
        '4\t"all in ""quotes"""\n'
        "5\tit's\n"
    )
    items = read_items(write(tmp_path / "x.item", text))
    assert items.tokens == ["1", "2", "3", "4", "5"]
    assert [item["title"] for item in items.attributes] == [
        '"Weird Al" Yankovic',
        '"unbalanced',
        '27" screen',
        '"all in ""quotes"""',
        "it's",
    ]


def test_other_separator_line_ends_and_encoding(tmp_path):
    text = "item_id:token,title:token_seq\r\n1,Crème brûlée\r\n\r\n2,b\r\n"
    path = write(tmp_path / "x.item", text, "latin-1")
    items = read_items(path, field_separator=",", encoding="latin-1")
    assert items.tokens == ["1", "2"]
    assert items.attributes[0] == {"title": "Crème brûlée"}
    with pytest.raises(UserError, match="cannot be read"):
        read_items(path, field_separator=",")


def test_words_for_nothing(tmp_path):
    text = "item_id:token\tt:token\n1\tNaN\n2\t N/A \n3\tNaNa\n4\tnull\nNA\tb\n5\n"
    items = read_items(write(tmp_path / "x.item", text))
    assert items.attributes == [{}, {}, {"t": "NaNa"}, {}, {"t": "b"}, {}]
    assert items.tokens[4] == "NA"  # a token is none


def test_a_lone_carriage_return_splits_no_line(tmp_path):
    text = "\ufeffitem_id:token\tt:token\r\n1\ta\rb\r\n2\tc\x85d\u2028e\r\n3\tü\r\n"
    path = write(tmp_path / "x.item", text)
    items = read_items(path)
    assert items.tokens == ["1", "2", "3"]
    assert [item["t"] for item in items.attributes] == ["a b", "c d e", "ü"]


def test_same_text_as_pandas_on_real_files():
    """RecBole reads items with pandas: tokens and text must be the same."""
    import pandas as pd

    frame = pd.read_csv(bundled_file(), delimiter="\t", dtype=str, engine="python")
    items = read_items(bundled_file())
    assert items.tokens == frame["item_id:token"].tolist()
    for row, item in zip(frame.itertuples(index=False), items.attributes, strict=True):
        values = [None if pd.isna(value) else value.strip() for value in row[1:]]
        assert [item.get(field) for field in items.fields] == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id\ttitle:token\n1\ta\n", "'item_id' is not"),
        ("iid:token\ttitle:token\n1\ta\n", "no field 'item_id'.*iid, title.*ITEM_ID_FIELD"),
        ("item_id:token\tt:token\n1\ta\tb\n", "line 2: 3 fields where the first line names 2"),
        ("item_id:token\tt:token\n\ta\n", "no items"),
        ("item_id:token\tt:token\n1\ta\n2\tb\n1\tc\n", "1 item token.* more than once: '1'"),
        ("item_id:token\tt:token\n", "no items"),
        ("", "'' is not"),
    ],
)
def test_refusals(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_items(write(tmp_path / "x.item", text))


def test_lines_without_an_item_are_left_out_and_told(tmp_path, caplog):
    """As the dataset does without them."""
    text = "item_id:token\tt:token\n\tno\n1\ta\n\t\n\n2\tb\t\n"
    file = open_items(write(tmp_path / "x.item", text))
    assert list(file.rows()) == [("1", {"t": "a"}), ("2", {"t": "b"})]
    (told,) = caplog.messages
    assert "x.item: 1 lines left out" in told and told.endswith("line 2")


def test_bytes_are_text_if_they_are_utf_8(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"item_id": b"a", "t": "é".encode(), "v": b"\xff"}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert read_items(tmp_path / "x.parquet").attributes == [{}]
    read = read_items(tmp_path / "x.parquet", ["t"])
    assert read.tokens == ["a"] and read.attributes == [{"t": "é"}]
    with pytest.raises(UserError, match="row 1: 'v' is no text") as refused:
        read_items(tmp_path / "x.parquet", ["v"])
    assert refused.value.key == "item_text_fields"


def test_unknown_field_and_absent_file(tmp_path):
    with pytest.raises(UserError, match="no field 'color'.*but title, brand, price"):
        read_items(write_dataset(tmp_path), fields=["title", "color"])
    with pytest.raises(UserError, match="no item file .*gone.item.*llm_table"):
        read_items(tmp_path / "gone.item")


def naive_prompts(text, instruction, limit):
    """The prompts straight from the text of the file, by the method's description."""
    header, *lines = text.strip("\n").split("\n")
    names = [column.split(":")[0] for column in header.split("\t")][1:]
    prompts = []
    for line in lines:
        prompt = instruction
        separator = " "
        for name, value in zip(names, line.split("\t")[1:], strict=True):
            if value == "":
                continue
            prompt = prompt + separator + name + " is " + value[:limit]
            separator = "; "
        prompts.append(prompt if separator == "; " else NOTHING_KNOWN)
    return prompts


@pytest.mark.parametrize("limit", [100, 5])
def test_prompts_against_naive_construction(tmp_path, limit):
    text = ITEM_FILE + "z\t" + "long " * 40 + "end\tbrand; with: signs\t3\n"
    path = write_dataset(tmp_path, text=text)
    made = item_prompts(read_items(path).attributes, "The beauty item has:", limit)
    assert made == naive_prompts(text, "The beauty item has:", limit)
    assert made[0] == (
        f"The beauty item has: title is {'red soap'[:limit]}; brand is one; price is 1.5"
    )


def test_prompt_variants():
    item = [{"a": "x" * 150, "b": "y"}]
    assert item_prompts(item, "P: ") == [f"P: a is {'x' * 100}; b is y"]
    assert item_prompts(item, "", None) == [f"a is {'x' * 150}; b is y"]
    assert item_prompts(item, "P", 0) == [f"P a is {'x' * 150}; b is y"]
    assert item_prompts([{}], "P") == [NOTHING_KNOWN]


ROWS = [
    {"item_id": 7, "title": "red  soap\n", "tags": ["gel", None, "kind"], "price": 1.5, "v": [0.1]},
    {"item_id": 8, "title": None, "tags": [], "price": float("nan"), "v": [0.2]},
    {"item_id": 9, "title": "NULL", "tags": None, "price": 2.0, "v": None, "new": True},
]


def write_rows(path, rows):
    if path.suffix == ".jsonl":
        return write(path, "\n".join(map(json.dumps, rows)) + "\n\n")
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_files_with_types(tmp_path, suffix):
    path = write_rows(tmp_path / f"x.{suffix}", ROWS)
    items = read_items(path)
    assert items.tokens == ["7", "8", "9"]
    assert items.fields == ["title", "tags", "price", "new"]  # of all rows, without vectors
    assert items.attributes == [
        {"title": "red soap", "tags": "gel, kind", "price": "1.5"},
        {},
        {"price": "2.0", "new": "true"},
    ]
    assert read_items(path, fields="price,title").attributes[0] == {
        "price": "1.5",
        "title": "red soap",
    }
    with pytest.raises(UserError, match="no field 'color'.*but title, tags, price, v, new"):
        read_items(path, fields=["color"])
    with pytest.raises(UserError, match="no field 'asin'.*--item_id_field"):
        read_items(path, id_field="asin")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"item_id": 1.5, "t": "a"}], "(line|row) 1: the item token .* is 1.5; it must be"),
        ([{"item_id": "a", "t": "a"}, {"item_id": None, "t": "b"}], "(line|row) 2: .* is empty"),
        ([{"item_id": "a\nb", "t": "a"}], "(line|row) 1: .*line break"),
        ([{"item_id": "a", "t": "b"}] * 2, "1 item token.* more than once: 'a'"),
        ([], "no items|no columns"),
    ],
)
def test_refusals_of_files_with_types(tmp_path, suffix, rows, message):
    with pytest.raises(UserError, match=message):
        read_items(write_rows(tmp_path / f"x.{suffix}", rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"item_id": "a"}\n{"item_id"\n', "line 2: not JSON"),
        ('["a"]\n', "line 1: not a JSON object"),
        ('{"item_id": "a", "t": {"x": 1}}\n', None),
        ('{"item_id": "a\\ud800"}\n', "line 1: the item token .* is no text"),
    ],
)
def test_json_lines(tmp_path, text, message):
    path = write(tmp_path / "x.jsonl", text)
    if message:
        with pytest.raises(UserError, match=message):
            read_items(path)
    else:  # nested values are text only if asked for
        assert read_items(path).attributes == [{}]
        assert read_items(path, fields=["t"]).attributes == [{"t": "x: 1"}]


def test_lists_in_lists_without_end(tmp_path):
    deep = 600 if sys.version_info < (3, 12) else 1400  # than Python's own limit
    nested = f'{{"item_id": "a", "t": {"[" * deep + "]" * deep}}}'
    with pytest.raises(UserError, match="line 1: 't' is no text"):
        read_items(write(tmp_path / "x.jsonl", nested), fields=["t"])


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.parquet"])
def test_absent_and_damaged_files(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
        (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
        with pytest.raises(UserError, match="bad.parquet cannot be read"):
            read_items(tmp_path / "bad.parquet")
    with pytest.raises(UserError, match=f"no item file .*{name}"):
        read_items(tmp_path / name)


def test_a_hole_in_a_file_is_refused(tmp_path):
    """What a broken copy leaves: over the end of a line, an item has the text of another."""
    whole = b"item_id:token\ttitle:token_seq\na\tsoap one\nb\tgel two\nc\ttea\n"
    start = whole.index(b"one")
    for end in (start + 2, whole.index(b"two")):
        (tmp_path / "x.item").write_bytes(whole[:start] + b"\0" * (end - start) + whole[end:])
        with pytest.raises(UserError) as caught:
            read_items(tmp_path / "x.item")
        assert "line 2" in str(caught.value) and str(tmp_path / "x.item") in str(caught.value)


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_short_floats_of_parquet_are_as_they_are_written(tmp_path, kind):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    prices = pa.array(
        [np.dtype(kind).type(1.1), None, np.dtype(kind).type(2)], type=getattr(pa, kind)()
    )
    rows = pa.table({"item_id": ["a", "b", "c"], "title": ["x"] * 3, "price": prices})
    parquet.write_table(rows, tmp_path / "x.parquet")
    found = read_items(tmp_path / "x.parquet", fields=["title", "price"])
    assert ["1.1" in str(one) for one in found.attributes] == [True, False, False]
    assert "1.10" not in str(found.attributes) and "1.09" not in str(found.attributes)
