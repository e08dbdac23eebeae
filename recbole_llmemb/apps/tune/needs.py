"""Ray as a search wants it."""

from __future__ import annotations

from recbole_llmemb.core import cluster

# The terminal is ours; a search that is killed at any moment finds on disk what it had a second
# before; results without a score (failed trials) are no error; and Ctrl-C ends a search, which is
# not to be taken for a whole one.
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


def require_ray():
    """Ray with Ray Tune, see :func:`recbole_llmemb.core.cluster.require_ray`."""
    return cluster.require_ray("recbole-llm tune", "ray.tune", "tune", _QUIET)
