"""Files of any kind to a dataset: what is written, what is dropped and counted."""

import csv
import gzip
import io
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.cli.main import main  # isort: skip
from recbole_llmemb.apps.convert import ConvertJob, Converted, convert  # isort: skip
from recbole_llmemb.apps.convert.interactions import k_core  # isort: skip
from recbole_llmemb.records.items import read_items  # isort: skip
from recbole_llmemb.core import files  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip

WORDS = ["beauty", "soap", "gel", "red", "blue", "one", "two"]
SILENT = {"progress": False, "min_user": 1, "min_item": 1}


def job(out="dataset/mine", **settings):
    lines: list = []
    done = convert(ConvertJob(out=out, **(SILENT | settings)), report=lines.append)
    return done, lines


def table(path):
    """Header and rows of an atomic file, as RecBole reads it: with pandas."""
    plain = {"quoting": csv.QUOTE_NONE, "keep_default_na": False, "lineterminator": "\n"}
    frame = pd.read_csv(path, sep="\t", dtype=str, **plain)
    return list(frame.columns), frame.to_numpy().tolist()


def counts(done):
    return {row.what.strip(" -"): row.count for row in done.rows}


def places(done):
    return {row.what.strip(" -"): str(row) for row in done.rows}


@pytest.fixture
def write(tmp_path):
    """``write(name, text)``: a file in the test's folder, its path."""

    def make(name, text):
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(tmp_path / name)

    return make


REVIEWS = [
    {"user_id": "A", "parent_asin": "P1", "asin": "Q1", "rating": 5.0, "timestamp": 1588687728923},
    {"user_id": "B", "parent_asin": "P2", "asin": "Q2", "rating": 3.5, "timestamp": 1588687728000},
    {"user_id": "A", "parent_asin": "P2", "asin": "Q3", "rating": 1.0, "timestamp": 1488687728000},
]
META = [
    {"parent_asin": "P1", "title": "Rose\tShampoo\n\u2028 500 ml", "store": None, "price": 12.5,
     "categories": ["Beauty", "Hair"], "features": [], "average_rating": 4.2, "images": [{"a": 1}],
     "description": ["It cleans, and goes on doing so for as long as one likes it to.", "Twice."],
     "main_category": "All Beauty"},
    {"parent_asin": "P2", "title": '"Best" 5" comb', "store": "None", "price": None,
     "categories": [], "features": ["soft", "long"], "description": [], "main_category": "None"},
    {"parent_asin": "P9", "title": "Nobody's", "price": 1.0},
]  # fmt: skip


