"""Evaluation: RecBole's metrics, faster to collect and also reported by group.

- :mod:`.collector` keeps, beside what RecBole's metrics need, whose row it is;
- :mod:`.groups` splits the rows into tail/head items and short/long users;
- :mod:`.fullsort` and :mod:`.negatives` feed rows for full ranking and for
  ranking against sampled negatives (``uniNNN``/``popNNN``);
- :mod:`.measure` says among what: with or without what a user met (``exclude_history``).
"""

from recbole_llmemb.evaluation.collector import EvalRows, GroupCollector
from recbole_llmemb.evaluation.fullsort import LengthSortedFullSortEvalDataLoader
from recbole_llmemb.evaluation.groups import GROUP_NAMES, Groups, group_results
from recbole_llmemb.evaluation.negatives import (
    CandidateEvalDataLoader,
    candidate_eval_loader,
    candidate_scores,
)

__all__ = [
    "GROUP_NAMES",
    "CandidateEvalDataLoader",
    "EvalRows",
    "GroupCollector",
    "Groups",
    "LengthSortedFullSortEvalDataLoader",
    "candidate_eval_loader",
    "candidate_scores",
    "group_results",
]
