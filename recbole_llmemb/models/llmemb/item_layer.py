"""Which layer stands where a backbone has its item embedding, by configuration."""

from __future__ import annotations

import torch
from torch import nn

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.adapters import LinearAdapter, MLPAdapter, NoAdapter
from recbole_llmemb.models.contract import given_to
from recbole_llmemb.models.item_residual import ItemOffsets, trained_items
from recbole_llmemb.models.llmemb.item_embedding import TableItemEmbedding, TrainedRows
from recbole_llmemb.models.table_dtype import table_dtype
from recbole_llmemb.models.whitening import Whitening, rescaling


def item_layer(config, dataset, layer, extra_rows=0):
    """The item embedding layer that a configuration asks for.

    Parameters
    ----------
    config : recbole.config.Config
    dataset : recbole.data.dataset.Dataset
        The training split: items that it has no interaction of get no part of their own.
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
    kind = config["item_embedding"]
    if kind == "id":
        return layer
    size, freeze = layer.embedding_dim, config["llm_freeze"]
    narrow = not has_learnt_adapter(config)
    given = given_to(config["model"], dataset, config, "table")
    table = given.rows()
    if narrow and table.shape[1] != size:
        raise UserError(_does_not_fit(config, table.shape[1], size))
    prepare = _preparation(config, table, narrow)
    if prepare is not None:
        table, prepare = prepare.of_table(table), prepare.float()
    if narrow and not freeze:
        learnt = torch.randn(extra_rows, size) * 0.02
        return TrainedRows(torch.cat([table, learnt]), _way(given, prepare))
    adapter = _adapter(config, table.shape[1], size)
    if freeze:
        kept = table_dtype(config["llm_table_dtype"], table.shape[1], config["device"])
        table = table.to(kept)
    offsets = None
    if kind in ("both", "residual"):
        own = layer.weight.detach()[: len(table)].clone()
        own = own if kind == "both" else torch.zeros_like(own)
        offsets = ItemOffsets(own, trained_items(dataset))
    way = _way(given, prepare)
    return TableItemEmbedding(table, adapter, size, extra_rows, freeze, offsets, way)


def _way(given, prepare):
    """From vectors as the encoder gives them to rows of the layer's table."""
    steps = [step for step in (given.projection(), prepare) if step is not None]
    return nn.Sequential(*steps)


def prepared(config, given, tokens):
    """Rows of items outside a dataset, as the layer's table has them after its preparation.

    ``given``: the table, by the items that alone settle the preparation (whitening, rescaling).
    ``tokens``: items of the table that the dataset does not have.
    Returns (n, D).
    """
    prepare = _preparation(config, given.rows(), not has_learnt_adapter(config))
    rows = given.rows_of(tokens)
    return rows if prepare is None else prepare(rows)


def has_learnt_adapter(config):
    """Whether a layer with parameters stands between the table and the model."""
    kind = config["adapter"] or "linear"
    return kind in ("linear", "mlp") and config["adapter_hidden_size"] != 0


def _adapter(config, width, size):
    if not has_learnt_adapter(config):
        return NoAdapter()
    middle = config["adapter_hidden_size"] or max(1, width // 2)
    if config["adapter"] == "mlp":
        return MLPAdapter(width, middle, size, config["adapter_dropout"] or 0.0)
    return LinearAdapter(width, middle, size)


def _preparation(config, table, narrow):
    """What is done to the table before the adapter, or None."""
    if narrow and config["adapter"] != "whitening":
        std = config["llm_init_std"]
        return rescaling(table, std) if std else None
    return Whitening(table, config["llm_whiten"]) if config["llm_whiten"] else None


def _does_not_fit(config, width, size):
    if config["adapter_hidden_size"] == 0:
        why = "adapter_hidden_size is 0 (no adapter)"
    else:
        why = f"adapter is {config['adapter']!r}"
    change = f"set llm_pca_dim: {size}" if width > size else "use a wider table"
    return (
        f"{why}, but the table is {width} wide and the model's item embeddings {size}; "
        f"{change} or use an adapter."
    )