def lines_of(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("format", ["auto", "amazon2023"])
def test_amazon_reviews(write, ending, format):
    reviews = write(
        f"reviews{ending}", lines_of(REVIEWS[:2]) + '{"user_id": \n' + lines_of(REVIEWS[2:])
    )
    meta = write(f"meta{ending}", lines_of(META))
    done, told = job(interactions=[reviews], items=[meta], format=format)
    header, rows = table("dataset/mine/mine.inter")
    assert header == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    assert rows == [
        ["A", "P2", "1", "1488687728"],  # by user, then time
        ["A", "P1", "5", "1588687728.923"],
        ["B", "P2", "3.5", "1588687728"],
    ]
    header, rows = table("dataset/mine/mine.item")
    assert header == [
        "item_id:token", "title:token_seq", "store:token_seq", "main_category:token_seq",
        "categories:token_seq", "price:float", "features:token_seq", "description:token_seq",
    ]  # fmt: skip
    assert rows[0][:6] == ["P1", "Rose Shampoo 500 ml", "", "All Beauty", "Beauty, Hair", "12.5"]
    assert rows[0][7].endswith("likes it to. Twice.")
    assert rows[1] == ["P2", '"Best" 5" comb', "", "", "", "", "soft, long", ""]
    assert read_items("dataset/mine/mine.item").attributes[1]["title"] == '"Best" 5" comb'
    assert "time = timestamp (milliseconds, 2017-03-05 to 2020-05-05)" in told[0]
    found = counts(done)
    assert found["interactions read"] == 4 and found["malformed lines"] in (1, 0)
    assert places(done)["of items without interactions"] == "" and found["items"] == 2
    assert found["of items without interactions"] == 1 and found["item lines written"] == 2
    assert not any(name.startswith(".") for name in _names("dataset"))


def _names(folder):
    return [path.name for path in Path(folder).iterdir()]


CSV = """user,movie id,stars,when
u1,m1,4,2024-05-01T10:00:00
u1,"m2",5,2024-05-01 12:00:00+02:00
,m2,5,2024-05-02
u2,m1,3,yesterday
u2,m1
u2,m2,many,2024-05-03
u2,,3,2024-05-03
u3,m1,1,2024-05-04
u3,m3,2,2024-05-05

u3,m1,1,2024-05-04
"""


def test_csv_and_every_reason(write):
    movies = write(
        "movies.tsv", "\ufeffmovie id\tTitle\tyear\nm1\tOne\t1999\nm2\t\t\nm2\tTwo\t1\n\tx\t1\n"
    )
    done, told = job(
        interactions=[write("ratings.csv", CSV)],
        items=[movies],
        item="movie id",
        time="when",
        min_rating=2,
    )
    assert table("dataset/mine/mine.inter")[1] == [
        ["u1", "m1", "4", "1714557600"],
        ["u1", "m2", "5", "1714557600"],
    ]
    assert table("dataset/mine/mine.item") == (
        ["item_id:token", "Title:token_seq", "year:float"],
        [["m1", "One", "1999"], ["m2", "", ""]],
    )
    found, where = counts(done), places(done)
    assert found["interactions read"] == 10
    assert (found["malformed lines"], found["without user or item"]) == (0, 2)  # of the items
    rows = [(row.what.strip(" -"), row.count, str(row)) for row in done.rows]
    assert ("malformed lines", 1, "line 6") in rows
    assert where["without user or item"] == "line 4, line 8"
    assert where["without a time that can be read"] == "line 5"
    assert where["without a rating that can be read"] == "line 7"
    assert (found["rated below 2"], where["rated below 2"]) == (2, "line 9, line 12")
    assert found["of items without metadata"] == 1  # m3
    assert found["with nothing in them"] == 1 and where["without item"] == "line 5"
    assert where["of an item that was there already"] == "line 4"
    assert "rating = stars" in told[0] and "dates in text, 2024-05-01 to 2024-05-05" in told[0]
    dropped = [count for what, count, _ in rows[1:9]]
    assert 10 - sum(dropped[:7]) == found["interactions written"] == 2
    shown = done.table()
    assert "line 4, line 8" in shown and "interactions written" in shown


def test_what_is_written_reads_back_the_same(write):
    """Quotes, words for nothing, tabs and line ends: by RecBole and by us, whatever is loaded."""
    from recbole.config import Config
    from recbole.data import create_dataset

    ids = ["NA", "null", "None", '"q', 'q"', '"q"', "nan", "plain"]
    titles = ['"unclosed', 'ends"', '""', "a\tb", "a\r\nb", "a\nb", "a\rb", 'a ""b"" c']
    read = [" ".join(title.split()) for title in titles]
    clicks, items = io.StringIO(newline=""), io.StringIO(newline="")
    csv.writer(clicks).writerows([["user", "item", "time"], *((i, i, 9) for i in ids)])
    csv.writer(items).writerows([["item", "title"], *zip(ids, titles)])
    paths = write("r.csv", clicks.getvalue()), write("i.csv", items.getvalue())
    job(interactions=[paths[0]], items=[paths[1]])
    assert sorted(table("dataset/mine/mine.inter")[1]) == sorted([i, i, "9"] for i in ids)
    found = read_items("dataset/mine/mine.item")
    assert dict(zip(found.tokens, (a["title"] for a in found.attributes))) == dict(zip(ids, read))
    config = Config(model="BPR", dataset="mine", config_dict={"data_path": "dataset"})
    config["load_col"] = None
    dataset = create_dataset(config)
    assert sorted(dataset.field2id_token["item_id"][1:]) == sorted(ids)
    tokens = dataset.field2id_token["title"]
    known = zip(dataset.field2id_token["item_id"][1:], dataset.item_feat["title"][1:])
    assert {i: " ".join(tokens[row]) for i, row in known} == dict(zip(ids, read))


def test_a_lone_carriage_return_splits_no_row(write):
    job(interactions=[write("r.csv", "user,item,time\r\nu,a\rb,1\r\nu,c,2\r\n")])
    assert table("dataset/mine/mine.inter")[1] == [["u", "a b", "1"], ["u", "c", "2"]]


def test_quotes_hold_lines_and_delimiters(write):
    text = 'user;item;time\n"a";"x;y";1\n"b";"two\nlines";2\nc;z\nd;q;4\n'
    done, _ = job(interactions=[write("r.csv", text)])
    rows = table("dataset/mine/mine.inter")[1]
    assert rows == [["a", "x;y", "1"], ["d", "q", "4"]]
    assert places(done)["malformed lines"] == "line 5"
    assert places(done)["whose user or item is no plain text or whole number"] == "line 3"


def _clicks(lines):
    """100 lines, of which some are others."""
    rows = [f"u{n % 5},i{n % 7},{1_500_000_000 + n}" for n in range(100)]
    for place, line in lines.items():
        rows[place] = line
    return "user,item,time\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize("name", ["r.csv", "r.tsv"])
@pytest.mark.parametrize("places_of", [[10], [10, 60], [10, 11, 99]])
def test_a_stray_quote_takes_its_own_line_only(write, name, places_of):
    text = _clicks(dict.fromkeys(places_of, 'u1,"i1,1500000010'))
    done, _ = job(interactions=[write(name, text.replace(",", "\t") if "tsv" in name else text)])
    assert places(done)["malformed lines"] == ", ".join(f"line {n + 2}" for n in places_of)
    assert counts(done)["interactions read"] == 100
    assert done.interactions == 100 - len(places_of) and done.items == 7


def test_quotes_that_swallow_lines_in_due_form_are_warned_of(write, caplog):
    text = _clicks({10: 'u1,"i1,1500000010', 13: 'u2,i2",1500000013'})
    done, _ = job(interactions=[write("r.csv", text)])
    assert places(done)["whose user or item is no plain text or whole number"] == "line 12"
    assert "line 12" in caplog.text
    caplog.clear()
    items = write("i.csv", 'item,title,brand\ni1,"One,\n""two"", 3,\nfour",x\ni2,12" LP,y\n')
    done, _ = job("dataset/b", interactions=[write("r.csv", _clicks({}))], items=[items])
    assert table("dataset/b/b.item")[1] == [
        ["i1", 'One, "two", 3, four', "x"],
        ["i2", '12" LP', "y"],
    ]
    assert not caplog.text


def test_tokens_are_kept_apart(write):
    ids = ["a  b", "a b", "a\u00a0b", "'a'", " c ", "c\t"]
    rows = [{"user": name, "item": name, "time": 1} for name in ids]
    done, _ = job(interactions=[write("r.jsonl", lines_of(rows))])
    assert sorted(row[0] for row in table("dataset/mine/mine.inter")[1]) == sorted(
        ["a  b", "a b", "a\u00a0b", "'a'", "c"]
    )


def test_what_names_nobody_is_counted(write):
    odd = [{"id": "a"}, ["i"], True, 1.5, 9007199254740993.0, "a\tb", "a\nb"]
    rows = [{"user": "u", "item": value, "time": 1} for value in [*odd, 3.0, "x"]]
    items = write("i.jsonl", lines_of({"item": row["item"], "title": "t"} for row in rows))
    done, _ = job(interactions=[write("r.jsonl", lines_of(rows))], items=[items])
    assert [row[1] for row in table("dataset/mine/mine.inter")[1]] == ["3", "x"]
    assert counts(done)["whose user or item is no plain text or whole number"] == len(odd)
    assert counts(done)["whose item is no plain text or whole number"] == len(odd)


def test_two_values_for_one_key_are_malformed(write):
    text = '{"user": "u", "item": "a", "item": "b", "time": 1}\n' + lines_of(
        [{"user": "u", "item": "c", "time": 1}]
    )
    done, _ = job(interactions=[write("r.jsonl", text)])
    assert places(done)["malformed lines"] == "line 1" and done.items == 1
    with pytest.raises(UserError, match="two values for 'item'"):
        job("dataset/b", interactions=[write("r.json", f"[{text.splitlines()[0]}]")])


def test_ratings_are_kept(write):
    given = ["1234567", "12345.678", "5", "4.0", "3.5", "0.1"]
    text = "user,item,rating,time\n" + "".join(f"u,i{n},{r},{n}\n" for n, r in enumerate(given))
    job(interactions=[write("r.csv", text)])
    assert [row[2] for row in table("dataset/mine/mine.inter")[1]] == [
        "1234567", "12345.678", "5", "4", "3.5", "0.1"
    ]  # fmt: skip


def test_many_fields_can_be_read_again(write):
    names = [f"a_field_with_a_name_{n}" for n in range(80)]
    items = write("i.csv", ",".join(["item", *names]) + "\na" + ",x" * 80 + "\n")
    done, _ = job(interactions=[write("r.csv", "user,item,time\nu,a,1\n")], items=[items])
    assert yaml.safe_load(done.settings.read_text())["item_text_fields"] == names


def test_columns_without_names(write):
    text = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n"
    with pytest.raises(UserError, match=r"first line does not name the columns.*--columns"):
        job(interactions=[write("u.data", text)])
    columns = ["user", "item", "rating", "timestamp"]
    done, told = job(interactions=[write("u.data", text)], columns=columns)
    assert done.interactions == 2 and "(seconds, 1997-12-04 to 1998-04-04)" in told[0]
    with pytest.raises(UserError, match="4 columns in its first line, but 2 are named"):
        job("dataset/b", interactions=[write("u.data", text)], columns=columns[:2])


def test_parquet(tmp_path):
    times = pd.to_datetime(["2024-01-01", None, "2024-01-03"])
    frame = pd.DataFrame(
        {
            "customer_id": [7.0, 7.0, np.nan],
            "sku": ["a", "b", "c"],
            "date": times,
            "price": [1, 2, 3],
        }
    )
    frame.to_parquet(tmp_path / "r.parquet")
    pd.DataFrame({"sku": ["a"], "tags": [["x", "y"]], "label": [1]}).to_parquet(tmp_path / "i.pq")
    done, told = job(interactions=[str(tmp_path / "r.parquet")], items=[str(tmp_path / "i.pq")])
    header, rows = table("dataset/mine/mine.inter")
    assert header == [
        "user_id:token",
        "item_id:token",
        "timestamp:float",
    ]  # no rating: price is none
    assert rows == [["7", "a", "1704067200"]]
    assert places(done)["without a time that can be read"] == "line 2"
    assert table("dataset/mine/mine.item")[1] == [["a", "x, y"]]


@pytest.mark.parametrize(
    ("values", "words", "first"),
    [
        ([1588687728, 1588687729], "(seconds, 2020-05-05", "1588687728"),
        ([1588687728923, 1588687728924], "(milliseconds", "1588687728.923"),
        ([1588687728923000, 1588687728924000], "(microseconds", "1588687728.923"),
        ([1588687728923000000, 1588687728924000000], "(nanoseconds", "1588687728.923"),
        ([1, 2], "(numbers, taken as they are)", "1"),
        (["2020-05-05", "2020-05-06"], "(dates in text", "1588636800"),
        (["2020-05-05T14:08:48Z", "2020-05-06T00:00:00.5Z"], "(dates in text", "1588687728"),
    ],
)
def test_times(write, values, words, first):
    text = "user,item,time\n" + "".join(f"u,i{n},{value}\n" for n, value in enumerate(values))
    _, told = job(interactions=[write("r.csv", text)])
    assert words in told[0] and table("dataset/mine/mine.inter")[1][0][2] == first


def test_times_that_cannot_be_are_dropped_and_counted(write):
    values = [1588687728, "inf", -5, "nan", 1588687729]
    text = "user,item,time\n" + "".join(f"u,i{n},{value}\n" for n, value in enumerate(values))
    done, told = job(interactions=[write("r.csv", text)])
    assert [row[1] for row in table("dataset/mine/mine.inter")[1]] == ["i0", "i4"]
    assert counts(done)["without a time that can be read"] == 3
    assert "(seconds, 2020-05-05 to 2020-05-05)" in told[0]


@pytest.mark.parametrize(("odd", "unit"), [(1_500_000_100_000, "seconds"), (3, "milliseconds")])
def test_a_time_of_another_unit_is_none(write, odd, unit):
    factor = 1 if unit == "seconds" else 1000
    times = [
        1_500_000_000 * factor,
        odd if unit == "seconds" else 1_500_000_001,
        1_500_000_002 * factor,
    ]
    text = "user,item,time\n" + "".join(f"u,i{n},{time}\n" for n, time in enumerate(times))
    done, told = job(interactions=[write("r.csv", text)])
    assert [row[1] for row in table("dataset/mine/mine.inter")[1]] == ["i0", "i2"]
    assert counts(done)["without a time that can be read"] == 1
    assert f"({unit}, " in told[0] and "1 of another unit" in told[0]


def test_each_file_has_its_own_unit(write):
    one = write("a.csv", "user,item,time\nu,a,1500000000\n")
    two = write("b.csv", "user,item,time\nu,b,1500000100000\n")
    _, told = job(interactions=[one, two])
    assert table("dataset/mine/mine.inter")[1] == [
        ["u", "a", "1500000000"],
        ["u", "b", "1500000100"],
    ]
    assert "seconds and milliseconds, 2017-07-14 to 2017-07-14" in told[0]
    three = write("c.csv", "user,item,time\nu,b,7\n")
    with pytest.raises(UserError) as refused:
        job("dataset/b", interactions=[one, three])
    assert refused.value.key == "time_unit"


def test_positions_are_exact_or_refused(write):
    """As floats of 64 bits, near ones of more than 53 would be equal, and their lines repeated."""
    most = 2**53
    lines = [f"u,a,{most - 1}", f"u,b,{most - 2}", f"u,c,{-most + 2}", f"u,d,{-most + 1}"]
    job(
        interactions=[write("r.csv", "\n".join(["user,item,time", *lines, ""]))], time_unit="number"
    )
    rows = table("dataset/mine/mine.inter")[1]
    assert [row[1] for row in rows] == ["d", "c", "b", "a"]
    assert [int(float(row[2])) for row in rows] == [-most + 1, -most + 2, most - 2, most - 1]
    for time in (most + 1, -most - 1):  # the first that is another's float
        path = write("more.csv", f"user,item,time\nu,a,{time}\nu,b,1\n")
        with pytest.raises(UserError) as refused:
            job("dataset/more", interactions=[path], time_unit="number")
        assert refused.value.key == "time_unit" and "'time'" in str(refused.value)


def test_a_time_far_ahead_is_told(write):
    _, told = job(interactions=[write("r.csv", "user,item,time\nu,a,15000000000\n")])
    assert "2445-05-01, which is far ahead" in told[0]


def test_times_are_those_of_lines_that_are_kept(write):
    """A line of totals says nothing of them; times that are all the same order nothing."""
    lines = "user,item,time\nu,a,1577836800\nu,b,1577836900\nTotal,,36\n"
    _, told = job(interactions=[write("r.csv", lines)])
    assert "2020-01-01 to 2020-01-01" in told[0] and "the same" not in told[0]
    lines = "user,item,time\nu,a,1.58E+09\nu,b,1.58E+09\n"
    _, told = job("dataset/same", interactions=[write("same.csv", lines)])
    assert "all the same" in told[0]


def test_a_name_that_no_run_takes_is_refused(write, tmp_path):
    with pytest.raises(UserError) as refused:
        job("dataset/a\\b", interactions=[write("r.csv", "user,item,time\nu,a,1\n")])
    assert refused.value.key == "dataset" and not (tmp_path / "dataset").exists()


def test_times_before_all_are_times_where_they_cannot_mean_that_there_is_none(write):
    path = write("r.csv", "user,item,time\nu,a,-1\nu,b,-3\n")
    job("dataset/number", interactions=[path], time_unit="number")
    assert [row[1] for row in table("dataset/number/number.inter")[1]] == ["b", "a"]
    path = write("r.csv", "user,item,time\nu,a,1969-12-31\nu,b,1969-12-30\n")
    job(interactions=[path])
    assert [row[1] for row in table("dataset/mine/mine.inter")[1]] == ["b", "a"]


def test_a_switch_is_no_time(tmp_path):
    path = tmp_path / "r.jsonl"
    lines = [{"user": "u", "item": f"i{n}", "time": time} for n, time in enumerate((5, True, 6))]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    done, _ = job(interactions=[path])
    assert counts(done)["without a time that can be read"] == 1


def test_a_file_that_is_given_twice_is_refused(write, tmp_path):
    path = write("r.csv", "user,item,time\nu,a,1\n")
    (tmp_path / "link.csv").symlink_to(path)
    for other in (path, tmp_path / "link.csv"):
        with pytest.raises(UserError) as refused:
            job(interactions=[path, other])
        assert refused.value.key == "interactions"
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    with pytest.raises(UserError):
        job(interactions=[path, tmp_path / "loop.csv"])


def test_numbers_beyond_all_times_are_dropped(tmp_path):
    path = tmp_path / "r.jsonl"
    times = [1588687728, 10**400, 1588687729]
    lines = [{"user": "u", "item": f"i{n}", "time": time} for n, time in enumerate(times)]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    done, _ = job(interactions=[path])
    assert [row[1] for row in table("dataset/mine/mine.inter")[1]] == ["i0", "i2"]
    assert counts(done)["without a time that can be read"] == 1


def test_a_folder_is_refused_and_none_of_its_files_read(write, monkeypatch, tmp_path):
    given = write("r.csv", "user,item,time\na,b,1\n")
    monkeypatch.setattr(files, "hash_file", lambda path, digest: pytest.fail(f"{path} was read"))
    for ours in (
        {"interactions": [str(tmp_path)]},
        {"interactions": [given], "items": [str(tmp_path)]},
    ):
        with pytest.raises(UserError) as caught:
            convert(ConvertJob(**ours, out=tmp_path / "out"))
        assert str(caught.value.where) == str(tmp_path)


def test_columns_that_would_be_one_field_are_refused(write):
    path = write("r.csv", "user,item,time\nu,a,1\n")
    items = write("i.csv", "item,a b,a_b,rating,item_rating\na,x,y,1,2\n")
    with pytest.raises(UserError, match="The columns 'a b', 'a_b' would both be the field a_b"):
        job(interactions=[path], items=[items])
    job(interactions=[path], items=[items], item_fields=["a b", "rating"])
    assert table("dataset/mine/mine.item")[0] == [
        "item_id:token",
        "a_b:token_seq",
        "item_rating:float",
    ]


def test_a_shop_names_its_columns_otherwise(write):
    orders = write("orders.csv", "customer,customer_no,sku,ordered_at\nc,7,a,2024-05-01\n")
    products = write("products.csv", "id,name\na,Soap\nb,Comb\n")
    done, told = job(interactions=[orders], items=[products])
    assert "user = customer, item = sku" in told[0] and "time = ordered_at" in told[0]
    assert told[1].startswith("items: id, ")
    # ``customer_id`` is the better one of two.
    both = write("both.csv", "customer,customer_id,sku,ordered_at\nAnna,7,a,2024-05-01\n")
    job("dataset/both", interactions=[both])
    assert table("dataset/both/both.inter")[1][0][0] == "7"


def test_all_columns_that_are_not_known_are_told_at_once(write):
    orders = write("o.csv", "who,what,when\nc,a,1\n")
    products = write("p.csv", "ref,name\na,Soap\n")
    with pytest.raises(UserError) as told:
        job(interactions=[orders], items=[products])
    words = str(told.value)
    assert all(f"--{name}=COLUMN" in words for name in ("user", "item", "time", "items_id"))
    assert "o.csv" in words and "p.csv" in words and told.value.key == "user"
    job(interactions=[orders], items=[products], user="who", item="what", time="when",
        items_id="ref")  # fmt: skip


def test_items_that_nobody_bought_can_be_kept(write):
    """Beside those whose buyers were too few; training does not see them."""
    bought = "".join(f"{user},{item},{time}\n" for time, (user, item) in enumerate(
        [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b"), ("w", "rare")]))  # fmt: skip
    orders = write("o.csv", "user,item,time\n" + bought)
    products = write("p.csv", "item,name\nb,B\nnew,New\nrare,Rare\na,A\nbare,\n")
    few = {"interactions": [orders], "items": [products], "min_user": 2, "min_item": 2}
    done, _ = job(**few)
    assert [row[0] for row in table("dataset/mine/mine.item")[1]] == ["b", "a"]
    assert counts(done)["of items without interactions"] == 2
    done, _ = job("dataset/all", keep_items="all", **few)
    assert table("dataset/all/all.item")[1] == [
        ["b", "B"], ["new", "New"], ["rare", "Rare"], ["a", "A"], ["bare", ""]
    ]  # fmt: skip
    there = counts(done)
    assert there["item lines written"] == 5 and there["of items without interactions"] == 0
    assert [row.count for row in done.rows if row.what == "  of them without interactions"] == [3]
    assert {row[1] for row in table("dataset/all/all.inter")[1]} == {"a", "b"}


def test_times_of_another_form_and_none(write):
    path = write("r.csv", "user,item,time\nu,a,05.03.2020\nu,b,01.03.2020\n")
    with pytest.raises(UserError, match=r"'05.03.2020'.*neither numbers nor dates.*--time_unit"):
        job(interactions=[path])
    for wrong in ("%d.%m.%Y %H:%M %p", "%d.%m.%Y %I:%M", "%d.%m."):
        with pytest.raises(UserError) as refused:
            job(interactions=[path], time_unit=wrong)
        assert refused.value.key == "time_unit"
    _, told = job(interactions=[path], time_unit="%d.%m.%Y")
    assert "dates like %d.%m.%Y, 2020-03-01 to 2020-03-05" in told[0]
    assert [row[1] for row in table("dataset/mine/mine.inter")[1]] == ["b", "a"]
    job("dataset/order", interactions=[path], time="none")
    assert table("dataset/order/order.inter")[1] == [["u", "a", "0"], ["u", "b", "1"]]


def test_times_are_written_in_order(write):
    order = list(range(40))
    random.Random(1).shuffle(order)
    text = "user,item,time\n" + "".join(f"u,i{n:02},{1588687728 + n}\n" for n in order)
    job(interactions=[write("r.csv", text)])
    rows = table("dataset/mine/mine.inter")[1]
    assert [row[1] for row in rows] == [f"i{n:02}" for n in range(40)]


@pytest.mark.parametrize(
    ("dedupe", "kept"),
    [
        ("exact", ["1a", "2b", "3a", "5a"]),
        ("first", ["1a", "2b"]),
        ("last", ["2b", "5a"]),
        ("none", ["1a", "2b", "3a", "3a", "5a"]),
    ],
)
def test_repeats(write, dedupe, kept):
    path = write("r.csv", "user,item,time\nu,a,5\nu,a,3\nu,b,2\nu,a,1\nu,a,3\n")
    done, _ = job(interactions=[path], dedupe=dedupe)
    found = [time + item for _, item, time in table("dataset/mine/mine.inter")[1]]
    assert found == kept
    (repeated,) = [row.count for row in done.rows if "repeated" in row.what]
    assert repeated == 5 - len(kept)


def test_core_is_iterated():
    """Against the plainest loop."""
    draw = np.random.default_rng(0)
    users, items = draw.integers(0, 60, 300), draw.integers(0, 50, 300)
    left, rounds = k_core(users, items, 4, 4)
    rows = list(zip(users.tolist(), items.tolist()))
    while True:
        user_counts = Counter(user for user, _ in rows)
        item_counts = Counter(item for _, item in rows)
        fewer = [(u, i) for u, i in rows if user_counts[u] >= 4 and item_counts[i] >= 4]
        if len(fewer) == len(rows):
            break
        rows = fewer
    assert sorted(rows) == sorted(zip(users[left].tolist(), items[left].tolist()))
    assert rounds > 1 and 0 < left.sum() < 300


def test_without_metadata_can_be_kept(write):
    path = write("r.csv", "user,item,time\nu,a,1\nu,b,2\n")
    items = write("i.csv", "item,title,rating\na,Comb,4.5\n")
    done, _ = job(
        interactions=[path], items=[items], without_metadata="keep", item_fields=["title", "rating"]
    )
    assert done.interactions == 2 and counts(done)["items without metadata"] == 1
    settings = yaml.safe_load(done.settings.read_text())
    assert settings["llm_missing"] == "mean"
    assert settings["item_text_fields"] == ["title", "item_rating"]  # rating is the interactions'
    done, _ = job("dataset/dropped", interactions=[path], items=[items])
    assert done.interactions == 1 and "llm_missing" not in done.settings.read_text()


def test_several_files(write):
    one, two = (
        write("a.csv", "user,item,time\nu,a,1\nx\n"),
        write("b.csv", "user,time,item\nu,2,b\ny\n"),
    )
    done, _ = job(interactions=[one, two])
    assert done.interactions == 2
    assert places(done)["malformed lines"] == "a.csv line 3, b.csv line 3"
    other = write("c.csv", "user_id,item,time\nu,a,1\n")
    with pytest.raises(UserError, match=r"c.csv: the user would be 'user_id', but 'user' in a.csv"):
        job("dataset/b", interactions=[one, other])


# -- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "settings", "words"),
    [
        ("user,item_id,product_id,time", {}, "'item_id' and 'product_id' each could be the item"),
        ("user;item;time", {"delimiter": ","}, "or set --delimiter"),
        ("who,item,time", {}, "no column looks like the user, it has who, item, time; name"),
        ("user,item,day", {}, "or --time=none where the lines are in the order"),
        ("user,item,time", {"item": "itm"}, "it has user, item, time; did you mean item?"),
        ("user,item,time", {"min_rating": 3.0}, "--min_rating needs ratings"),
        ("user,item,time,rating", {"min_rating": float("nan")}, "min_rating is nan"),
        ("user,user,time", {}, "has two columns 'user'"),
        ("user,item,time", {"item_fields": ["title"]}, "--item_fields is about --items"),
        ("user,item,time", {"keep_items": "all"}, "--keep_items=all is about --items"),
        ("user,item,time", {"dedupe": "all"}, "dedupe is 'all'"),
        ("user,item,time", {"time_unit": "min"}, "--time_unit is 'min'"),
        ("user,item,time", {"time_unit": "%Q"}, "--time_unit is '%Q'"),
        ("user,item,time", {"user": "item"}, "'item' cannot be both the user and the item"),
        ("user,item,time", {"min_user": 0}, "min_user is 0"),
        ("user,item,time", {"min_user": 3}, "Nothing is left of 1 lines of 'r.csv'"),
        ("user,item,time", {"out": "data set/x"}, "a folder without blanks"),
        ("user,item,time", {"format": "xls"}, "format is 'xls'"),
        ("user,item,time", {"delimiter": ";;"}, "it must be one character"),
        ("user,item,time", {"out": "dn/None"}, "means that there is none"),
    ],
)  # fmt: skip
def test_refused(write, tmp_path, header, settings, words):
    cells = ",".join(str(place + 1) for place in range(header.count(",") + 1))
    path = write("r.csv", f"{header}\n{cells}\n")
    with pytest.raises(UserError) as error:
        job(**{"interactions": [path], **settings})
    assert words in str(error.value) and str(error.value).count("\n") == 0
    assert not (tmp_path / "dataset").exists() or not _names("dataset")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.xyz", "user,item,time\n", "its name does not tell what it is; give --format=csv"),
        ("r.csv", "", "has no columns"),
        ("r.csv", b"user,item,time\nJos\xe9,a,1\n", "r.csv cannot be read as utf-8"),
        ("r.csv", 'user,item,time\nu,"a' + "x" * 2_000_000, "a quote that is never closed"),
        ("r.jsonl.gz", "not gzip", None),
        ("r.parquet", "not parquet", "r.parquet cannot be read"),
        ("r.jsonl", "[1]\nnull\n", "has no columns"),
        ("r.json", '{"data": [{"user": 1, "item": 2}]}', "of json: one object per record"),
        ("r.csv", b"PK\3\4...", "save it as csv"),
        ("r.xlsx", b"PK\3\4...", "save it as csv"),
        ("r.csv", gzip.compress(b"user,item,time\nu,a,1\n", mtime=0), "packed by gzip"),
        ("r.csv", "user,item,time\ru,a,1\r", "end its lines with line feeds"),
        ("r.csv", "sep=;\nuser;item;time\nu;a;1\n", "take it out and set delimiter to ';'"),
        ("r.csv.gz", gzip.compress(b"user,item,time\nu,a,1\n", mtime=0) + b"garbage", "unpack it"),
        ("r.csv", "user;item;rating;time\nu;a;4,5;1\n", "without a rating that .*line 2.* as 4.5"),
        ("r.csv", "user,item,time\nu,a,1,\n", "malformed lines.*line 2.*check the separator"),
        ("r.csv", "user,item,time\nu,a,-1\n", "without a time that can be read.*--time_unit"),
    ],
)
def test_files_that_are_not_what_they_seem(tmp_path, name, content, words):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words or "cannot be read"):
        job(interactions=[name])
    with pytest.raises(UserError, match="There is no file"):
        job(interactions=["absent.csv"])
    assert not (tmp_path / "dataset").exists() or not _names("dataset")


