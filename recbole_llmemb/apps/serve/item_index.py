"""The items that can be recommended: those of the dataset, and after them new ones.

New items are those that nobody has met. Nothing is trained for them: the encoder and prompt of the
table's manifest give an item's vector, the model's own preparation (PCA, whitening) and adapter its
embedding (LLMEmb §3.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recbole_llmemb.core.errors import UserError, name_some, refuse_twice, refuse_unknown
from recbole_llmemb.encode.job import encode_new_items
from recbole_llmemb.records.items import read_dataset_items
from recbole_llmemb.records.values import text_of, token_of
from recbole_llmemb.table.format import EmbeddingTable, read_manifest, read_projection


class ItemIndex:
    """Item tokens by position: padding at 0, the dataset's items, new items.

    ``tokens``: the dataset's by id, padding first; later those of new items too, ``(n,)``.
    ``titles``: by token.
    ``first_new_id``: the id that the model reads the first new item under: it may use some after
    the items (BERT4Rec's mask).

    ``number``: Position of each token.
    ``item_count``: Items of the dataset, padding included.
    """

    def __init__(self, tokens, titles, first_new_id):
        self.tokens = np.array(tokens, dtype=object)
        self.number = {token: place for place, token in enumerate(tokens) if place}
        self.item_count, self.first_new_id = len(tokens), first_new_id
        self.titles = dict(titles)

    def __len__(self):
        return len(self.tokens)

    @property
    def new_tokens(self) -> list[str]:
        """Tokens of the new items, in the order in which they were added."""
        return self.tokens[self.item_count :].tolist()

    def add(self, tokens, titles) -> None:
        """Add new items, and what they are called."""
        self.number |= {token: len(self) + i for i, token in enumerate(tokens)}
        self.tokens = np.concatenate([self.tokens, np.array(tokens, dtype=object)])
        self.titles |= titles

    def ids(self, places: torch.Tensor) -> torch.Tensor:
        """What the model reads for items at these positions."""
        if not self.new_tokens:
            return places
        shift = self.first_new_id - self.item_count
        return places + shift * (places >= self.item_count)

    def positions(self, candidates) -> torch.Tensor:
        """Positions of these items, ascending, ``(m,)``."""
        tokens = [str(token) for token in candidates]
        if not tokens:
            raise UserError("The candidates name no item; give at least one.")
        unknown = [token for token in tokens if token not in self.number]
        refuse_unknown("item", unknown, self.number, "The candidates: the model")
        refuse_twice(tokens, "The candidates", "name each once")
        return torch.tensor([self.number[token] for token in tokens]).sort().values


@dataclass
class NewItems:
    """Items outside the dataset."""

    tokens: list[str]
    attributes: list[dict[str, str]]  # Name to text; empty where only vectors are known
    vectors: torch.Tensor | None = None  # (m, D): Where they come ready, from a table directory

    def only(self, places: list[int]) -> NewItems:
        """Some of them."""
        vectors = None if self.vectors is None else self.vectors[places]
        tokens, attributes = [self.tokens[i] for i in places], [self.attributes[i] for i in places]
        return NewItems(tokens, attributes, vectors)


def read_new_items(given, config) -> NewItems:
    """New items from records, or ready vectors from a table directory.

    ``given``: a file or directory, or mappings, with the item's token under ``item_id`` (or what
    the dataset calls it).
    """
    if isinstance(given, Sequence) and all(isinstance(one, Mapping) for one in given):
        return _of_mappings(given, config["ITEM_ID_FIELD"])
    path = Path(given)
    if path.is_dir():
        table = EmbeddingTable.load(path)
        return NewItems(table.tokens, [{} for _ in table.tokens], table.vectors.float())
    used = config["llm_table_used"]
    wanted = read_manifest(used["path"]).get("fields") if used else None
    found = read_dataset_items(path, config, also=wanted or ())
    return NewItems(found.tokens, found.attributes)


def _of_mappings(items, id_field) -> NewItems:
    tokens = [token_of(one.get(id_field)) for one in items]
    if not (tokens and all(tokens)):
        raise UserError(f"New items: there is no item, or one without {id_field!r}; give each its.")
    refuse_twice(tokens, "new items", "keep one entry per item")
    texts = [
        {str(name): text_of(v) for name, v in one.items() if name != id_field} for one in items
    ]
    return NewItems(tokens, [{name: text for name, text in t.items() if text} for t in texts])


def vectors_of(items: NewItems, config) -> torch.Tensor:
    """Vectors of new items as the model's table has them before llm_pca_dim, ``(m, D)``."""
    table, vectors = config["llm_table_used"]["path"], items.vectors
    if vectors is None:
        vectors = encode_new_items(table, items.attributes, config)
    broken = (~torch.isfinite(vectors)).any(1).nonzero().flatten().tolist()
    if broken:
        raise UserError(
            f"{len(broken)} of the new items have NaN or infinity in their vectors: "
            f"{name_some(items.tokens[i] for i in broken)}; make these finite or leave them out."
        )
    # Through the PCA of a table that came reduced; llm_pca_dim's is part of the model.
    pca = None if config["llm_pca_dim"] else read_projection(table)
    if pca is not None and vectors.shape[1] == len(pca["mean"]):
        vectors = (vectors.float() - pca["mean"]) @ pca["matrix"]
    return vectors.to(config["device"])
