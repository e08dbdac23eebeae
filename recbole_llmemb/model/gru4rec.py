"""LLMEmb over GRU4Rec."""

from recbole.model.sequential_recommender.gru4rec import GRU4Rec

from recbole_llmemb.model.llmemb import LLMEmbMixin


class LLMEmbGRU4Rec(LLMEmbMixin, GRU4Rec):
    """GRU4Rec (Tan et al., DLRS 2016) over an LLM item table (LLMEmb §3.3)."""
