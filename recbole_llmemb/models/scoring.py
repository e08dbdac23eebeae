"""How a state and an item make a score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Items"]

#: What ``item_similarity: cosine`` divides by where ``similarity_temperature`` is empty.
COSINE_TEMPERATURE = 0.07
#: A learned temperature stays between these.
BOUNDS = (0.01, 10.0)
# Vectors shorter than this count as having no direction: their gradients would be huge.
_SHORTEST = 1e-4


class Items(NamedTuple):
    """What states are scored against."""

    vectors: torch.Tensor  # (n, d): row 0 is padding
    bias: torch.Tensor | None = None  # (n,): added to the scores


class EvalCache(nn.Module):
    """Something that evaluation computes once, and again only after a parameter changed.

    Fused optimizers do not count their changes in ``_version``, so every use that may lead to a
    gradient, and every change between training and evaluation, forgets it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: Any = None

    def get(self, tensors: Iterable[torch.Tensor], compute: Callable[[], Any]) -> Any:
        """What ``compute`` returns, which depends on these tensors and nothing else."""
        if torch.is_grad_enabled():
            self._kept = None
            return compute()
        tensors = tuple(tensors)
        key: list[Any] = [(t.data_ptr(), t._version, t.shape, t.dtype, t.device) for t in tensors]
        key += [torch.is_autocast_enabled(t.device.type) for t in tensors[:1]]
        if self._kept is None or self._kept[0] != key:
            # The tensors are kept, too, so that no other can come to lie at their address.
            self._kept = key, tensors, compute()
        return self._kept[2]

    def forget(self) -> None:
        """Compute it anew when it is asked for next."""
        self._kept = None

    def train(self, mode: bool = True) -> EvalCache:
        if mode != self.training:
            self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        # What evaluation computed is not worth copying or pickling.
        return {**self.__dict__, "_kept": None}


class ItemScores(nn.Module):
    """Turns states and item embeddings into the two sides of a dot product.

    Dot: s·e/τ; cosine: s·e/(‖s‖‖e‖τ). The temperature τ may be learned, as its
    logarithm, between :data:`BOUNDS`.

    ``temperature``: τ, or where learning it begins; empty: 1, or what suits cosines.
    """

    def __init__(
        self, cosine: bool = False, temperature: float | None = None, learned: bool = False
    ) -> None:
        super().__init__()
        self.cosine = cosine
        self.fixed = temperature or (COSINE_TEMPERATURE if cosine else 1.0)
        self.log_temperature = None
        if learned:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(self.fixed)))
        self.directions = EvalCache()

    @property
    def is_dot_product(self) -> bool:
        """Whether scores are dot products and nothing else, as RecBole's own losses make them."""
        return not self.cosine and self.fixed == 1.0 and self.log_temperature is None

    @property
    def temperature(self) -> torch.Tensor | float:
        """τ, a number or a tensor that gradients flow to."""
        if self.log_temperature is None:
            return self.fixed
        low, high = (math.log(bound) for bound in BOUNDS)
        if torch.is_grad_enabled():
            # The parameter itself is brought back: behind a clamp it would get no gradient.
            with torch.no_grad():
                self.log_temperature.clamp_(low, high)
            return self.log_temperature.exp()
        return self.log_temperature.clamp(low, high).exp()

    def sides(self, states: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is multiplied: states ``(..., d)`` and item embeddings ``(..., d)``."""
        return self.of_states(states), self.of_items(items)

    def of_states(self, states: torch.Tensor) -> torch.Tensor:
        """The side of states ``(..., d)``."""
        return states if self.is_dot_product else self._unit(states) / self.temperature

    def of_items(self, items: torch.Tensor) -> torch.Tensor:
        """The side of item embeddings ``(..., d)``."""
        if torch.is_grad_enabled():
            self.directions.forget()
        return self._unit(items)

    def of_all_items(self, items: torch.Tensor) -> torch.Tensor:
        """As :meth:`of_items` for a matrix of all items, whose side evaluation makes once."""
        return self.directions.get([items], lambda: self._unit(items)) if self.cosine else items

    def scores(
        self, states: torch.Tensor, items: Items, ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of all items ``(b, n)``, or of those with these ids ``(b, c)``.

        ``states`` (b, d).
        """
        states, vectors = self.of_states(states), self.of_all_items(items.vectors)
        if ids is None:
            return F.linear(states, vectors, items.bias)
        chosen = F.embedding(ids, vectors).to(states.dtype)
        found = torch.einsum("bd,bcd->bc", states, chosen)
        return found if items.bias is None else found + items.bias[ids]

    def _unit(self, vectors: torch.Tensor) -> torch.Tensor:
        return F.normalize(vectors, dim=-1, eps=_SHORTEST) if self.cosine else vectors
