"""``benchmark_filename``: interactions that come in three files, with or without histories."""

import json
import random

import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.core import checkpoint  # isort: skip
from recbole_llmemb.cli.main import main  # isort: skip
from recbole_llmemb.config.recbole_config import make_config  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.run.stages import build, prepare_data, train_and_evaluate  # isort: skip
from recbole_llmemb.table import EmbeddingTable  # isort: skip

NAMES = ["train", "valid", "test"]
WHOLE = "user_id:token\titem_id:token\ttimestamp:float"
LISTED = "user_id:token\titem_id_list:token_seq\titem_id:token"


def sequences(n_users=24, n_items=15):
    """Items of each user; times do not tell how users relate."""
    draw = random.Random(3)
    return {f"u{u}": [f"i{draw.randrange(n_items)}" for _ in range(4 + u % 9)]
            for u in range(n_users)}  # fmt: skip


def write(folder, name, lines, head):
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["\t".join(map(str, line)) for line in lines]
    (folder / f"{name}.inter").write_text("\n".join([head, *rows]) + "\n")


@pytest.fixture
def forms(tmp_path):
    """The same interactions as one file, as three files, and as three files with histories."""
    users = sequences()
    base = 1_700_000_000
    timed = {user: [(user, item, base + 60 * k) for k, item in enumerate(items)]
             for user, items in users.items()}  # fmt: skip
    cut = {"train": slice(0, -2), "valid": slice(-2, -1), "test": slice(-1, None)}
    lines = {name: [row for rows in timed.values() for row in rows[part]]
             for name, part in cut.items()}  # fmt: skip
    write(tmp_path / "data/one", "one", [row for rows in lines.values() for row in rows], WHOLE)
    for name in NAMES:
        write(tmp_path / "data/whole", f"whole.{name}", lines[name], WHOLE)
    listed = {name: [] for name in NAMES}
    for user, items in users.items():
        for k in range(1, len(items)):
            name = NAMES[max(0, k - len(items) + 3)]
            listed[name].append((user, " ".join(items[:k]), items[k]))
    for name in NAMES:
        write(tmp_path / "data/listed", f"listed.{name}", listed[name], LISTED)
    tokens = sorted({item for items in users.values() for item in items})
    vectors = torch.randn(len(tokens), 12, generator=torch.Generator().manual_seed(0))
    EmbeddingTable(tokens, vectors).save(tmp_path / "table")

    def settings(name, **more):
        own = {"data_path": "data", "llm_table": "table", "hidden_size": 8, "inner_size": 8,
               "n_layers": 1, "n_heads": 1, "epochs": 2, "train_batch_size": 8, "topk": [5],
               "valid_metric": "NDCG@5", "metric_decimal_place": 8, "align_weight": 0.0,
               "show_progress": False, "use_gpu": False, "gpu_id": ""}  # fmt: skip
        own |= {} if name == "one" else {"benchmark_filename": NAMES}
        return own | more

    return users, settings


def result(name, settings, model="LLMEmbSASRec"):
    config = make_config(model, name, overrides=settings)
    data = prepare_data(config)
    return train_and_evaluate(config, data, *build(config, data))


def test_nothing_is_told_of_lists_that_there_are_not(forms, caplog):
    _, settings = forms
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    prepare_data(
        make_config("LLMEmbSASRec", "whole", overrides=settings("whole", load_col=columns))
    )
    assert not [message for message in caplog.messages if "item_id_list" in message]


@pytest.mark.parametrize("mode", ["sequence", "prefix"])
def test_same_ranks_as_leave_one_out(forms, mode):
    _, settings = forms
    found = {
        name: result(name, settings(name, train_mode=mode)) for name in ("one", "whole", "listed")
    }
    for name in ("whole", "listed"):
        for part in ("best_valid_result", "test_result", "groups"):
            assert getattr(found[name], part) == getattr(found["one"], part), (name, part)


