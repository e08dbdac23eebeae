"""The adapted table against the plain formula e = W₂(W₁z + b₁) + b₂, gradients included."""

import pytest
import torch
from item_layers import MIDDLE, SIZE, WIDTH, close, draw, make, naive

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.models import adapters as module  # isort: skip
from recbole_llmemb.models.adapters import (  # isort: skip
    LinearAdapter,
    NoAdapter,
    merging_is_cheaper,
)
from recbole_llmemb.models.llmemb.item_embedding import TableItemEmbedding  # isort: skip


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("rows", [5, 40])
def test_adapter_and_its_gradients(rows, merged, monkeypatch):
    monkeypatch.setattr(module, "merging_is_cheaper", lambda *sizes: merged)
    adapter, z, g = LinearAdapter(WIDTH, MIDDLE, SIZE), draw(rows, WIDTH), draw(rows, SIZE, seed=1)
    z.requires_grad_()
    (adapter(z) * g).sum().backward()
    w1, b1, w2, b2 = (p.detach().double() for p in adapter.parameters())
    x, g = z.detach().double(), g.double()
    hidden = x @ w1.t() + b1
    assert close(adapter(z), hidden @ w2.t() + b2)
    expected = {
        "down.weight": (g @ w2).t() @ x,
        "down.bias": (g @ w2).sum(0),
        "up.weight": g.t() @ hidden,
        "up.bias": g.sum(0),
    }
    for name, parameter in adapter.named_parameters():
        assert torch.allclose(parameter.grad.double(), expected[name], atol=1e-4), name
    assert torch.allclose(z.grad.double(), g @ w2 @ w1, atol=1e-4)


def test_the_cheaper_way_is_chosen(monkeypatch):
    """Counted in multiplications; and the adapter does as it is told."""
    for rows in range(1, 60):
        two = rows * WIDTH * MIDDLE + rows * MIDDLE * SIZE
        one = MIDDLE * WIDTH * SIZE + rows * WIDTH * SIZE
        assert merging_is_cheaper(rows, WIDTH, MIDDLE, SIZE) == (one < two)
    assert merging_is_cheaper(12_101, 384, 192, 64) and not merging_is_cheaper(50, 384, 192, 64)
    products = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(
        module.F, "linear", lambda x, *args: products.append(len(x)) or linear(x, *args)
    )
    adapter = LinearAdapter(WIDTH, MIDDLE, SIZE)
    adapter(draw(40, WIDTH))
    assert 40 in products and products.count(40) == 1
    products.clear()
    adapter(draw(5, WIDTH))
    assert products == [5, 5]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("extra", [0, 2])
def test_lookup_and_matrix(extra, grad):
    layer = make(extra=extra)
    expected = naive(layer)
    ids = torch.tensor([[3, 0, 19], [3, 7, 19 + extra]])
    with torch.set_grad_enabled(grad):
        assert close(layer.weight, expected)
        assert close(layer(ids), expected[ids])
        assert close(layer(torch.tensor(5)), expected[5])
        assert not layer(ids)[0, 1].any() and not layer.weight[0].any()
    assert len(layer.weight) == layer.num_embeddings == 20 + extra
    assert layer.embedding_dim == SIZE and layer.padding_idx == 0


@pytest.mark.parametrize("extra", [0, 2])
def test_step_over_some_items(extra, adaptations):
    layer = make(extra=extra)
    expected = naive(layer)
    used = torch.tensor([7, 0, 19, 2, 3] + ([21] if extra else []))
    with layer.step(used):
        ids = used[torch.tensor([[0, 3, 3], [1, 2, len(used) - 1]])]
        assert close(layer(ids), expected[ids])
        assert close(layer(used), expected[used])
    assert adaptations == [len(used)]
    with layer.step(torch.tensor([4, 5])):  # nothing is left of the step before
        assert close(layer(torch.tensor([5, 4, 5])), expected[[5, 4, 5]])


@pytest.mark.parametrize("ids", [None, torch.arange(20)])
def test_step_over_everything(ids, adaptations):
    layer = make()
    expected = naive(layer)
    with layer.step(ids):
        assert close(layer.weight, expected)
        ids = torch.tensor([[1, 0], [19, 5]])
        assert close(layer(ids), expected[ids])
    assert adaptations == [19]
    assert layer._step_rows is None and layer._step_slots is None


def test_step_ends_when_something_goes_wrong():
    layer = make()
    with pytest.raises(KeyError), layer.step(torch.tensor([1, 2])):
        raise KeyError
    assert close(layer(torch.tensor([7])), naive(layer)[[7]])


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("way", ["lookup", "weight", "step", "step of some"])
def test_gradients(way, freeze):
    """Of every parameter, whichever way the rows are asked for."""
    layer = make(extra=1, freeze=freeze)
    reference = {name: p.detach().double() for name, p in layer.named_parameters()}
    table = layer.table.detach().double()
    leaves = {**reference, "table": table}
    leaves = {name: value.clone().requires_grad_() for name, value in leaves.items()}
    ids, g = torch.tensor([3, 20, 0, 3, 8]), draw(5, SIZE, seed=4)
    hidden = leaves["table"] @ leaves["adapter.down.weight"].t() + leaves["adapter.down.bias"]
    rows = hidden @ leaves["adapter.up.weight"].t() + leaves["adapter.up.bias"]
    whole = torch.cat([torch.zeros(1, SIZE), rows[1:], leaves["extra"]])
    (whole[ids] * g).sum().backward()
    if way == "lookup":
        found = layer(ids)
    elif way == "weight":
        found = layer.weight[ids]
    else:
        with layer.step(torch.unique(ids) if way == "step of some" else None):
            found = layer(ids)
    (found * g).sum().backward()
    names = {name for name, _ in layer.named_parameters()}
    assert ("table" in names) is (not freeze)
    for name, parameter in layer.named_parameters():
        assert torch.allclose(parameter.grad.double(), leaves[name].grad, atol=1e-4), name
    if freeze:
        assert layer.table.grad is None and not layer.table.requires_grad


def test_state_dict_leaves_out_what_is_frozen():
    assert set(make(extra=1).state_dict()) == {
        *(f"adapter.{layer}.{kind}" for layer in ("down", "up") for kind in ("weight", "bias")),
        "extra",
    }
    assert "table" in make(freeze=False).state_dict()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_table_in_half_precision(dtype):
    """Multiplied as it is kept; parameters, results and gradients stay in single."""
    layer = make(extra=1)
    expected = naive(layer)
    layer.table = layer.table.to(dtype)
    ids = torch.tensor([3, 20, 0, 19])
    with layer.step(ids):
        found = layer(ids)
    looked_up = ((layer(ids), expected[ids]), (found, expected[ids]))
    for one, other in ((layer.weight, expected), *looked_up):
        assert one.dtype == torch.float32 and torch.allclose(one.double(), other, atol=0.05)
    found.sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in layer.parameters())
    plain = TableItemEmbedding(layer.table[:, :SIZE], NoAdapter(), SIZE)
    assert torch.equal(plain.weight, layer.table[:, :SIZE].float())


def test_without_adapter():
    table = draw(9, SIZE)
    table[0] = 0
    layer = TableItemEmbedding(table, NoAdapter(), SIZE, 1)
    assert torch.equal(layer.weight[:9], table) and len(layer.weight) == 10
    ids = torch.tensor([4, 9, 0])
    assert torch.equal(layer(ids), layer.weight[ids])
    with layer.step(torch.tensor([0, 4, 9])):
        assert torch.equal(layer(ids), torch.cat([table, layer.extra])[ids])
