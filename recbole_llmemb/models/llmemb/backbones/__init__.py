"""RecBole's sequential models as backbones: which can be served, and how each differs.

A backbone reads its items through ``self.item_embedding``, which is all that an item table
needs. What else the training and the scoring have to know is declared here; most backbones
need no class of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

#: What the name of a model over a backbone begins with.
PREFIX = "LLMEmb"


@dataclass(frozen=True)
class Traits:
    """How a backbone differs from what most are.

    Attributes
    ----------
    causal : bool
        Whether it gives an output at every position that does not depend on later items:
        what ``train_mode: sequence`` needs.
    trims : str
        Whether padding after a history changes nothing: ``always``, ``never``, or where
        padding's embedding is ``zero``, as it is with a table.
    losses : tuple of str
        Values of ``loss_type``; the first one is its default where ours is not among them.
    similarity : bool
        Whether ``item_similarity`` and temperatures apply: a score is a product of a state and
        an item embedding.
    features : bool
        Whether it reads fields of the items beside their ids.
    kind : str
        Class in :mod:`.special` that makes a model of it, where the common one does not do.
    refused : str
        Why it cannot be served; empty where it can.
    size_key : str
        The key that says how large its item embeddings are; empty where nobody has said.
    note : str
        What else a user should know.
    """

    causal: bool = False
    trims: str = "never"
    losses: tuple = ("BCE", "BPR", "CE")
    similarity: bool = True
    features: bool = False
    kind: str = ""
    refused: str = ""
    size_key: str = "embedding_size"
    note: str = ""

    @property
    def cloze(self) -> bool:
        """Whether it trains on masked items of whole sequences."""
        return self.kind == "BERT4RecModel"

    @property
    def in_one_pass(self) -> bool:
        """Whether it offers ``train_mode: sequence``."""
        return self.causal or self.cloze


def _not_ours(where: str) -> Traits:
    return Traits(refused=f"it keeps its items in {where} instead of one item_embedding")


_GRAPH = Traits(
    refused="it needs a knowledge graph with embeddings made in advance beside the sequences"
)

#: RecBole's sequential models.
BACKBONES: dict[str, Traits] = {
    "SASRec": Traits(size_key="hidden_size", causal=True, trims="always"),
    "GRU4Rec": Traits(causal=True, trims="always"),
    "BERT4Rec": Traits(
        size_key="hidden_size",
        trims="always",
        kind="BERT4RecModel",
        note="its own cloze task; in sequence mode each sequence is read once",
    ),
    "NARM": Traits(trims="always"),
    "STAMP": Traits(trims="zero"),
    "NextItNet": Traits(
        causal=True,
        kind="NextItNetModel",
        note="in sequence mode the state is read at the last item, in prefix mode at the last "
        "padded position, as RecBole does",
    ),
    "Caser": Traits(kind="CaserModel", note="one filter size per position of MAX_ITEM_LIST_LENGTH"),
    "HGN": Traits(kind="HGNModel", note="scores through a second layer over the same table"),
    "LightSANs": Traits(size_key="hidden_size"),
    "FEARec": Traits(
        size_key="hidden_size",
        kind="FEARecModel",
        note="`contrast` adds its contrastive terms, in prefix",
    ),
    "CORE": Traits(
        trims="always",
        losses=("CE",),
        similarity=False,
        kind="COREModel",
        note="its own cosine, temperature and dropout of items",
    ),
    "SINE": Traits(),
    "GCSAN": Traits(
        size_key="hidden_size",
        trims="always",
        kind="GCSANModel",
        note="builds graphs row by row, in Python",
    ),
    "SRGNN": Traits(trims="always", note="builds graphs row by row, in Python"),
    "SHAN": Traits(
        trims="always",
        kind="SHANModel",
        note="ranks on the reversed history, as it trains (RecBole ranks on the padded one)",
    ),
    "NPE": Traits(trims="zero", kind="NPEModel", note="scores with the rectified item embedding"),
    "HRM": Traits(kind="HRMModel"),
    "TransRec": Traits(
        causal=True,
        trims="always",
        losses=("BPR", "BCE"),
        similarity=False,
        kind="TransRecModel",
        note="scores by distance, plus a bias per item",
    ),
    "FOSSIL": Traits(kind="FOSSILModel"),
    "S3Rec": Traits(
        size_key="hidden_size",
        causal=True,
        trims="always",
        features=True,
        kind="S3RecModel",
        note="fine-tuning, from scratch or from the weights in `pre_model_path`",
    ),
    "GRU4RecF": Traits(causal=True, trims="always", features=True),
    "SASRecF": Traits(size_key="hidden_size", causal=True, trims="always", features=True),
    "FDSA": Traits(size_key="hidden_size", causal=True, trims="always", features=True),
    "SASRecCPR": Traits(
        size_key="hidden_size",
        losses=("CE",),
        similarity=False,
        kind="CPRModel",
        note="its own partitioned softmax",
    ),
    "GRU4RecCPR": Traits(
        losses=("CE",), similarity=False, kind="CPRModel", note="its own partitioned softmax"
    ),
    "FPMC": _not_ours("three matrices of factors"),
    "RepeatNet": _not_ours("item_matrix and in an output layer of its own"),
    "DIN": _not_ours("embeddings of every field and scores one item at a time"),
    "DIEN": _not_ours("embeddings of every field and scores one item at a time"),
    "KSR": _GRAPH,
    "GRU4RecKG": _GRAPH,
}
