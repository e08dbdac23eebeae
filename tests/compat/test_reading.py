"""Atomic files are read by pandas' C parser, and as they say."""

import random

import pytest
from recbole.config import Config
from recbole.data import create_dataset

from recbole_llmemb.core.errors import UserError

HEAD = "user_id:token\titem_id:token\ttimestamp:float\tkind:token"


@pytest.fixture
def dataset(tmp_path):
    """``dataset(inter, item, model)``: what RecBole makes of these files' lines."""

    def made(inter, item=(), model="SASRec", saved="utf-8", end="\n", head=HEAD, **settings):
        folder = tmp_path / "odd"
        folder.mkdir(exist_ok=True)
        data = "".join(line + end for line in [head, *inter]).encode(saved)
        (folder / "odd.inter").write_bytes(data)
        if item:
            lines = ["item_id:token\ttitle:token_seq\tprice:float", *item]
            (folder / "odd.item").write_bytes("".join(x + end for x in lines).encode(saved))
        settings = {"data_path": str(tmp_path), "load_col": None, **settings}
        if model in ("SASRec", "FDSA"):
            settings["train_neg_sample_args"] = None
        return create_dataset(Config(model=model, dataset="odd", config_dict=settings))

    return made


def rows(found):
    """User, item, time and kind of each interaction, in tokens."""
    inter, names = found.inter_feat, found.field2id_token
    tokens = [names[f][inter[f].to_numpy()] for f in ("user_id", "item_id", "kind")]
    return [(u, i, t, k) for u, i, k, t in zip(*tokens, inter["timestamp"].tolist())]


def test_numbers_are_exact(dataset):
    draw = random.Random(0)
    prices = [draw.uniform(-1e9, 1e9) * 10 ** draw.randint(-12, 3) for _ in range(300)]
    lines = [f"u\ti{n}\t{n}\tx" for n in range(300)]
    found = dataset(lines, [f"i{n}\t\t{price!r}" for n, price in enumerate(prices)])
    assert found.item_feat["price"].tolist()[1:] == prices


@pytest.mark.parametrize("separator", ["::", "||", ".."])
def test_separators_of_several_characters_are_no_patterns(dataset, separator):
    lines = ["u 1\t 2 \t1\tx", 'NA\t"x\ry\t2\tx']
    found = dataset(
        [line.replace("\t", separator) for line in lines],
        end="\r\n",
        head=HEAD.replace("\t", separator),
        field_separator=separator,
    )
    assert rows(found) == [("u 1", " 2 ", 1, "x"), ("NA", '"x\ry', 2, "x")]


@pytest.mark.parametrize("separator", ["::", "\t"])
def test_control_characters_separate_nothing(dataset, separator):
    lines = ["u\ta\x1f0\t5\tx", "v\ta\x1f9\x1e\t0\tx\ry"]
    found = dataset(
        [line.replace("\t", separator) for line in lines],
        head=HEAD.replace("\t", separator),
        field_separator=separator,
    )
    assert rows(found) == [("v", "a\x1f9\x1e", 0, "x\ry"), ("u", "a\x1f0", 5, "x")]


WORDS = ["NA", "null", "None", "nan", "NaN", "N/A", "#N/A", "<NA>", "NULL", "n/a", "-nan"]


@pytest.mark.parametrize("model", ["SASRec", "BPR", "LLMEmbSASRec"])
def test_only_what_is_empty_is_missing(dataset, model):
    lines = [f"{word}\t{word}\t{n}\t{word}" for n, word in enumerate(WORDS)]
    found = dataset([*lines, "u\tNA\t50\t"], [f"{word}\t{word} it\t1" for word in WORDS], model)
    expected = [(word, word, float(n), word) for n, word in enumerate(WORDS)]
    assert rows(found) == [*expected, ("u", "NA", 50.0, "[PAD]")]
    assert found.item_num == len(WORDS) + 1
    assert list(found.field2id_token["title"][1:]) == ["NA", "it", *WORDS[1:]]


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_quotes_are_characters(dataset, model):
    tokens = ['"q', 'q"', '"q"', '5"', '""', "'", '"a""b"']
    lines = [f"{t}\t{t}\t{n}\t{t}" for n, t in enumerate(tokens)]
    items = [f'{t}\t"a {t}\t1' for t in tokens]
    found = dataset(lines, items, model)
    assert rows(found) == [(t, t, float(n), t) for n, t in enumerate(tokens)]
    titles = found.field2id_token["title"][found.item_feat["title"].iloc[3].tolist()]
    assert list(titles) == ['"a', tokens[2]]


