"""Which layer stands where a backbone has its item embedding, by configuration."""

from __future__ import annotations

import torch
from torch import nn

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.gpus import refuse_too_large
from recbole_llmemb.models.adapters import LinearAdapter, MLPAdapter, NoAdapter
from recbole_llmemb.models.given import given_to
from recbole_llmemb.models.layers import table_dtype
from recbole_llmemb.models.llmemb.item_embedding import ItemOffsets, TrainedRows
from recbole_llmemb.models.llmemb.parts import ADAPTERS, ITEM_EMBEDDINGS
from recbole_llmemb.models.llmemb.settings import ItemSettings
from recbole_llmemb.models.whitening import Whitening, rescaling


def item_layer(config, dataset, layer, extra_rows=0):
    """The item embedding layer that a configuration asks for.

    ``dataset``: the training split: items that it has no interaction of get no part of their own.
    ``layer``: the backbone's own.
    ``extra_rows``: learnt rows after the items (BERT4Rec's mask).
    """
    settings = ItemSettings.of(config)
    kind, freeze = settings.item_embedding, settings.llm_freeze
    if kind == "id":
        return layer
    size, narrow = layer.embedding_dim, not settings.learns_adapter
    given = given_to(config["model"], dataset, config, "table")
    table = given.rows()
    if narrow and table.shape[1] != size:
        raise _does_not_fit(settings, table.shape[1], size)
    prepare = _preparation(settings, table)
    if prepare is not None:
        table, prepare = prepare.of_table(table), prepare.float()
    if narrow and not freeze and kind == "table":
        learnt = torch.randn(extra_rows, size) * 0.02
        return TrainedRows(torch.cat([table, learnt]), _way(given, prepare))
    adapter = _adapter(settings, table.shape[1], size)
    if freeze:
        kept = table_dtype(settings.llm_table_dtype, table.shape[1], config["device"])
        refuse_too_large(*table.shape, kept, config["device"])
        table = table.to(kept)
    offsets = None
    if kind in ("both", "residual"):
        own = layer.weight.detach()[: len(table)].clone()
        own = own if kind == "both" else torch.zeros_like(own)
        offsets = ItemOffsets(own, trained_items(dataset))
    way = _way(given, prepare)
    return ITEM_EMBEDDINGS[kind](table, adapter, size, extra_rows, freeze, offsets, way)


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
    prepare = _preparation(ItemSettings.of(config), given.rows())
    rows = given.rows_of(tokens)
    return rows if prepare is None else prepare(rows)


def trained_items(dataset):
    """Which items occur in a training split, ``bool (n_items,)``; padding does not.

    ``dataset``: what the model is built with. One that cannot tell counts as having all items.
    """
    if not hasattr(dataset, "sorted_interactions"):
        trained = torch.ones(dataset.item_num, dtype=torch.bool)
    else:
        trained = dataset.training_counts(dataset)[0] > 0
    trained[0] = False
    return trained


def _adapter(settings, width, size):
    if not settings.learns_adapter:
        return NoAdapter()
    middle = settings.adapter_hidden_size or max(1, width // 2)
    if settings.adapter == "mlp":
        return MLPAdapter(width, middle, size, settings.adapter_dropout)
    if settings.adapter == "linear":
        return LinearAdapter(width, middle, size)
    return ADAPTERS[settings.adapter](width, size)


def _preparation(settings, table):
    """What is done to the table before the adapter, or None."""
    if not settings.learns_adapter and settings.adapter != "whitening":
        std = settings.llm_init_std
        return rescaling(table, std) if std else None
    return Whitening(table, settings.llm_whiten) if settings.llm_whiten else None


def _does_not_fit(settings, width, size):
    none = settings.adapter_hidden_size == 0
    why = "adapter_hidden_size is 0 (no adapter)" if none else f"adapter is {settings.adapter!r}"
    change = f"set llm_pca_dim: {size}" if width > size else "use a wider table"
    return UserError(
        f"{why}, but the table is {width} wide and the model's item embeddings {size}; "
        f"{change} or use an adapter.",
        key="adapter",
    )
