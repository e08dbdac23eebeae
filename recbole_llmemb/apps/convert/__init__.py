"""Bring your own data: csv, parquet or json files to a RecBole dataset.

- :mod:`.columns` finds out which column is what, and gathers the text of items;
- :mod:`.interactions` keeps who, what and when as numbers, and drops the rare;
- :mod:`.dataset` does all of it.

What is named here is imported when it is first used, so that options cost nothing.
"""

from recbole_llmemb.core.imports import lazy

__all__ = ["ConvertJob", "convert"]

__getattr__ = lazy(__name__, job="ConvertJob", dataset="convert")
