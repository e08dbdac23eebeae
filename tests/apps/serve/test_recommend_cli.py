"""``recbole-llm recommend`` as it is typed: outputs, and every refusal in one sentence."""

import json
import shutil
import sys

import pytest
import torch
from serve_runs import encoder, from_text, saved  # noqa: F401

from recbole_llmemb import Recommender
from recbole_llmemb.cli.main import main
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import UserError, nearest
from recbole_llmemb.run.restore import _read


@pytest.fixture
def run(capsys):
    """``run(path, *options)``: status, standard output and standard error."""

    def call(path, *options):
        status = main(["recommend", f"--checkpoint={path}", *options])
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


def test_models_of_recbole_that_rank_no_items_are_refused(tiny, tmp_path, run):
    """DIN scores a user's item, one at a time."""
    settings = {
        "data_path": str(tiny.folder.parent), "epochs": 1, "metrics": ["AUC"], "topk": [5],
        "valid_metric": "AUC", "embedding_size": 4, "mlp_hidden_size": [4],
        "threshold": {"rating": 3},
        "load_col": {"inter": ["user_id", "item_id", "timestamp", "rating"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user",
                      "mode": "labeled"},
        "selected_features": [], "checkpoint_dir": str(tmp_path), "show_progress": False,
    }  # fmt: skip
    (tmp_path / "din.yaml").write_text(json.dumps(settings))
    given = ["--model=DIN", "--dataset=tiny", f"--config_files={tmp_path / 'din.yaml'}"]
    assert main(["run", *given, f"--result_json={tmp_path / 'din.json'}"]) == 0
    status, _, err = run(tmp_path / "din.json", "--users=u3")
    assert status == 2 and "DIN" in err.splitlines()[-1] and "Traceback" not in err


def test_models_of_recbole_with_data_of_their_own_kind_are_refused(tiny):
    """GRU4RecKG reads a graph beside the histories, by a class of its own."""
    config = {"model": "GRU4RecKG", "dataset": "tiny", "data_path": str(tiny.folder)}
    with pytest.raises(UserError, match="GRU4RecKG") as caught:
        _read(config)
    assert caught.value.key == "model"


def test_a_table_names_users_items_and_titles(saved, run):  # noqa: F811
    path = saved()
    status, out, err = run(path, "--users=u3,u7", "--topk=3")
    assert status == 0
    wanted = Recommender(path).recommend(["u3", "u7"], topk=3)
    first, second = out.strip().split("\n\n")
    assert first.startswith("u3\n") and second.startswith("u7\n")
    assert [line.split()[1] for line in first.splitlines()[3:]] == wanted.items[0]
    assert "the item number" in first and "title" in first
    assert "note: 1 of 2 histories are longer than the 10 items" in err


def test_jsonl_and_parquet_hold_the_same(saved, run, tmp_path):  # noqa: F811
    import pyarrow.parquet as parquet

    path = saved()
    for name in ("all.jsonl", "all.parquet"):
        status, out, err = run(path, "--users=all", "--exclude_seen", f"--out={tmp_path / name}",
                               "--batch_size=7")  # fmt: skip
        assert (status, out) == (0, "")
        assert "the best 10 items of" in err
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    rows = parquet.read_table(tmp_path / "all.parquet").to_pylist()
    flat = [
        (line["user"], rank, item["item"], item["title"])
        for line in lines
        for rank, item in enumerate(line["items"], start=1)
    ]
    assert flat == [(row["user"], row["rank"], row["item"], row["title"]) for row in rows]
    wanted = Recommender(path).recommend("all", exclude_seen=True)
    assert [line["user"] for line in lines] == wanted.users
    assert [[item["item"] for item in line["items"]] for line in lines] == wanted.items
    assert not any(row["popular"] or row["new"] for row in rows)
    assert sorted(p.name for p in tmp_path.glob("*all*")) == ["all.jsonl", "all.parquet"]


def test_whom_it_is_for_is_said_once(saved, run):  # noqa: F811
    status, _, err = run(saved(), "--users=u3", "--history=i1")
    assert status == 2 and "got --users and --history;" in err
    status, _, err = run(saved())
    assert status == 2 and "got" not in err and "--history_file" in err


def test_what_was_written_here_is_replaced_and_nothing_else(saved, run, tmp_path):  # noqa: F811
    path = saved()
    people = tmp_path / "people.jsonl"
    people.write_text('["i1"]\n{"user": "{}", "history": []}\n')
    whom = (["--users=u3"], ["--history_file=people.jsonl"], ["--history="], ["--users=all"])
    for name in ("a.jsonl", "a.txt", "a.parquet"):
        for options in whom + whom[:1]:
            assert run(path, *options, "--exclude_seen", f"--out={name}")[0] == 0
        (tmp_path / "none.txt").write_text("i1\n")
        for _ in range(2):  # nothing is left
            assert run(path, "--history=i1", "--exclude_seen", "--candidates=none.txt",
                       f"--out={name}")[0] == 0  # fmt: skip
    for name, own in {
        "1.jsonl": '{"user": "u1", "items": ["i1", "i2"]}\n',
        "2.jsonl": '{"user": "u1", "items": [{"item": "A", "score": 1}], "paid": true}\n',
        "3.jsonl": '{"user":"u1","basket":3,"items":[{"sku":"A"}]}\n',
        "8.jsonl": '{"user": "u1", "items": []}\n{"user": "u2", "note": "mine"}\n',
        "4.txt": "My list\nitem  score of my exam\nA 5\n",
        "5.txt": "My list\n    item  score\n",
    }.items():
        (tmp_path / name).write_text(own)
        status, _, err = run(path, "--users=u3", f"--out={name}")
        assert status == 2 and name in err and (tmp_path / name).read_text() == own


def test_histories_are_typed_or_in_a_file(saved, run, tmp_path):  # noqa: F811
    path = saved()
    file = tmp_path / "people.jsonl"
    file.write_text('{"user": "anna", "history": ["i1", "i2"]}\n["i1", "i2"]\n'
                    '{"history": "i1 i2"}\n{"user": "nobody", "history": []}\n')  # fmt: skip
    _, out, err = run(path, f"--history_file={file}", "--format=jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["user"] for row in rows] == ["anna", "line 2", "line 3", "nobody"]
    lists = [[item["item"] for item in row["items"]] for row in rows]
    assert lists[0] == lists[1] == lists[2]
    assert rows[3]["popular"] is True and "popular" not in rows[0]
    assert "note: 1 of 4 have no history: they get popular items" in err
    _, out, _ = run(path, "--history=i1 i2", "--history=", "--format=jsonl")
    typed = [json.loads(line) for line in out.splitlines()]
    for one, other in zip(typed, (rows[0], rows[3]), strict=True):
        assert [i["item"] for i in one["items"]] == [i["item"] for i in other["items"]]
    assert typed[0]["user"] == "after i1 i2"


def test_new_items_are_reported(from_text, run, tmp_path):  # noqa: F811
    file = tmp_path / "new.item"
    file.write_text("item_id:token\ttitle:token_seq\nnew1\tred soap\n")
    status, out, err = run(from_text(), "--users=u3", "--topk=61", f"--new_items={file}")
    assert status == 0 and "red soap (new)" in out
    assert "New items among 61, over" in out and "new items: 1 beside 60" in err
    _, out, err = run(from_text(), "--users=u3", f"--new_items={file}", "--format=jsonl")
    assert json.loads(out) and "New items among 61" in err
    _, out, err = run(from_text(), "--users=u3", f"--new_items={file}", "--report_users=0")
    assert "New items among" not in out + err and "known already" not in err
    file.write_text(file.read_text() + "i5\tgreen soap\n")
    status, out, err = run(from_text(), "--users=u3", f"--new_items={file}", "--report_users=0")
    assert status == 0 and "1 beside 60" in err and "known already, and as they were: 1" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of --users"),
        (["--users=u1", "--history=i1"], "give one of --users"),
        (["--users=,"], "--users names nobody"),
        (["--users=u1", "--topk=0"], "--topk is 0; it must be"),
        (["--users=u1", "--split=tset"], "split is 'tset'"),
        (["--history=i1", "--split=test"], "--split is for --users"),
        (["--users=u1", "--format=csv"], "--format is 'csv'"),
        (["--users=u1", "--out=x.csv"], "whose suffix tells no format"),
        (["--users=u1", "--out=x.md"], "whose suffix tells no format"),  # titles may be its code
        (["--users=u1", "--format=parquet"], "name a file with --out"),
        (["--users=u1", "--out=.", "--format=jsonl"], "cannot be written"),
        (["--users=u1", "--out=gone/", "--format=jsonl"], "gone"),
        (["--users=u1", "--candidates=gone.txt"], "gone.txt (--candidates)"),
        (["--users=u1", "--title_field=name"], "has no field 'name'"),
        (["--users=u1", "--new_items=gone.item"], "gone.item"),
        (["--users=nobody"], "The dataset tiny knows no user 'nobody'"),
        (["--history=i1 soap"], "knows no item 'soap'"),
        (["--history_file=gone.jsonl"], "There is no file gone.jsonl"),
        (["--users=u1", "--exclude_seen", "--no-exclude_seen"], "--exclude_seen is given twice"),
        (["--users=u1", "--device=tpu"], "cannot be used"),
        (["--users=u1", "--device=cpu,cpu"], "device 'cpu,cpu' cannot be used"),
    ],
)
def test_what_cannot_work_is_told_in_one_sentence(saved, run, options, message):  # noqa: F811
    status, out, err = run(saved(), *options)
    assert status == 2 and message in err
    assert err.count("error: ") == 1 and len(err.strip().splitlines()) == 1


