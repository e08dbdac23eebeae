"""Batches of views: which items, and how their texts are cut into parts."""

from __future__ import annotations

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler

from recbole_llmemb.scft.views import Views


class ShuffledBatches(DefaultBatchSampler):
    """Every item once an epoch, in an order that depends on seed and epoch alone.

    The trainer's own sampler draws from one generator on and on, so that a training resumed in
    its third epoch would begin with the order of the first.
    """

    views: Views

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.views.epoch)
        order = torch.randperm(len(self.sampler), generator=generator).tolist()
        for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
            yield order[start : start + self.batch_size]


class Parts:
    """Collates rows of two views into parts of texts of similar length.

    Little is padded so, and a part is what GradCache embeds at a time.

    ``preprocess``: texts to tokens, padded on the right; a SentenceTransformer's.
    ``size``: texts of a part; by default all are one part.
    """

    valid_label_columns = ("label",)

    def __init__(self, preprocess, size: int | None):
        self._preprocess, self._size = preprocess, size

    def __call__(self, rows: list[dict[str, str]]) -> dict[str, object]:
        """Tokens under ``part<i>_…``, and as ``label`` where each view went."""
        texts = [row["view_a"] for row in rows] + [row["view_b"] for row in rows]
        tokens = self._preprocess(texts)
        width = tokens["attention_mask"].shape[1]
        lengths = tokens["attention_mask"].sum(1)
        order = torch.argsort(lengths, descending=True, stable=True)
        batch: dict[str, object] = {"label": torch.argsort(order)}
        for number, members in enumerate(order.split(self._size or len(texts))):
            longest = int(lengths[members[0]])
            for key, value in tokens.items():
                if torch.is_tensor(value):
                    value = value[members]
                    if value.dim() > 1 and value.shape[1] == width:
                        value = value[:, :longest]
                batch[f"part{number}_{key}"] = value
        return batch
