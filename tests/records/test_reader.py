"""Files of records: each kind, where lines end, and what is refused."""

import gzip
import json

import pytest

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.records.items import read_histories
from recbole_llmemb.records.reader import open_records


@pytest.fixture
def write(tmp_path):
    """``write(name, text)``: a file in the test's folder, its path."""

    def make(name, text, encoding="utf-8"):
        data = text if isinstance(text, bytes) else text.encode(encoding)
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    return make


def all_of(path, wanted=("a", "b"), **settings):
    return [(number, tuple(row)) for number, row in open_records(path, **settings).rows(wanted)]


@pytest.mark.parametrize(
    ("name", "text", "numbers"),
    [
        ("x.csv", "b,c,a\r\n2,,1\r\n\r\n4,x,3\r\n", [2, 4]),
        ("x.data", "b|a\n2|1\n4|3\n", [2, 3]),
        ("x.tsv", 'a\tb,b\n1\t2\n3\t"4"\n', None),
        ("x.tab.gz", "a\tb\n1\t2\n3\t4", [2, 3]),
        ("x.inter", "b:float\ta:token\n2\t1\n\n4\t3\n", [2, 4]),
        ("x.csv", "b:float,a:token\n2,1\n4,3\n", [2, 3]),  # an atomic file with commas
        ("x.jsonl.gz", '{"b": "2", "a": "1"}\n\n{"a": "3", "b": "4"}\n', [1, 3]),
        ("x.json", '\ufeff{"b": "2", "a": "1"}\n{"a": "3", "b": "4"}\n', [1, 2]),
        ("x.json.gz", '[{"b": "2", "a": "1"}, {"a": "3", "b": "4"}]', [1, 2]),
        ("x.json", ' [{"b": "2",\n "a": "1"}, {"a": "3", "b": "4"}]', [1, 2]),
    ],
)
def test_every_kind_gives_the_same_records(write, name, text, numbers):
    wanted = ("a", "b") if numbers else ("a", "b,b")
    found = all_of(write(name, text), wanted)
    assert [tuple(row) for _, row in found] == [("1", "2"), ("3", "4")]
    assert [number for number, _ in found] == (numbers or [2, 3])


def test_quotes_are_characters_in_atomic_files_and_quotes_in_csv(write):
    text = 'a:token\tb:token\n"x\ty"\n1\t"2\n'
    assert all_of(write("x.item", text)) == [(2, ('"x', 'y"')), (3, ("1", '"2'))]
    assert all_of(write("x.csv", 'a,b\n"x,\ny","""2"\n5,6\n')) == [
        (2, ("x,\ny", '"2')),
        (4, ("5", "6")),
    ]


def test_a_first_line_that_ends_within_quotes_goes_on(write):
    path = write("x.csv", 'a,"b\nc"\n1,2\n')
    assert all_of(path, ("a", "b c")) == [(3, ("1", "2"))]
    with pytest.raises(UserError) as refused:
        open_records(write("y.csv", 'a,"b\n1,2\n'))
    assert "line 1" in str(refused.value) and "quote" in str(refused.value)


def test_a_lone_carriage_return_ends_no_line(write):
    assert all_of(write("x.item", "a:token\tb:token\r\n1\rx\t2\r\n")) == [(2, ("1\rx", "2"))]
    assert all_of(write("x.csv", "a,b\r\n1\rx,2\r\n")) == [(2, ("1 x", "2"))]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_other_encodings(write, encoding):
    for name in ("x.csv", "x.csv.gz"):
        path = write(name, "a,b\né,1\nß,2\n", encoding)
        assert all_of(path, encoding=encoding) == [(2, ("é", "1")), (3, ("ß", "2"))]
        with pytest.raises(UserError) as refused:
            all_of(path)
        assert (refused.value.key, refused.value.where) == ("encoding", str(path))


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("x.csv", "a,b\n1,2\n3\n", 3),
        ("x.csv", 'a,b\n1,"2\n3,4\n', 2),
        ("x.csv", 'a,b\n1,"5" disc"\n3,4\n', 2),  # which has been 5 disc", silently
        ("x.item", "a:token\tb:token\n1\t2\t3\n", 2),
        ("x.jsonl", '{"a": 1, "b": 2}\n{"a"\n', 2),
        ("x.jsonl", '{"a": 1, "b": 2}\n[3]\n', 2),
        ("x.jsonl", b'{"a": 1, "b": 2}\n{"a": "\xff", "b": 1}\n', 2),
        ("x.json", '[{"a": 1, "b": 2}, [3]]', 2),
    ],
)
def test_bad_records_are_refused_or_counted(write, name, text, number):
    path, seen = write(name, text), []
    file = open_records(path)
    good = list(file.pieces(["a", "b"], lambda number, why: seen.append(number)))
    assert seen == [number]
    assert sum(len(numbers) for numbers, _ in good) == (name != "x.item")
    with pytest.raises(UserError, match=f" {number}: ") as refused:
        list(file.rows(["a", "b"]))
    assert refused.value.where == str(path)


