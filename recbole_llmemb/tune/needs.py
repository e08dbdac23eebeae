"""What tuning needs to be installed, looked at before anything else is done."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os

from packaging.version import Version

from recbole_llmemb.errors import UserError

#: The first whose ``tune.report`` takes a dictionary and whose ``RunConfig`` is Tune's own.
OLDEST_RAY = "2.43"
_INSTALL = "run `pip install 'recbole-llmemb[tune]'`"


def require_ray():
    """Import Ray Tune, which is told first to keep to itself.

    Returns
    -------
    module
        ``ray``, with ``ray.tune`` imported.

    Raises
    ------
    UserError
        It is absent, too old, or cannot be imported.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"recbole-llm tune needs ray, which is not installed; {_INSTALL}."
        ) from None
    if Version(version) < Version(OLDEST_RAY):
        raise UserError(f"ray {version} is too old for tuning, {OLDEST_RAY} is needed; {_INSTALL}.")
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.tune")
    except ImportError as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"ray {version} cannot be imported ({text}); {_INSTALL}.") from error
    return ray


# No usage statistics are sent; the terminal is ours; a search that is killed at any moment
# finds on disk what it had a second before; results without a score (failed trials) are no
# error; and Ctrl-C ends a search, which is not to be taken for a whole one.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


def require(package: str, option: str) -> None:
    """Refuse an option whose package is not there.

    Raises
    ------
    UserError
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{option} needs {package}, which is not installed; {_INSTALL}.")