def test_what_ratings_have_given_is_no_text(write, tmp_path):
    given = (
        write("r.csv", "user,item,time\nu,a,1\n"),
        write("i.csv", "item,average_rating\na,4.5\n"),
    )
    with pytest.raises(UserError) as refused:
        job(interactions=given[:1], items=given[1:])
    assert refused.value.key == "items"
    with pytest.raises(UserError, match="--rating is none"):
        job(interactions=given[:1], rating="none", min_rating=3)


def test_files_without_a_line(write):
    given = write("r.csv", "user,item,time\n"), write("i.csv", "item,title\n")
    with pytest.raises(UserError, match="Nothing is left of 0 lines"):
        job(interactions=given[:1], items=given[1:])


def test_bytes_that_are_no_text(write, tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"item": b"a", "title": "é".encode(), "photo": b"\xff"}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "i.parquet")
    given = {"interactions": [write("r.csv", "user,item,time\nu,a,1\n")], "items": ["i.parquet"]}
    job(**given)
    assert table("dataset/mine/mine.item")[1] == [["a", "é"]]
    with pytest.raises(UserError) as refused:
        job("dataset/b", item_fields=["photo"], **given)
    assert refused.value.key == "item_fields"


def test_encoding(tmp_path):
    (tmp_path / "r.csv").write_bytes("user,item,time\nJosé,a,1\n".encode("latin-1"))
    job(interactions=["r.csv"], encoding="latin-1")
    assert table("dataset/mine/mine.inter")[1][0][0] == "José"
    with pytest.raises(UserError, match="unknown encoding"):
        job("dataset/b", interactions=["r.csv"], encoding="latin-0")


