"""Lists that are typed, whose entries may hold the separator."""

import shutil

import pytest
from serve_runs import saved  # noqa: F401

from recbole_llmemb import Recommender
from recbole_llmemb.cli import order_test
from recbole_llmemb.cli.main import main
from recbole_llmemb.cli.recommend import users_of
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import split_tokens


def test_lists_are_read_as_csv():
    for text, wanted in {
        "a,b": ["a", "b"],
        ' a , "b,c" ,d e': ["a", "b,c", "d e"],
        '" a ","she said ""no"""': [" a ", 'she said "no"'],
        'a"b,"""q"': ['a"b', '"q'],
        "all": ["all"],
        ",, ": [],
        "": [],
    }.items():
        assert split_tokens(text) == wanted
    for text, wanted in {
        " a  b\tc ": ["a", "b", "c"],
        '"old item" "x,y" z,w': ["old item", "x,y", "z,w"],
        'a"b """q"': ['a"b', '"q'],
    }.items():
        assert split_tokens(text, " ") == wanted
    for text, separator in (('a,"b', ","), ('a,"b"c', ","), ('"a"b c', " ")):
        with pytest.raises(UserError, match='In --users, the quote that begins "[ab]'):
            split_tokens(text, separator, "--users")
    assert len(split_tokens("u" + " " * 100_000 + ",v")) == 2  # at once


def test_all_and_a_user_of_that_name():
    assert users_of(" all ") == "all"
    assert users_of('"all"') == ["all"] == users_of('"all",')
    with pytest.raises(UserError, match="--users names nobody"):
        users_of('""')


def test_users_and_items_whose_tokens_hold_a_separator(tiny, tmp_path, saved, capsys):  # noqa: F811
    """In every option that takes them."""
    names = {"u3": "Smith, Anna", "u7": "all", "u8": 'so "x"', "i5": "old item", "i6": "5,6"}
    folder = shutil.copytree(tiny.folder, tmp_path / "named" / "tiny")
    for file in folder.iterdir():
        rows = [line.split("\t") for line in file.read_text().split("\n")]
        file.write_text("\n".join("\t".join(names.get(v, v) for v in row) for row in rows))
    path = saved(data_path=str(folder.parent), item_embedding="id", align_weight=0)
    model = Recommender(path)

    def lists(*options):
        assert main(["recommend", f"--checkpoint={path}", "--topk=3", *options]) == 0
        blocks = capsys.readouterr().out.strip().split("\n\n")
        return {block.split("\n")[0]: block for block in blocks}

    people = lists('--users="Smith, Anna","all","so ""x""",u1')
    assert list(people) == ["Smith, Anna", "all", 'so "x"', "u1"]
    assert len(lists("--users=all")) > 20
    (tmp_path / "few").write_text("old item\n5,6\ni7\n")
    (found,) = lists('--history="old item" 5,6', f"--candidates={tmp_path / 'few'}").values()
    assert "old item" in found and "5,6" in found and "i7" in found
    wanted = model.recommend(histories=[["old item", "5,6"]], topk=3)
    (tmp_path / "people.jsonl").write_text(r'{"user": "x", "history": "\"old item\" 5,6"}')
    found = lists(f"--history_file={tmp_path / 'people.jsonl'}")["x"]
    assert all(item in found for item in wanted.items[0])
    assert main(["export", f"--checkpoint={path}", f"--out={tmp_path / 'out'}", "--what=,"]) == 2
    assert "--what names nothing" in capsys.readouterr().err


def test_files_and_columns_whose_names_hold_a_comma(tmp_path):
    both = tmp_path / "a,b.pth"
    both.touch()
    assert order_test._files(str(both)) == [str(both)]
    assert order_test._files(f"A={both}") == [f"A={both}"]
    assert order_test._files(f'"A={both}",c.pth') == [f"A={both}", "c.pth"]
