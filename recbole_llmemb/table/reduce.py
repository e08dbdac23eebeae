"""Fewer columns by principal component analysis (LLMEmb §"LLM embeddings generation")."""

from __future__ import annotations

import torch

from recbole_llmemb.errors import TableError
from recbole_llmemb.table.format import EmbeddingTable


def reduce_pca(table: EmbeddingTable, dim: int) -> EmbeddingTable:
    """Project a table onto its first principal components.

    Parameters
    ----------
    table : EmbeddingTable
        (n, D).
    dim : int
        New width, at most min(n, D).

    Returns
    -------
    EmbeddingTable
        (n, dim), float32, centred. Deterministic: the same table gives the same result. Its
        manifest is the source's with ``pca``: source fingerprint and width, dim, and the share of
        variance kept. Its ``projection`` does the same to vectors of other items.

    Raises
    ------
    TableError
        When ``dim`` is not between 1 and min(n, D), or the table is not valid.
    """
    from sklearn.decomposition import PCA  # here: scikit-learn takes a second to import

    table.validate()
    limit = min(len(table), table.width)
    if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= limit:
        raise TableError(
            f"llm_pca_dim is {dim!r}, but a table of {len(table)} items × {table.width} can be "
            f"reduced to 1 to {limit} dimensions; choose one of these or leave it empty."
        )
    # The seed matters where scikit-learn chooses its randomised solver (large tables); it fixes
    # the signs of the components by itself.
    pca = PCA(n_components=dim, random_state=0)
    reduced = pca.fit_transform(table.vectors.float().numpy())
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
        vectors=torch.from_numpy(reduced).float().contiguous(),
        manifest=manifest,
        projection={
            "mean": torch.from_numpy(pca.mean_).float().contiguous(),
            "matrix": torch.from_numpy(pca.components_.T).float().contiguous(),
        },
    )
