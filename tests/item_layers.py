"""Small item embedding layers, and what they should hold by the plain formula."""

import torch

from recbole_llmemb.models.adapters import LinearAdapter
from recbole_llmemb.models.llmemb.item_embedding import TableItemEmbedding

WIDTH, MIDDLE, SIZE = 24, 12, 8


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(n_items=20, extra=0, freeze=True, seed=0):
    torch.manual_seed(seed)
    table = draw(n_items, WIDTH, seed=seed)
    table[0] = 0
    adapter = LinearAdapter(WIDTH, MIDDLE, SIZE)
    return TableItemEmbedding(table, adapter, SIZE, extra, freeze)


def naive(layer):
    """All rows in double precision: padding zero, W₂(W₁z + b₁) + b₂, learned rows."""
    down, up = layer.adapter.down, layer.adapter.up
    w1, b1, w2, b2 = (p.detach().double() for p in (down.weight, down.bias, up.weight, up.bias))
    rows = [torch.zeros(SIZE, dtype=torch.double)]
    rows += [w2 @ (w1 @ z + b1) + b2 for z in layer.table.detach().double()[1:]]
    if layer.extra is not None:
        rows += list(layer.extra.detach().double())
    return torch.stack(rows)


def close(found, expected):
    return found.shape == expected.shape and torch.allclose(found.double(), expected, atol=1e-5)