def test_users_and_items_that_have_two_lines_are_told(dataset, tmp_path, caplog):
    lines = [f"{user}\t{item}\t1\tx" for user in ("u", "v") for item in ("a", "b")]
    (tmp_path / "odd").mkdir(exist_ok=True)
    (tmp_path / "odd/odd.user").write_text("user_id:token\tage:float\nu\t1\nu\t9\nv\t2\n")
    found = dataset(lines, ["a\tit\t1", "b\tit\t2", "\tno\t3", "\tno\t4", "a\tit\t7"], model="BPR")
    prices = dict(zip(found.field2id_token["item_id"], found.item_feat["price"]))
    ages = dict(zip(found.field2id_token["user_id"], found.user_feat["age"]))
    assert (prices["a"], prices["b"], ages["u"], ages["v"]) == (1, 2, 1, 2)
    assert "odd.item: 1 of 5 lines have the item_id of an earlier line" in caplog.text
    assert "odd.user: 1 of 3 lines have the user_id of an earlier line" in caplog.text
    assert all(caplog.text.count(f", which counts: line {n}") == 1 for n in (3, 6))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_lone_carriage_return_splits_nothing(dataset, end):
    found = dataset(["u1\ta\t1\tx\ry", "u1\tb\rc\t2\tx", "u2\ta\t3\tx"], end=end)
    assert rows(found) == [("u1", "a", 1, "x\ry"), ("u1", "b\rc", 2, "x"), ("u2", "a", 3, "x")]


def test_line_ends_and_a_mark_are_no_characters(dataset):
    plain = ["u1\ta\t1\tx", "u1\té\t2\ty"]
    expected = rows(dataset(plain))
    assert rows(dataset(plain, end="\r\n")) == expected
    assert rows(dataset(plain, saved="utf-8-sig")) == expected
    assert rows(dataset([line + "\t" for line in plain])) == expected  # a separator at the end
    assert rows(dataset([line + "\t" for line in plain], head=HEAD + "\t")) == expected


@pytest.mark.parametrize("model", ["SASRec", "LLMEmbSASRec"])
def test_separators_at_the_end_move_no_column(dataset, model):
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    lines = [f"u{n % 3}\ti{n}\t{n}\tx\t\t" for n in range(9)]
    found = dataset(lines, model=model, load_col=columns)
    assert list(found.field2id_token["user_id"][1:]) == ["u0", "u1", "u2"]
    assert found.inter_feat["timestamp"].tolist() == list(range(9))


@pytest.mark.parametrize("model", ["SASRec", "BPR", "LLMEmbSASRec"])
def test_a_field_that_the_first_line_does_not_name_is_refused(dataset, model):
    lines = [f"u{n % 3}\ti{n}\t{n}\tx" for n in range(9)]
    with pytest.raises(UserError, match=r"odd\.inter, line 11: 5 fields"):
        dataset([*lines, "u1\tan\titem\t7\tx"], model=model)
    with pytest.raises(UserError, match=r"odd\.item, line 2: 5 fields"):
        dataset(lines, ["i1\tone\ttwo\t\t5"], model=model)


NUMBERS = {"vec": "float_seq", "price": "float"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (("1 2", "inf"), "line 4: price is not finite"),
        (("1 nan", "1"), "line 4: vec is not finite"),
        (("1 two", "1"), "line 4: 'two' of vec is no number"),
    ],
)
@pytest.mark.parametrize("model", ["FDSA", "LLMEmbFDSA"])
def test_what_is_no_number_to_reckon_with_is_refused(dataset, tmp_path, model, values, told):
    head = "item_id:token\t" + "\t".join(f"{name}:{kind}" for name, kind in NUMBERS.items())
    (tmp_path / "odd").mkdir()
    text = "\n".join([head, "i0\t1 2\t", "", "\t".join(["i1", *values])])
    (tmp_path / "odd/odd.item").write_text(text)
    lines = [f"u{n % 3}\ti{n % 2}\t{n}\tx" for n in range(9)]
    with pytest.raises(UserError, match=rf"odd\.item, {told}"):
        dataset(lines, model=model, selected_features=list(NUMBERS))


