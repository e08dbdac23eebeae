"""Negative items in training: what they never are, and how often they are what."""

from collections import Counter

import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.data.loaders import LOSS_POSITION  # isort: skip
from recbole_llmemb.data.loaders import NegativeSampler  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip


def sampler(pairs, n_items, seed=0, **settings):
    users, items = torch.tensor(pairs).t()
    return NegativeSampler(users, items, n_items, torch.Generator().manual_seed(seed), **settings)


PAIRS = [(1, 1), (1, 2), (1, 3), (1, 1), (2, 5), (2, 6), (3, 1), (3, 1), (3, 5), (3, 6), (4, 6)]
N_ITEMS = 8  # 4 and 7 were never met


def drawn_for(user, target, count=4000, **settings):
    draws = sampler(PAIRS, N_ITEMS, **settings).sample(
        torch.full((count,), user), torch.full((count,), target)
    )
    return Counter(draws.tolist())


def assert_rates(counts, weights):
    """As likely as these weights say, to five standard deviations."""
    total, weight = sum(counts.values()), sum(weights.values())
    assert set(counts) == {item for item in weights if weights[item] > 0}
    for item, share in weights.items():
        p = share / weight
        assert abs(counts[item] - total * p) <= 5 * (total * p * (1 - p)) ** 0.5 + 1e-9


def test_uniform_outside_the_history():
    assert_rates(drawn_for(1, 2), dict.fromkeys([4, 5, 6, 7], 1))
    # A target outside the training history (masked or windowed, say) is never drawn either.
    assert_rates(drawn_for(2, 7), dict.fromkeys([1, 2, 3, 4], 1))
    # A user nobody has seen in training has no history.
    assert_rates(drawn_for(9, 3), dict.fromkeys([1, 2, 4, 5, 6, 7], 1))


def test_uniform_outside_the_target():
    assert_rates(drawn_for(1, 2, excludes="target"), dict.fromkeys([1, 3, 4, 5, 6, 7], 1))


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_popularity(alpha):
    counts = Counter(item for _, item in PAIRS)
    settings = {"distribution": "popularity", "alpha": alpha}
    free = {item: count**alpha for item, count in counts.items()}
    found = drawn_for(9, 3, excludes="target", **settings)
    assert_rates(found, {item: p for item, p in free.items() if item != 3})
    found = drawn_for(2, 5, **settings)
    assert_rates(found, {item: p for item, p in free.items() if item not in (5, 6)})


def test_each_row_has_its_own_refusals():
    """Rows of different users in one call; the last user has one item left."""
    n = 200
    pairs = [(1, 1), (2, 2), (3, 3)] + [(4, i) for i in range(1, 6)]
    users = torch.tensor([1, 2, 3, 4]).repeat(n)
    targets = torch.tensor([1, 2, 3, 5]).repeat(n)
    drawn = sampler(pairs, 7).sample(users, targets)
    known = set(pairs)
    assert not {(u, i) for u, i in zip(users.tolist(), drawn.tolist())} & known
    assert set(drawn[users == 4].tolist()) == {6}
    assert int(drawn.min()) >= 1 and int(drawn.max()) <= 6


def test_same_seed_same_negatives():
    users, targets = torch.ones(50, dtype=torch.long), torch.full((50,), 2)
    first = sampler(PAIRS, N_ITEMS).sample(users, targets)
    assert torch.equal(first, sampler(PAIRS, N_ITEMS).sample(users, targets))
    assert not torch.equal(first, sampler(PAIRS, N_ITEMS, seed=1).sample(users, targets))
    before = torch.get_rng_state()
    sampler(PAIRS, N_ITEMS).sample(users, targets)
    assert torch.equal(before, torch.get_rng_state())  # the global generator is not touched


def test_refusals():
    with pytest.raises(UserError, match="all 5 items.*negative_excludes: target"):
        sampler([(1, i) for i in range(1, 6)], 6)
    sampler([(1, i) for i in range(1, 6)], 6, excludes="target")
    with pytest.raises(UserError, match="all 2 items"):  # there are more, but none are drawn
        sampler([(1, 1), (1, 2), (2, 1)], 6, distribution="popularity")
    sampler([(1, 1), (1, 2), (2, 1)], 6)
    with pytest.raises(UserError, match="only one item"):
        sampler([(1, 1)], 6, distribution="popularity", excludes="target")


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "LLMEmbBERT4Rec"])
@pytest.mark.parametrize(
    ("excludes", "count"), [("history", 1), ("history", 4), ("target", 4), ("target", 1)]
)
def test_negatives_of_a_loader(tiny_data, tiny, model, excludes, count):
    _, data = tiny_data(
        model, train_neg_sample_args={"sample_num": count}, negative_excludes=excludes
    )
    dataset = data.train._dataset
    user_token, item_token = (dataset.field2id_token[f] for f in ("user_id", "item_id"))
    histories = {}  # a user's training items: all but those held out
    for user, sequence in tiny.sequences.items():
        histories[user] = set(sequence[: len(sequence) - min(2, max(len(sequence) - 2, 0))])
    in_history = 0
    for _ in range(3):
        for batch in data.train:
            width = batch["item_id_list"].shape[1]
            drawn = batch["neg_item_id"].view(-1, count)
            assert batch["neg_item_id"].dim() == (1 if count == 1 else 2)
            for place, target, row in zip(batch[LOSS_POSITION].tolist(), batch["item_id"], drawn):
                history = histories[str(user_token[batch["user_id"][place // width]])]
                assert item_token[target] in history
                assert target not in row and 0 not in row
                in_history += sum(str(item_token[one]) in history for one in row)
    assert (in_history == 0) == (excludes == "history")


def test_cross_entropy_draws_none(tiny_data):
    _, data = tiny_data(loss_type="CE")
    assert data.train.negatives is None
    assert all("neg_item_id" not in batch for batch in data.train)
