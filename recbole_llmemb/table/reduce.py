"""Fewer columns by principal component analysis (LLMEmb §"LLM embeddings generation")."""

from __future__ import annotations

import torch

from recbole_llmemb.core.errors import TableError
from recbole_llmemb.table.format import EmbeddingTable


def reduce_pca(table: EmbeddingTable, dim: int) -> EmbeddingTable:
    """Project a table onto its first principal components.

    Parameters
    ----------
    table : EmbeddingTable
        (n, D).
    dim : int
        New width, at most D. Of n items at most n - 1 components vary; columns beyond these
        are zero, so that a small catalog fits a model of any width.

    Returns
    -------
    EmbeddingTable
        (n, dim), float32, centred. Deterministic: the same table gives the same result. Its
        manifest is the source's with ``pca``: source fingerprint and width, dim, and the share of
        variance kept. Its ``projection`` does the same to vectors of other items.

    Raises
    ------
    TableError
        When ``dim`` is not between 1 and D, or the table is not valid.
    """
    from sklearn.decomposition import PCA  # here: scikit-learn takes a second to import

    table.validate()
    if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= table.width:
        raise TableError(
            f"llm_pca_dim is {dim!r}, but a table that is {table.width} wide can be reduced to 1 "
            f"to {table.width} dimensions; choose one of these."
        )
    # The seed matters where scikit-learn chooses its randomised solver (large tables); it fixes
    # the signs of the components by itself.
    pca = PCA(n_components=min(dim, max(1, len(table) - 1)), random_state=0)
    reduced = _widened(torch.from_numpy(pca.fit_transform(table.vectors.float().numpy())), dim)
    manifest = dict(table.manifest)
    for stale in ("count", "width", "fingerprint"):
        manifest.pop(stale, None)
    manifest["pca"] = {
        "source_fingerprint": table.fingerprint,
        "source_width": table.width,
        "dim": dim,
        "explained_variance": round(float(pca.explained_variance_ratio_.sum()), 6),
    }
    return EmbeddingTable(
        tokens=list(table.tokens),
        vectors=reduced,
        manifest=manifest,
        projection={
            "mean": torch.from_numpy(pca.mean_).float().contiguous(),
            "matrix": _widened(torch.from_numpy(pca.components_.T), dim),
        },
    )


def _widened(columns: torch.Tensor, dim: int) -> torch.Tensor:
    """``(n, k)`` to ``(n, dim)``, with columns of zeros."""
    return torch.nn.functional.pad(columns.float(), (0, dim - columns.shape[1])).contiguous()
