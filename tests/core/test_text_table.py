"""Tables are as wide as the terminal, and no wider."""

import pytest

from recbole_llmemb.core import terminal
from recbole_llmemb.core.terminal import counted

ROWS = [["short", "1", "0.5", "0.25", "0.125"], ["a longer name", "20", "-", "0.75", "1.0"]]
HEADERS = ["", "users", "hit@10", "ndcg@10", "mrr@10"]


def cells(text):
    """What each row says under each header, over all tables."""
    found = {}
    for table in text.split("\n\n"):
        head, rule, *lines = table.split("\n")
        places = [i for i, mark in enumerate(rule) if mark == "-" and rule[i - 1 : i] in ("", " ")]
        spans = list(zip(places, [*places[1:], 1000]))
        names = [head[begin:end].strip() for begin, end in spans]
        for line in lines:
            values = [line[begin:end].strip() for begin, end in spans]
            found.setdefault(values[0], {}).update(zip(names[1:], values[1:]))
    return found


@pytest.mark.parametrize("columns", [200, 60, 40, 34, 5])
def test_no_line_is_wider_and_nothing_is_lost(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = terminal.text_table(ROWS, HEADERS, fixed=2)
    assert cells(text) == {row[0]: dict(zip(HEADERS[1:], row[1:])) for row in ROWS}
    fits = max(map(len, text.split("\n"))) <= columns
    assert fits if columns > 33 else not fits  # never less than one column beside the first two
    assert ("\n\n" in text) == (columns < 60)


def test_indents_stay_and_tables_without_rows_have_their_head(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "\n  tail items" in terminal.text_table([["all", "1"], ["  tail items", "2"]], ["", "n"])
    assert "users" in terminal.text_table([], HEADERS)


def test_a_file_is_as_wide_as_need_be(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.width() >= 1000  # pytest's capture is no terminal


def test_one_thing_is_one():
    found = [counted(number, "epoch") for number in (0, 1, 2, 1200)]
    assert found == ["0 epochs", "1 epoch", "2 epochs", "1,200 epochs"]