def test_nothing_half_written(write, monkeypatch, tmp_path):
    """It fails while the last file is written: the old dataset stays, and nothing else."""
    path = write("r.csv", "user,item,time\nu,a,1\n")
    job(interactions=[path])
    job(interactions=[path])  # as a command that was killed in its last moment is given again
    with pytest.raises(UserError, match="already holds a converted dataset"):
        job(interactions=[path], dedupe="first")
    with pytest.raises(UserError, match="already holds a converted dataset"):
        Path("dataset/mine/mine.inter").write_text("mine, by now\n")
        job(interactions=[path])
    assert Path("dataset/mine/mine.inter").read_text() == "mine, by now\n"
    before = (tmp_path / "dataset/mine/mine.inter").read_bytes()
    from recbole_llmemb.apps.convert import dataset

    def fail(*_):
        raise OSError(28, "No space left on device")

    second = write("s.csv", "user,item,time\nu,a,1\nu,b,1\n")
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "write_settings", fail)
        with pytest.raises(UserError, match="No space left"):
            job(interactions=[second], overwrite=True)
    assert _names("dataset") == ["mine"]
    assert (tmp_path / "dataset/mine/mine.inter").read_bytes() == before
    job(interactions=[second], overwrite=True)
    assert len(table("dataset/mine/mine.inter")[1]) == 2
    (tmp_path / "dataset/other").mkdir()
    (tmp_path / "dataset/other/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        job("dataset/other", interactions=[path], overwrite=True)


# -- the command --------------------------------------------------------------------------


def test_convert_then_run(write, tmp_path, capsys):
    """The command that it prints works."""
    from encode_models import make_model

    draw = random.Random(0)
    lines = ["reviewerID,asin,overall,unixReviewTime"]
    for user in range(30):
        for step in range(draw.randint(4, 9)):
            lines.append(
                f"u{user},B{draw.randrange(25):02},{draw.randint(1, 5)},{1_400_000_000 + step}"
            )
    reviews = write("reviews.csv", "\n".join(lines))
    texts = [f"B{i:02},{WORDS[i % 7]} {WORDS[i // 7]},{WORDS[i % 5]}" for i in range(25)]
    items = write("meta.csv", "\n".join(["asin,title,brand", *texts]))
    argv = ["convert", f"--interactions={reviews}", f"--items={items}", "--out=dataset/toy"]
    assert main([*argv, "--min_user=3", "--min_item=2"]) == 0
    out, err = capsys.readouterr()
    assert "reviews.csv" in err and "interactions written" in out  # progress, table
    (command,) = [line for line in out.splitlines() if line.startswith("next:")]
    assert "user = reviewerID, item = asin, rating = overall, time = unixReviewTime" in out
    program, *typed = command.split()[1:]
    assert program == "recbole-llm"
    encoder = make_model(tmp_path / "encoder", "bert")
    small = ["--epochs=1", "--hidden_size=8", "--n_heads=1", "--inner_size=8", "--use_gpu=False"]
    status = main(
        [*typed, *small, f"--llm_encoder={encoder}", "--align_weight=0", "--show_progress=False"]
    )
    out, err = capsys.readouterr()
    assert status == 0, err
    assert "test, all" in out and "tail items (least popular 80%)" in out
    assert main(argv) == 2 and "already holds a converted dataset" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "kept"), [([], 4), (["--dedupe"], 3), (["--dedupe", "none"], 5)])
