"""Every kind of item embedding against a plain computation, gradients included."""

import math

import pytest
import torch
from item_layers import MIDDLE, SIZE, WIDTH, close, draw

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.models.adapters import LinearAdapter, MLPAdapter, NoAdapter  # isort: skip
from recbole_llmemb.models.llmemb.item_embedding import ItemOffsets, TableItemEmbedding  # isort: skip
from recbole_llmemb.table import EmbeddingTable, match  # isort: skip


@pytest.fixture
def raw(tiny_table, tiny_data):
    """The table's vectors in the dataset's order, double, without padding."""
    _, data = tiny_data()
    tokens = data.dataset.field2id_token["item_id"]
    return match(EmbeddingTable.load(tiny_table), tokens)[1:].double()


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def components(rows, size):
    """Principal components, each up to its sign."""
    centered = rows - rows.mean(0)
    _, axes = torch.linalg.eigh(centered.t() @ centered)
    return centered @ axes.flip(1)[:, :size]


def same_up_to_signs(found, expected):
    signs = torch.sign((found.double() * expected).sum(0))
    return torch.allclose(found.double(), expected * signs, atol=1e-3)


# -- adapters -----------------------------------------------------------------------------


def test_mlp_and_its_gradients():
    adapter, z, g = MLPAdapter(WIDTH, MIDDLE, SIZE), draw(9, WIDTH), draw(9, SIZE, seed=1)
    leaves = [p.detach().double().requires_grad_() for p in adapter.parameters()]
    w1, b1, w2, b2 = leaves
    expected = gelu(z.double() @ w1.t() + b1) @ w2.t() + b2
    (expected * g).sum().backward()
    (adapter(z) * g).sum().backward()
    assert close(adapter(z), expected.detach())
    for parameter, leaf in zip(adapter.parameters(), leaves):
        assert torch.allclose(parameter.grad.double(), leaf.grad, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mlp_over_a_table_in_half_precision(dtype):
    adapter, z = MLPAdapter(WIDTH, MIDDLE, SIZE), draw(9, WIDTH)
    found = adapter(z.to(dtype))
    assert found.dtype == torch.float32
    assert torch.allclose(found, adapter(z), atol=0.05)
    found.sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in adapter.parameters())


def test_mlp_dropout_is_of_the_hidden_layer_and_in_training_only():
    torch.manual_seed(0)
    adapter, z = MLPAdapter(WIDTH, 4000, SIZE, dropout=0.25), draw(2, WIDTH)
    seen = []
    adapter.up.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    adapter(z), adapter.eval()(z)
    dropped, whole = seen
    kept = dropped != 0
    assert 0.7 < kept.double().mean() < 0.8
    assert torch.allclose(dropped[kept], whole[kept] / 0.75, atol=1e-6)
    plain = gelu(z.double() @ adapter.down.weight.double().t() + adapter.down.bias.double())
    assert close(whole, plain)


def test_one_dropout_mask_per_item_and_step(tiny_run):
    """An item that occurs twice in a batch is the same item both times."""
    _, _, model, _ = tiny_run(adapter="mlp", adapter_dropout=0.5)
    layer = model.train().item_embedding
    with layer.step(torch.tensor([3, 5])):
        assert torch.equal(layer(torch.tensor([5, 3])), layer(torch.tensor([5, 3])))
    assert not torch.equal(layer(torch.tensor([5])), layer(torch.tensor([5])))


@pytest.mark.parametrize(
    ("settings", "kind", "middle"),
    [
        ({}, LinearAdapter, 8),
        ({"adapter_hidden_size": 5}, LinearAdapter, 5),
        ({"adapter": "mlp"}, MLPAdapter, 8),
        ({"adapter": "mlp", "adapter_hidden_size": 3, "adapter_dropout": 0.3}, MLPAdapter, 3),
        ({"adapter": "none"}, NoAdapter, None),
        ({"adapter": "whitening"}, NoAdapter, None),
        ({"adapter_hidden_size": 0}, NoAdapter, None),
    ],
    ids=str,
)
def test_adapter_that_is_asked_for(tiny_run, settings, kind, middle):
    _, _, model, _ = tiny_run(**settings)
    adapter = model.item_embedding.adapter
    assert type(adapter) is kind
    assert middle is None or adapter.down.out_features == middle
    if kind is MLPAdapter:
        assert adapter.dropout.p == settings.get("adapter_dropout", 0.0)


