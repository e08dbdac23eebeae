"""Whitening: uncorrelated columns of equal spread, padding untouched, any order of items."""

import torch

from recbole_llmemb.model.whitening import whiten


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
