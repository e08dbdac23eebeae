"""Whether a model uses the order of histories: its metrics when they are shuffled.

The question of LLM-SRec (arXiv 2502.13909, section 2): a model that reads a history as a
sequence must lose when its items change places; one that reads it as a set does not.
"""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from recbole.data.utils import get_dataloader
from recbole.utils import init_seed

from recbole_llmemb.config.measure import history_in_words, measure_of
from recbole_llmemb.core import random_state
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.histories import with_sampled_users, with_shuffled_histories
from recbole_llmemb.evaluation.collector import GroupCollector
from recbole_llmemb.evaluation.groups import GroupEvaluator
from recbole_llmemb.run.restore import read, restore
from recbole_llmemb.training.trainer import LLMEmbTrainer

# What may be elsewhere now: its name for `restore`, in the configuration, and where that says so.
_PLACES = (
    ("table", "llm_table", "llm_table_used"),
    ("llm", "llm_model", "llm_model_used"),
    ("teacher", "align_teacher", "teacher_used"),
)


@dataclass
class Order:
    """What one checkpoint scores under one protocol."""

    name: str  # Of the checkpoint, in tables
    # checkpoint, model, dataset, mode: ``mode`` as in RecBole's ``eval_args``: ``full``, ``uni99``.
    checkpoint: str
    model: str
    dataset: str
    mode: str
    users: int  # Evaluated rows
    last: int | None  # How many items at the end of each history were shuffled, None for all
    seeds: list  # One per shuffle
    true: dict  # Metrics on histories as they are
    shuffled: list = field(default_factory=list)  # Metrics of each shuffle
    exclude_history: bool | str = False  # As the key
    groups: dict | None = None  # Metrics by group on histories as they are

    @property
    def ranking(self) -> str:
        """Among what targets were ranked, for tables."""
        if not self.exclude_history:
            return self.mode
        return f"{self.mode}, {history_in_words(self.exclude_history)}"

    def summary(self) -> dict:
        """For each metric the ``true`` value, ``mean``, ``std`` and ``drop`` of the shuffled.

        ``drop`` is the share of the true value that is lost, None where that is zero; ``std``
        is None for a single shuffle, all but ``true`` are for none.
        """
        found = {}
        for metric, true in self.true.items():
            values = [float(each[metric]) for each in self.shuffled]
            mean = statistics.mean(values) if values else None
            found[metric] = {
                "true": float(true),
                "mean": mean,
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "drop": (true - mean) / true if true and values else None,
            }
        return found


class _Judge(LLMEmbTrainer):
    """The part of a trainer that evaluates: no optimiser, no folders, no logs."""

    def __init__(self, config, model):
        self.config, self.model, self.device = config, model, config["device"]
        self.test_batch_size = config["eval_batch_size"]
        self.gpu_available = torch.cuda.is_available() and config["use_gpu"]
        self.wandblogger = SimpleNamespace(log_eval_metrics=lambda *_, **__: None)
        self.item_tensor = self.tot_item_num = None
        self.eval_collector = GroupCollector(config)
        self.evaluator = GroupEvaluator(config, self.eval_collector)
        self.evaluation_seconds = []


