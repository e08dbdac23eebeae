"""The whole schema of keys: the sections of every room, brought together."""

from __future__ import annotations

from recbole_llmemb.config import shared
from recbole_llmemb.config.keys import Settings, Use, declared, keys, sections_of, use_of
from recbole_llmemb.encode import settings as encode
from recbole_llmemb.models.llmemb import settings as llmemb
from recbole_llmemb.models.llmsrec import settings as llmsrec
from recbole_llmemb.scft import settings as scft

#: In the order in which they are shown.
SECTIONS: list[type[Settings]] = [
    shared.RunSettings,
    shared.DataSettings,
    encode.EncodeSettings,
    scft.ScftSettings,
    llmemb.ItemSettings,
    shared.TrainingSettings,
    shared.EvaluationSettings,
    llmemb.BackboneSettings,
    llmsrec.LLMSRecSettings,
]
__all__ = ["SECTIONS", "Use", "declared", "keys", "sections_of", "use_of"]