def rows_of(loader):
    """User, history and target of each row, by token."""
    dataset, found = loader._dataset, []
    names = dataset.field2id_token
    rows = dataset.inter_feat.materialize()
    for k in range(len(rows)):
        history = rows["item_id_list"][k][: int(rows["item_length"][k])]
        found.append((names["user_id"][int(rows["user_id"][k])],
                      [names["item_id"][int(i)] for i in history],
                      names["item_id"][int(rows["item_id"][k])]))  # fmt: skip
    return sorted(found)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["whole", "listed"])
def test_rows_are_those_of_the_files(forms, name, scaled):
    users, settings = forms
    overrides = settings(name, normalize_all=scaled)
    data = prepare_data(make_config("LLMEmbSASRec", name, overrides=overrides))
    for loader, first, last in ((data.train, 1, -2), (data.valid, -2, -1), (data.test, -1, None)):
        expected = []
        for user, items in users.items():
            for k in range(len(items))[first:last]:
                expected.append((user, items[:k], items[k]))
        assert rows_of(loader) == sorted(expected)


def cut_lines(users, most):
    """The lines of a leave-one-out split whose histories are cut to their last items, by file."""
    lines = {name: [] for name in NAMES}
    for user, items in users.items():
        for k in range(1, len(items)):
            name = NAMES[max(0, k - len(items) + 3)]
            lines[name].append((user, items[max(0, k - most) : k], items[k]))
    return lines


def of_cut(tmp_path, settings, lines, **more):
    for name in NAMES:
        told = [(user, " ".join(history), item) for user, history, item in lines[name]]
        write(tmp_path / "data/cut", f"cut.{name}", told, LISTED)
    items = {
        item for part in lines.values() for _, history, last in part for item in (*history, last)
    }
    EmbeddingTable(sorted(items), torch.randn(len(items), 12)).save(tmp_path / "cut-table")
    given = settings("cut", llm_table="cut-table", topk=[1], valid_metric="NDCG@1", **more)
    return prepare_data(make_config("LLMEmbSASRec", "cut", overrides=given))


@pytest.mark.parametrize("most", [1, 2, 3, 5, 99])
@pytest.mark.parametrize("distinct", [1, 2, 3, 40])
def test_every_line_with_a_cut_history_is_a_row(forms, tmp_path, most, distinct):
    """Also where items come again and again, so that a line is like an earlier one."""
    draw = random.Random(most * distinct)
    users = {f"u{u}": [f"i{u % 3}{draw.randrange(distinct)}" for _ in range(4 + u % 9)]
             for u in range(20)}  # fmt: skip
    lines = cut_lines(users, most)
    data = of_cut(tmp_path, forms[1], lines, MAX_ITEM_LIST_LENGTH=20)
    for name, loader in zip(NAMES, (data.train, data.valid, data.test)):
        assert rows_of(loader) == sorted(lines[name])


def test_cut_histories_in_any_order(forms, tmp_path):
    users = {f"u{u}": [f"i{(u + k) % 17}" for k in range(5 + u % 9)] for u in range(20)}
    lines = cut_lines(users, 4)
    for part in lines.values():
        random.Random(1).shuffle(part)
    data = of_cut(tmp_path, forms[1], lines)
    for name, loader in zip(NAMES, (data.train, data.valid, data.test)):
        assert rows_of(loader) == sorted(lines[name])


def test_lines_with_a_history_that_are_given_twice_are_counted(forms, tmp_path):
    users = {f"u{u}": [f"i{(u * 3 + k) % 17}" for k in range(7)] for u in range(20)}
    users["same"] = ["i1"] * 6
    lines = cut_lines(users, 99)
    expected = [sorted(lines[name]) for name in NAMES]
    lines["test"] += lines["train"][:5] + lines["valid"][:1] + lines["test"][:2]
    lines["train"] += lines["train"][:7] + [("same", ["i1"], "i1")]
    data = of_cut(tmp_path, forms[1], lines)
    assert [rows_of(each) for each in (data.train, data.valid, data.test)] == expected
    told = data.train._dataset.matched
    assert [part.twice for part in told] == [8, 0, 8] and [part.rows for part in told] == [
        83,
        21,
        21,
    ]
    assert "8 lines left out" in str(told[2]) and "left out" not in str(told[1])


