"""Items that nobody has met yet: read, encoded as the model's table was, and placed among the rest.

Nothing is trained: the encoder and prompt of the table's manifest give an item's vector, the
model's own preparation (PCA, whitening) and adapter its embedding (LLMEmb §3.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from recbole_llmemb.core.errors import UserError, name_some, refuse_twice
from recbole_llmemb.encode.job import encode_new_items
from recbole_llmemb.records.items import read_dataset_items
from recbole_llmemb.records.values import text_of, token_of
from recbole_llmemb.table.format import EmbeddingTable, read_manifest, read_projection


@dataclass
class NewItems:
    """Items outside the dataset."""

    tokens: list[str]
    attributes: list[dict[str, str]]  # Name to text; empty where only vectors are known
    vectors: torch.Tensor | None = None  # (m, D): Where they come ready, from a table directory


def read_new_items(path, config) -> NewItems:
    """New items from a file of records, or ready vectors from a table directory.

    ``path``: with the item's token under ``item_id`` (or what the dataset calls it).
    """
    path = Path(path)
    if path.is_dir():
        table = EmbeddingTable.load(path)
        return NewItems(table.tokens, [{} for _ in table.tokens], table.vectors.float())
    used = config["llm_table_used"]
    wanted = read_manifest(used["path"]).get("fields") if used else None
    found = read_dataset_items(path, config, also=wanted or ())
    return NewItems(found.tokens, found.attributes)


def of_mappings(values: Sequence[Mapping], id_field: str, where: str = "new items") -> NewItems:
    """New items from mappings with a token under ``id_field`` and attributes."""
    if not values:
        raise UserError(f"{where}: there is no item; give at least one.")
    bare = [value for value in values if value.get(id_field) in (None, "")]
    if bare:
        raise UserError(f"{where}: {len(bare)} of the items have no {id_field!r}; give each one.")
    tokens = [token_of(value[id_field]) for value in values]
    refuse_twice(tokens, where, "keep one entry per item")
    attributes = [
        {
            str(name): text
            for name, given in value.items()
            if name != id_field and (text := text_of(given))
        }
        for value in values
    ]
    return NewItems(tokens, attributes)


def refuse_known(items: NewItems, number: Mapping[str, int], dataset: str) -> None:
    """Refuse new items that are none."""
    known = [token for token in items.tokens if token in number]
    if known:
        raise UserError(
            f"{len(known)} of the new items are known already ({name_some(known)}): they are items "
            f"of {dataset} or were added before; give only items that the model does not know."
        )


def vectors_of(items: NewItems, config) -> torch.Tensor:
    """Vectors of new items as the model's table has them before llm_pca_dim, ``(m, D)``."""
    vectors = items.vectors
    if vectors is None:
        vectors = encode_new_items(config["llm_table_used"]["path"], items.attributes, config)
    broken = (~torch.isfinite(vectors)).any(1).nonzero().flatten().tolist()
    if broken:
        raise UserError(
            f"{len(broken)} of the new items have NaN or infinity in their vectors: "
            f"{name_some(items.tokens[i] for i in broken)}; make these finite or leave them out."
        )
    return _projected(vectors, config).to(config["device"])


def require_new_items(method, config) -> None:
    """Refuse a model whose items are not made of their text."""
    why = method.why_not("new_items", config)
    if why:
        raise UserError(
            f"New items cannot be ranked: {why}; train a model such as LLMEmbSASRec over a table "
            "(item_embedding: table) for them."
        )


def _projected(vectors, config):
    """Through the PCA of a table that came reduced; llm_pca_dim's is part of the model."""
    found = None if config["llm_pca_dim"] else read_projection(config["llm_table_used"]["path"])
    if found is None or vectors.shape[1] != len(found["mean"]):
        return vectors
    return (vectors.float() - found["mean"]) @ found["matrix"]
