"""Two views of every item."""

import random
from collections import Counter

import pytest

from recbole_llmemb.scft.views import Views, draw_view, split_items

ITEM = {"title": "red soap", "brand": "one", "class": "gel", "price": "1.5", "kind": "two"}


def views(items=(ITEM,), ratio=0.4, seed=1):
    return Views(list(items), "The item:", 100, ratio, seed)


@pytest.mark.parametrize(("size", "ratio", "mean"), [(5, 0.4, 3), (2, 0.4, 1.2), (3, 0.4, 1.8)])
def test_share_dropped_is_right_on_average(size, ratio, mean):
    item = dict(list(ITEM.items())[:size])
    draw = random.Random(0)
    kept = [len(draw_view(item, ratio, draw)) for _ in range(4000)]
    assert abs(sum(kept) / len(kept) - mean) < 0.05
    assert max(kept) - min(kept) <= 1


def test_never_all_are_dropped():
    draw = random.Random(0)
    assert {len(draw_view(ITEM, 1.0, draw)) for _ in range(50)} == {1}
    assert {tuple(draw_view({"a": "b"}, 0.9, draw)) for _ in range(50)} == {("a",)}


def test_every_order_and_every_attribute_occurs():
    draw = random.Random(0)
    item = {"a": "1", "b": "2", "c": "3"}
    drawn = Counter(tuple(draw_view(item, 0.0, draw)) for _ in range(6000))
    assert len(drawn) == 6 and min(drawn.values()) > 850
    first = Counter(next(iter(draw_view(item, 0.67, draw))) for _ in range(3000))
    assert len(first) == 3 and min(first.values()) > 900


def test_views_are_prompts_and_independent():
    made = views()
    pairs = [made.pair(0, epoch) for epoch in range(40)]
    for text in (text for pair in pairs for text in pair):
        assert text.startswith("The item: ") and text.count(" is ") == 3
    assert sum(a != b for a, b in pairs) > 30


def test_fresh_every_epoch_and_the_same_when_seen_again():
    made, again, other = views(), views(), views(seed=2)
    seen = []
    for epoch in range(8):
        made.epoch = again.epoch = other.epoch = epoch
        seen.append(made({"item": [0]}))
        assert again({"item": [0]}) == seen[-1]
    assert len({str(pair) for pair in seen}) > 6
    assert str(other({"item": [0]})) != str(seen[-1])


def test_items_with_one_attribute_stay_whole():
    made = views([{"title": "soap"}])
    assert made.pair(0) == ["The item: title is soap"] * 2


def test_split():
    items = [{"a": str(i), "b": "x"} for i in range(50)]
    odd = [{}, {"a": "only"}, {"a": "3", "b": "x"}]
    train, held = split_items(items + odd, 0.1, 1000, seed=0)
    assert len(held) == 5 and len(train) == 46
    assert {} not in train and {"a": "only"} in train and {"a": "only"} not in held
    assert not [item for item in held if item in train]
    assert split_items(items + odd, 0.1, 1000, seed=0) == (train, held)
    assert split_items(items + odd, 0.1, 1000, seed=1)[1] != held
    assert len(split_items(items, 0.9, 3, seed=0)[1]) == 3
