"""The items that can be recommended, those of the dataset and after them new ones; and the best.

New items are those that nobody has met. Nothing is trained for them: the encoder and prompt of the
table's manifest give an item's vector, the model's own preparation (PCA, whitening) and adapter its
embedding (LLMEmb §3.3).

A million items times a thousand users are four gigabytes of scores, of which ten thousand numbers
are wanted. Scores are computed block by block into one buffer that stays in the processor's cache,
and of each block only groups that can hold one of the best are looked into.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recbole_llmemb.core.errors import UserError, name_some, refuse_twice, refuse_unknown
from recbole_llmemb.encode.job import encode_new_items
from recbole_llmemb.evaluation.loaders import ExcludedPairs
from recbole_llmemb.records.items import open_dataset_items
from recbole_llmemb.records.values import text_of, token_of, tokens_in
from recbole_llmemb.table.format import EmbeddingTable, read_manifest, read_projection

# Items per group: less are more maxima to search, more are more items to score again.
_GROUP = 32
# So few scores are made and searched at once.
_FEW = 1 << 17
_CPU_BLOCK, _CPU_QUERIES = 2048, 256
_DEVICE_BLOCK, _DEVICE_QUERIES = 65_536, 1024


class ItemIndex:
    """Item tokens by position: padding at 0, the dataset's items, new items.

    ``tokens``: the dataset's by id, padding first; later those of new items too, ``(n,)``.
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
        shift = self.first_new_id - self.item_count
        return places + shift * (places >= self.item_count)

    def positions(self, candidates) -> torch.Tensor:
        """Positions of these items, ascending, ``(m,)``."""
        tokens = tokens_in(candidates, "The candidates")
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
    given = [given] if isinstance(given, Mapping) else given
    given = list(given) if isinstance(given, Iterator) else given
    if isinstance(given, Sequence) and all(isinstance(one, Mapping) for one in given):
        return _of_mappings(given, config["ITEM_ID_FIELD"])
    if not isinstance(given, str | os.PathLike):
        told = f"New items are a {type(given).__name__}; give a file, a table directory or mappings"
        raise UserError(f"{told}, as DataFrame.to_dict('records') has them.", key="new_items")
    path = Path(given)
    if path.is_dir():
        table = EmbeddingTable.load(path)
        return NewItems(table.tokens, [{} for _ in table.tokens], table.vectors.float())
    found = open_dataset_items(path, config, also=_text_fields(config)).read()
    return NewItems(found.tokens, found.attributes)


def described(items: NewItems, config) -> list[int]:
    """The places of those of which something is said in the fields that the table is made of.

    A text that says nothing has a vector, too, which is like that of no item.
    """
    if items.vectors is not None:
        return list(range(len(items.tokens)))
    fields = _text_fields(config)
    return [i for i, one in enumerate(items.attributes) if any(f in one for f in fields or one)]


def _text_fields(config):
    """What the table's texts are made of, as far as it tells."""
    return read_manifest(config["llm_table_used"]["path"]).get("fields") or ()


def _of_mappings(items, id_field) -> NewItems:
    given = [one.get(id_field) for one in items]
    if not (given and all(map(token_of, given))):
        raise UserError(f"New items: there is no item, or one without {id_field!r}; give each its.")
    tokens = tokens_in(given, "New items", "new_items")
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
        named = name_some(items.tokens[i] for i in broken)
        raise UserError(f"New items have vectors that are no numbers: {named}; leave them out.")
    # Through the PCA of a table that came reduced; llm_pca_dim's is part of the model.
    pca = None if config["llm_pca_dim"] else read_projection(table)
    if pca is not None and vectors.shape[1] == len(pca["mean"]):
        vectors = (vectors.float() - pca["mean"]) @ pca["matrix"]
    return vectors.to(config["device"])


