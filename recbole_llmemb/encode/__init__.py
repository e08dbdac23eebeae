"""Item text to vectors: attributes → prompts → encoder → embedding table.

What is named here is imported when it is first used, so that keys, options and a cache hit cost
nothing.
"""

from recbole_llmemb.core.imports import lazy
from recbole_llmemb.records.items import ItemText, read_items

__all__ = ["ItemText", "cache_directory", "ensure_table", "item_prompts", "read_items"]
__getattr__ = lazy(
    __name__,
    settings="EncodeSettings Workers",
    build_or_load="cache_directory ensure_table job_from_config",
    shards="item_prompts",
    job="EncodeJob run_job",
)
