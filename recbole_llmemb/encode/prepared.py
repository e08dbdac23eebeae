"""What is known of a job before anything is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from recbole_llmemb.encode.adapter import Adapter
from recbole_llmemb.encode.item_stream import Catalogue, hash_lists
from recbole_llmemb.encode.source import EncoderSource
from recbole_llmemb.records.items import ItemText


@dataclass
class Prepared:
    """A job whose inputs were looked at."""

    items: ItemText
    # One prompt per item; none when streamed, and then the items have no attributes either.
    texts: list[str]
    catalogue: Catalogue | None  # What there is instead when streamed
    instruction: str
    source: EncoderSource
    pooling: str | None = None  # pooling, max_length: What the job asks for, or else its adapter
    max_length: int | None = None
    adapter: Adapter | None = None

    @cached_property
    def texts_hash(self) -> str:
        """Hash of tokens and texts in file order."""
        if self.catalogue is not None:
            return self.catalogue.texts_hash
        return hash_lists(self.items.tokens, self.texts)

    @cached_property
    def unique(self) -> int:
        """Different texts among the items'."""
        return len(set(self.texts)) if self.catalogue is None else self.catalogue.unique

    @property
    def bare(self) -> int:
        """Items of which nothing is known."""
        if self.catalogue is not None:
            return self.catalogue.bare
        return sum(not attributes for attributes in self.items.attributes)