def test_names_move_no_cursor_and_outputs_are_named(saved, run, tmp_path):  # noqa: F811
    path, file = saved(), tmp_path / "people.jsonl"
    file.write_text('{"user": "a\\u001b[2Jb\\nu9\\n  item  score", "history": ["i1"]}\n')
    _, out, _ = run(path, f"--history_file={file}")
    assert out.startswith("a [2Jb u9 item score\n") and "\x1b" not in out
    for out in ("/dev/full", f"{file}/x.jsonl"):
        status, _, err = run(path, f"--history_file={file}", f"--out={out}", "--format=jsonl")
        assert status == 2 and out.removesuffix("/x.jsonl") in err and "File exists" not in err
    csv = tmp_path / "people.csv"
    csv.write_text("a,i1 i2\n")
    status, _, err = run(path, f"--history_file={csv}")
    assert status == 2 and "user,history" in err and "is empty" not in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("7", "line 2 has no history"),
        ('{"user": "x"}', "line 2 has no history"),
        ('{"history": [["i1"]]}', "line 2 has an item ['i1']"),
        ('{"history": ["i1", null]}', "line 2 has an item None"),
        ('{"history": ["i1"], "times": [1, 2]}', "line 2 has times that are not"),
        ('{"history": ["i1"], "times": ["now"]}', "line 2 has times that are not all numbers"),
        ('{"history": ["i1"], "times": [true]}', "line 2 has times that are not all numbers"),
        ('{"history": ["i1"], "times": [NaN]}', "line 2 has times that are not all numbers"),
        ('{"history": ["i1"], "times": [1e400]}', "line 2 has times that are not all numbers"),
        ('{"history": ["i1", "soap"]}', "line 2: The model of"),
        ('{"user": {"id": 3}, "history": ["i1"]}', "line 2 has a user {'id': 3}"),
        ('{"user": true, "history": ["i1"]}', "line 2 has a user True"),
        ('{"user": "\\ud800", "history": ["i1"]}', "line 2 has a user"),
    ],
)
def test_a_bad_line_is_named_by_its_number(saved, run, tmp_path, line, message):  # noqa: F811
    file = tmp_path / "people.jsonl"
    file.write_text('["i1"]\n' + line + "\n")
    status, _, err = run(saved(), f"--history_file={file}")
    assert status == 2 and message in err


