"""RecBole's sequential models as backbones: which can be served, and how each differs.

A backbone reads its items through ``self.item_embedding``, which is all that an item table
needs. What else the training and the scoring have to know is declared here; most backbones
need no class of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

__all__ = ["BackboneSpec"]

#: What the name of a model over a backbone begins with.
PREFIX = "LLMEmb"


@dataclass(frozen=True)
class BackboneSpec:
    """How a backbone differs from most others; see :class:`.model.LLMEmbMixin`."""

    one_pass: str = ""  # How train_mode: sequence trains it; empty where it cannot
    padding_free: bool | str = False  # "table": where padding's embedding is zero
    losses: tuple[str, ...] = ("BCE", "BPR", "CE")  # The first is its default if ours is not here
    products: bool = True
    item_fields: bool = False  # Whether it reads fields of the items beside their ids
    size_key: str = "embedding_size"
    unsupported: str = ""  # Why it cannot be had
    note: str = ""  # What else a user should know


Traits = BackboneSpec  # its name in earlier releases

_Hidden = partial(BackboneSpec, size_key="hidden_size")
_Causal = partial(BackboneSpec, one_pass="causal", padding_free=True)
_CausalHidden = partial(_Causal, size_key="hidden_size")
_OwnLoss = partial(BackboneSpec, losses=("CE",), products=False)


def _not_ours(where: str) -> BackboneSpec:
    return BackboneSpec(unsupported=f"it keeps its items in {where} instead of one item_embedding")


_GRAPH = BackboneSpec(
    unsupported="it needs a knowledge graph with embeddings made in advance beside the sequences"
)
_FIELDS = _not_ours("embeddings of every field and scores one item at a time")

#: RecBole's sequential models. Those with something of their own have a class in ``special``.
BACKBONES: dict[str, BackboneSpec] = {
    "SASRec": _CausalHidden(),
    "GRU4Rec": _Causal(),
    "BERT4Rec": _CausalHidden(one_pass="cloze", note="its own cloze task, read once in sequence"),
    "NARM": BackboneSpec(padding_free=True),
    "STAMP": BackboneSpec(padding_free="table"),
    "NextItNet": BackboneSpec(
        one_pass="causal", note="its state is the last item's in sequence, padding's in prefix mode"
    ),
    "Caser": BackboneSpec(note="one filter size per position of MAX_ITEM_LIST_LENGTH"),
    "HGN": BackboneSpec(note="scores through a second layer over the same table"),
    "LightSANs": _Hidden(),
    "FEARec": _Hidden(note="`contrast` adds its contrastive terms, in prefix"),
    "CORE": _OwnLoss(padding_free=True, note="its own cosine, temperature and dropout of items"),
    "SINE": BackboneSpec(),
    "GCSAN": _Hidden(padding_free=True, note="builds graphs row by row, in Python"),
    "SRGNN": BackboneSpec(padding_free=True, note="builds graphs row by row, in Python"),
    "SHAN": BackboneSpec(padding_free=True, note="ranks on the reversed history, as it trains"),
    "NPE": BackboneSpec(padding_free="table", note="scores with the rectified item embedding"),
    "HRM": BackboneSpec(),
    "TransRec": _Causal(
        losses=("BPR", "BCE"), products=False, note="scores by distance, plus a bias per item"
    ),
    "FOSSIL": BackboneSpec(),
    "S3Rec": _CausalHidden(item_fields=True, note="fine-tuning, maybe from `pre_model_path`"),
    "GRU4RecF": _Causal(item_fields=True),
    "SASRecF": _CausalHidden(item_fields=True),
    "FDSA": _CausalHidden(item_fields=True),
    "SASRecCPR": _OwnLoss(size_key="hidden_size", note="its own partitioned softmax"),
    "GRU4RecCPR": _OwnLoss(note="its own partitioned softmax"),
    "FPMC": _not_ours("three matrices of factors"),
    "RepeatNet": _not_ours("item_matrix and in an output layer of its own"),
    "DIN": _FIELDS,
    "DIEN": _FIELDS,
    "KSR": _GRAPH,
    "GRU4RecKG": _GRAPH,
}

#: The models over these backbones.
NAMES = [PREFIX + name for name, spec in BACKBONES.items() if not spec.unsupported]