def test_a_list_of_json_that_breaks_off_is_refused_where_it_does(write):
    """Lines of lists are not such a list, and one bad line of those takes no other with it."""
    with pytest.raises(UserError, match=" line 3: ") as refused:
        open_records(write("x.json", '[\n{"a": 1},\n{"a": 2 "b": 3}\n]\n'))
    assert refused.value.where
    with pytest.raises(UserError, match="no columns"):
        open_records(write("y.json", '[{"a": 1}]\n[{"a": 1}]\n'))


HISTORIES = [
    {"user": "anna", "history": ["x", "7"], "times": [1, 2.5]},
    {"user": None, "history": ["y"], "times": None},
]


@pytest.mark.parametrize("name", ["h.jsonl", "h.any", "h.json", "h.parquet", "h.csv"])
def test_histories(tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.Table.from_pylist(HISTORIES), path)
    elif name.endswith("csv"):
        path.write_text("user,history,times\nanna,x 7,1 2.5\n,y,\n")
    elif name == "h.json":
        path.write_text(json.dumps(HISTORIES, indent=1))
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in HISTORIES))
    histories, names, times, places = read_histories(path)
    assert histories == [["x", "7"], ["y"]] and times == [[1, 2.5], None]
    assert names[0] == "anna" and f"{path}, {names[1]}" == places[1]


def test_histories_that_are_lists(write):
    for name in ("h.jsonl", "h.json"):
        found = read_histories(write(name, '["x", 7]\n["y", 7.0]\n'))
        assert found[0] == [["x", "7"], ["y", "7"]] and found[1] == ["line 1", "line 2"]
    assert read_histories(write("h.json", '["x", 7]'))[0] == [["x", "7"]]
    with pytest.raises(UserError, match="line 1 has times that fall"):
        read_histories(write("h.jsonl", '{"history": ["x", "y"], "times": [2, 1]}'))
    with pytest.raises(UserError):
        read_histories(write("h.jsonl", "\n"))
    for item in ("true", "1.5", "NaN", '""'):  # as of users
        with pytest.raises(UserError, match="line 2 has an item"):
            read_histories(write("h.jsonl", f'["x"]\n["x", {item}]\n'))


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.csv.gz", "x.inter.gz"])
def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(write, name, monkeypatch):
    monkeypatch.setattr("recbole_llmemb.records.reader._LONGEST_LINE", 1 << 12)
    first = "" if "jsonl" in name else "a:token\tb:token\n" if "inter" in name else "a,b\n"
    file = write(name, first + "x" * 10_000)
    with pytest.raises(UserError) as caught:
        all_of(file)
    assert caught.value.where == str(file) and "too long" in str(caught.value)


def test_utf_16_without_a_mark_is_told_of_the_encoding(write):
    with pytest.raises(UserError) as caught:
        open_records(write("x.csv", "user,item\na,b\n", encoding="utf-16-le"))
    assert caught.value.key == "encoding"


def test_a_first_line_that_csv_cannot_take_apart(write):
    with pytest.raises(UserError) as caught:
        open_records(write("x.csv", '"a' * 1_000_000))
    assert caught.value.where is not None
