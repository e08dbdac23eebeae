"""One pass per sequence teaches what RecBole's prefixes teach, no more and no less."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import LONG_USER, MAX_LENGTH

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.data.histories import POSITION  # isort: skip
from recbole_llmemb.data.windows import plan_batches  # isort: skip
from recbole_llmemb.data.loaders import (  # isort: skip
    ALIGN_ITEMS,
    BATCH_ITEMS,
    LOSS_POSITION,
    ClozeTrainDataLoader,
    SequenceTrainDataLoader,
)
from recbole_llmemb.data.windows import next_item_windows, whole_windows  # isort: skip


def prefix_pairs(tiny_data, **settings):
    """(user, history, target) of every training row of RecBole's own augmentation."""
    _, data = tiny_data("SASRec", **settings)
    rows = data.train._dataset.inter_feat
    return [
        (int(user), tuple(items[:length].tolist()), int(target))
        for user, items, length, target in zip(
            rows["user_id"], rows["item_id_list"], rows["item_length"], rows["item_id"]
        )
    ]


def taught_pairs(loader):
    """The same of every position that a loader's batches are trained on."""
    found = []
    for batch in loader:
        items, width = batch["item_id_list"], batch["item_id_list"].shape[1]
        assert width == int(batch["item_length"].max())
        for position, target in zip(batch[LOSS_POSITION].tolist(), batch["item_id"].tolist()):
            row, column = divmod(position, width)
            assert column < batch["item_length"][row]
            history = tuple(items[row, : column + 1].tolist())
            assert 0 not in history and target != 0
            found.append((int(batch["user_id"][row]), history, target))
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"MAX_ITEM_LIST_LENGTH": 50},  # every sequence fits
        {"sequence_stride": 1},
        {"sequence_stride": 1, "MAX_ITEM_LIST_LENGTH": 1},
        {"sequence_stride": 1, "MAX_ITEM_LIST_LENGTH": 24},  # just too short for the longest
    ],
    ids=str,
)
@pytest.mark.parametrize("loss_type", ["CE", "BCE"])
def test_same_pairs_as_prefixes(tiny_data, settings, loss_type):
    _, data = tiny_data(loss_type=loss_type, **settings)
    assert type(data.train) is SequenceTrainDataLoader
    length = settings.get("MAX_ITEM_LIST_LENGTH", MAX_LENGTH)
    expected = Counter(prefix_pairs(tiny_data, MAX_ITEM_LIST_LENGTH=length))
    assert Counter(taught_pairs(data.train)) == expected
    assert Counter(taught_pairs(data.train)) == expected  # and in the next epoch


@pytest.mark.parametrize("split", [[0.6, 0.2, 0.2], [0.9, 0.05, 0.05]])
def test_same_pairs_as_prefixes_by_ratio(tiny_data, split):
    eval_args = {"split": {"RS": split}, "order": "TO", "group_by": "user", "mode": "full"}
    _, data = tiny_data(sequence_stride=1, eval_args=eval_args)
    expected = prefix_pairs(tiny_data, eval_args=eval_args)
    assert Counter(taught_pairs(data.train)) == Counter(expected)


@pytest.mark.parametrize("length", [50, 24, 3])
def test_last_targets_alone(tiny_data, length):
    """What SASRec's one position per user would be: its whole history, and its last item."""
    pairs = prefix_pairs(tiny_data, MAX_ITEM_LIST_LENGTH=length)
    _, data = tiny_data("LLMEmbGRU4Rec", MAX_ITEM_LIST_LENGTH=length, train_targets="last")
    rows, users = data.train._dataset.inter_feat, {}
    for pair, when in zip(pairs, rows[POSITION].tolist()):
        users[pair[0]] = max(users.get(pair[0], (-1, ())), (when, pair))
    assert Counter(taught_pairs(data.train)) == Counter(pair for _, pair in users.values())


@pytest.mark.parametrize(
    ("model", "settings"),
    [("LLMEmbBERT4Rec", {}), ("LLMEmbGRU4Rec", {"train_mode": "prefix"}), ("LLMEmbNARM", {}),
     ("LLMEmbSASRec", {"train_targets": "one"})],
    ids=str,
)  # fmt: skip
def test_where_there_is_no_last_target_alone(tiny_config, model, settings):
    with pytest.raises(UserError) as caught:
        tiny_config(model, **{"train_targets": "last", **settings})
    assert caught.value.key == "train_targets"


