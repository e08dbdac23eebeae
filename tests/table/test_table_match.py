"""Alignment of a table to a dataset: by token, whatever the order, and no silent gaps."""

import random

import pytest
import torch

from recbole_llmemb.core.errors import TableError
from recbole_llmemb.table import EmbeddingTable, match


def make_table(tokens, width=3):
    """Row i says which token it is: its first number is the token's."""
    vectors = torch.randn(len(tokens), width, generator=torch.Generator().manual_seed(1))
    vectors[:, 0] = torch.tensor([float(token) for token in tokens])
    return EmbeddingTable(list(tokens), vectors)


TOKENS = [str(100 + i) for i in range(20)]


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_table(seed):
    shuffled = random.Random(seed).sample(TOKENS, len(TOKENS))
    table = make_table(shuffled)
    matched = match(table, ["[PAD]", *TOKENS])
    assert matched.shape == (21, 3) and matched.dtype == torch.float32
    assert torch.equal(matched[0], torch.zeros(3))
    for i, token in enumerate(TOKENS, start=1):
        assert torch.equal(matched[i], table.vectors[shuffled.index(token)])
        assert matched[i, 0] == float(token)


def test_last_item_gets_its_own_vector():
    """The slip of the public code: a padding row put before the last row."""
    matched = match(make_table(TOKENS), ["[PAD]", *TOKENS])
    assert matched[-1, 0] == float(TOKENS[-1])
    assert matched[1, 0] == float(TOKENS[0])


def test_shuffled_dataset():
    wanted = random.Random(3).sample(TOKENS, len(TOKENS))
    matched = match(make_table(TOKENS), ["[PAD]", *wanted])
    assert matched[1:, 0].tolist() == [float(token) for token in wanted]


def test_rows_for_other_items_are_fine():
    matched = match(make_table(TOKENS), ["[PAD]", "119", "100"])
    assert matched[:, 0].tolist() == [0.0, 119.0, 100.0]


def test_numpy_tokens():
    import numpy as np

    matched = match(make_table(TOKENS), np.array(["[PAD]", "101", "100"]))
    assert matched[:, 0].tolist() == [0.0, 101.0, 100.0]


def test_item_called_pad_does_not_reach_the_padding_row():
    table = EmbeddingTable(["[PAD]", "x"], torch.tensor([[5.0, 5.0], [1.0, 2.0]]))
    assert match(table, iter(["[PAD]", "x"])).tolist() == [[0.0, 0.0], [1.0, 2.0]]


def test_missing_are_refused_with_count_and_names():
    with pytest.raises(
        TableError, match=r"tab: 7 of the dataset's 20 items .*'100', .*'104', … \(7 in all\)"
    ):
        match(make_table(TOKENS[7:]), ["[PAD]", *TOKENS], where="tab")


def test_missing_zero():
    matched = match(make_table(TOKENS[2:]), ["[PAD]", *TOKENS], missing="zero")
    assert torch.equal(matched[:3], torch.zeros(3, 3))
    assert matched[3:, 0].tolist() == [float(token) for token in TOKENS[2:]]


def test_missing_mean_is_of_the_dataset_items_alone():
    table = make_table([*TOKENS[2:], "999999"])
    matched = match(table, ["[PAD]", *TOKENS], missing="mean")
    mean = sum(table.vectors[i].double() for i in range(18)) / 18
    assert torch.allclose(matched[1].double(), mean, rtol=1e-6)
    assert torch.equal(matched[1], matched[2])
    assert torch.equal(matched[0], torch.zeros(3))


def test_unknown_missing():
    with pytest.raises(TableError, match="llm_missing is 'drop'; it must be one of error, mean"):
        match(make_table(TOKENS), ["[PAD]", *TOKENS], missing="drop")


@pytest.mark.parametrize("missing", ["error", "mean", "zero"])
def test_a_table_for_another_dataset(missing):
    with pytest.raises(TableError, match="none of the dataset's 2 items"):
        match(make_table(TOKENS), ["[PAD]", "B00X", "B00Y"], missing=missing)


def test_dataset_with_duplicates():
    with pytest.raises(TableError, match="more than once: '101'"):
        match(make_table(TOKENS), ["[PAD]", "101", "100", "101"])


def test_wrong_width():
    with pytest.raises(TableError, match="are 3 wide, but 8 is expected"):
        match(make_table(TOKENS), ["[PAD]", *TOKENS], expected_width=8)


def test_invalid_tables_are_refused():
    table = make_table(TOKENS)
    table.vectors[4] = float("nan")
    with pytest.raises(TableError, match="tab: 1 of 20 items have NaN.*'104'"):
        match(table, ["[PAD]", *TOKENS], where="tab")
    equal = EmbeddingTable(list(TOKENS), torch.ones(20, 3))
    with pytest.raises(TableError, match="equal"):
        match(equal, ["[PAD]", *TOKENS])
    twice = make_table(TOKENS)
    twice.tokens[0] = "119"
    with pytest.raises(TableError, match="more than once: '119'"):
        match(twice, ["[PAD]", *TOKENS])


def test_half_precision_becomes_float32():
    table = make_table(TOKENS)
    table.vectors = table.vectors.bfloat16()
    matched = match(table, ["[PAD]", *TOKENS])
    assert matched.dtype == torch.float32
    assert torch.equal(matched[1:], table.vectors.float())
