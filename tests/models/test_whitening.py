"""Whitening: uncorrelated columns of equal spread, padding untouched, any order of items."""

import pytest
import torch

from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.adapters import Whitening, rescaling, whiten


def correlated(n=400, width=12):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator)
    rows = torch.randn(n, width, generator=generator) @ mixing + 5.0
    return torch.cat([torch.zeros(1, width), rows])


def test_columns_are_uncorrelated_and_of_the_asked_spread():
    white = whiten(correlated(), 0.2)
    assert torch.equal(white[0], torch.zeros(12))
    naive = torch.zeros(12, 12, dtype=torch.double)
    mean = white[1:].double().mean(0)
    for row in white[1:].double():
        naive += torch.outer(row - mean, row - mean) / 400
    torch.testing.assert_close(mean, torch.zeros(12).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(naive, 0.04 * torch.eye(12).double(), atol=4e-4, rtol=0)


def test_a_ridge_leaves_small_directions_small():
    """Between whitening and the centered table, by 1/√(v + λ·mean v) along each direction."""
    table = correlated()
    rows = table[1:].double() - table[1:].double().mean(0)
    values, vectors = torch.linalg.eigh(rows.t() @ rows / len(rows))
    for ridge in (0.1, 2.0, 1e6):
        naive = torch.zeros_like(rows)
        for value, vector in zip(values, vectors.t()):
            scale = 1 / (value + ridge * values.mean()).sqrt()
            naive += torch.outer(rows @ vector * scale, vector)
        naive *= 0.2 / naive.square().mean().sqrt()
        found = Whitening(table, 0.2, ridge).of_table(table)[1:].double()
        torch.testing.assert_close(found, naive, rtol=1e-4, atol=1e-5)
    straight = rows * 0.2 / rows.square().mean().sqrt()
    torch.testing.assert_close(found, straight, rtol=1e-3, atol=1e-4)
    way = Whitening(table, 0.2, 2.0)
    torch.testing.assert_close(way(table[1:]), way.of_table(table)[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1e-33, 1e-18, 1e18])
def test_the_size_of_a_table_does_not_matter(size):
    table = correlated()
    for made in (
        lambda t: Whitening(t, 0.2).of_table(t),
        lambda t: Whitening(t, 0.2, 1.0).of_table(t),
        lambda t: rescaling(t, 0.2).of_table(t),
    ):
        torch.testing.assert_close(made(table * size), made(table), rtol=1e-4, atol=1e-6)


def test_a_ridge_without_whitening_is_refused():
    with pytest.raises(UserError) as caught:
        make_config("LLMEmbSASRec", "ml-100k", overrides={"llm_whiten_ridge": 1, "llm_whiten": 0})
    assert caught.value.key == "llm_whiten_ridge"


def test_order_of_items_does_not_matter():
    table = correlated()
    order = torch.cat([torch.zeros(1, dtype=torch.long), torch.randperm(400) + 1])
    torch.testing.assert_close(whiten(table[order], 1.0), whiten(table, 1.0)[order])


def test_fewer_items_than_columns_stays_finite_and_bounded():
    table = correlated(n=5)
    white = whiten(table, 0.2)
    assert torch.isfinite(white).all() and white.abs().max() < 2.0
    assert torch.isfinite(whiten(torch.ones(4, 3), 0.2)).all()


def test_runs_whiten_unless_told_not_to(tiny_run):
    _, _, model, _ = tiny_run()
    _, _, plain, _ = tiny_run(llm_whiten=0)
    torch.testing.assert_close(model.item_embedding.table, whiten(plain.item_embedding.table, 0.2))
    assert not torch.allclose(model.item_embedding.table, plain.item_embedding.table)
    _, _, ridged, _ = tiny_run(llm_whiten_ridge=2.0)
    expected = Whitening(plain.item_embedding.table, 0.2, 2.0).of_table(plain.item_embedding.table)
    torch.testing.assert_close(ridged.item_embedding.table, expected)


def few_items(n=40, width=96, n_kinds=4, seed=0):
    """A table of fewer items than columns, and further items, each with its kind."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(0, -1.5, width)  # as of texts: many directions, few of them large
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    kinds = torch.randn(n_kinds, width, generator=generator) * spread @ turn
    labels = torch.arange(2 * n) % n_kinds
    noise = torch.randn(2 * n, width, generator=generator) * spread @ turn
    rows = kinds[labels] * 0.8 + noise + 2.0
    table = torch.cat([torch.zeros(1, width), rows[:n]])
    return table, rows[n:], labels[:n], labels[n:]


def test_further_items_get_nothing_where_no_item_of_the_table_varies():
    table, _, _, _ = few_items()
    way = Whitening(table, 0.2).float()
    centered = table[1:] - table[1:].mean(0)
    outside = torch.eye(96)[:5] - torch.eye(96)[:5] @ torch.linalg.pinv(centered) @ centered
    base = table[[3]]
    torch.testing.assert_close(way(base + 10 * outside), way(base).expand(5, -1), atol=2e-3, rtol=0)
    # A column that is constant but for new items, and a table that was reduced to n columns.
    constant = torch.cat([table, torch.zeros(len(table), 1)], dim=1)
    constant[1:, -1] = 7.0
    moved = constant[[3]].clone()
    moved[0, -1] = 9.0
    way = Whitening(constant, 0.2).float()
    torch.testing.assert_close(way(moved), way(constant[[3]]), atol=2e-3, rtol=0)


def test_further_items_are_no_longer_than_those_of_the_table():
    for n in (40, 100, 110):  # around as many items as columns some directions hardly vary
        table, new, _, _ = few_items(n=n)
        way = Whitening(table, 0.2)
        longest = way.of_table(table).norm(dim=1).max()
        assert way(new).norm(dim=1).max() < 1.01 * longest
        assert way(new).norm(dim=1).min() > 0.3 * longest


def test_a_copy_of_an_item_is_mapped_like_it():
    for n in (40, 110, 600):
        table, _, _, _ = few_items(n=n)
        way = Whitening(table, 0.2)
        known = way.of_table(table)[1:]
        torch.testing.assert_close(way(table[1:]), known, atol=1e-5, rtol=0)
        torch.testing.assert_close(way.float()(table[1:]), known, atol=2e-3, rtol=0)


def test_items_of_the_table_are_as_the_map_of_all_directions_has_them():
    """To the bit: what was trained stays as it was."""
    table, _, _, _ = few_items()
    rows = table[1:].double()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).t() @ (rows - mean) / len(rows))
    values = values.clamp(min=0)
    scale = 0.2 / (values + 1e-6 * values.mean()).sqrt()
    naive = ((rows - mean) @ ((vectors * scale) @ vectors.t())).float()
    assert torch.equal(whiten(table, 0.2)[1:], naive)
    # With many items, one that is not longer than these is mapped in the same straight way.
    table, new, _, _ = few_items(n=2000)
    way = Whitening(table, 0.2)
    inside = way(new)
    matrix = (way.vectors * way.scale) @ way.vectors.t()
    straight = ((new.double() - way.mean) @ matrix).float()
    within = straight.norm(dim=1) < way.longest
    assert within.float().mean() > 0.99
    torch.testing.assert_close(inside[within], straight[within], atol=1e-6, rtol=1e-5)


def test_further_items_are_found_beside_their_kind():
    """Chance that an item's own kind is nearer than another, by what the map leaves of it."""
    table, new, known_kinds, new_kinds = few_items()
    way = Whitening(table, 0.2)
    rows = way.of_table(table)[1:]

    def chance(mapped):
        means = torch.stack([rows[known_kinds == kind].mean(0) for kind in range(4)])
        scores = mapped @ means.t()
        own = scores.gather(1, new_kinds.unsqueeze(1))
        return ((own > scores).sum() / (3 * len(new))).item()

    assert chance(way(new)) > 0.9