def test_a_dataset_that_is_gone_is_named_with_its_place(saved, tiny, run, tmp_path):  # noqa: F811
    path = saved(data_path=str(shutil.copytree(tiny.folder, tmp_path / "data" / "tiny").parent))
    shutil.move(tmp_path / "data", tmp_path / "moved")
    status, _, err = run(path, "--users=u3")
    assert status == 2
    place = tmp_path / "data" / "tiny"
    assert f"The dataset tiny of the checkpoint {path} is not in {place}" in err
    assert "--data_path" in err
    status, out, _ = run(path, "--users=u3", f"--data_path={tmp_path / 'moved'}")
    assert status == 0 and out.startswith("u3")
    status, _, err = run(path, "--users=u3", f"--data_path={tmp_path / 'nowhere'}")
    assert status == 2 and f"is not in {tmp_path / 'nowhere' / 'tiny'}" in err


def test_a_dataset_that_has_changed_is_refused(saved, tiny, run, tmp_path):  # noqa: F811
    folder = shutil.copytree(tiny.folder, tmp_path / "data" / "tiny")
    path = saved(data_path=str(folder.parent), item_embedding="id")
    with open(folder / "tiny.inter", "a") as file:
        file.write("u1\tsoap\t100\t3\n")
    status, _, err = run(path, "--users=u3")
    assert status == 2 and "has 1 items ('soap') that are unknown to the checkpoint" in err


