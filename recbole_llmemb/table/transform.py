"""What is made of a table: the rows a dataset needs, by item token, and one of fewer columns."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch

from recbole_llmemb.core.errors import TableError, name_some, refuse_twice
from recbole_llmemb.table.format import EmbeddingTable

MISSING = ("error", "mean", "zero")


def match(
    table: EmbeddingTable,
    item_tokens: Sequence[str],
    missing: str = "error",
    where: str = "embedding table",
    expected_width: int | None = None,
) -> torch.Tensor:
    """Bring a table into a dataset's item order.

    Parameters
    ----------
    table : EmbeddingTable
        Any order, and it may hold items the dataset does not have.
    item_tokens : sequence of str
        The dataset's item tokens by internal id. The first is RecBole's padding and gets zeros.
    missing : {"error", "mean", "zero"}
        What to do with items the table does not have: refuse, give them the mean of the vectors
        of the items that are matched, or zeros.
    where : str
        What the table is, for error messages (its path).
    expected_width : int, optional
        Refuse a table of another width.

    Returns
    -------
    torch.FloatTensor
        (len(item_tokens), D).

    Raises
    ------
    TableError
        For an invalid table (see :meth:`EmbeddingTable.validate`), another width than expected,
        missing items under ``"error"``, duplicate item tokens, or no item in common.
    """
    if missing not in MISSING:
        told = f"llm_missing is {missing!r}; it must be one of {', '.join(MISSING)}."
        raise TableError(told, key="llm_missing")
    table.validate(where, expected_width)
    item_tokens = list(item_tokens)
    # The padding's name is no item: an item of the table that is called so stays out.
    wanted = [str(token) for token in item_tokens[1:]]
    refuse_twice(wanted, "the dataset", "name each item once", TableError)
    row_of = {token: row for row, token in enumerate(table.tokens)}
    rows = torch.tensor([-1, *(row_of.get(token, -1) for token in wanted)])
    absent = [token for token in wanted if token not in row_of]
    if wanted and len(absent) == len(wanted):
        told = f"{where}: none of the dataset's {len(wanted)} items ({name_some(wanted)})"
        told += f" is in the table, which has {len(table)} ({name_some(table.tokens, 3)})"
        raise TableError(f"{told}; give the table of this dataset, with its tokens.", where=where)
    if absent and missing == "error":
        told = f"{where}: {len(absent)} of the dataset's {len(wanted)} items have no embedding"
        advice = f"{name_some(absent)}; give each a line in the .item file (or a row in your table)"
        advice += ", or set llm_missing to mean or zero"
        raise TableError(f"{told}: {advice}.", key="llm_missing", where=where)
    matched = torch.zeros(len(rows), table.width)
    found = rows >= 0
    matched[found] = table.vectors[rows[found]].float()
    if absent and missing == "mean":
        holes = ~found
        holes[0] = False
        # Summed in double: millions of rows must not lose the mean's last digits.
        matched[holes] = matched[found].mean(dim=0, dtype=torch.float64).float()
    return matched


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
        (n, dim), float32, centered. Deterministic: the same table gives the same result. Its
        manifest is the source's with ``pca``: source fingerprint and width, dim, and the share of
        variance kept. Its ``projection`` does the same to vectors of other items.

    Raises
    ------
    TableError
        When ``dim`` is not between 1 and D, or the table is not valid.
    """
    from sklearn.decomposition import PCA  # here: scikit-learn takes a second to import

    table.validate()
    if isinstance(dim, bool) or not isinstance(dim, Integral) or not 1 <= dim <= table.width:
        wide = table.width
        told = f"llm_pca_dim is {dim!r}, but a table {wide} wide can be reduced to 1 to {wide}."
        raise TableError(told, key="llm_pca_dim")
    # Centered before and in double, as scikit-learn squares what it is given: what vectors have in
    # common, or a single large column, would leave nothing of the rest.
    vectors = table.vectors.to(torch.float64, copy=True)
    mean = vectors.mean(dim=0)
    vectors -= mean
    # The seed matters where scikit-learn chooses its randomized solver (large tables); it fixes
    # the signs of the components by itself.
    pca = PCA(n_components=min(dim, max(1, len(table) - 1)), copy=False, random_state=0)
    reduced = _widened(torch.from_numpy(pca.fit_transform(vectors.numpy())), dim)
    stale = ("count", "width", "fingerprint")
    manifest = {key: value for key, value in table.manifest.items() if key not in stale}
    manifest["pca"] = {
        "source_fingerprint": table.fingerprint,
        "source_width": table.width,
        "dim": dim,
        "explained_variance": round(float(pca.explained_variance_ratio_.sum()), 6),
    }
    matrix = _widened(torch.from_numpy(pca.components_.T), dim)
    projection = {"mean": mean.float(), "matrix": matrix}
    return EmbeddingTable(list(table.tokens), reduced, manifest, projection)


def _widened(columns: torch.Tensor, dim: int) -> torch.Tensor:
    """``(n, k)`` to ``(n, dim)``, with columns of zeros."""
    return torch.nn.functional.pad(columns.float(), (0, dim - columns.shape[1])).contiguous()
