"""Interactions are in the order of the file's own times, by every way in."""

import random

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from recbole_llmemb.data.splits import histories

UNITS = {"s": 1_700_000_000, "ms": 1_700_000_000_000, "ns": 1_700_000_000_000_000_000}
USERS, EACH, ITEMS = 25, 12, 40


@pytest.fixture
def clicks(tmp_path):
    """``clicks(unit)``: (user, item, time) of each line; times a few units apart, some equal."""

    def written(unit):
        draw = random.Random(5)
        rows = []
        for user in range(USERS):
            time = UNITS[unit] + draw.randrange(300)
            for _ in range(EACH):
                rows.append((f"u{user}", f"i{draw.randrange(ITEMS)}", time))
                time += draw.choice([0, 1, 1, 7])
        draw.shuffle(rows)
        folder = tmp_path / "clicks"
        folder.mkdir()
        lines = ["user_id:token\titem_id:token\ttimestamp:float"]
        lines += ["\t".join(map(str, row)) for row in rows]
        (folder / "clicks.inter").write_text("\n".join(lines) + "\n")
        return rows

    return written


@pytest.fixture
def prepared(tmp_path):
    """``prepared(model, **settings)``: RecBole's dataset and its splits' rows."""

    def made(model, **settings):
        settings = {"data_path": str(tmp_path), "topk": [5], "valid_metric": "NDCG@5", **settings}
        settings |= {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
        settings["item_embedding"], settings["align_weight"] = "id", 0.0
        if model == "SASRec":
            settings["train_neg_sample_args"] = None
        config = Config(model=model, dataset="clicks", config_dict=settings)
        dataset = create_dataset(config)
        parts = [loader._dataset for loader in data_preparation(config, dataset)]
        return dataset, parts

    return made


def tokens(dataset, rows):
    """User and item of each row."""
    names = dataset.field2id_token
    return [
        (names["user_id"][user], names["item_id"][item])
        for user, item in zip(rows["user_id"].tolist(), rows["item_id"].tolist())
    ]


def in_order(rows):
    """Items of each user; Python sorts whole numbers exactly, and stably."""
    found = {}
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        found.setdefault(user, []).append(item)
    return found


SCALED = [{}, {"normalize_all": True}]


@pytest.mark.parametrize("scaled", SCALED, ids=["plain", "scaled"])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    ("model", "mode"), [("SASRec", {}), ("LLMEmbSASRec", {}), ("LLMEmbSASRec", "prefix")]
)
def test_histories_and_targets(clicks, prepared, model, mode, unit, scaled):
    expected = in_order(clicks(unit))
    own = {"train_mode": mode} if mode else {}
    dataset, (_, valid, test) = prepared(model, **own, **scaled)
    for part, last in ((valid, -2), (test, -1)):
        rows = part.inter_feat
        histories = rows["item_id_list"]
        names = dataset.field2id_token["item_id"]
        for n, (user, item) in enumerate(tokens(dataset, rows)):
            length = int(rows["item_length"][n])
            history = names[histories[n, :length].numpy()].tolist()
            assert [*history, item] == expected[user][: last + 1 or None]
        assert len(rows) == USERS
    assert rows["timestamp"].dtype == torch.float32  # what models are given
    assert (rows["timestamp_list"].dtype == torch.float32) == (model == "SASRec")


@pytest.mark.parametrize("unit", ["s", "ms"])
@pytest.mark.parametrize("model", ["BPR", "SASRec", "LLMEmbSASRec"])
@pytest.mark.parametrize("split", [{"RS": [0.7, 0.1, 0.2]}, {"TS": [0.7, 0.1, 0.2]}])
def test_splits_along_global_time(clicks, prepared, model, split, unit):
    rows = clicks(unit)
    group = None if "RS" in split else "user"
    eval_args = {"split": split, "order": "TO", "group_by": group, "mode": "full"}
    dataset, (_, _, test) = prepared(model, eval_args=eval_args)
    rows = sorted(rows, key=lambda row: row[2])
    if model != "BPR":  # a user's first interaction is nobody's target
        seen = set()
        rows = [row for row in rows if row[0] in seen or seen.add(row[0])]
    times = np.array([time for *_, time in rows])
    late = times > np.percentile(times, 80) if group else np.arange(len(rows)) >= 0.8 * len(rows)
    expected = [row[:2] for row, chosen in zip(rows, late) if chosen]
    found = tokens(dataset, test.inter_feat)
    if not group:  # at the border, equal times are in no order across users
        border = times[late][0]
        sure = sorted(row[:2] for row in rows if row[2] > border)
        assert len(found) == len(expected) and not [row for row in sure if row not in found]
        assert set(found) <= {row[:2] for row in rows if row[2] >= border}
    else:
        assert sorted(found) == sorted(expected)


def test_a_random_order_stays_as_it_was(clicks, prepared):
    rows = clicks("s")
    eval_args = {"split": {"RS": [8, 1, 1]}, "order": "RO", "group_by": None, "mode": "full"}
    torch.manual_seed(1)
    dataset, parts = prepared("BPR", eval_args=eval_args)
    torch.manual_seed(1)
    places = torch.randperm(len(rows)).tolist()
    found = [pair for part in parts for pair in tokens(dataset, part.inter_feat)]
    assert sorted(found[:240]) == sorted(rows[place][:2] for place in places[:240])


@pytest.mark.parametrize("keep", ["first", "last"])
@pytest.mark.parametrize("model", ["BPR", "LLMEmbSASRec"])
def test_repeated_pairs_go_by_time_then_line(clicks, prepared, model, keep):
    rows = clicks("ns")
    ordered = sorted(rows, key=lambda row: row[2])
    kept = {}
    for place, (user, item, _) in enumerate(ordered):
        if keep == "last" or (user, item) not in kept:
            kept[user, item] = place
    expected = in_order(ordered[place] for place in sorted(kept.values()))
    eval_args = {"split": {"LS": "test_only"}, "order": "TO", "group_by": "user", "mode": "full"}
    dataset, (train, _, test) = prepared(model, eval_args=eval_args, rm_dup_inter=keep)
    found = dict(tokens(dataset, test.inter_feat))
    assert found == {user: items[-1] for user, items in expected.items()}


@pytest.mark.parametrize("unit", UNITS)
def test_held_out_items(clicks, prepared, unit):
    rows = clicks(unit)
    own = {"holdout_items": 0.3, "holdout_targets": "all", "holdout_seed": 1}
    dataset, _ = prepared("LLMEmbSASRec", **own)
    held = dataset.held_out
    expected, without = [], 0
    for user, items in in_order(rows).items():
        before = []
        for item in items:
            if item not in held.tokens:
                before.append(item)
            elif before:
                expected.append((user, item, *before))
            else:
                without += 1
    batch = histories(held, dataset, slice(None))
    names = dataset.field2id_token["item_id"]
    lists = zip(batch["item_id_list"].numpy(), batch["item_length"].tolist())
    found = [
        (user, held.tokens[item], *names[row[:length]])
        for user, item, (row, length) in zip(held.users, held.items, lists)
    ]
    assert sorted(found) == sorted(expected) and held.without_history == without
