"""Which layer stands where a backbone has its item embedding, by configuration."""

from __future__ import annotations

import torch
from torch import nn

from recbole_llmemb.errors import UserError
from recbole_llmemb.model.item_embedding import LinearAdapter, NoAdapter, TableItemEmbedding
from recbole_llmemb.model.sources import item_table
from recbole_llmemb.model.whitening import whiten


def item_layer(config, dataset, layer, extra_rows=0):
    """The item embedding layer that a configuration asks for.

    Parameters
    ----------
    config : recbole.config.Config
    dataset : recbole.data.dataset.Dataset
    layer : torch.nn.Embedding
        The backbone's own.
    extra_rows : int
        Learnt rows after the items (BERT4Rec's mask).

    Returns
    -------
    torch.nn.Module
        ``layer`` itself, or what takes its place.

    Raises
    ------
    UserError
        Sizes that do not fit each other, or any refusal of the table.
    """
    if config["item_embedding"] == "id":
        return layer
    size = layer.embedding_dim
    table = item_table(config, dataset)
    width, middle = table.shape[1], config["adapter_hidden_size"]
    if middle == 0:
        if width != size:
            raise UserError(
                f"adapter_hidden_size is 0 (no adapter), but the table is {width} wide and the "
                f"model's item embeddings {size}; set llm_pca_dim: {size} or use an adapter."
            )
        if not config["llm_freeze"]:
            # Nothing is left between the model and the table: RecBole's own layer.
            learnt = torch.randn(extra_rows, size) * 0.02
            weight = torch.cat([table, learnt])
            return nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=0)
        adapter = NoAdapter()
    else:
        if config["llm_whiten"]:
            table = whiten(table, config["llm_whiten"])
        adapter = LinearAdapter(width, middle or max(1, width // 2), size)
    if config["llm_freeze"]:
        table = table.to(getattr(torch, config["llm_table_dtype"] or "float32"))
    return TableItemEmbedding(table, adapter, size, extra_rows, config["llm_freeze"])