@pytest.mark.parametrize("model", ["SASRec", "LLMEmbSASRec"])
@pytest.mark.parametrize("time", ["1e39", "-1e300"])
def test_a_time_that_models_cannot_compute_with_is_refused(dataset, model, time):
    lines = [f"u{n % 3}\ti{n}\t{n}\tx" for n in range(9)]
    with pytest.raises(UserError, match=r"odd\.inter, line 11: timestamp is .*too large"):
        dataset([*lines, f"u1\ti1\t{time}\tx"], model=model)


@pytest.mark.parametrize("model", ["FDSA", "LLMEmbFDSA"])
def test_numbers_that_are_missing_in_all_lines_are_zero(dataset, model, caplog):
    lines, items = [f"u{n}\ti{n}\t{n}\tx" for n in range(2)], ["i0\tone\t", "i1\ttwo\tnan"]
    dataset(lines, items)  # there is a file to choose features of
    found = dataset(lines, items, model, selected_features=["price"])
    assert [value for value, _ in found.item_feat["price"]] == [0, 0, 0]
    assert "odd.item: no line has a value of price" in caplog.text


@pytest.mark.parametrize("model", ["SASRec", "LLMEmbSASRec"])
def test_a_file_without_lines_is_refused(dataset, tmp_path, model):
    with pytest.raises(UserError, match=r"odd\.inter: it has nothing below"):
        dataset([], model=model)
    (tmp_path / "odd/odd.item").write_text("item_id:token\ttitle:token_seq\n")
    with pytest.raises(UserError, match=r"odd\.item: it has nothing below"):
        dataset(["u\ta\t1\tx"], model=model)


@pytest.mark.parametrize("model", ["BPR", "LLMEmbSASRec"])
def test_interactions_whose_item_has_no_line_are_counted(dataset, model, caplog):
    lines = [f"u{n % 3}\ti{n % 4}\t{n}\tx" for n in range(12)]
    items = ["i0\tone\t1", "i1\ttwo\t1", "i2\ttwo\t1"]
    assert len(dataset(lines, items, model).inter_feat) == 9
    assert "3 of 12 interactions of odd left out" in caplog.text
    caplog.clear()
    kept = dataset(lines, items, model, filter_inter_by_user_or_item=False)
    assert len(kept.inter_feat) == 12 and "left out" not in caplog.text


def naive(lines, needs_time):
    """Lines that are complete."""
    return [
        tuple(values)
        for values in (line.split("\t") for line in lines)
        if values[0] and values[1] and (values[2] not in ("", "nan") or not needs_time)
    ]


@pytest.mark.parametrize("model", ["SASRec", "BPR", "LLMEmbSASRec"])
def test_exactly_the_incomplete_lines_go(dataset, model, caplog):
    draw = random.Random(3)
    lines = []
    for n in range(200):
        values = [f"u{draw.randrange(9)}", f"i{draw.randrange(9)}", str(n), f"k{n % 4}"]
        for place in (0, 1, 2):
            if draw.random() < 0.1:
                values[place] = draw.choice(["", "nan"]) if place == 2 else ""
        lines.append("\t".join(values))
    kept = naive(lines, needs_time=model != "BPR")
    blank = ["", "  "]  # passed over, but counted as lines
    found = rows(dataset(blank + lines, model=model))
    assert [(u, i, k) for u, i, _, k in found] == [(u, i, k) for u, i, _, k in kept]
    if model != "BPR":  # RecBole's mean stays for a number that orders nothing
        assert [t for _, _, t, _ in found] == [float(t) for _, _, t, _ in kept]
    bare = [n for n, line in enumerate(lines, 4) if not all(line.split("\t")[:2])]
    (told,) = [m for m in caplog.messages if "user_id or item_id" in m]
    assert (
        f"{len(bare)} of 200 lines" in told and f"line {', '.join(map(str, bare[:5]))}, …" in told
    )
    assert any("no timestamp" in message for message in caplog.messages) == (model != "BPR")


