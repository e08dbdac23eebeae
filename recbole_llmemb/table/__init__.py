"""The embedding table: one vector per item, always matched to a dataset by item token."""

from recbole_llmemb.table.format import EmbeddingTable
from recbole_llmemb.table.imports import import_table
from recbole_llmemb.table.transform import match, reduce_pca

__all__ = ["EmbeddingTable", "import_table", "match", "reduce_pca"]
