"""Search spaces: what is read, what is drawn, and what is refused by name."""

from __future__ import annotations

import math
import re

import pytest

from recbole_llmemb.apps.tune.space import read_space
from recbole_llmemb.config.recbole_config import properties_folder
from recbole_llmemb.core.errors import UserError

optuna = pytest.importorskip("optuna")

SPACE = {
    "learning_rate": {"loguniform": ["1e-4", 1e-2]},
    "offset_decay": {"loguniform": [1e-6, 1e-2], "when": {"item_embedding": "residual"}},
    "item_embedding": {"choice": ["table", "residual"]},
    "hidden_size": {"quniform": [32, 100, 32]},
    "hidden_dropout_prob": {"quniform": [0.1, 0.5, 0.1]},
    "n_layers": {"randint": [1, 3]},
    "weight_decay": {"uniform": [0.0, 0.1]},
}


def drawn(space, count=400, seed=0):
    """Configurations at random, those that come twice included."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.suggest(study.ask()) for _ in range(count)]


def test_values_are_of_their_kind_and_within_their_bounds():
    found = drawn(read_space(SPACE))
    rates = [one["learning_rate"] for one in found]
    assert min(rates) >= 1e-4 and max(rates) <= 1e-2
    assert 0.35 < sum(rate < 1e-3 for rate in rates) / len(rates) < 0.65  # even in the logarithm
    assert {one["hidden_size"] for one in found} == {32, 64, 96}
    assert all(isinstance(one["hidden_size"], int) for one in found)
    assert {one["hidden_dropout_prob"] for one in found} == {0.1, 0.2, 0.3, 0.4, 0.5}
    assert {one["n_layers"] for one in found} == {1, 2, 3}
    assert all(0 <= one["weight_decay"] <= 0.1 for one in found)


def test_a_conditional_key_is_searched_only_under_its_condition():
    found = drawn(read_space(SPACE))
    for one in found:
        assert ("offset_decay" in one) == (one["item_embedding"] == "residual")
    assert {"table", "residual"} == {one["item_embedding"] for one in found}


def test_conditions_may_be_on_keys_that_have_conditions():
    space = read_space(
        {
            "c": {"choice": [1, 2], "when": {"b": [3, 4]}},
            "b": {"choice": [3, 4, 5], "when": {"a": True}},
            "a": {"choice": [True, False]},
        }
    )
    assert space.keys == ["a", "b", "c"]
    for one in drawn(space):
        assert ("b" in one) == one["a"]
        assert ("c" in one) == (one.get("b") in (3, 4))


def test_the_same_seed_draws_the_same():
    space = read_space(SPACE)
    assert space.draw(5, seed=1) == space.draw(5, seed=1) != space.draw(5, seed=2)


def test_nothing_is_drawn_twice_if_there_is_more():
    space = read_space({"a": {"choice": [1, 2]}, "b": {"choice": [1, 2]}})
    found = [tuple(one.values()) for one in space.draw(6, seed=0)]
    assert len(found) == 6 and len(set(found[:4])) == 4


def test_choices_may_be_lists():
    space = read_space({"item_text_fields": {"choice": [["title"], ["title", "brand"]]}})
    found = [one["item_text_fields"] for one in space.draw(2, seed=0)]
    assert sorted(found) == [["title"], ["title", "brand"]]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"a": {"loguniform": [0, 1]}}, ["loguniform", "0"]),
        ({"a": {"uniform": [1, 1]}}, ["from 1 to 1"]),
        ({"a": {"uniform": [1]}}, ["[1]", "[low, high]"]),
        ({"a": {"uniform": ["x", 1]}}, ["['x', 1]"]),
        ({"a": {"quniform": [0, 1, 2]}}, ["step", "2"]),
        ({"a": {"randint": [0.5, 2]}}, ["[0.5, 2]", "whole"]),
        ({"a": {"chioce": [1]}}, ["'chioce'", "take choice"]),
        ({"a": {"choice": []}}, ["[]", "[the values]"]),
        ({"a": {"choice": 3}}, ["3"]),
        ({"a": 3}, ["{choice: [3]}"]),
        ({"a": {"choice": [1], "uniform": [0, 1]}}, ["one of", "choice, uniform"]),
        ({"a": {"choice": [1], "when": {"b": 1}}}, ["b", "not searched"]),
        ({"a": {"choice": [1], "when": [1]}}, ["[1]"]),
        ({"a": {"choice": [1], "when": {"b": 3}}, "b": {"choice": [1, 2]}}, ["b being 3", "1, 2"]),
        ({"a": {"choice": [1], "when": {"b": 3}}, "b": {"uniform": [1, 2]}}, ["b", "no choice"]),
    ],
)
def test_what_is_wrong_is_told_by_key(space, words):
    with pytest.raises(UserError) as refused:
        read_space(space)
    assert refused.value.key == "a"
    assert all(word in str(refused.value) for word in words)


def test_a_space_of_nothing_or_of_a_circle_is_refused():
    with pytest.raises(UserError, match="no keys to search"):
        read_space({})
    circle = {key: {"choice": [1], "when": {other: 1}} for key, other in ("ab", "ba")}
    with pytest.raises(UserError, match="a, b wait for each other"):
        read_space(circle)


def test_text_is_text_unless_it_is_a_number_that_yaml_takes_for_text():
    space = read_space({"a": {"choice": ["2020", "nan", "1e-3", "-2.5E+2", "1e"]}})
    assert {one["a"] for one in drawn(space)} == {"2020", "nan", 0.001, -250.0, "1e"}


def test_files_are_named_in_messages(tmp_path):
    with pytest.raises(UserError, match="none.yaml cannot be read .*--space"):
        read_space(tmp_path / "none.yaml")
    file = tmp_path / "space.yaml"
    file.write_text("a: {choice: [1")
    with pytest.raises(UserError, match="space.yaml is not valid yaml"):
        read_space(file)
    file.write_text("a: {choise: [1]}")
    with pytest.raises(UserError, match="In .*space.yaml, a: .*'choise'"):
        read_space(file)


def test_recboles_format_is_read_as_recbole_means_it(tmp_path):
    file = tmp_path / "hyper.test"
    file.write_text(
        "learning_rate loguniform -8,0\n"
        "\n# a comment\n"
        "embedding_size choice [64, 96 , 128]\n"
        "mlp_hidden_size choice ['[64, 64, 64]','[128, 128]']\n"
        "attention_size quniform 30,70,20\n"
        "dropout_prob uniform 0.1,0.4\n"
    )
    space = read_space(file)
    found = drawn(space)
    rates = [math.log(one["learning_rate"]) for one in found]
    assert -8 <= min(rates) < -7 and -1 < max(rates) <= 0  # exponents of e, as Hyperopt's
    assert {one["embedding_size"] for one in found} == {64, 96, 128}
    assert {one["mlp_hidden_size"] for one in found} == {"[64, 64, 64]", "[128, 128]"}
    assert {one["attention_size"] for one in found} == {40, 60}  # multiples of the step
    assert all(0.1 <= one["dropout_prob"] <= 0.4 for one in found)


@pytest.mark.parametrize(
    ("line", "key", "number"),
    [
        ("learning_rate normal 0,1", "learning_rate", 1),
        ("learning_rate choice [__import__('os')]", "learning_rate", 1),
        ("learning_rate uniform 1", "learning_rate", 1),
        ("", None, None),
        ("epochs choice [1]\nepochs choice [2]", "epochs", 2),
        ("dropout_prob quniform 1,1e999,1", "dropout_prob", 1),
    ],
)
def test_recboles_format_is_checked_too(tmp_path, line, key, number):
    file = tmp_path / "hyper.test"
    file.write_text(line + "\n")
    with pytest.raises(UserError) as refused:
        read_space(file)
    assert refused.value.key == key
    assert refused.value.where == (f"{file}, line {number}" if key else str(file))


def test_the_spaces_that_come_with_the_package_are_good():
    files = sorted((properties_folder() / "tune").glob("*.yaml"))
    assert {file.stem for file in files} >= {"llmemb", "sasrec", "llmsrec"}
    for file in files:
        space = read_space(file)
        assert drawn(space, 20)
        lines = file.read_text().splitlines()
        for key in space.keys:
            assert any(re.match(rf"{key}: +# \((int|float|str)\) \w.*\.$", one) for one in lines)
