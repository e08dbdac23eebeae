"""Where no negative fits, RecBole's samplers end with a sentence instead of drawing without end."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole.sampler import RepeatableSampler, Sampler  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.evaluation.loaders import draw_negatives  # isort: skip


def sampler_of(kind, distribution, items, n_items):
    """A sampler over the interactions of users 1, 2, … with these items, among ``n_items``."""
    users = torch.arange(1, len(items) + 1)
    data = SimpleNamespace(
        uid_field="user", iid_field="item", user_num=len(items) + 1, item_num=n_items + 1,
        inter_feat={"user": users, "item": torch.tensor(items)},
    )  # fmt: skip
    found = kind(["train"], data if kind is RepeatableSampler else [data], distribution)
    return found.set_phase("train")


def drawn(sampler, users, items):
    """What both ways draw: RecBole's, and ours for evaluation."""
    own = sampler.sample_by_user_ids(users, items, 2)
    return own, draw_negatives(sampler, np.array(users), np.array(items), 2, seed=0)


@pytest.mark.parametrize(
    ("kind", "distribution", "n_items"),
    [
        (RepeatableSampler, "uniform", 1),
        (RepeatableSampler, "popularity", 5),
        (Sampler, "popularity", 5),  # a uniform one says so itself, when RecBole makes it
    ],
)
@pytest.mark.parametrize("evaluates", [True, False])
def test_the_only_item_that_is_drawn_is_the_target(
    monkeypatch, kind, distribution, n_items, evaluates
):
    sampler = sampler_of(kind, distribution, [1, 1], n_items)
    # So that the test ends where drawing would not.
    draws = iter([np.random.randint] * 100)
    monkeypatch.setattr(np.random, "randint", lambda *given: next(draws)(*given))
    with pytest.raises(UserError) as caught:
        if evaluates:
            draw_negatives(sampler, np.array([1, 2]), np.array([1, 1]), 2, seed=0)
        else:
            sampler.sample_by_user_ids([1, 2], [1, 1], 2)
    assert caught.value.key == "eval_args"


@pytest.mark.parametrize("kind", [RepeatableSampler, Sampler])
def test_where_another_is_drawn_all_is_as_before(kind):
    for distribution, n_items in (("uniform", 2), ("popularity", 5)):
        sampler = sampler_of(kind, distribution, [1, 2], n_items)
        for found in drawn(sampler, [1, 2], [1, 2]):
            assert set(np.asarray(found).ravel()) == {1, 2}
