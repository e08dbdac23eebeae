"""Bring your own data: csv, parquet or jsonl files to a RecBole dataset.

- :mod:`.sources` reads files in pieces, :mod:`.columns` finds out which column is what,
  :mod:`.times` what kind of times there are;
- :mod:`.interactions` keeps who, what and when as numbers, :mod:`.core` drops the rare;
- :mod:`.items` writes the text of the items that are left, :mod:`.job` all of it.
"""

from recbole_llmemb.apps.convert.job import ConvertJob, convert

__all__ = ["ConvertJob", "convert"]
