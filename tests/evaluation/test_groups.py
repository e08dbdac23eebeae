"""Group definitions and group metrics, against numbers worked out by hand."""

import math

import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)
from recbole_llmemb.core.errors import UserError

from recbole.evaluator import Evaluator  # isort: skip
from recbole.evaluator.collector import DataStruct  # isort: skip
from recbole_llmemb.evaluation import GROUP_NAMES, Groups, group_results  # isort: skip
from recbole_llmemb.evaluation.ranking import EvalRows  # isort: skip

# id:                          0  1  2  3  4  5
ITEM_COUNTS = torch.tensor([0, 9, 3, 0, 4, 3])
USER_COUNTS = torch.tensor([0, 2, 5, 3, 7])


def ids(mask):
    return mask.nonzero().squeeze(1).tolist()


def split(items=4, users=3):
    return Groups.from_training(ITEM_COUNTS, USER_COUNTS, items, users)


def test_count_threshold_means_fewer_than():
    groups = split(items=4, users=3)
    assert ids(groups.tail)[1:] == [2, 3, 5]  # [0] is the padding, which no row targets
    assert not groups.tail[4]  # exactly 4 interactions: head
    assert ids(groups.short)[1:] == [1]
    assert not groups.short[3]


def test_share_threshold_takes_the_fewest_first_then_the_lower_id():
    # By popularity: 3 (0), then 2 and 5 (3 each), then 4, then 1.
    assert ids(split(items=0.4).tail)[1:] == [2, 3]
    assert ids(split(items=0.6).tail)[1:] == [2, 3, 5]
    assert ids(split(items=0.79).tail)[1:] == [2, 3, 5]  # rounded down
    assert ids(split(items=0.8).tail)[1:] == [2, 3, 4, 5]
    assert ids(split(users=0.5).short)[1:] == [1, 3]


def test_share_of_users_is_of_those_seen_in_training():
    counts = torch.tensor([0, 0, 0, 5, 6])
    groups = Groups.from_training(ITEM_COUNTS, counts, 4, 0.5)
    # Users 1 and 2 have no history at all: short, but not part of the half.
    assert ids(groups.short)[1:] == [1, 2, 3]


def test_share_is_not_lost_to_floating_point():
    counts = torch.arange(101)
    tail = Groups.from_training(counts, USER_COUNTS, 0.29, 3).tail
    assert len(ids(tail)) - 1 == 29


@pytest.mark.parametrize("value", [0, -1, True, 0.0, 1.0, 1.5, math.nan, "4", None, [4]])
@pytest.mark.parametrize("key", ["tail_item_threshold", "short_user_threshold"])
def test_other_thresholds_are_refused_by_name(key, value):
    thresholds = {"tail_item_threshold": 4, "short_user_threshold": 3, key: value}
    with pytest.raises(UserError) as caught:
        Groups.from_training(ITEM_COUNTS, USER_COUNTS, **thresholds)
    assert caught.value.key == key


def test_masks_share_out_the_rows():
    masks = split().masks(torch.tensor([1, 2, 3, 1]), torch.tensor([2, 4, -1, 1]))
    assert list(masks) == list(GROUP_NAMES)
    assert masks["tail_items"].tolist() == [True, False, False, False]
    assert masks["head_items"].tolist() == [False, True, False, True]
    assert masks["short_users"].tolist() == [True, False, False, True]
    assert masks["long_users"].tolist() == [False, True, True, False]


def collected():
    """Five rows whose target ranked 1st, 3rd, not in the list, 2nd and 3rd."""
    struct = DataStruct()
    hits = [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    struct.set("rec.topk", torch.tensor([[*row, 1] for row in hits]))
    struct.set("rec.items", torch.tensor([[2, 1, 4], [1, 2, 4], [1, 2, 3], [4, 5, 1], [1, 3, 4]]))
    struct.set("data.num_items", 6)
    rows = EvalRows(
        user_id=torch.tensor([1, 2, 3, 4, 1]),
        item_id=torch.tensor([2, 4, 5, 5, 4]),
    )
    return struct, rows


def evaluator(*metrics):
    return Evaluator({"metrics": list(metrics), "topk": [1, 3], "metric_decimal_place": 4})


def test_metrics_by_hand():
    struct, rows = collected()
    results = group_results(evaluator("Hit", "NDCG", "MRR"), struct, rows, split())
    # Gains: 1/log2(2) = 1, 1/log2(3) = 0.63093, 1/log2(4) = 0.5 for ranks 1, 2, 3.
    # Tail targets (2, 5, 5): rows 0, 2, 3 with ranks 1, none, 2.
    assert results["tail_items"] == {
        "users": 3,
        "hit@1": 0.3333,
        "hit@3": 0.6667,
        "ndcg@1": 0.3333,
        "ndcg@3": 0.5436,  # (1 + 0 + 0.63093) / 3
        "mrr@1": 0.3333,
        "mrr@3": 0.5,  # (1 + 0 + 1/2) / 3
    }
    # Head targets (4, 4): rows 1, 4, both at rank 3.
    assert results["head_items"] == {
        "users": 2,
        "hit@1": 0.0,
        "hit@3": 1.0,
        "ndcg@1": 0.0,
        "ndcg@3": 0.5,
        "mrr@1": 0.0,
        "mrr@3": 0.3333,
    }
    # Short: user 1, rows 0 and 4, ranks 1 and 3.
    assert results["short_users"]["users"] == 2
    assert results["short_users"]["ndcg@3"] == 0.75
    assert results["short_users"]["mrr@3"] == 0.6667
    # Long: rows 1, 2, 3, ranks 3, none, 2.
    assert results["long_users"]["users"] == 3
    assert results["long_users"]["ndcg@3"] == 0.377  # (0.5 + 0 + 0.63093) / 3
    assert results["long_users"]["hit@3"] == 0.6667
    assert all(
        type(value) in (int, float) for group in results.values() for value in group.values()
    )


def test_catalog_metrics_are_over_the_groups_lists():
    struct, rows = collected()
    results = group_results(evaluator("ItemCoverage"), struct, rows, split())
    assert results["head_items"]["itemcoverage@1"] == 0.1667  # {1} of 6
    assert results["head_items"]["itemcoverage@3"] == 0.6667  # {1, 2, 3, 4} of 6
    assert results["tail_items"]["itemcoverage@3"] == 0.8333  # {1, 2, 3, 4, 5} of 6


def test_empty_group_has_no_metrics():
    struct, rows = collected()
    results = group_results(evaluator("Hit"), struct, rows, split(items=1, users=1))
    assert results["tail_items"] == {"users": 0, "hit@1": None, "hit@3": None}
    assert results["short_users"] == {"users": 0, "hit@1": None, "hit@3": None}
    assert results["head_items"] == {"users": 5, "hit@1": 0.2, "hit@3": 0.8}


def test_labels_say_how_groups_were_made():
    labels = split(items=4, users=0.8).labels
    assert labels["tail_items"] == "tail items (< 4)"
    assert labels["head_items"] == "head items (>= 4)"
    assert labels["short_users"] == "short users (shortest 80%)"
    assert labels["long_users"] == "long users (other 20%)"