def test_files_that_are_split_already_lose_the_same_lines(dataset, tmp_path, caplog):
    dataset(["u\ta\t1\tx"])
    head = "user_id:token\titem_id:token\ttimestamp:float\titem_id_list:token_seq\n"
    for part in ("train", "valid", "test"):
        (tmp_path / "odd" / f"odd.{part}.inter").write_text(
            f"{head}u\tb\t1\ta\n\tb\t2\ta\nu\t\t3\ta\nv\tb\t\ta\n"
        )
    split = {"benchmark_filename": ["train", "valid", "test"], "alias_of_item_id": ["item_id_list"]}
    found = dataset(["u\ta\t1\tx"], **split)
    assert found.file_size_list == [2, 2, 2]  # whose history is given needs no time
    assert caplog.text.count("2 of 4 lines left out, which have no user_id or item_id") == 3


def test_files_of_users_and_items_lose_the_same_lines(dataset, tmp_path, caplog):
    dataset(["u\ta\t1\tx"])
    (tmp_path / "odd/odd.user").write_text("user_id:token\tage:float\n\t1\nnull\t2\n\t3\nu\t4\n")
    lines = [f"{user}\t{item}\t1\tx" for user in ("u", "null") for item in ("a", "NA")]
    found = dataset(lines, ["a\tit\t1", "\tno\t2", "NA\tit\t3"], model="BPR")
    ages = dict(zip(found.field2id_token["user_id"], found.user_feat["age"]))
    prices = dict(zip(found.field2id_token["item_id"], found.item_feat["price"]))
    assert (ages["u"], ages["null"], prices["a"], prices["NA"]) == (4, 2, 1, 3)
    assert "odd.user: 2 of 4 lines left out, which have no user_id: line 2, 4" in caplog.text
    assert "odd.item: 1 of 3 lines left out, which have no item_id: line 3" in caplog.text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("word", ["NA", "soon", "1,5", "True"])
def test_a_word_is_no_number(dataset, word, end):
    if word == "True":  # alone in its column, pandas reads it as 1
        with pytest.raises(UserError, match=r"odd\.inter, line 3: 'True' of timestamp"):
            dataset(["u\ta\t\tx", f"u\tb\t{word}\tx"], end=end)
    with pytest.raises(UserError, match=rf"odd\.inter, line 4: '{word}' of timestamp"):
        dataset(["u\ta\t1\tx", "", f"u\tb\t{word}\tx"], end=end)
    with pytest.raises(UserError, match=rf"odd\.item, line 3: '{word}' of price"):
        dataset(["u\ta\t1\tx"], ["a\tit\t1", f"b\tit\t{word}"], end=end)


def test_another_encoding_is_read_where_it_is_named(dataset):
    lines, items = ["u\té\t1\tx", "u\tb\t2\tx"], ["é\tcafé\t1"]
    with pytest.raises(UserError, match=r"odd\.inter .* utf-8 .* encoding"):
        dataset(lines, items, saved="latin-1")
    found = dataset(lines, items, saved="latin-1", encoding="latin-1")
    assert rows(found)[0][1] == "é" and "café" in found.field2id_token["title"]
    assert found.config["encoding"] == "latin-1"
    with pytest.raises(UserError, match="encoding is 'latin-99'"):
        dataset(lines, encoding="latin-99")


def test_a_letter_that_no_text_has_is_refused(dataset):
    """NumPy drops it from the end of a name, so that two items would be one."""
    with pytest.raises(UserError, match=r"odd\.inter, line 3: .* NUL"):
        dataset(["u\ta\t1\tx", "u\ta\0\t2\tx"])


@pytest.mark.parametrize("times", [(10**25 + 1, 10**25), ("1700000000000000001.0", 17 * 10**17)])
def test_times_that_no_number_holds_are_told(dataset, caplog, times):
    dataset([f"u\ti{n}\t{time}\tx" for n, time in enumerate(times)])
    assert "odd.inter: numbers of timestamp" in caplog.text
