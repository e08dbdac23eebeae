"""What to fine-tune, and how."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.options import EncodeJob
from recbole_llmemb.scft.processes import Processes
from recbole_llmemb.scft.settings import ScftSettings
from recbole_llmemb.scft.views import Views, split_items

MOST_HELD_OUT = 1000
# Keys that decide the adapter, without scft_; precision is what "auto" means.
_IN_KEY = (
    "loss", "temperature", "drop_ratio", "steps", "batch_size", "learning_rate", "warmup_steps",
    "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "quantize", "holdout", "seed",
)  # fmt: skip


@dataclass
class ScftJob:
    """What to fine-tune, and how."""

    text: EncodeJob
    settings: ScftSettings
    device: Any = None
    log_dir: Path = Path("log_tensorboard")
    _prepared: _Prepared | None = field(default=None, init=False, repr=False, compare=False)

    def prepare(self) -> _Prepared:
        """Read the items and split them, without loading the encoder (once)."""
        if self._prepared is None:
            text, keys = self.text.prepare(), self.settings
            if all(len(item) < 2 for item in text.attributes):
                raise UserError(
                    f"Every item of {self.text.item_file} has one attribute at most "
                    f"({', '.join(text.fields)}), so its two views would be equal; name "
                    "more fields (item_text_fields), or do without scft."
                )
            train, held = split_items(
                text.attributes, keys.scft_holdout, MOST_HELD_OUT, keys.scft_seed
            )
            if len(train) < 2:
                raise UserError(
                    f"{self.text.item_file} leaves {len(train)} item to train on, and a "
                    "contrast needs two; give more items or a smaller scft_holdout."
                )
            views = [
                Views(
                    part,
                    self.text.instruction,
                    self.text.value_max_chars,
                    keys.scft_drop_ratio,
                    keys.scft_seed,
                )
                for part in (train, held)
            ]
            self._prepared = _Prepared(*views)
        return self._prepared

    def processes(self) -> Processes:
        """Who trains."""
        return Processes(self.device)

    def batch_per_process(self, processes: int = 1) -> int:
        """Items of a step on one process: fewer than asked for when there are not as many."""
        return min(
            self.settings.scft_batch_size, max(2, len(self.prepare().train.items) // processes)
        )

    def key(self, precision: str, processes: int = 1) -> str:
        """Hash of all the adapter depends on; two jobs with one key give one adapter.

        ``precision``: what ``auto`` means on this machine.
        ``processes``: how many train together.
        """
        text = self.text.prepare()
        facts = {
            "items": [list(map(list, item.items())) for item in text.attributes],
            "instruction": self.text.instruction,
            "value_max_chars": self.text.value_max_chars,
            "encoder": self.text.settings.source.identity,
            "pooling": self.text.pooling or self.text.settings.source.own_pooling(),
            "max_length": self.text.max_length,
            "batch": [self.batch_per_process(processes), processes],
            **self.facts(precision),
        }
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=10).hexdigest()

    def facts(self, precision: str) -> dict:
        """What was asked for, for the manifest."""
        given = {name: getattr(self.settings, f"scft_{name}") for name in _IN_KEY}
        return {**given, "precision": precision}


@dataclass
class _Prepared:
    train: Views
    held: Views
