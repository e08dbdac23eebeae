"""The models under comparison, built the way a run builds them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

import recbole_llmemb  # noqa: F401  (heals RecBole before anything of it is imported)
from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.run import artifacts, stages

#: RecBole's own default sizes, which both sides get.
SIZES = {
    "hidden_size": 64,
    "inner_size": 256,
    "n_heads": 2,
    "n_layers": 2,
    "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5,
    "MAX_ITEM_LIST_LENGTH": 50,
}
FULL_RANKING = {
    "eval_args": {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": "full",
    },
    "metrics": ["Hit", "NDCG"],
    "topk": [10],
    "valid_metric": "NDCG@10",
}


@dataclass
class Subject:
    """A model with its data and its trainer."""

    config: object
    data: object
    model: object
    trainer: object

    def train(self, batches) -> int:
        """Train on these batches as an epoch of the trainer; returns the positions trained on.

        A position is one (history, target) pair, however it is presented.
        """
        counted = _Counted(batches, self.config["ITEM_ID_FIELD"])
        self.trainer._train_epoch(counted, 0)
        return counted.positions

    def train_steps(self, steps: int | None) -> int:
        """Train this many steps of the model's own loader, None for a whole epoch."""
        return self.train(islice(self.data.train, steps))


class _Counted:
    """Batches that are counted while a trainer takes them."""

    shuffle = sampler = None

    def __init__(self, batches, target_field):
        self.batches, self.target_field = batches, target_field
        self.positions = 0

    def __iter__(self):
        for batch in self.batches:
            self.positions += len(batch[self.target_field])
            yield batch


def configure(model: str, dataset: str, data_path: Path | None = None, **overrides):
    """A configuration for either side; RecBole's own models get what ours set by default."""
    given = {
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "show_progress": False,
        "use_gpu": False,
        **FULL_RANKING,
        **overrides,
    }
    if dataset != "ml-100k":
        given["data_path"] = str(data_path)
    if not model.startswith("LLMEmb") and given.get("loss_type", "CE") == "CE":
        given["train_neg_sample_args"] = None  # every item is a candidate
    return make_config(model, dataset, overrides=given)


def build(config, data=None) -> Subject:
    """Data (unless given), model and trainer."""
    data = data or stages.prepare_data(config)
    artifacts.provide(config, data.train._dataset)
    model, trainer = stages.build(config, data)
    return Subject(config, data, model, trainer)


def ours(dataset: str, data_path: Path | None = None, data=None, **overrides) -> Subject:
    """LLMEmbSASRec in sequence mode, without alignment, which the other side does not have."""
    given = {"train_mode": "sequence", "train_batch_size": 128, "align_weight": 0, **overrides}
    return build(configure("LLMEmbSASRec", dataset, data_path, **given), data)


def stock(dataset: str, data_path: Path | None = None, data=None, **overrides) -> Subject:
    """RecBole's own SASRec with RecBole's augmentation, loader and trainer.

    One of RecBole's models turns PyTorch's anomaly detection on for the whole process when
    it is imported, which slows every training step; it is off here for both sides.
    """
    config = configure("SASRec", dataset, data_path, train_batch_size=2048, **overrides)
    subject = build(config, data)
    torch.autograd.set_detect_anomaly(False)
    return subject


def random_table(folder: Path, dataset, width: int) -> Path:
    """A table of random vectors for all items of a dataset: as costly as a real one."""
    from recbole_llmemb.table import EmbeddingTable

    tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
    generator = torch.Generator().manual_seed(width)
    vectors = torch.randn(len(tokens), width, generator=generator)
    path = Path(folder) / f"random-{width}"
    EmbeddingTable(tokens, vectors, {}).save(path, overwrite=True)
    return path
