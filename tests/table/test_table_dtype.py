"""A frozen table in half precision: half the memory, full-precision embeddings and gradients."""

import pytest
import torch

from recbole_llmemb.models.adapters import LinearAdapter, NoAdapter
from recbole_llmemb.models.llmemb import parts
from recbole_llmemb.models.llmemb.item_embedding import TableItemEmbedding


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_table_stays_close_to_the_full_one(dtype):
    torch.manual_seed(0)
    table = torch.randn(200, 48)
    table[0] = 0
    full = TableItemEmbedding(table, LinearAdapter(48, 24, 8), 8)
    half = TableItemEmbedding(table.to(dtype), LinearAdapter(48, 24, 8), 8)
    half.adapter.load_state_dict(full.adapter.state_dict())
    ids = torch.tensor([[5, 0], [199, 3]])
    for module in (full, half):
        with module.step():
            module(ids).square().sum().backward()
    with torch.no_grad():
        expected, found = full.weight, half.weight
    assert found.dtype == torch.float32
    assert half.table.element_size() == 2
    assert not torch.equal(found, expected)  # the product really ran on the rounded table
    assert (found - expected).norm() / expected.norm() < 0.01
    for name, parameter in full.named_parameters():
        other = half.get_parameter(name).grad
        assert other.dtype == torch.float32
        assert (other - parameter.grad).norm() / parameter.grad.norm() < 0.02, name


def test_without_an_adapter_half_precision_rows_become_float():
    table = torch.randn(10, 4).bfloat16()
    table[0] = 0
    module = TableItemEmbedding(table, NoAdapter(), 4)
    torch.testing.assert_close(module(torch.tensor([3, 0])), table[[3, 0]].float())


@pytest.mark.parametrize(
    ("setting", "width", "native", "expected"),
    [
        (None, 1024, True, torch.float32),
        (None, 1025, True, torch.bfloat16),
        (None, 1536, False, torch.float32),  # emulated products are slower than float32's
        ("float32", 4096, True, torch.float32),
        ("float16", 8, False, torch.float16),
    ],
)
def test_wide_tables_are_kept_in_bfloat16_where_it_is_fast(
    setting, width, native, expected, monkeypatch
):
    monkeypatch.setattr(parts, "has_bfloat16_matmul", lambda device: native)
    assert parts.table_dtype(setting, width, "cpu") == expected


def test_an_old_torch_or_cpu_counts_as_without_bfloat16(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not parts.has_bfloat16_matmul("cpu")
    assert not parts.has_bfloat16_matmul("meta")
