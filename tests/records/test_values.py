"""From values to text: the rule itself, and the same item in every kind of file."""

import csv
import gzip
import io
import json
from decimal import Decimal

import numpy as np
import pytest

from recbole_llmemb.apps.convert import ConvertJob, convert
from recbole_llmemb.apps.serve.item_index import read_new_items
from recbole_llmemb.encode import item_prompts, read_items
from recbole_llmemb.records.values import kept_token, one_line, text_of, token_of

SENTENCE = "It cleans, and goes on doing so for as long as one likes it to."

# Letters that are not seen, but make words and emoji: joiners of both kinds, a soft hyphen.
PERSIAN, CODER, SOFT = "می\u200cخواهم", "\U0001f469\u200d\U0001f4bb", "Donau\u00addampf"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (float("nan"), ""), ("", ""), ("  N/A ", ""), ("null", ""), ("NaNa", "NaNa"),
        (True, "true"), (False, "false"), ("TRUE", "true"), ("False", "false"), ("truE", "truE"),
        (7, "7"), (7.0, "7.0"), (1.5, "1.5"), ([1, None, "NaN", 2.5], "1, 2.5"),
        (["red", "blue"], "red, blue"), (("a", ["b", True]), "a, b, true"), ([], ""),
        (["short", SENTENCE], f"short {SENTENCE}"), ([{"a": 1}, {"b": None}], "a: 1"),
        ({"brand": "one", "size": None, "tags": ["x", "y"], 3: False},
         "brand: one, tags: x, y, 3: false"),
        (" a \t b\r\nc\x00d\x85e\u2028f\u00a0g\u3000", "a b c d e f g"),
        (PERSIAN, PERSIAN), (CODER, CODER), (SOFT, SOFT), ("\ue000\u202bx", "\ue000\u202bx"),
        ("half \ud83d one", "half ? one"),
    ],
)  # fmt: skip
def test_the_rule(value, text):
    assert text_of(value) == text
    assert text_of(text) == text  # what was written reads back the same


def test_tokens_stand_as_they_are():
    values = [None, float("nan"), 7, 7.0, Decimal("7.00"), "7.0", "NA", " a  b ", PERSIAN]
    assert [token_of(value) for value in values] == [
        "", "", "7", "7", "7", "7.0", "NA", " a  b ", PERSIAN,
    ]  # fmt: skip
    decimals = ["7.5", "Infinity", "NaN", "12345678901234567890.0"]
    assert [kept_token(Decimal(number)) for number in decimals] == [
        None, None, "", "12345678901234567890",
    ]  # fmt: skip
    assert one_line(" a\tb\n" + PERSIAN) == "a b " + PERSIAN


TOKEN = "n" + PERSIAN
ITEM = {
    "asin": TOKEN, "title": f"{PERSIAN}  {SOFT} {CODER}\n", "brand": "N/A", "vegan": True,
    "tags": ["red", "blue"], "about": ["Short.", SENTENCE], "price": 12.5, "size": None,
    "details": {"scent": "rose", "age": None},
}  # fmt: skip
FIELDS = [name for name in ITEM if name != "asin"]
PROMPT = (
    f"An item: title is {PERSIAN} {SOFT} {CODER}; vegan is true; tags is red, blue; "
    f"about is Short. {SENTENCE}; price is 12.5; details is scent: rose"
)
# As programs write them into files that have no types.
CELLS = ITEM | {
    "vegan": "True", "tags": "red, blue", "about": f"Short. {SENTENCE}", "size": "",
    "details": "scent: rose",
}  # fmt: skip


def write(path):
    """The item, in a file of the kind that the path's name says."""
    ending, text = path.name.removeprefix("new.").removesuffix(".gz"), io.StringIO(newline="")
    if ending == "item":
        cells = CELLS | {"title": CELLS["title"].strip()}
        text.write("\t".join(f"{name}:token_seq" for name in cells) + "\n")
        text.write("\t".join(map(str, cells.values())) + "\n")
    elif ending == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.Table.from_pylist([ITEM]), path)
        return path
    elif ending in ("csv", "tsv"):
        tab = "\t" if ending == "tsv" else ","
        csv.writer(text, delimiter=tab).writerows([CELLS.keys(), CELLS.values()])
    else:
        rows = [ITEM] if ending == "list.json" else ITEM
        json.dump(rows, text, indent=2 if rows is not ITEM else None)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def by_convert(path):
    """The prompt of the only item of a file, through a dataset."""
    clicks = path.parent / "clicks.csv"
    clicks.write_text(f"user,asin,time\nu,{TOKEN},1\n")
    job = ConvertJob(
        interactions=[clicks], items=[path], out="data/mine", item_fields=FIELDS, min_user=1,
        min_item=1, progress=False,
    )  # fmt: skip
    convert(job, report=lambda line: None)
    return by_encode("data/mine/mine.item", "item_id")


def by_encode(path, id_field="asin"):
    items = read_items(path, fields=FIELDS, id_field=id_field)
    assert items.tokens == [TOKEN]
    return item_prompts(items.attributes, "An item:")[0]


def by_recommend(path):
    """As with ``--new_items``, beside a table whose text was made of the fields."""
    manifest = {"format_version": 1, "fields": FIELDS}
    path.with_name("table").mkdir()
    path.with_name("table").joinpath("manifest.json").write_text(json.dumps(manifest))
    settings = {"ITEM_ID_FIELD": "asin", "field_separator": "\t", "encoding": "utf-8"}
    used = {"llm_table_used": {"path": path.with_name("table")}}
    return prompt_of(read_new_items(path, settings | used))


def prompt_of(new):
    assert new.tokens == [TOKEN]
    attributes = [{name: new.attributes[0][name] for name in FIELDS if name in new.attributes[0]}]
    return item_prompts(attributes, "An item:")[0]


@pytest.mark.parametrize(
    "ending", ["jsonl", "jsonl.gz", "json", "list.json", "parquet", "csv", "tsv", "csv.gz", "item"]
)
def test_one_prompt_whatever_the_file_and_the_command(tmp_path, ending):
    path = write(tmp_path / f"new.{ending}")
    assert by_convert(path) == PROMPT
    assert by_encode(path) == PROMPT
    assert by_recommend(path) == PROMPT


def test_one_prompt_from_python():
    new = read_new_items(
        [ITEM | {"tags": np.array(["red", "blue"]), "vegan": np.bool_(True)}],
        {"ITEM_ID_FIELD": "asin"},
    )
    assert prompt_of(new) == PROMPT