def test_any_split_and_who_is_known(forms, tmp_path, capsys):
    """Users of the test file alone, earlier rows of a file, histories cut to the last items."""
    _, settings = forms
    folder = tmp_path / "data/own"
    write(folder, "own.train", [("a", "i1", 5), ("a", "i2", 3), ("b", "i3", 1), ("b", "i1", 2)],
          WHOLE)  # fmt: skip
    write(folder, "own.valid", [("a", "i4", 1), ("c", "i5", 9)], WHOLE)
    write(folder, "own.test", [("a", "i6", 8), ("a", "i7", 7), ("d", "i1", 1), ("d", "i2", 2)],
          WHOLE)  # fmt: skip
    data = prepare_data(
        make_config(
            "LLMEmbSASRec", "own", overrides=settings("own", topk=[3], valid_metric="NDCG@3")
        )
    )
    assert rows_of(data.train) == [("a", ["i2"], "i1"), ("b", ["i3"], "i1")]
    assert rows_of(data.valid) == [("a", ["i2", "i1"], "i4")]  # a file comes before its times
    assert rows_of(data.test) == [
        ("a", ["i2", "i1", "i4"], "i7"),
        ("a", ["i2", "i1", "i4", "i7"], "i6"),
        ("d", ["i1"], "i2"),
    ]
    train, valid, test = data.train._dataset.matched
    assert (valid.rows, valid.users, valid.items, valid.without_history) == (1, (1, 1), (1, 0), 1)
    assert (test.rows, test.users, test.items, test.without_history) == (3, (2, 1), (3, 1), 1)
    assert (train.rows, train.without_history) == (2, 0)
    assert [part.again for part in (train, valid, test)] == [0, 0, 0]
    write(folder, "own.test", [("a", "i6", 8), ("a", "i1", 5), ("a", "i4", 2), ("b", "i1", 2)],
          WHOLE)  # fmt: skip
    found = prepare_data(
        make_config(
            "LLMEmbSASRec", "own", overrides=settings("own", topk=[3], valid_metric="NDCG@3")
        )
    )
    found = found.train._dataset.matched
    # Of the test lines, two are training's; the third has another time than validation's.
    assert [part.again for part in found] == [0, 0, 2] and "2 of the targets" in str(found[2])
    write(folder, "own.test", [("b", "i1", 8), ("c", "i5", 9), ("d", "i1", 1), ("d", "i2", 2)],
          WHOLE)  # fmt: skip
    config = make_config(
        "LLMEmbSASRec", "own", overrides=settings("own", topk=[3], valid_metric="NDCG@3")
    )
    told = str(prepare_data(config).train._dataset.matched[2])
    assert "2 of the targets are the last item of their own history" in told
    for part in NAMES:
        (folder / f"own.{part}.inter").unlink()
    write(folder, "own.train", [("a", "i1 i2", "i3"), ("b", "i4", "i5"), ("b", "", "i4")], LISTED)
    write(folder, "own.valid", [("a", "i2 i3", "i6"), ("c", "", "i1"), ("b", "i4 i5", "i1")],
          LISTED)  # fmt: skip
    write(folder, "own.test", [("a", "i3 i6", "i1"), ("d", "i1 i2", "i7"),
                               ("b", "i4 i5 i1 i8", "i2")], LISTED)  # fmt: skip
    config = make_config(
        "LLMEmbSASRec", "own", overrides=settings("own", topk=[3], valid_metric="NDCG@3")
    )
    data = prepare_data(config)
    assert rows_of(data.train) == [("a", ["i1", "i2"], "i3"), ("b", ["i4"], "i5")]
    assert rows_of(data.valid) == [("a", ["i2", "i3"], "i6"), ("b", ["i4", "i5"], "i1")]
    assert rows_of(data.test) == [("a", ["i3", "i6"], "i1"), ("b", ["i4", "i5", "i1", "i8"], "i2"),
                                  ("d", ["i1", "i2"], "i7")]  # fmt: skip
    counts = data.train._dataset.training_counts(data.train._dataset)
    known = {str(data.dataset.id2token("item_id", i)): int(n) for i, n in enumerate(counts[0])}
    assert known["i8"] == known["i7"] == 0 and known["i1"] == known["i2"] == known["i3"] == 1
    assert [int(counts[1][data.dataset.token2id("user_id", user)]) for user in "abd"] == [3, 2, 0]
    assert [part.without_history for part in data.train._dataset.matched] == [1, 1, 0]
    write(folder, "own.test", [("a", "i9 i6", "i1")], LISTED)
    with pytest.raises(UserError, match="own.test.inter: a history of user 'a' contradicts"):
        prepare_data(config)


