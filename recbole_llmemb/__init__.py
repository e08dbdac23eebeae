"""LLM item embeddings for sequential recommendation, as RecBole models.

After importing this package RecBole runs on current libraries and knows our models, so that
``recbole.quick_start.run_recbole(model="LLMEmbSASRec", dataset="ml-100k")`` works. That is done
when RecBole is imported, by whomever: until then this package costs next to nothing.
"""

__version__ = "0.1.0"

import os
import signal
import sys

_command = os.path.basename(getattr(sys.modules.get("__main__"), "__file__", None) or "")
if _command.startswith(("recbole-llm", "run_recbole_llm.py")) and (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
):  # Ctrl-C ends a command without a word, until its main can say one
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from recbole_llmemb.core.imports import after_import, know_old_names, lazy  # noqa: E402

__all__ = ["Recommender", "llmemb"]


def _heal() -> None:
    from recbole_llmemb import compat

    compat.apply()


def _install() -> None:
    from recbole_llmemb import plugin

    plugin.install()


know_old_names()
after_import("recbole", _heal, _install, own=__name__)


# The few names that are to be had from here, imported when they are first used.
__getattr__ = lazy(__name__, **{"apps.serve": "Recommender", "plugin": "llmemb"})
