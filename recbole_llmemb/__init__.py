"""LLM item embeddings for sequential recommendation, as RecBole models.

Importing this package makes RecBole run on current libraries and teaches it our models,
so that ``recbole.quick_start.run_recbole(model="LLMEmbSASRec", dataset="ml-100k")`` works.
"""

__version__ = "0.1.0"

from recbole_llmemb import compat

compat.apply()

from recbole_llmemb import registry  # noqa: E402  (RecBole must be healed before it is imported)

registry.register_all()