def top_k_inner_products(queries, items, k: int, forbidden: ExcludedPairs | None = None):
    """The k items with the largest inner products, for each query.

    The k best lie in the k groups of items with the largest maxima, so that one maximum per
    group is all that is kept of a block of scores; the items of those groups are scored again.

    Shapes: ``queries`` (b, d).
    ``items`` (n, d): on the same device.
    ``k``: at most n.
    ``forbidden``: what must not be among them, on the CPU.
    Returns scores ``(b, k)``, best first, and positions ``(b, k)`` among the items; of equal scores
    among these the lower position comes first; which of many equal ones are among them is left
    open. Where less than k are allowed, the scores end in -inf.
    """
    if len(queries) * len(items) <= _FEW:
        return best_scores(queries @ items.t(), k, forbidden)
    on_cpu = queries.device.type == "cpu"
    rows, width = (_CPU_QUERIES, _CPU_BLOCK) if on_cpu else (_DEVICE_QUERIES, _DEVICE_BLOCK)
    height = max(1, min(rows, len(queries)))  # of few queries as many scores
    width = min(width * (rows // height), -(-len(items) // _GROUP) * _GROUP)
    parts = queries.split(rows)
    excluded: list[ExcludedPairs | None] = [None] * len(parts)
    if forbidden is not None:
        excluded = [forbidden.of_rows(i * rows, i * rows + len(p)) for i, p in enumerate(parts)]
    maxima = _maxima(parts, items, excluded, queries.new_empty(height, width))
    found = [
        _best_of_groups(part, items, own, width, k, pairs)
        for part, own, pairs in zip(parts, maxima.split(rows), excluded)
    ]
    scores, places = (torch.cat(several) for several in zip(*found))
    return scores, places


def _maxima(parts, items, excluded, buffer):
    """The largest score of each group, ``(b, g)``: group j of a block has columns j, j + w/32, …

    A block of items stays in the cache until all queries have met it.
    """
    width = buffer.shape[1]
    groups = width // _GROUP
    blocks = range(0, len(items), width)
    maxima = buffer.new_empty(sum(len(part) for part in parts), groups * len(blocks))
    for number, begin in enumerate(blocks):
        end = min(begin + width, len(items))
        block = items[begin:end].t()
        if len(parts) > 1:  # products are faster then, and one query would not make up for it
            block = block.contiguous()
        columns = maxima[:, number * groups : (number + 1) * groups].split(len(parts[0]))
        for part, pairs, own in zip(parts, excluded, columns):
            scores = buffer[: len(part)]
            torch.mm(part, block, out=scores[:, : end - begin])
            scores[:, end - begin :] = -torch.inf
            if pairs is not None:
                where = [one.to(buffer.device) for one in pairs.in_block(begin, end)]
                scores[where[0], where[1]] = -torch.inf
            torch.amax(scores.view(len(part), _GROUP, groups), 1, out=own)
    return maxima


def _best_of_groups(queries, items, maxima, width, k, forbidden):
    groups = width // _GROUP
    chosen = maxima.topk(min(k, maxima.shape[1]), dim=1, sorted=False).indices.unsqueeze(1)
    inside = torch.arange(_GROUP, device=chosen.device).view(1, -1, 1) * groups
    places = (chosen // groups * width + chosen % groups + inside).flatten(1)  # (b, 32·k)
    places = places.sort(dim=1).values
    rows = items.index_select(0, places.clamp(max=len(items) - 1).view(-1))
    scores = torch.bmm(rows.view(*places.shape, -1), queries.unsqueeze(2)).squeeze(2)
    out = places >= len(items)
    if forbidden is not None:
        out |= forbidden.has(places, len(items))
    scores.masked_fill_(out, -torch.inf)
    return in_order(scores, places.clamp_(max=len(items) - 1), k)


def best_scores(scores, k: int, forbidden: ExcludedPairs | None = None):
    """As :func:`top_k_inner_products`, of a whole matrix of scores ``(b, n)``, which is changed."""
    if forbidden is not None:
        scores[forbidden.rows.to(scores.device), forbidden.columns.to(scores.device)] = -torch.inf
    best = scores.topk(k, dim=1, sorted=False)
    return in_order(best.values, best.indices, k)


def in_order(values, places, k):
    """The k best of candidates ``(b, c)``: largest first, of equal ones the lowest place."""
    if values.shape[1] > k:
        best = values.topk(k, dim=1, sorted=False)
        values, places = best.values, places.gather(1, best.indices)
    places, order = places.sort(dim=1)
    values, by_value = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, by_value)
