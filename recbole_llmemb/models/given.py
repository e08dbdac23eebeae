"""What the run hands a model: its table, its teacher, its LLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.adapters import Affine
from recbole_llmemb.table import EmbeddingTable, match
from recbole_llmemb.table.format import read_projection


class ItemTable:
    """A table on disk, and its rows by the item ids of a dataset.

    ``path``: of the directory.
    ``tokens``: the dataset's items by id, padding first.
    ``missing``: as ``llm_missing``.
    ``reduced``: whether ``llm_pca_dim`` made it of a wider one.
    """

    def __init__(self, path, tokens, missing="error", reduced=False):
        self.path, self.tokens, self.missing, self.reduced = path, tokens, missing, reduced
        self.width = self._rows = None

    def load(self) -> EmbeddingTable:
        """The whole table, whose rows are kept for the first who asks for :meth:`rows`."""
        table = EmbeddingTable.load(self.path)
        self.width = table.width
        self._rows = match(table, self.tokens, self.missing, where=str(self.path))
        return table

    def rows(self):
        """``(n_items, D)`` by item id; row 0, padding, is zero."""
        if self._rows is None:
            self.load()
        rows, self._rows = self._rows, None  # which need not be there twice
        return rows

    def rows_of(self, tokens):
        """Rows of items that the dataset does not have, ``(n, D)``."""
        table = EmbeddingTable.load(self.path)
        return match(table, ["[PAD]", *tokens], self.missing, where=str(self.path))[1:]

    def projection(self):
        """What ``llm_pca_dim`` did to the encoder's vectors, or None."""
        found = read_projection(self.path) if self.reduced else None
        return None if found is None else Affine(found["mean"], found["matrix"])


@dataclass
class Given:
    """What was made or found for a model; it hangs on the training split, as ``given``."""

    table: ItemTable | None = None
    teacher: Any = None  # (n_items, d) by item id, or a model with ``user_states``
    llm: Any = None
    config: Any = None  # That it was made for

    @classmethod
    def of(cls, dataset, config) -> Given | None:
        """What hangs on a split for this configuration, if anything does."""
        found = getattr(dataset, "given", None)
        return found if found is not None and found.config is config else None


def given_to(model, dataset, config, what: str):
    """What a model cannot be built without: ``table``, ``teacher`` or ``llm``."""
    found = getattr(Given.of(dataset, config), what, None)
    if found is None:
        named = {"table": "an item table", "teacher": "a teacher", "llm": "an LLM"}[what]
        raise UserError(
            f"{model} needs {named}, which is made before it is built; run it by recbole-llm or "
            "run_recbole, or call recbole_llmemb.run.artifacts.provide(config, dataset)."
        )
    return found


def is_checkpoint(teacher) -> bool:
    """Whether ``align_teacher`` is a file; names of models are identifiers, paths are not."""
    return bool(teacher) and not str(teacher).isidentifier()