# -- tables without an adapter ------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"adapter": "none"}, {"adapter_hidden_size": 0}], ids=str)
@pytest.mark.parametrize("freeze", [True, False])
def test_principal_components(tiny_run, tiny_table, freeze, settings):
    """Of the whole table, items outside the dataset included."""
    config, data, model, _ = tiny_run(llm_freeze=freeze, **settings)
    assert config["llm_pca_dim"] == 8  # by itself, and a checkpoint says so
    table = EmbeddingTable.load(tiny_table)
    rows = dict(zip(table.tokens, components(table.vectors.double(), 8)))
    expected = torch.stack([rows[t] for t in data.dataset.field2id_token["item_id"][1:]])
    weight = model.item_embedding.weight.detach()
    assert not weight[0].any() and same_up_to_signs(weight[1:], expected)
    assert isinstance(model.item_embedding, torch.nn.Embedding) is not freeze
    assert any(p.shape == (61, 8) for p in model.parameters()) is not freeze


def test_width_that_is_asked_for_is_not_changed(tiny_run, tiny_config):
    config, _, model, _ = tiny_run(llm_pca_dim=12)
    assert config["llm_pca_dim"] == 12 and model.item_embedding.table.shape[1] == 12
    config, _, model, _ = tiny_run(adapter="none", hidden_size=16)
    assert config["llm_pca_dim"] is None  # it fits as it is
    with pytest.raises(UserError, match="16 wide .* 32") as caught:
        tiny_run(adapter="none", hidden_size=32)
    assert caught.value.key == "adapter"


@pytest.mark.parametrize("freeze", [True, False])
def test_initial_spread(tiny_run, freeze):
    _, _, plain, _ = tiny_run(adapter="none", llm_freeze=freeze)
    _, _, model, _ = tiny_run(adapter="none", llm_freeze=freeze, llm_init_std=0.02)
    before, after = (m.item_embedding.weight.detach()[1:].double() for m in (plain, model))
    assert before.std(correction=0) > 0.5
    assert float(after.std(correction=0)) == pytest.approx(0.02, rel=1e-5)
    assert torch.allclose(after, before * (0.02 / before.std(correction=0)), atol=1e-6)
    assert not model.item_embedding.weight[0].any()


@pytest.mark.parametrize("freeze", [True, False])
def test_whitened_components(tiny_run, freeze):
    _, _, plain, _ = tiny_run(adapter="none")
    _, _, model, _ = tiny_run(adapter="whitening", llm_whiten=0.3, llm_freeze=freeze)
    rows = plain.item_embedding.weight.detach()[1:].double()
    rows = rows - rows.mean(0)
    values, axes = torch.linalg.eigh(rows.t() @ rows / len(rows))
    expected = rows @ axes @ torch.diag(0.3 / values.sqrt()) @ axes.t()
    found = model.item_embedding.weight.detach()[1:].double()
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(found.t() @ found / 60, 0.09 * torch.eye(8).double(), atol=1e-4)
    assert isinstance(model.item_embedding, torch.nn.Embedding) is not freeze


# -- what is learned beside the table ------------------------------------------------------


def layer_with_offsets(extra=0, freeze=True):
    torch.manual_seed(0)
    table = draw(20, WIDTH)
    table[0] = 0
    trained = torch.ones(20, dtype=torch.bool)
    trained[[0, 4, 11]] = False
    offsets = ItemOffsets(draw(20, SIZE, seed=3), trained)
    return TableItemEmbedding(table, MLPAdapter(WIDTH, 5, SIZE), SIZE, extra, freeze, offsets)


@pytest.mark.parametrize("way", ["lookup", "weight", "step", "step of some"])
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("freeze", [True, False])
def test_sum_and_its_gradients(way, extra, freeze):
    layer = layer_with_offsets(extra, freeze)
    leaves = {n: p.detach().double().requires_grad_() for n, p in layer.named_parameters()}
    table = leaves.get("table", layer.table.double())
    w1, b1 = leaves["adapter.down.weight"], leaves["adapter.down.bias"]
    w2, b2 = leaves["adapter.up.weight"], leaves["adapter.up.bias"]
    mask = torch.tensor([float(i not in (0, 4, 11)) for i in range(20)]).double()
    whole = gelu(table @ w1.t() + b1) @ w2.t() + b2 + leaves["offsets.weight"] * mask[:, None]
    whole = torch.cat([torch.zeros(1, SIZE), whole[1:], leaves.get("extra", whole[:0])])
    ids = torch.tensor([3, 4, 0, 3, 8, 19 + extra])
    g = draw(6, SIZE, seed=4)
    (whole[ids] * g).sum().backward()

    if way == "lookup":
        found = layer(ids)
    elif way == "weight":
        found = layer.weight[ids]
    else:
        with layer.step(torch.unique(ids) if way == "step of some" else None):
            found = layer(ids)
    assert close(found, whole[ids].detach())
    (found * g).sum().backward()
    for name, parameter in layer.named_parameters():
        assert torch.allclose(parameter.grad.double(), leaves[name].grad, atol=1e-4), name
    assert not layer.offsets.weight.grad[[0, 4, 11]].any()  # exactly: no optimizer moves them
    with torch.no_grad():
        assert close(layer.weight, whole.detach()) and close(layer(ids), whole[ids].detach())


