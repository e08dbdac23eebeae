"""From values to text: the rule itself, and the same item in every kind of file."""

import csv
import json

import pytest

from recbole_llmemb.apps.convert import ConvertJob, convert
from recbole_llmemb.apps.serve.new_items import of_mappings, read_new_items
from recbole_llmemb.encode import item_prompts, read_items
from recbole_llmemb.records.values import one_line, text_of, token_of

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
    values = [None, float("nan"), 7, 7.0, "7.0", "NA", " a  b ", PERSIAN]
    assert [token_of(value) for value in values] == [
        "", "", "7", "7", "7.0", "NA", " a  b ", PERSIAN,
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
    """The item, in a file of the kind that the path's suffix says."""
    if path.suffix == ".item":
        cells = CELLS | {"title": CELLS["title"].strip()}
        head = "\t".join(f"{name}:token_seq" for name in cells)
        path.write_text(head + "\n" + "\t".join(map(str, cells.values())) + "\n")
    elif path.suffix == ".parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.Table.from_pylist([ITEM]), path)
    elif path.suffix in (".csv", ".tsv"):
        with open(path, "w", newline="") as file:
            tab = "\t" if path.suffix == ".tsv" else ","
            csv.writer(file, delimiter=tab).writerows([CELLS.keys(), CELLS.values()])
    else:
        path.write_text(json.dumps(ITEM) + "\n")
    return path


def by_convert(path):
    """The prompt of the only item of a file, through a dataset."""
    clicks = path.parent / "clicks.csv"
    clicks.write_text(f"user,asin,time\nu,{TOKEN},1\n")
    convert(
        ConvertJob([str(clicks)], "data/mine", [str(path)], item_fields=FIELDS, min_user=1,
                   min_item=1, progress=False),
        report=lambda line: None,
    )  # fmt: skip
    return by_encode("data/mine/mine.item", "item_id")


def by_encode(path, id_field="asin"):
    items = read_items(path, fields=FIELDS, id_field=id_field)
    assert items.tokens == [TOKEN]
    return item_prompts(items.attributes, "An item:")[0]


def by_recommend(new):
    assert new.tokens == [TOKEN]
    attributes = [{name: new.attributes[0][name] for name in FIELDS if name in new.attributes[0]}]
    return item_prompts(attributes, "An item:")[0]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv", "tsv"])
def test_one_prompt_by_convert(tmp_path, suffix):
    assert by_convert(write(tmp_path / f"new.{suffix}")) == PROMPT


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "item"])
def test_one_prompt_by_encode(tmp_path, suffix):
    assert by_encode(write(tmp_path / f"new.{suffix}")) == PROMPT


@pytest.mark.parametrize("suffix", ["jsonl", "item"])
def test_one_prompt_by_recommend(tmp_path, suffix):
    settings = {"ITEM_ID_FIELD": "asin", "field_separator": "\t", "encoding": "utf-8"}
    assert by_recommend(read_new_items(write(tmp_path / f"new.{suffix}"), settings)) == PROMPT
    assert by_recommend(of_mappings([ITEM], "asin")) == PROMPT
