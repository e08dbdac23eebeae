"""LLMEmb over SASRec."""

from recbole.model.sequential_recommender.sasrec import SASRec

from recbole_llmemb.model.llmemb import LLMEmbMixin


class LLMEmbSASRec(LLMEmbMixin, SASRec):
    """SASRec (Kang and McAuley, ICDM 2018) over an LLM item table (LLMEmb §3.3)."""