def test_the_command_says_what_fits_and_checkpoints_serve(forms, capsys):
    users, settings = forms
    given = settings("listed", epochs=1, align_weight=0.01)
    typed = [f"--{key}={value}" for key, value in given.items()]
    typed.append("--align_teacher_config={'epochs': 1}")
    assert main(["--model=LLMEmbSASRec", "--dataset=listed", *typed, "--result_json=a.json"]) == 0
    out = capsys.readouterr().out
    assert "prepare: test: 24 targets; 24 of 24 users and" in out
    path = next(line.split()[1] for line in out.splitlines() if line.startswith("checkpoint"))
    with open("a.json", encoding="utf-8") as file:
        assert json.load(file)["test_result"]
    assert checkpoint.load(path)["config"]["benchmark_filename"] == NAMES
    assert main(["recommend", f"--checkpoint={path}", "--users=u3", "--topk=3"]) == 0
    assert main(["order-test", f"--checkpoint={path}", "--topk=5"]) == 0


def refused(match, name, model="LLMEmbSASRec", **settings):
    with pytest.raises(UserError, match=match) as caught:
        prepare_data(make_config(model, name, overrides=settings))
    assert "\n" not in str(caught.value)


def test_refusals(forms, tmp_path):
    _, settings = forms
    gone = settings("whole", benchmark_filename=["train", "dev", "test"])
    refused("names whole.dev.inter, which is not in", "whole", **gone)
    refused("three parts", "whole", **settings("whole", benchmark_filename=["train", "test"]))
    same = ["train", "valid", "valid"]
    refused("one part twice", "whole", **settings("whole", benchmark_filename=same))
    refused("holdout_items", "whole", **settings("whole", holdout_items=0.1))
    (tmp_path / "data/whole/whole.test.inter").write_text("who:token\titem_id:token\n1\t2\n")
    refused("no field 'user_id'|user_id", "whole", **settings("whole"))
    for part in NAMES:
        write(tmp_path / "data/none", f"none.{part}", [], WHOLE)
    refused("nothing to train on in dataset none as benchmark_filename", "none", **settings("none"))


def test_recboles_own_models(forms):
    """They read histories from the files, and are told what they lack."""
    _, settings = forms
    own = {key: value for key, value in settings("listed").items() if not key.startswith("llm")}
    own |= {"train_neg_sample_args": None, "loss_type": "CE"}
    refused("column item_id_list.*LLMEmbSASRec", "whole", "SASRec", **own)
    columns = {"inter": ["user_id", "item_id_list", "item_id"]}
    refused("alias_of_item_id", "listed", "SASRec", **own, load_col=columns)
    own |= {"load_col": columns, "alias_of_item_id": ["item_id_list"]}
    longest = 11  # of the histories that the files name
    refused("MAX_ITEM_LIST_LENGTH: 11", "listed", "SASRec", **{**own, "MAX_ITEM_LIST_LENGTH": 10})
    own["MAX_ITEM_LIST_LENGTH"] = longest
    stock = result("listed", own, "SASRec")
    assert stock.test_result["ndcg@5"] > 0
    # The same keys mean the same for this package's.
    ours = settings("listed", load_col=columns, alias_of_item_id=["item_id_list"])
    data = prepare_data(make_config("LLMEmbSASRec", "listed", overrides=ours))
    assert len(data.test._dataset) == 24