@pytest.mark.parametrize("stride", [2, 3, 5, 7, 10, None])
def test_each_target_once_with_enough_history(tiny_data, stride):
    """Of a sequence that does not fit, a target sees at least max_len − stride + 1 items."""
    _, data = tiny_data(sequence_stride=stride)
    stride = stride or MAX_LENGTH // 2
    taught, prefixes = taught_pairs(data.train), prefix_pairs(tiny_data)
    assert Counter((u, t) for u, _, t in taught) == Counter((u, t) for u, _, t in prefixes)
    whole = {}
    for user, history, target in prefixes:
        whole.setdefault((user, target), []).append(history)
    shortened = 0
    for user, history, target in taught:
        for prefix in whole[user, target]:
            if history == prefix:
                break
            if history == prefix[-len(history) :] and len(history) >= MAX_LENGTH - stride + 1:
                shortened += 1
                break
        else:
            raise AssertionError(f"user {user}, {history} → {target} is no suffix of {whole}")
    assert shortened > 0


def test_windows_by_hand():
    """A user of 7 interactions after one of 3, length 3, stride 2."""
    positions = np.array([1, 2, 4, 5, 6, 7, 8, 9])  # of targets; first interactions are 0 and 3
    lengths = np.array([1, 2, 1, 2, 3, 3, 3, 3])
    users = np.array([1, 1, 2, 2, 2, 2, 2, 2])
    windows = next_item_windows(positions, lengths, users, max_length=3, stride=2)
    rows = sorted(zip(windows.starts, windows.lengths, windows.n_context, windows.users))
    # Inputs 0 1 | 3 4 5, 5 6 7, 6 7 8; the window of 5 has taught the target of 5 before.
    assert rows == [(0, 2, 0, 1), (3, 3, 0, 2), (5, 3, 1, 2), (6, 3, 2, 2)]
    assert windows.target_counts.sum() == len(positions) and len(windows) == 4
    windows = whole_windows(positions, lengths, users, max_length=3, stride=2)
    rows = sorted(zip(windows.starts, windows.lengths, windows.n_context, windows.users))
    assert rows == [(0, 3, 0, 1), (3, 3, 0, 2), (5, 3, 0, 2), (7, 3, 0, 2)]
    # Targets from the middle of a sequence on: the items before them only give context.
    windows = next_item_windows(np.array([7, 5, 6]), np.array([3, 2, 3]), np.ones(3, int), 3, 2)
    rows = sorted(zip(windows.starts, windows.lengths, windows.n_context, windows.users))
    assert rows == [(3, 3, 1, 1), (4, 3, 2, 1)]
    none = np.empty(0, dtype=np.int64)
    assert len(next_item_windows(none, none, none, 3, 2)) == 0
    assert len(whole_windows(none, none, none, 3, 2)) == 0


