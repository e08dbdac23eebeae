"""What of RecBole turns a file or a setting into code: pickles, and ``eval``."""

from __future__ import annotations

import ast
import os
import sys
from logging import getLogger
from typing import Any

import numpy as np

from recbole_llmemb.compat.changes import StandIn, around
from recbole_llmemb.compat.training import PLAIN_TORCH
from recbole_llmemb.core.errors import UserError


def leave_pickles_alone() -> None:
    """Read data from its files, never from pickles of datasets and loaders, and write none.

    ``create_dataset`` and ``load_split_dataloaders`` unpickle a file in ``checkpoint_dir`` (or
    ``dataset_save_path``, ``dataloaders_save_path``) as soon as one of the name lies there:
    whoever wrote it has code run, and a pickle of another split or of an older file is taken
    for today's data.
    """
    from recbole.data import utils
    from recbole.data.dataset import Dataset

    # Modules and scripts hold these functions themselves; what they look up is given another.
    utils.os = StandIn(os, path=StandIn(os.path, exists=_is_never_there))
    utils.save_split_dataloaders.__code__ = _save_no_loaders.__code__
    Dataset.save = _save_no_dataset


def _is_never_there(path: Any) -> bool:
    """Whether RecBole shall unpickle this file."""
    if os.path.exists(path):
        getLogger().warning(
            f"{path} is not read, as it is a pickle, which can run any code and may be of other "
            "data; the dataset is read from its own files."
        )
    return False


def _save_no_loaders(config, dataloaders):
    getLogger().warning(
        "save_dataloaders is passed over: RecBole would keep them as a pickle, which can run any "
        "code; they are built anew by each run."
    )


def _save_no_dataset(self) -> None:
    """In the place of ``Dataset.save``."""
    getLogger().warning(
        "save_dataset is passed over: RecBole would keep it as a pickle, which can run any code; "
        "the dataset is read from its files by each run."
    )


def load_weights_only() -> None:
    """Let models of RecBole read the files and names that their settings give as data.

    Pre-trained weights (``pre_model_path``, ``pretrain_path``, ``warm_up``, …) are read as
    checkpoints are, KD_DAGFM's ``teacher`` is one of its three networks and not an expression,
    LDiffRec's ``item_emb.npy`` holds numbers, and so do the choices of a search's file.
    """
    from recbole.model.abstract_recommender import AbstractRecommender
    from recbole.trainer import hyper_tuning

    vars(hyper_tuning).setdefault("eval", ast.literal_eval)

    @around(AbstractRecommender, "__init__")
    def with_safe_names(build, self, *arguments: Any, **options: Any) -> None:
        for kind in type(self).__mro__:
            for name, stand_in in _STAND_INS.get(kind.__name__, {}).items():
                if kind.__module__.startswith("recbole.model."):
                    setattr(sys.modules[kind.__module__], name, stand_in)
        build(self, *arguments, **options)


def _load_numbers(path: Any, **_: Any) -> np.ndarray:
    """In the place of ``numpy.load`` for LDiffRec."""
    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as an array of numbers: {error}.") from None


def _network(name: str) -> type:
    """In the place of ``eval`` for KD_DAGFM's ``teacher``."""
    from recbole.model.context_aware_recommender import kd_dagfm

    networks = ("CrossNet", "CIN", "DAGFM")
    if name not in networks:
        raise UserError(f"teacher is {name!r}; it must be one of {', '.join(networks)}.")
    return getattr(kd_dagfm, name)


_PLAIN_TORCH = {"torch": PLAIN_TORCH}
# What the modules of these models of RecBole find instead of torch, NumPy and Python's eval.
_STAND_INS: dict[str, dict[str, Any]] = {
    "S3Rec": _PLAIN_TORCH,
    "ConvNCF": _PLAIN_TORCH,
    "NAIS": _PLAIN_TORCH,
    "NeuMF": _PLAIN_TORCH,
    "RaCT": _PLAIN_TORCH,
    "KD_DAGFM": {**_PLAIN_TORCH, "eval": _network},
    "LDiffRec": {"np": StandIn(np, load=_load_numbers)},
}
