"""Item text to vectors: attributes → prompts → encoder → embedding table.

Nothing here imports PyTorch's companions (sentence-transformers, transformers) before a model is
loaded, so that a cache hit costs nothing.
"""

from recbole_llmemb.encode.ensure import cache_directory, ensure_table
from recbole_llmemb.encode.items import ItemText, read_items
from recbole_llmemb.encode.prompts import item_prompts

__all__ = ["ItemText", "cache_directory", "ensure_table", "item_prompts", "read_items"]