def test_offsets_of_the_steps_distinct_items():
    layer = layer_with_offsets(extra=1)
    offsets = layer.offsets
    ids = torch.tensor([[3, 3, 0, 8], [8, 3, 20, 4]])  # padding, a mask, one never trained
    leaf = offsets.weight.detach().double().requires_grad_()
    expected = sum((leaf[i] ** 2).sum() for i in (3, 8)) / 3  # item 4 counts, its offset is 0
    found = offsets.penalty(ids)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    found.backward()
    expected.backward()
    assert torch.allclose(offsets.weight.grad.double(), leaf.grad, atol=1e-6)
    assert set(offsets.weight.grad.any(1).nonzero().squeeze(1).tolist()) == {3, 8}
    assert not offsets.penalty(torch.zeros(3, dtype=torch.long)).any()


def test_ids_start_as_the_backbones_and_offsets_at_zero(tiny_run):
    _, data, both, _ = tiny_run(item_embedding="both")
    _, _, own, _ = tiny_run(item_embedding="id")
    _, _, plain, _ = tiny_run(item_embedding="table")
    _, _, residual, _ = tiny_run(item_embedding="residual")
    counts = data.train._dataset.training_counts(data.train._dataset)[0]
    met = (counts > 0).unsqueeze(1)
    assert 0 < int((~met[1:]).sum()) < 60
    ids = both.item_embedding.offsets.weight
    assert torch.equal(ids, own.item_embedding.weight * met * (torch.arange(61) > 0)[:, None])
    assert not residual.item_embedding.offsets.weight.any()
    assert torch.equal(residual.item_embedding.weight, plain.item_embedding.weight)


@pytest.mark.parametrize("train_mode", ["sequence", "prefix"])
@pytest.mark.parametrize("loss_type", ["CE", "BCE"])
@pytest.mark.parametrize("model", ["LLMEmbSASRec", "LLMEmbBERT4Rec"])
def test_penalty_in_the_loss(tiny_run, model, loss_type, train_mode):
    _, data, model, _ = tiny_run(
        model,
        item_embedding="residual",
        offset_decay=0.5,
        loss_type=loss_type,
        train_mode=train_mode,
        align_weight=0.0,
    )
    offsets = model.item_embedding.offsets
    with torch.no_grad():
        offsets.weight.copy_(draw(61, 8) * offsets.trained.unsqueeze(1))
    batch = next(iter(data.train))
    loss, term = model.calculate_loss(batch)
    names = ["item_id_list", "item_id", "neg_item_id"]
    used = {int(i) for name in names if name in batch for i in batch[name].view(-1)}
    used -= {0, 61}
    rows = offsets.weight.detach().double()
    expected = sum(float(rows[i] @ rows[i]) for i in used)
    assert float(term.detach()) == pytest.approx(0.5 * expected / len(used), rel=1e-4)
    model.offset_decay = 0.0
    assert torch.equal(model.calculate_loss(batch), loss) or train_mode == "prefix"


# -- items from outside -------------------------------------------------------------------

KINDS = {
    "linear": {},
    "raw": {"llm_whiten": 0},
    "pca": {"llm_pca_dim": 10},
    "mlp": {"adapter": "mlp"},
    "none": {"adapter": "none"},
    "spread": {"adapter": "none", "llm_init_std": 0.02},
    "whitening": {"adapter": "whitening"},
    "residual": {"item_embedding": "residual", "adapter": "whitening"},
    "both": {"item_embedding": "both"},
    "trained": {"llm_freeze": False},
    "half": {"llm_table_dtype": "bfloat16"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_embedding_of_items_outside_the_dataset(tiny_run, raw, kind):
    """The way of the table's own rows, taken by vectors that only look like them."""
    _, _, model, _ = tiny_run(**KINDS[kind])
    layer = model.eval().item_embedding
    offsets, layer.offsets = layer.offsets, None
    loose = 0.05 if kind == "half" else 1e-4
    with torch.no_grad():
        found = layer.embed(raw.float())
        assert torch.allclose(found, layer.weight[1:61], atol=loose)
    layer.offsets = offsets
    with torch.no_grad():
        assert torch.allclose(layer.embed(raw.float()), found)
        # Affine up to the adapter: the middle of two items comes out as the middle.
        if "mlp" not in kind:
            middle = layer.embed((raw[:1] + raw[1:2]).float() / 2)
            assert torch.allclose(middle[0], (found[0] + found[1]) / 2, atol=loose)
    with pytest.raises(UserError, match=r"are \(3, 5\), the table's 16 wide"):
        layer.embed(torch.zeros(3, 5))
    assert layer.embed(torch.zeros(0, 16)).shape == (0, 8)
