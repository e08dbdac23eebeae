"""LLM item embeddings for sequential recommendation, as RecBole models.

Importing this package makes RecBole run on current libraries and teaches it our models,
so that ``recbole.quick_start.run_recbole(model="LLMEmbSASRec", dataset="ml-100k")`` works.
"""

__version__ = "0.1.0"

import sys
from pathlib import Path

from recbole_llmemb import compat
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.moved import know_old_names

know_old_names()

try:
    compat.apply()
except UserError as missing:
    # The command line cannot catch this: it lives in the package that fails to import.
    if Path(sys.argv[0]).stem not in ("recbole-llm", "run_recbole_llm"):
        raise
    print(f"error: {missing}", file=sys.stderr)
    sys.exit(2)

from recbole_llmemb import plugin  # noqa: E402  (RecBole must be healed before it is imported)

plugin.install()
llmemb = plugin.llmemb


def __getattr__(name):
    """``Recommender``, imported when it is first used: training needs nothing of it."""
    if name == "Recommender":
        from recbole_llmemb.apps.serve import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
