"""PCA against the eigenvectors of the covariance matrix."""

import numpy as np
import pytest
import torch

from recbole_llmemb.core.errors import TableError
from recbole_llmemb.table import EmbeddingTable, reduce_pca


@pytest.fixture
def table():
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(3, 0.1, 12)
    return EmbeddingTable(
        [f"t{i}" for i in range(40)],
        torch.randn(40, 12, generator=generator) * scales + 5,
        {"encoder": "e", "count": 40, "width": 12, "fingerprint": "stale"},
    )


def test_components(table):
    reduced = reduce_pca(table, 4)
    centered = (table.vectors - table.vectors.mean(0)).double()
    values, axes = torch.linalg.eigh(centered.T @ centered)
    naive = (centered @ axes.flip(1)[:, :4]).float()
    assert reduced.vectors.shape == (40, 4) and reduced.vectors.dtype == torch.float32
    # Each component up to its sign.
    assert torch.allclose(reduced.vectors.abs(), naive.abs(), atol=1e-4)
    assert reduced.tokens == table.tokens
    pca = reduced.manifest["pca"]
    assert pca["source_fingerprint"] == table.fingerprint
    assert (pca["dim"], pca["source_width"]) == (4, 12)
    share = float(values.flip(0)[:4].sum() / values.sum())
    assert pca["explained_variance"] == pytest.approx(share, abs=1e-4)
    assert reduced.manifest["encoder"] == "e"
    assert not {"count", "width", "fingerprint"} & set(reduced.manifest)


@pytest.mark.parametrize("common", [torch.full((24,), 1000.0), 3e4 * torch.eye(24)[5]])
def test_a_large_common_part_takes_nothing_from_the_rest(common):
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(2, 0.1, 24)
    vectors = torch.randn(1000, 24, generator=generator) * spread + common
    reduced = reduce_pca(EmbeddingTable([f"t{i}" for i in range(1000)], vectors), 8)
    centered = vectors.double() - vectors.double().mean(0)
    left, values, right = torch.linalg.svd(centered, full_matrices=False)
    naive = left[:, :8] * values[:8]
    cosines = torch.cosine_similarity(reduced.vectors.double(), naive, dim=0)
    torch.testing.assert_close(cosines.abs(), torch.ones(8).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(reduced.vectors.double().std(0), naive.std(0), rtol=1e-5, atol=0)
    share = float((values[:8] ** 2).sum() / (values**2).sum())
    assert reduced.manifest["pca"]["explained_variance"] == pytest.approx(share, abs=1e-5)


def test_full_width_keeps_distances(table):
    reduced = reduce_pca(table, 12)
    before, after = table.vectors.double(), reduced.vectors.double()
    assert torch.allclose(torch.pdist(after), torch.pdist(before), atol=1e-4)


def test_deterministic(table):
    assert reduce_pca(table, 5).fingerprint == reduce_pca(table, np.int64(5)).fingerprint


@pytest.mark.parametrize("dim", [0, -1, 13, 2.5, True])
def test_impossible_width(table, dim):
    with pytest.raises(TableError, match="12 wide can be reduced to 1 to 12"):
        reduce_pca(table, dim)


def test_fewer_items_than_columns():
    """Two components tell three items apart, and the rest of the columns is zero."""
    table = EmbeddingTable(["a", "b", "c"], torch.randn(3, 12))
    reduced = reduce_pca(table, 4)
    assert reduced.vectors.shape == (3, 4) and not reduced.vectors[:, 2:].any()
    torch.testing.assert_close(torch.pdist(reduced.vectors), torch.pdist(table.vectors))
    found = (table.vectors - reduced.projection["mean"]) @ reduced.projection["matrix"]
    torch.testing.assert_close(found, reduced.vectors, atol=1e-5, rtol=0)


def test_saved_and_loaded(table, tmp_path):
    reduced = reduce_pca(table, 4)
    reduced.save(tmp_path / "t")
    assert EmbeddingTable.load(tmp_path / "t", expected_width=4).fingerprint == reduced.fingerprint