def test_what_is_typed(write, capsys, typed, kept):
    path = write("r.txt", "u\ta,b\t1\nu\tc\t2\nu\tc\t3\nu\td\t4\nu\td\t4\n")
    more = ["--delimiter=tab", '--columns=user,"item",time', "--min_user=1", "--min_item=1"]
    argv = ["convert", f"--interactions={path}", "--out=dataset/x", *more, "--show_progress=False"]
    assert main(argv + typed) == 0
    out, err = capsys.readouterr()
    assert not err and len(table("dataset/x/x.inter")[1]) == kept
    for wrong, key in (("--min_user=no", "min_user"), ("--format=xls", "format")):
        assert main([*argv, "--overwrite", wrong]) == 2
        assert f"--{key}" in capsys.readouterr().err


def test_without_items_the_next_command_learns_ids(write, capsys):
    rows = "".join(f"u{u},i{(u * 7 + s * s) % 23},{s}\n" for u in range(30) for s in range(6))
    path = write("r.csv", "user,item,time\n" + rows)
    assert main(["convert", f"--interactions={path}", "--out=dataset/ids", "--min_item=1"]) == 0
    out = capsys.readouterr().out
    (command,) = [line for line in out.splitlines() if line.startswith("next:")]
    assert (
        "'--dataset=$(id)'" in Converted(Path("d/$(id)"), Path("d"), 1, 1, 1, False, []).command()
    )
    assert "--preset=id_only" in command and "item lines" not in out
    typed = command.split()[2:]
    more = ["--epochs=1", "--hidden_size=8", "--n_heads=1", "--inner_size=8", "--use_gpu=False"]
    assert (
        main([*typed, *more, "--show_progress=False", "--topk=[5]", "--valid_metric=NDCG@5"]) == 0
    )


def test_a_narrow_terminal_has_the_lines_below(write, monkeypatch):
    lines = "".join(f"u{i % 4},{'' if i % 2 else 'a'},{i}\n" for i in range(20))
    done, _ = job(interactions=[write("o.csv", "user,item,time\n" + lines)])
    whole = done.table()
    monkeypatch.setenv("COLUMNS", "70")
    narrow = done.table()
    assert max(map(len, whole.split("\n"))) > 70 >= max(map(len, narrow.split("\n")))
    assert "without user or item: line 3, line 5" in narrow
    assert narrow.count("interactions read") == 1
