"""Parts of a model: those that a configuration names, and faster ones in RecBole's place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.layers import MultiHeadAttention
from torch import nn

from recbole_llmemb.core.devices import fits, preserve_random_state, refuse_too_large
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.registry import Registry
from recbole_llmemb.models import adapters
from recbole_llmemb.models.contract import given_to
from recbole_llmemb.models.llmemb.item_embedding import ItemOffsets, TableItemEmbedding, TrainedRows
from recbole_llmemb.models.losses import BCELoss, BPRLoss, CELoss, Loss
from recbole_llmemb.models.settings import ItemSettings

__all__ = ["ADAPTERS", "ITEM_EMBEDDINGS", "LOSSES"]

#: From the table to the model. A class of yours is called with the widths of the table and of the
#: model and maps rows ``(n, D)`` to ``(n, d)``.
ADAPTERS = Registry(
    "adapter",
    nn.Module,
    linear=adapters.LinearAdapter,
    mlp=adapters.MLPAdapter,
    **dict.fromkeys(("none", "whitening"), adapters.NoAdapter),
)

#: What an item's embedding is made of. A class of yours extends the layer over a table.
ITEM_EMBEDDINGS = Registry(
    "item_embedding",
    TableItemEmbedding,
    id=nn.Embedding,
    **dict.fromkeys(("table", "both", "residual"), TableItemEmbedding),
)

#: What training minimizes at each position.
LOSSES = Registry("loss_type", Loss, CE=CELoss, BPR=BPRLoss, BCE=BCELoss)

#: Tables wider than this come from LLMs, which compute in half precision to begin with.
WIDE = 1024
_LEVELS = 1 << 16


def item_layer(config, dataset, layer, n_special_ids=0):
    """The item embedding layer that a configuration asks for.

    ``dataset``: the training split: items that it has no interaction of get no part of their own.
    ``n_special_ids``: learned rows after the items (BERT4Rec's mask).
    """
    settings = ItemSettings.of(config)
    kind, freeze, size = settings.item_embedding, settings.llm_freeze, layer.embedding_dim
    if kind == "id":
        return layer
    given = given_to(dataset, config, "table")
    table = given.rows()
    width, narrow = table.shape[1], not settings.learns_adapter
    if narrow and width != size:
        wider = f"set hidden_size (or embedding_size) to {width}, give a wider table"
        change = f"set llm_pca_dim: {size}" if width > size else wider
        told = f"adapter is {settings.adapter!r}, but the table is {width} wide and items {size}"
        raise UserError(f"{told}; {change} or use an adapter.", key="adapter")
    prepare = _preparation(settings, table)
    if prepare is not None:
        table, prepare = prepare.of_table(table), prepare.float()
    way = nn.Sequential(*filter(None, (given.projection(), prepare)))
    if narrow and not freeze and kind == "table":
        return TrainedRows(table, way, torch.randn(n_special_ids, size) * 0.02)
    adapter = _adapter(settings, width, size)
    if freeze:
        kept = table_dtype(settings.llm_table_dtype, width, config["device"])
        on_host = _on_host(settings, (*table.shape, kept, config["device"]))
        table = table.to(kept)
    offsets = None
    if kind in ("both", "residual"):
        own = layer.weight.detach()[: len(table)]
        own = own.clone() if kind == "both" else torch.zeros_like(own)
        offsets = ItemOffsets(own, trained_items(dataset))
    found = ITEM_EMBEDDINGS[kind](table, adapter, size, n_special_ids, freeze, offsets, way)
    if freeze and on_host:
        found.keep_on_host(pinned=torch.device(config["device"]).type == "cuda")
    return found


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
    if hasattr(dataset, "sorted_interactions"):
        trained = dataset.training_counts(dataset)[0] > 0
    else:
        trained = torch.ones(dataset.item_num, dtype=torch.bool)
    trained[0] = False
    return trained


def table_dtype(setting, width, device):
    """The format that ``llm_table_dtype`` means for a frozen table of this width.

    A wide table in float32 costs a training step more than the rest of the model together:
    its products are bound by arithmetic, which bfloat16 does several times faster where the
    device knows it. bfloat16 keeps 8 significant bits, as the LLM's own states do.

    ``setting``: the key's value; None leaves the choice to this function.
    """
    if setting:
        return getattr(torch, setting)
    return torch.bfloat16 if width > WIDE and has_bfloat16_matmul(device) else torch.float32


def has_bfloat16_matmul(device):
    """Whether a device has instructions for products of bfloat16, rather than emulates them."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    on_cpu = torch.device(device).type == "cpu"
    return on_cpu and any(getattr(torch.cpu, name, lambda: False)() for name in probes)


def _on_host(settings, table):
    if settings.llm_table_device == "device":
        refuse_too_large(*table)
    return settings.llm_table_device == "cpu" or not fits(*table)


def _adapter(settings, width, size):
    if not settings.learns_adapter:
        return adapters.NoAdapter()
    middle = settings.adapter_hidden_size or max(1, width // 2)
    if settings.adapter == "mlp":
        return adapters.MLPAdapter(width, middle, size, settings.adapter_dropout)
    if settings.adapter == "linear":
        return adapters.LinearAdapter(width, middle, size)
    own = ADAPTERS[settings.adapter](width, size)
    if flaw := _flaw(own, width, size):
        told = f"adapter is {settings.adapter!r}, which {flaw}; it must give new ones (2, {size})"
        raise UserError(f"{told} of float32, the same when it is asked again.", key="adapter")
    return own


@torch.no_grad()
def _flaw(own, width, size):
    """What somebody's own adapter does with rows that none may, if anything."""
    own.eval()(torch.zeros(2, width))  # by which lazy layers are made
    kept = {name: value.clone() for name, value in own.state_dict().items()}
    rows = torch.linspace(-1, 1, 2 * width).view(2, width)
    with preserve_random_state():
        for training in (True, False):
            given = rows.clone()
            found = own.train(training)(given)
            if not torch.equal(given, rows):
                return f"changes the rows (2, {width}) that it is given"
            shape = tuple(getattr(found, "shape", ()))
            if shape != (2, size) or found.dtype != torch.float32:
                shown = f"{shape} of {found.dtype}" if shape else type(found).__name__
                return f"maps rows (2, {width}) to {shown}"
        if not torch.allclose(found, own(rows), equal_nan=True):
            return f"maps rows (2, {width}) otherwise each time that it is evaluated"
        if not torch.allclose(found[:1], own(rows[:1]), rtol=1e-3, atol=1e-5, equal_nan=True):
            return f"maps a row (1, {width}) otherwise where it is alone"
    own.train().load_state_dict(kept)
    return ""


def _preparation(settings, table):
    """What is done to the table before the adapter, or None."""
    if settings.learns_adapter or settings.adapter == "whitening":
        std, ridge = settings.llm_whiten, settings.llm_whiten_ridge
        return adapters.Whitening(table, std, ridge) if std else None
    return adapters.rescaling(table, settings.llm_init_std) if settings.llm_init_std else None


class BitDropout(nn.Dropout):
    """Dropout whose CPU masks are cut from 64-bit random numbers, 16 bits per element.

    The rate is rounded to a multiple of 2⁻¹⁶ and kept elements are scaled by the rate
    that is really used, so the expectation is exact. On other devices, and for rates
    of 0 and 1, this is ``nn.Dropout``.
    """

    def forward(self, input):
        dropped = round(self.p * _LEVELS)
        if not self.training or input.device.type != "cpu" or dropped in (0, _LEVELS):
            return super().forward(input)
        words = torch.empty((input.numel() + 3) // 4, dtype=torch.int64)
        words.random_(torch.iinfo(torch.int64).min, None)
        bits = words.view(torch.int16)[: input.numel()].view(input.shape)
        keep = bits >= dropped - _LEVELS // 2
        return input * (keep * (_LEVELS / (_LEVELS - dropped))).to(input.dtype)


class FusedAttention(MultiHeadAttention):
    """RecBole's attention, on a GPU by PyTorch's fused kernels; the parameters are the same.

    RecBole writes the scores to memory and reads them again four times.
    """

    def forward(self, input_tensor, attention_mask):
        """``(b, w, d)`` and RecBole's additive mask to ``(b, w, d)``."""
        if not input_tensor.is_cuda:
            return super().forward(input_tensor, attention_mask)
        return self.fused(input_tensor, attention_mask)

    def fused(self, states, mask):
        """As :meth:`forward`, on any device."""
        shape = (*states.shape[:2], self.num_attention_heads, self.attention_head_size)
        parts = [part(states).view(shape) for part in (self.query, self.key, self.value)]
        query, key, value = (part.transpose(1, 2) for part in parts)
        rate = self.attn_dropout.p if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, mask.to(query.dtype), rate)
        found = self.out_dropout(self.dense(found.transpose(1, 2).flatten(2)))
        return self.LayerNorm(found + states)


def use_fast_ops(model: nn.Module) -> None:
    """Replace dropout, GELU and attention inside a model of RecBole, in place.

    On one core, dropout and GELU take about a third of a SASRec step: torch draws CPU dropout
    masks one by one, and RecBole writes GELU out in five passes. Parameters are untouched, but
    random numbers are drawn in another way than by RecBole, so this is left out where a run has
    to repeat RecBole's numbers (``train_mode: prefix``).
    """
    for module in list(model.modules()):
        if type(module) is MultiHeadAttention:
            module.__class__ = FusedAttention
        for name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                setattr(module, name, BitDropout(child.p))
        gelu = getattr(module, "gelu", None)  # of RecBole's FeedForward
        if gelu is not None and getattr(module, "intermediate_act_fn", None) == gelu:
            # The same function, to rounding.
            module.intermediate_act_fn = F.gelu  # type: ignore[assignment]
