"""Bring your own data: csv, parquet or json files to a RecBole dataset.

- :mod:`.columns` finds out which column is what, :mod:`.times` what kind of times there are;
- :mod:`.interactions` keeps who, what and when as numbers, and drops the rare;
- :mod:`.items` gathers the text of the items that are left, :mod:`.job` does all of it.
"""

from recbole_llmemb.apps.convert.job import ConvertJob, convert

__all__ = ["ConvertJob", "convert"]
