"""From a table to the rows a dataset needs, by item token and never by row number."""

from __future__ import annotations

from collections.abc import Sequence

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
        raise TableError(
            f"llm_missing is {missing!r}; it must be one of {', '.join(MISSING)}.",
            key="llm_missing",
        )
    table.validate(where, expected_width)
    # The padding's name is not an item: an item of the table that is called so stays out.
    wanted = [str(token) for token in item_tokens[1:]]
    refuse_twice(wanted, "the dataset", "name each item once", TableError)
    row_of = {token: row for row, token in enumerate(table.tokens)}
    rows = torch.tensor([-1, *(row_of.get(token, -1) for token in wanted)])
    absent = [token for token in wanted if token not in row_of]
    if wanted and len(absent) == len(wanted):
        raise TableError(
            f"{where}: none of the dataset's {len(wanted)} items ({name_some(wanted)}) is in the "
            f"table, which has {len(table)} ({name_some(table.tokens, 3)}); "
            "the table is for another dataset, or its tokens are row numbers.",
            where=where,
        )
    if absent and missing == "error":
        raise TableError(
            f"{where}: {len(absent)} of the dataset's {len(wanted)} items have no embedding: "
            f"{name_some(absent)}; encode them, or set llm_missing to mean or zero.",
            key="llm_missing",
            where=where,
        )
    matched = torch.zeros(len(rows), table.width)
    found = rows >= 0
    matched[found] = table.vectors[rows[found]].float()
    if absent and missing == "mean":
        holes = ~found
        holes[0] = False
        # Summed in double: millions of rows must not lose the mean's last digits.
        matched[holes] = matched[found].mean(dim=0, dtype=torch.float64).float()
    return matched
