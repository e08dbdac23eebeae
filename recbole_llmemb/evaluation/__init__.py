"""Evaluation: RecBole's metrics, faster to collect and also reported by group.

- :mod:`.loaders` feeds rows for full ranking and for ranking against sampled negatives
  (``uniNNN``/``popNNN``);
- :mod:`.ranking` ranks them, and keeps, beside what RecBole's metrics need, whose row it is;
- :mod:`.groups` splits them into tail/head items and short/long users, or keeps them one by one;
- :mod:`.metrics` says which measure it is, and takes metrics of your own;
- :mod:`.cold` ranks items that were held out.
"""

from recbole_llmemb.core.imports import lazy
from recbole_llmemb.evaluation.groups import GROUP_NAMES, Groups, group_results

__getattr__ = lazy(__name__, loaders="CandidateEvalDataLoader LengthSortedFullSortEvalDataLoader")
__all__ = ["GROUP_NAMES", "Groups", "group_results"]
