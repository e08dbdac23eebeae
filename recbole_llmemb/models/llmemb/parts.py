"""Parts of a model that a configuration names: adapters, item embeddings and losses."""

from __future__ import annotations

from torch import nn

from recbole_llmemb.core.registry import Registry
from recbole_llmemb.models.adapters import LinearAdapter, MLPAdapter, NoAdapter
from recbole_llmemb.models.llmemb.item_embedding import TableItemEmbedding
from recbole_llmemb.models.losses import BCELoss, BPRLoss, CELoss, Loss

__all__ = ["ADAPTERS", "ITEM_EMBEDDINGS", "LOSSES"]

#: From the table to the model. A class of yours is called with the widths of the table and of the
#: model and maps rows ``(n, D)`` to ``(n, d)``.
ADAPTERS = Registry(
    "adapter", nn.Module, linear=LinearAdapter, mlp=MLPAdapter, none=NoAdapter, whitening=NoAdapter
)

#: What an item's embedding is made of. A class of yours extends the layer over a table.
ITEM_EMBEDDINGS = Registry(
    "item_embedding",
    TableItemEmbedding,
    table=TableItemEmbedding,
    id=nn.Embedding,
    both=TableItemEmbedding,
    residual=TableItemEmbedding,
)

#: What training minimizes at each position.
LOSSES = Registry("loss_type", Loss, CE=CELoss, BPR=BPRLoss, BCE=BCELoss)
