"""LLM item embeddings for sequential recommendation, as RecBole models.

After importing this package RecBole runs on current libraries and knows our models, so that
``recbole.quick_start.run_recbole(model="LLMEmbSASRec", dataset="ml-100k")`` works. That is done
when RecBole is imported, by whomever: until then this package costs next to nothing.
"""

__version__ = "0.1.0"

from recbole_llmemb.core.optional import when_imported
from recbole_llmemb.moved import know_old_names

know_old_names()


def _install() -> None:
    """Heal RecBole, and let it find us."""
    from recbole_llmemb import compat, plugin

    compat.apply()
    plugin.install()


when_imported("recbole", _install)


def __getattr__(name):
    """The few names that are to be had from here, imported when they are first used."""
    if name == "Recommender":
        from recbole_llmemb.apps.serve import Recommender

        return Recommender
    if name == "llmemb":
        from recbole_llmemb.plugin import llmemb

        return llmemb
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
