"""How well items tell apart: measures over two views of items that were not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sentence_transformers.base.evaluation import BaseEvaluator


def measures(x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Measures of two views' embeddings, both (n, D), of any length.

    Returns ``top1``: share of views nearest, by cosine, to the same item's other view, both ways (a
    tie counts). ``alignment``: mean squared distance of an item's views, and ``uniformity``: log of
    the mean over pairs of items of exp(−2·distance²), both on the unit sphere (Wang & Isola, 2020);
    lower is better.
    """
    x, y = F.normalize(x.float(), dim=1), F.normalize(y.float(), dim=1)
    near = x @ y.t()
    own = near.diagonal() + 1e-6
    found = (own >= near.amax(1)).float().mean() + (own >= near.amax(0)).float().mean()
    spread = [torch.pdist(v).square().mul(-2).exp().mean() for v in (x, y)]
    return {
        "top1": (found / 2).item(),
        "alignment": (x - y).square().sum(1).mean().item(),
        "uniformity": (sum(spread) / 2).log().item(),
    }


class HeldOut(BaseEvaluator):
    """Measures of a fixed pair of views per held-out item.

    ``pairs`` (str, str): two prompts per item.
    ``batch_size``: texts per forward pass.
    """

    def __init__(self, pairs: Sequence[Sequence[str]], batch_size: int):
        super().__init__()
        self.texts = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
        self.batch_size = batch_size

    def __call__(self, model, output_path=None, epoch=-1, steps=-1) -> dict[str, float]:
        """See :func:`measures`."""
        training = model.training
        vectors = model.encode(
            self.texts,
            batch_size=self.batch_size,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        model.train(training)
        return measures(*vectors.chunk(2))