def test_a_table_that_is_gone_is_named_with_its_place(saved, tiny_table, run, tmp_path):  # noqa: F811
    own, copied = tmp_path / "own", tmp_path / "copied"
    shutil.copytree(tiny_table, own)
    path = saved(llm_table=str(own))
    _, wanted, _ = run(path, "--users=u3")
    shutil.move(own, copied)
    status, _, err = run(path, "--users=u3")
    assert status == 2 and f"was in {own}" in err and "is gone" in err and "--llm_table" in err
    assert run(path, "--users=u3", f"--llm_table={copied}")[1] == wanted
    from recbole_llmemb.table import EmbeddingTable

    table = EmbeddingTable.load(copied)
    EmbeddingTable(table.tokens, table.vectors + 1, {}).save(copied, overwrite=True)
    status, _, err = run(path, "--users=u3", f"--llm_table={copied}")
    assert status == 2 and "is not the table" in err


def test_the_table_is_not_looked_for_by_the_text_of_today(from_text, tiny, run, tmp_path):  # noqa: F811
    folder = shutil.copytree(tiny.folder, tmp_path / "data" / "tiny")
    path = from_text(data_path=str(folder.parent))
    _, wanted, _ = run(path, "--users=u3")
    with open(folder / "tiny.item", "a") as file:  # a new item in the catalog
        file.write("soap\tred soap\tred\n")
    tables = sorted((tmp_path / "cache").iterdir())
    assert run(path, "--users=u3")[1] == wanted
    assert sorted((tmp_path / "cache").iterdir()) == tables


def test_what_is_no_checkpoint_of_a_sequence_model_is_refused(saved, run, tmp_path):  # noqa: F811
    status, _, err = run(tmp_path, "--users=u1")
    assert status == 2 and "is a folder" in err
    status, _, err = run(tmp_path / "gone.pth", "--users=u1")
    assert status == 2 and "There is no checkpoint at" in err
    checkpoint.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "bare.pth")
    status, _, err = run(tmp_path / "bare.pth", "--users=u1")
    assert status == 2 and "has no configuration" in err
    state = checkpoint.load(saved())
    state["state_dict"].popitem()
    checkpoint.save(state, tmp_path / "cut.pth")
    status, _, err = run(tmp_path / "cut.pth", "--users=u1")
    assert status == 2 and "do not fit its configuration" in err
    state["config"]["model"] = "BPR"
    del state["config"]["exclude_history"]  # which is for models that read sequences
    checkpoint.save(state, tmp_path / "bpr.pth")
    status, _, err = run(tmp_path / "bpr.pth", "--users=u1")
    assert status == 2 and "reads no sequences" in err


def test_nearest_spellings():
    known = [f"B{n:06d}" for n in range(30_000)]
    assert nearest("b000042", known) == ["B000042"]
    assert nearest("B0000042", known)[0] == "B000042"
    assert nearest("something else", known) == []


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as done:
        main(["recommend", "--help"])
    assert done.value.code == 0
    told = capsys.readouterr().out
    for name in ("users", "history", "history_file", "topk", "exclude_seen", "candidates",
                 "new_items", "out", "format"):  # fmt: skip
        assert f"--{name}" in told


def test_errors_are_ordinary_exceptions_in_python(tmp_path):
    with pytest.raises(UserError, match="There is no checkpoint"):
        Recommender(tmp_path / "gone.pth")


def test_a_list_of_items_is_split_at_line_ends_alone(tmp_path):
    from recbole_llmemb.cli.recommend import read_candidates

    file = tmp_path / "items.txt"
    file.write_bytes("\ufeffa\r\nb\rc\r\n \r\nd\u2028e\x85f\n a\n\u3000\n".encode())
    assert read_candidates(file) == ["a", "b\rc", "d\u2028e\x85f", " a", "\u3000"]


def test_a_closed_standard_output_is_told(saved, monkeypatch, capsys):  # noqa: F811
    path = saved()
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["recommend", f"--checkpoint={path}", "--users=u3"]) == 2
    assert "out" in capsys.readouterr().err
