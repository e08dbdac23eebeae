"""Item text to vectors: attributes → prompts → encoder → embedding table.

Nothing here imports PyTorch's companions (sentence-transformers, transformers) before a model is
loaded, so that a cache hit costs nothing.
"""

from recbole_llmemb.encode.build_or_load import cache_directory, ensure_table
from recbole_llmemb.encode.prompts import item_prompts
from recbole_llmemb.records.items import ItemText, read_items

__all__ = ["ItemText", "cache_directory", "ensure_table", "item_prompts", "read_items"]
