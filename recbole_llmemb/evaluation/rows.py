"""Visiting evaluation rows by history length, so that batches can be cut short.

A batch is as wide as its longest history. In dataset order nearly every batch
holds one history of the maximal length and all others are padding; in order of
length, most of the padding never reaches the model.
"""

from __future__ import annotations

import torch


def length_order(dataset, length_field: str) -> torch.Tensor:
    """Return the row numbers of ``dataset``, longest history first.

    Longest first shows a lack of memory at the first batch. Rows of equal length
    keep their order.

    ``dataset``: A built split.
    ``length_field``: the field with the history lengths, ``(n_rows,)``.
    Returns ``(n_rows,)``.
    """
    return torch.argsort(dataset.inter_feat[length_field], descending=True, stable=True)


def trim_histories(interaction, length_field: str, list_suffix: str, width: int):
    """Cut the history fields of a batch to the longest history in it.

    Only trailing padding goes. A history field is one named like another field of
    the batch plus ``list_suffix`` and ``width`` wide.

    ``interaction``: the batch, cut in place.
    ``length_field``, ``list_suffix``: RecBole's ``ITEM_LIST_LENGTH_FIELD`` and ``LIST_SUFFIX``.
    ``width``: RecBole's ``MAX_ITEM_LIST_LENGTH``.
    Returns the same object.
    """
    longest = max(int(interaction[length_field].max()), 1)
    if longest >= width:
        return interaction
    for field in interaction.columns:
        value = interaction[field]
        if not (field.endswith(list_suffix) and field[: -len(list_suffix)] in interaction):
            continue
        if value.dim() > 1 and value.size(1) == width:
            interaction[field] = value[:, :longest]
    return interaction