@pytest.mark.parametrize("much_larger", [False, True], ids=["catalog", "much larger catalog"])
def test_batches_name_the_items_they_need(tiny_data, much_larger):
    _, data = tiny_data(loss_type="BPR", train_neg_sample_args={"sample_num": 3})
    if much_larger:
        data.train.n_items = 10**12  # nothing of this size can be made
    for batch in data.train:
        drawn = batch["neg_item_id"]
        assert drawn.shape == (len(batch["item_id"]), 3)
        used = set(batch["item_id_list"].view(-1).tolist()) | set(batch["item_id"].tolist())
        assert batch[BATCH_ITEMS].tolist() == sorted(used | set(drawn.view(-1).tolist()))
        assert batch[ALIGN_ITEMS].tolist() == sorted(set(batch["item_id"].tolist()))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_batches_hold_each_window_once_at_equal_cost():
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 51, 5000)
    costs = np.maximum(1, lengths - draw.integers(0, 25, 5000))
    batches = plan_batches(lengths, costs, 32, generator(), pool=20)
    assert sorted(np.concatenate(batches)) == list(range(5000))
    budget = costs.mean() * 32
    totals = np.array([costs[batch].sum() for batch in batches])
    assert totals.max() <= budget + costs.max()
    # Only the last of each pool of 20 × 32 windows may have less.
    assert (totals < budget - costs.max()).sum() <= -(-5000 // (20 * 32))
    assert abs(len(batches) - 5000 / 32) < 10
    spread = np.array([np.ptp(lengths[batch]) for batch in batches])
    assert np.median(spread) <= 6  # alike in length: little padding
    sizes = np.array([len(batch) for batch in batches])
    assert sizes.max() > 3 * sizes.min()
    means = np.array([lengths[batch].mean() for batch in batches])
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3  # not from short to long


def test_batches_are_drawn_anew_each_epoch_and_again_from_the_same_seed():
    lengths = np.random.default_rng(0).integers(1, 20, 300)

    def plan(source):
        return [batch.tolist() for batch in plan_batches(lengths, lengths, 8, source)]

    one = generator()
    first, second = plan(one), plan(one)
    assert first != second and first == plan(generator()) and first != plan(generator(1))
    kept = plan_batches(lengths, lengths, 8, generator(), shuffle=False)
    assert np.concatenate(kept).tolist() == list(range(300))
    assert plan_batches(lengths[:0], lengths[:0], 8, generator()) == []


def test_epochs_of_a_loader_differ_and_are_as_long_as_announced(tiny_data):
    _, data = tiny_data(train_batch_size=4)
    epochs = []
    for _ in range(3):
        announced = len(data.train)
        batches = list(data.train)
        assert announced == len(batches) > 3
        epochs.append([batch["user_id"].tolist() for batch in batches])
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.fixture
def cloze(tiny_data):
    def make(**settings):
        settings = {"MAX_ITEM_LIST_LENGTH": 50, **settings}
        _, data = tiny_data("LLMEmbBERT4Rec", **settings)
        assert type(data.train) is ClozeTrainDataLoader
        return data

    return make


def masked_rows(loader, n_items, epochs):
    """(user, restored items, masked places) of every row of some epochs."""
    for _ in range(epochs):
        for batch in loader:
            items, width = batch["item_id_list"].clone(), batch["item_id_list"].shape[1]
            hidden = items == n_items
            assert hidden.view(-1).nonzero().squeeze(1).tolist() == batch[LOSS_POSITION].tolist()
            items[hidden] = batch["item_id"]  # row by row, as they are numbered
            for user, row, places, length in zip(
                batch["user_id"].tolist(), items.tolist(), hidden, batch["item_length"].tolist()
            ):
                assert len(row) == width and not any(row[length:])
                yield user, row[:length], places.nonzero().squeeze(1).tolist()


def test_cloze_reads_each_training_sequence_whole(cloze, tiny):
    data = cloze()
    dataset = data.train._dataset
    item, user = dataset.field2id_token["item_id"], dataset.field2id_token["user_id"]
    found = {}
    for one, row, places in masked_rows(data.train, dataset.item_num, 1):
        assert places and user[one] not in found
        found[str(user[one])] = [str(item[i]) for i in row]
    held_out = {u: min(2, len(s) - 2) for u, s in tiny.sequences.items()}
    assert found == {u: s[: len(s) - held_out[u]] for u, s in tiny.sequences.items() if len(s) > 1}


@pytest.mark.parametrize(("ratio", "last"), [(0.3, 0.25), (0.6, 0.5), (0.2, 0.0), (0.0, 0.0)])
def test_cloze_rates(cloze, ratio, last):
    data = cloze(mask_ratio=ratio, ft_ratio=last)
    counts, expected, variance = 0, 0.0, 0.0
    only_last, expected_last = 0, 0.0
    rows = 0
    for _, row, places in masked_rows(data.train, data.train.n_items, 150):
        n = len(row)
        assert places
        none = (1 - ratio) ** n  # then one is masked all the same
        counts += len(places)
        otherwise = n * ratio + none
        expected += last + (1 - last) * otherwise
        variance += n * ratio * (1 - ratio) + none + last * (1 - last) * (otherwise - 1) ** 2
        only_last += places == [n - 1]
        alone = ratio * (1 - ratio) ** (n - 1) + none / n
        expected_last += last + (1 - last) * alone
        rows += 1
    assert rows > 5000
    assert abs(counts - expected) <= 4.5 * variance**0.5
    assert abs(only_last - expected_last) <= 4 * (rows * 0.25) ** 0.5


def test_cloze_windows_of_a_long_sequence(cloze, tiny):
    data = cloze(MAX_ITEM_LIST_LENGTH=MAX_LENGTH)
    dataset = data.train._dataset
    long = list(dataset.field2id_token["user_id"]).index(LONG_USER)
    item = dataset.field2id_token["item_id"]
    sequence = tiny.sequences[LONG_USER][:-2]
    rows = [r for u, r, _ in masked_rows(data.train, dataset.item_num, 1) if u == long]
    found = sorted([str(item[i]) for i in row] for row in rows)
    assert found == sorted(sequence[a : a + 10] for a in (0, 5, 10, 14))
