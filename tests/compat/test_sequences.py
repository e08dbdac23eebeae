"""Histories gathered on demand against RecBole's, which writes them all out."""

import gc

import numpy as np
import pytest
import torch
from conftest import LONG_USER, MAX_LENGTH

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole.data import create_dataset  # isort: skip
from recbole.data.dataset import SequentialDataset  # isort: skip
from recbole_llmemb.data.dataset import LazySequentialDataset  # isort: skip
from recbole_llmemb.data.histories import POSITION, LazyInteraction  # isort: skip

LISTS = ["item_id_list", "timestamp_list", "rating_list"]
SPLITS = [
    {"split": {"LS": "valid_and_test"}, "group_by": "user"},
    {"split": {"LS": "valid_only"}, "group_by": "user"},
    {"split": {"LS": "test_only"}, "group_by": "user"},
    {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user"},
    {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": None},
]


@pytest.fixture
def both(tiny_config):
    """RecBole's dataset and ours, from the same settings, augmented unless they are to be split."""

    def make(augment=True, **settings):
        stock = create_dataset(tiny_config("SASRec", **settings))
        ours = create_dataset(tiny_config("LLMEmbSASRec", **settings))
        assert type(stock) is SequentialDataset and type(ours) is LazySequentialDataset
        if augment:
            stock._change_feat_format()
            ours._change_feat_format()
        return stock, ours

    return make


def assert_same_rows(stock, ours):
    """Every column equal, the gathered lists too, row for row."""
    assert len(stock) == len(ours)
    columns = [name for name in stock.inter_feat.columns if name != POSITION]
    assert set(LISTS) < set(columns)
    for name in columns:
        expected, found = stock.inter_feat[name], ours.inter_feat[name]
        if name == "timestamp_list":  # ours knows the times themselves
            assert found.dtype == torch.float64
            found = found.float()
        assert expected.dtype == found.dtype and torch.equal(expected, found), name


def test_rows_are_recboles(both, tiny):
    stock, ours = both()
    longest = stock.inter_feat["item_length"]
    assert int(longest.max()) == MAX_LENGTH < len(tiny.sequences[LONG_USER])
    assert_same_rows(stock, ours)
    assert isinstance(ours.inter_feat, LazyInteraction)
    assert stock.field2seqlen == ours.field2seqlen and stock.field2type == ours.field2type
    assert list(stock.field2id_token["item_id"]) == list(ours.field2id_token["item_id"])


def test_rows_are_those_of_the_file(both, tiny):
    """The same without RecBole: from the file's lines."""
    _, ours = both()
    rows = ours[torch.arange(len(ours))]
    user, item = ours.field2id_token["user_id"], ours.field2id_token["item_id"]
    found = {}
    for i in range(len(ours)):
        history = rows["item_id_list"][i]
        assert not history[rows["item_length"][i] :].any()
        read = [str(item[one]) for one in history[: rows["item_length"][i]]]
        row = read, str(item[rows["item_id"][i]])
        found.setdefault(str(user[rows["user_id"][i]]), []).append(row)
    expected = {
        name: [(seq[max(0, i - MAX_LENGTH) : i], seq[i]) for i in range(1, len(seq))]
        for name, seq in tiny.sequences.items()
        if len(seq) > 1
    }
    assert found == expected


@pytest.mark.parametrize("eval_args", SPLITS, ids=lambda args: str([*args["split"].items()]))
def test_splits_are_recboles(both, tiny, eval_args):
    eval_args = {**eval_args, "order": "TO", "mode": "full"}
    stock, ours = both(augment=False, eval_args=eval_args)
    sizes = []
    for expected, found in zip(stock.build(), ours.build()):
        assert_same_rows(expected, found)
        sizes.append(len(found))
    assert sizes[0] > 0 and sum(sizes) == len(tiny.rows) - len(tiny.sequences)
    assert (sizes[1] > 0) == (eval_args["split"].get("LS") != "test_only")
    assert (sizes[2] > 0) == (eval_args["split"].get("LS") != "valid_only")


@pytest.mark.parametrize(
    "index",
    [
        3,
        slice(2, 9),
        [5, 5, 0],
        np.array([7, 1]),
        torch.tensor([4, 2, 4]),
        range(3),
        torch.tensor([0]),
    ],
    ids=str,
)
def test_indexing_is_recboles(both, index):
    stock, ours = both()
    expected, found = stock[index], ours[index]
    assert type(found) is type(expected)
    for name in expected.columns:
        assert torch.equal(expected[name], found[name]), name
    assert set(found.columns) == set(expected.columns)


def test_lazy_interaction_stays_lazy(both):
    _, ours = both()
    some = ours.inter_feat[[4, 8, 2]]
    assert isinstance(some, LazyInteraction) and isinstance(some[1:], LazyInteraction)
    assert len(some) == 3 and "item_id_list" in some and "item_id" in some
    assert "item_id_list" not in some.interaction
    whole = ours.inter_feat["item_id_list"]
    assert torch.equal(some["item_id_list"], whole[[4, 8, 2]])
    ratings = ours.inter_feat["rating_list"]
    assert torch.equal(some[1:].materialize()["rating_list"], ratings[[8, 2]])
    assert len(ours.inter_feat[[]]) == 0


def test_normalized_numbers(both):
    """Float columns that RecBole normalizes or gives a second column."""
    for settings in (
        {"normalize_field": ["rating"]},
        {"numerical_features": ["rating"], "normalize_all": False},
    ):
        stock, ours = both(**settings)
        assert torch.equal(stock.inter_feat["rating_list"], ours.inter_feat["rating_list"])


def test_filters_are_recboles(both):
    stock, ours = both(user_inter_num_interval="[3,inf)", item_inter_num_interval="[2,inf)")
    assert 0 < len(stock) < 200
    assert_same_rows(stock, ours)


def tensors_within(root):
    """Every tensor and array that an object holds on to, each once."""
    seen, found, queue = set(), [], [root]
    while queue:
        one = queue.pop()
        if id(one) in seen or isinstance(one, (type, str, bytes)) or callable(one):
            continue
        seen.add(id(one))
        if isinstance(one, (torch.Tensor, np.ndarray)):
            found.append(one)
        elif type(one).__module__.startswith(("recbole", "builtins", "collections")):
            queue.extend(gc.get_referents(one))
    return found


def test_no_history_is_kept(both, tiny_data):
    """Memory grows with the interactions, not with that times the history length."""
    length = 50
    stock, ours = both(MAX_ITEM_LIST_LENGTH=length)
    matrix = len(stock) * length

    def largest(*things):
        return max(math_size(one) for thing in things for one in tensors_within(thing))

    def math_size(one):
        return one.numel() if isinstance(one, torch.Tensor) else one.size

    assert largest(stock) == matrix  # what is looked for would be found
    assert largest(ours) <= 2 * len(ours)
    _, data = tiny_data(MAX_ITEM_LIST_LENGTH=length)
    data.train._dataset.given = None  # the table, for the model that is to be built
    next(iter(data.train)), next(iter(data.valid))
    assert largest(data.train, data.valid, data.test) <= 2 * len(ours)


@pytest.mark.parametrize("split", ["valid_and_test", "valid_only", "test_only"])
def test_training_counts(tiny_data, tiny, split):
    eval_args = {"split": {"LS": split}, "order": "TO", "group_by": "user", "mode": "full"}
    _, data = tiny_data(eval_args=eval_args)
    dataset = data.train._dataset
    items, users = dataset.training_counts(dataset)
    held_out = 2 if split == "valid_and_test" else 1
    expected_items = dict.fromkeys(tiny.items, 0)
    expected_users = {}
    for user, sequence in tiny.sequences.items():
        rows = len(sequence) - 1  # of which one is always left to train on
        # A single interaction has nothing to predict: it is in no training batch.
        kept = len(sequence) - min(held_out, rows - 1) if rows else 0
        expected_users[user] = kept
        for item in sequence[:kept]:
            expected_items[item] += 1
    item_tokens, user_tokens = (dataset.field2id_token[f] for f in ("item_id", "user_id"))
    assert dict(zip(item_tokens[1:], items.tolist()[1:])) == expected_items and items[0] == 0
    assert dict(zip(user_tokens[1:], users.tolist()[1:])) == expected_users and users[0] == 0
