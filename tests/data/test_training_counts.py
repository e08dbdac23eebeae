"""Training counts under every kind of split, against the lines of the file."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from recbole_llmemb.models.llmemb.parts import trained_items
from recbole_llmemb.models.losses import log_popularity

SPLITS = {
    "global": ({"RS": [0.6, 0.2, 0.2]}, None),
    "global, as text": ({"RS": [6, 2, 2]}, "none"),
    "by user": ({"RS": [0.6, 0.2, 0.2]}, "user"),
    "time": ({"TS": [0.6, 0.2, 0.2]}, "user"),
    "leave one out": ({"LS": "valid_and_test"}, "user"),
    "valid only": ({"LS": "valid_only"}, "user"),
    "test only": ({"LS": "test_only"}, "user"),
}


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """Users and items that come one after the other; no two times are the same.

    Returns the folder and what is in the file: (user, item, time), in the order of time.
    """
    folder = tmp_path_factory.mktemp("late") / "late"
    folder.mkdir()
    draw = np.random.default_rng(3)
    rows = []
    for user in range(30):
        for step in range(1 + user % 7):
            item = f"i{(user + int(draw.integers(12))) // 2}"
            # Who has a single interaction has it with an item of their own.
            rows.append((f"u{user}", item if user % 7 else f"x{user}", user * 3 + step))
    rows = [(u, i, 20 * t + n % 20) for n, (u, i, t) in enumerate(rows)]
    assert len({t for *_, t in rows}) == len(rows)
    lines = [f"{u}\t{i}\t{t}" for u, i, t in draw.permutation(np.array(rows, dtype=object))]
    text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines])
    (folder / "late.inter").write_text(text + "\n")
    return folder.parent, sorted(rows, key=lambda row: row[2])


def trained_lines(rows, name):
    """The lines that training reads or predicts."""
    by_user = defaultdict(list)
    for row in rows:
        by_user[row[0]].append(row)
    targets = [row for row in rows if row is not by_user[row[0]][0]]
    (kind, how), group = next(iter(SPLITS[name][0].items())), SPLITS[name][1]
    if kind == "RS" and group != "user":
        last = targets[len(targets) - 2 * int(0.2 * len(targets)) - 1][2]
        kept = {user: [r for r in own if r[2] <= last] for user, own in by_user.items()}
    elif kind == "RS":
        kept = {
            user: own[: len(own) - held_by_ratio(len(own) - 1)] for user, own in by_user.items()
        }
    elif kind == "TS":
        edge = np.percentile([row[2] for row in targets], 80)
        kept = {}
        for user, own in by_user.items():
            before = sum(row[2] <= edge for row in own[1:])
            kept[user] = own[: 1 + int(before * (0.6 / (1 - 0.2)))]
    else:
        most = 2 if how == "valid_and_test" else 1
        kept = {u: own[: len(own) - max(0, min(most, len(own) - 2))] for u, own in by_user.items()}
    # A single interaction has nothing to predict, and nothing to be predicted from.
    return [row for own in kept.values() if len(own) > 1 for row in own]


def held_by_ratio(n):
    """How many of a user's ``n`` targets RecBole holds out at 0.6, 0.2, 0.2."""
    counts = [n - 2 * int(0.2 * n), int(0.2 * n), int(0.2 * n)]
    for i in (2, 1):
        if counts[0] <= 1:
            break
        if 0 < 0.2 * n < 1:
            counts[i] += 1
            counts[0] -= 1
    return n - counts[0]


def in_ids(dataset, lines):
    """Counts per item id and per user id of some lines."""
    return tuple(
        [Counter(row[at] for row in lines)[token] for token in dataset.field2id_token[field]]
        for at, field in ((1, "item_id"), (0, "user_id"))
    )


@pytest.fixture
def late_data(late):
    from recbole_llmemb.config.recbole_config import make_config
    from recbole_llmemb.run.stages import prepare_data

    def data(name, model="LLMEmbSASRec", **more):
        split, group_by = SPLITS[name]
        args = {"split": split, "order": "TO", "group_by": group_by, "mode": "full"}
        settings = {
            "data_path": str(late[0]), "load_col": None, "eval_args": args,
            "topk": [3], "valid_metric": "NDCG@3",
            "hidden_size": 8, "inner_size": 8, "show_progress": False, "use_gpu": False,
            "epochs": 1, **({"train_neg_sample_args": None} if model == "SASRec" else {}),
        }  # fmt: skip
        if model != "SASRec":
            settings |= {"item_embedding": "id", "align_weight": 0}
        config = make_config(model, "late", overrides={**settings, **more})
        return config, prepare_data(config)

    return data


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("mode", ["sequence", "prefix"])
def test_counts_are_those_of_the_file(late, late_data, name, mode):
    _, data = late_data(name, train_mode=mode)
    train = data.train._dataset
    lines = trained_lines(late[1], name)
    items, users = train.training_counts(train)
    expected_items, expected_users = in_ids(train, lines)
    assert items.tolist() == expected_items and users.tolist() == expected_users
    assert 0 in expected_items[1:] and 0 in expected_users[1:]  # or it would prove little
    assert [t.tolist() for t in data.dataset.training_counts(train)] == [
        items.tolist(),
        users.tolist(),
    ]


@pytest.mark.parametrize("mode", ["sequence", "prefix"])
def test_a_single_target_is_trained_on(late_data, mode):
    """The earliest of all, which is its user's second interaction."""
    split = {"split": {"RS": [1e-9, 1, 1]}, "order": "TO", "group_by": None, "mode": "full"}
    _, data = late_data("global", train_mode=mode, eval_args=split)
    items, users = data.train._dataset.training_counts(data.train._dataset)
    assert items.sum() == users.sum() == users.max() == 2
    assert sum(len(batch["item_id"]) for batch in data.train) == 1


