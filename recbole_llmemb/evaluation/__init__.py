"""Evaluation: RecBole's metrics, faster to collect and also reported by group.

- :mod:`.collector` keeps, beside what RecBole's metrics need, whose row it is;
- :mod:`.groups` splits the rows into tail/head items and short/long users, :mod:`.details` keeps
  them one by one;
- :mod:`.full_ranking` and :mod:`.candidates` feed rows for full ranking and for
  ranking against sampled negatives (``uniNNN``/``popNNN``);
- :mod:`.cold` ranks items that were held out.
"""

from recbole_llmemb.evaluation.candidates import CandidateEvalDataLoader, candidate_eval_loader
from recbole_llmemb.evaluation.collector import EvalRows, GroupCollector
from recbole_llmemb.evaluation.full_ranking import LengthSortedFullSortEvalDataLoader
from recbole_llmemb.evaluation.groups import GROUP_NAMES, Groups, group_results

__all__ = [
    "GROUP_NAMES",
    "CandidateEvalDataLoader",
    "EvalRows",
    "GroupCollector",
    "Groups",
    "LengthSortedFullSortEvalDataLoader",
    "candidate_eval_loader",
    "group_results",
]