def order_test(path, shuffles=5, seed=2020, last=None, name=None, changes=None, report=print):
    """Evaluate a checkpoint on true and on shuffled histories of its test set.

    ``path``: A checkpoint of one of this package's models, or of a sequential model of RecBole's.
    ``shuffles``: how often to shuffle; the i-th time by ``seed + i``. 0: only as they are.
    ``last``: only this many items at the end of each history change places.
    ``name``: in tables; the model's by default.
    ``changes``: settings that differ from the checkpoint's: keys of the configuration, such as
    ``metrics``, ``topk``, ``data_path`` and ``user_sample``, ``modes`` (list of str),
    ``exclude_history`` (one value or a list of them), and ``trust_remote_code`` (bool), which a
    checkpoint cannot say of itself.
    ``report``: told in one line each what is going on.
    Returns one per mode and value of ``exclude_history``.
    """
    saved = read(path)
    plain, changes = saved.settings, dict(changes or {})
    modes = changes.pop("modes", None) or [_mode(plain)]
    places = {"data_path": changes.pop("data_path", None)}
    for place, key, used in _PLACES:  # of those that this model has
        given = changes.pop(key, None)
        places[place] = given if plain.get(used) else None
    places["trust_remote_code"] = changes.pop("trust_remote_code", False)
    use_gpu = changes.pop("use_gpu", None)
    places["device"] = None if use_gpu is None else "auto" if use_gpu else "cpu"
    histories = changes.pop("exclude_history", None)
    if histories is None:
        histories = plain.get("exclude_history", False)
    histories = histories if isinstance(histories, list) else [histories]
    name = name or plain["model"]
    found, model = [], None
    for mode, excluded in itertools.product(modes, histories):
        own = _changed(plain, mode, {**changes, "exclude_history": excluded})
        restored = restore(saved, **places, changes=own, loaders=True, model=model)
        config, data, model = restored.config, restored.data, restored.model
        test = data.test._dataset
        if config["user_sample"]:
            test = with_sampled_users(test, config["user_sample"])
        if not len(test):
            raise UserError(
                f"Checkpoint {path}: the dataset's test set has no users under the eval_args of "
                "its run; give a checkpoint of a run that was tested."
            )
        judge = _Judge(config, model)
        judge.eval_collector.data_collect(data.train)  # popularity, which some metrics read
        judge.evaluator.know_groups(config, data.train._dataset)
        score = partial(_score, config, judge, data.test)
        ranking = measure_of(config)
        report(f"{name}, {ranking}: {len(test):,} users, true order …")
        order = Order(
            name,
            str(path),
            plain["model"],
            plain["dataset"],
            mode,
            len(test),
            last,
            [seed + i for i in range(shuffles)],
            score(test),
            exclude_history=excluded,
            groups=judge.groups_of_last_evaluation,
        )
        for number, each in enumerate(order.seeds, start=1):
            report(f"{name}, {ranking}: shuffle {number} of {shuffles} …")
            order.shuffled.append(score(with_shuffled_histories(test, each, last)))
        found.append(order)
    return found


def _score(config, judge, like, split):
    """Metrics of a split, on a loader like that one."""
    with random_state.preserve():
        # RecBole's own models are ranked against candidates from NumPy's numbers.
        init_seed(config["seed"], config["reproducibility"])
        sampler = getattr(like, "_sampler", None)
        loader = get_dataloader(config, "test")(config, split, sampler, shuffle=False)
        bars = config["show_progress"]
        result = judge.evaluate(loader, load_best_model=False, show_progress=bars)
    return {key: float(value) for key, value in result.items()}


def teacher_of(path, changes=None) -> str | None:
    """The checkpoint of the CF model that an LLM-SRec checkpoint reads through.

    Returns None for other models, and where the CF model's file is not there any more.
    """
    plain = read(path).settings
    used = plain.get("teacher_used")
    if not used:
        return None
    moved = (changes or {}).get("align_teacher")
    found = [file for file in (moved, used["path"]) if file and Path(file).is_file()]
    return found[0] if found else None


def settings_of(path) -> dict:
    """What a CF model is to be evaluated with so that it compares: its LLM-SRec's settings."""
    plain = read(path).settings
    kept = {key: plain.get(key) for key in ("user_sample", "exclude_history")}
    return {"modes": [_mode(plain)], "seed": plain["seed"], **kept}


def _mode(plain):
    mode = (plain.get("eval_args") or {}).get("mode", "full")
    return mode["test"] if isinstance(mode, dict) else mode


def _changed(plain, mode, changes):
    """What differs from a checkpoint's settings."""
    changed = {key: value for key, value in changes.items() if value is not None}
    changed["eval_args"] = {**plain["eval_args"], "mode": {"valid": mode, "test": mode}}
    for phase in ("valid", "test"):  # which RecBole makes of the mode
        changed[f"{phase}_neg_sample_args"] = None
    for key in ("metrics", "topk"):
        value = changed.get(key, plain[key])
        changed[key] = value if isinstance(value, list) else [value]
    changed["valid_metric"] = f"{changed['metrics'][0]}@{changed['topk'][0]}"
    changed.setdefault("show_progress", plain.get("show_progress", True))
    return changed