@pytest.mark.parametrize("name", SPLITS)
def test_counted_is_what_batches_hold(late_data, name):
    """Nothing that is in no training batch, and all that is in one."""
    _, data = late_data(name, train_mode="prefix")
    train, seen = data.train._dataset, Counter()
    for batch in data.train:
        for user, row, item in zip(
            *(batch[f].tolist() for f in ("user_id", "item_id_list", "item_id"))
        ):
            seen.update((user, one) for one in {*row, item} - {0})
    items, users = train.training_counts(train)
    assert set(items.nonzero().flatten().tolist()) == {item for _, item in seen}
    assert set(users.nonzero().flatten().tolist()) == {user for user, _ in seen}


def test_what_reads_the_counts(late, late_data):
    """Late items are untrained, of no popularity, no negatives by popularity, and tail items."""
    negatives = {"distribution": "popularity", "sample_num": 1, "alpha": 1.0}
    config, data = late_data("global", loss_type="BPR", train_neg_sample_args=negatives)
    train = data.train._dataset
    counts = torch.tensor(in_ids(train, trained_lines(late[1], "global"))[0])
    assert torch.equal(trained_items(train), counts > 0)
    torch.testing.assert_close(log_popularity(counts, 0.5), 0.5 * torch.log1p(counts.float()))
    drawn = torch.cat([batch["neg_item_id"] for _ in range(20) for batch in data.train])
    assert set(drawn.tolist()) <= set(counts.nonzero().flatten().tolist())


def test_groups_of_a_run(late, late_data):
    from recbole_llmemb.run.stages import build

    settings = {"tail_item_threshold": 2, "short_user_threshold": 2}
    config, data = late_data("global", **settings)
    _, trainer = build(config, data)
    trainer.fit(data.train, data.valid, saved=False)
    items, users = in_ids(data.dataset, trained_lines(late[1], "global"))
    groups = trainer.evaluator.groups
    assert groups.tail.tolist() == [n < 2 for n in items]
    assert groups.short.tolist() == [n < 2 for n in users]


def test_negatives_avoid_what_was_trained_on_and_nothing_else(late, late_data):
    _, data = late_data("global", loss_type="BPR")
    train = data.train._dataset
    lines = trained_lines(late[1], "global")
    users, items = (train.field2token_id[f] for f in ("user_id", "item_id"))
    pairs = {users[u] * train.item_num + items[i] for u, i, _ in lines}
    assert set(data.train.negatives.known.tolist()) == pairs


@pytest.mark.parametrize("longest", [1, 50])
@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
@pytest.mark.parametrize("name", ["global", "by user", "leave one out"])
def test_matrices_are_those_of_the_file(late, late_data, name, model, longest):
    """RecBole's models read these; RecBole's own sequences are held to the same."""
    _, data = late_data(name, model, MAX_ITEM_LIST_LENGTH=longest)
    train = data.train._dataset
    lines = trained_lines(late[1], name)
    users, items = (train.field2token_id[field] for field in ("user_id", "item_id"))
    ones, times = np.zeros((2, train.user_num, train.item_num))
    for user, item, time in lines:
        ones[users[user], items[item]] += 1
        times[users[user], items[item]] += time
    assert ones.max() > 1  # who met an item twice
    for form in ("coo", "csr"):
        found = train.inter_matrix(form)
        assert found.format == form and found.shape == ones.shape
        assert np.array_equal(found.toarray(), ones)
        assert np.array_equal(train.inter_matrix(form, "timestamp").toarray(), times)
    assert train.item_counter == Counter(items[item] for _, item, _ in lines)
    assert train.user_counter == Counter(users[user] for user, _, _ in lines)
    met, _, lengths = train.history_item_matrix()
    assert lengths.tolist() == ones.sum(1).tolist()
    again = np.zeros_like(ones)
    np.add.at(again, (np.repeat(np.arange(len(ones)), lengths), met[met > 0].numpy()), 1)
    assert np.array_equal(again, ones)


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_splits_share_out_all_interactions(late, late_data, model):
    """No line is in two of them, and those of users with two interactions are in one."""
    _, data = late_data("global", model)
    parts = [loader._dataset.inter_matrix("csr") for loader in (data.train, data.valid, data.test)]
    assert (sum(parts) != data.dataset.inter_matrix("csr")).nnz == 0
    counts = Counter(user for user, *_ in late[1])
    assert sum(parts).sum() == sum(n for n in counts.values() if n > 1)
    with pytest.raises(ValueError, match="nothing"):
        data.train._dataset.inter_matrix(value_field="nothing")


def test_held_out_items_are_not_counted(late, late_data):
    _, data = late_data("global", holdout_items=0.3)
    train = data.train._dataset
    out = set(train.held_out.tokens)
    assert len(out) > 3
    lines = trained_lines([row for row in late[1] if row[1] not in out], "global")
    items, users = train.training_counts(train)
    assert (items.tolist(), users.tolist()) == in_ids(train, lines)


def test_the_popular_are_those_of_the_training_period(late, late_data):
    """What somebody without a history is shown."""
    from recbole_llmemb.apps.serve import Recommender
    from recbole_llmemb.run.stages import build, train_and_evaluate

    config, data = late_data("global")
    outcome = train_and_evaluate(config, data, *build(config, data), report=lambda _: None)
    found = Recommender(outcome.checkpoint).recommend(histories=[[]], topk=5)
    counts = Counter(item for _, item, _ in trained_lines(late[1], "global"))
    assert found.scores[0].tolist() == sorted(counts.values(), reverse=True)[:5]
    assert [counts[token] for token in found.items[0]] == found.scores[0].tolist()
