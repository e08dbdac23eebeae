"""What is measured: among what the targets are ranked, and metrics beside RecBole's.

RecBole leaves the items of a user's history among the candidates of a sequential model, other
code takes them out (``filter_viewed`` of RecTools). The key ``exclude_history`` chooses. Metrics of
your own come by import path.
"""

from __future__ import annotations

from collections import Counter
from logging import getLogger
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from recbole.evaluator.base_metric import AbstractMetric
from recbole.evaluator.register import (
    metric_information,
    metric_types,
    metrics_dict,
    smaller_metrics,
)
from recbole.utils import EvaluatorType, ModelType

from recbole_llmemb.core.errors import UserError, nearest
from recbole_llmemb.core.registry import Registry, is_import_path

__all__ = ["add_metric"]

#: RecBole's, by their names in small letters. A class of yours extends RecBole's AbstractMetric and
#: says ``metric_type``, ``metric_need`` and ``smaller``.
METRICS = Registry("metrics", AbstractMetric, **metrics_dict)
KEEP_TARGET = "keep_target"
# So many candidates may be drawn, the same one more than once, where there are fewer items.
_SAMPLED = 1000
# Metrics that are shares, whoever computes them.
_SHARES = ("hit", "ndcg", "mrr", "map", "recall", "precision", "auc", "gauc", "itemcoverage")


def _measures(*counts: str) -> AfterValidator:
    """Checks numbers by name: ``counts`` are there, shares are from 0 to 1, no name is twice."""

    def check(row: dict) -> dict:
        for name, value in {**dict.fromkeys(counts), **row}.items():
            share = name.lower().partition("@")[0] in _SHARES and value is not None
            whole = name not in counts or (isinstance(value, int) and 0 <= value < 2**53)
            if not whole or (share and not -0.001 <= value <= 1.001):  # sums are rounded
                raise ValueError(f"{name} is {value!r:.80}")
        twice = [name for name, times in Counter(map(str.lower, row)).items() if times > 1]
        if twice:
            raise ValueError(f"{twice[0]} is there twice")
        return row

    return AfterValidator(check)


# None: not measured. Such numbers have squares and sums.
Number = Annotated[int | float, Field(gt=-1e150, lt=1e150)] | None
Amount = Annotated[int | float, Field(ge=0, lt=1e150)] | None
Count = Annotated[int, Field(ge=0, lt=2**53)]
Metrics = Annotated[dict[str, Number], _measures()]
Group = Annotated[dict[str, Number], _measures("users")]
Bin = Annotated[dict[str, Number], _measures("from", "to", "users")]


def excluded_of(config):
    """The value of ``exclude_history``, or what RecBole does where its own models lack it.

    It takes out what users of general models have met.
    """
    chosen = config["exclude_history"]
    if chosen is None:
        return False if config["MODEL_TYPE"] == ModelType.SEQUENTIAL else KEEP_TARGET
    return chosen


def measure_of(config, phase="test") -> str:
    """The measure of a configuration, in words."""
    mode = (config["eval_args"] or {}).get("mode", "full")
    mode = str(mode[phase] if isinstance(mode, dict) else mode)
    if mode[:3] in ("uni", "pop"):
        how = " by popularity" if mode.startswith("pop") else ""
        ranking = f"{int(mode[3:]):,} items sampled{how} beside the target"
    else:
        ranking = "full ranking"
    if mode == "labeled":
        return "labelled rows"
    return f"{ranking}, {history_in_words(excluded_of(config))}"


def measure_of_run(config) -> str:
    """As :func:`measure_of`; where validation is another one, it says so."""
    valid, test = measure_of(config, "valid"), measure_of(config)
    return test if valid == test else f"{test} (validation: {valid})"


def history_in_words(excluded) -> str:
    """What a value of ``exclude_history`` does to the candidates."""
    if not excluded:
        return "history kept"
    return "history removed" + (", target kept" if excluded == KEEP_TARGET else "")


def less_is_better(metric: str) -> bool:
    """Whether a metric such as ``giniindex@10`` is better the smaller it is."""
    return metric.lower().split("@")[0] in smaller_metrics


def list_metrics() -> set[str]:
    """RecBole's metrics of ranked lists, which are given at cut-offs."""
    kinds = (name for name, kind in metric_types.items() if kind == EvaluatorType.RANKING)
    return set(kinds) - {"gauc"}


def check_measure(config, ours: bool) -> None:
    """Refuse an ``exclude_history`` that an evaluation cannot do."""
    chosen, args, why = config["exclude_history"], config["eval_args"], ""
    modes = args.get("mode") if isinstance(args, dict) else None
    modes = list(modes.values()) if isinstance(modes, dict) else [modes]
    sampled = any(str(mode)[:3] in ("uni", "pop") for mode in modes)
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        if chosen not in (None, KEEP_TARGET):
            why = f"for {config['model']} RecBole removes all but the target; leave the key out"
    elif not chosen:
        return
    elif config["eval_type"] == EvaluatorType.VALUE or "labeled" in modes:
        why = "AUC, LogLoss, MAE, RMSE and the mode labeled rank nothing; take other metrics"
    elif not ours and (sampled or "gauc" in map(str.lower, map(str, config["metrics"] or ()))):
        what, other = ("sampled candidates", "mode: full") if sampled else ("GAUC", "other metrics")
        own = f"--model=LLMEmb{config['model']} with --item_embedding=id"
        why = f"RecBole's own {config['model']} lacks it for {what}; take {other}, or {own}"
    if why:
        raise UserError(f"exclude_history is {chosen!r}, but {why}.", key="exclude_history")


def check_candidates(config, dataset) -> None:
    """Refuse to draw many more candidates than there are items, and labels that are not there."""
    items = dataset.item_num - 1  # without padding
    for mode in config["eval_args"]["mode"].values():
        ranks = config["eval_type"] == EvaluatorType.RANKING
        sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
        unlabeled = config["LABEL_FIELD"] not in dataset.inter_feat
        why = ""
        if mode == "labeled" and (unlabeled or (sequential and ranks)):
            why = "that is for AUC and its like, over labels (threshold makes them)"
        sampled = int(mode[3:]) if mode[:3] in ("uni", "pop") else 0
        if sampled > max(_SAMPLED, items):
            why = f"dataset {config['dataset']} has only {items} items"
        if why:
            told = f"eval_args.mode is {mode}, but {why}; take full, which ranks all items."
            raise UserError(told, key="eval_args")


def add_metric(metric: Any) -> str:
    """Let RecBole's evaluators know a metric by the name of its class, which is returned."""
    name = metric.__name__.lower()
    missing = [part for part in ("metric_type", "metric_need") if not hasattr(metric, part)]
    wrong = f"has no {missing[0]}; RecBole's Hit has one to look at" if missing else ""
    if metrics_dict.get(name, metric) is not metric and name in METRICS:
        wrong = "is a metric of RecBole's; call yours otherwise"
    if wrong:
        raise UserError(f"metrics: {metric.__name__} {wrong}.", key="metrics")
    metrics_dict[name] = metric
    metric_types[name], metric_information[name] = metric.metric_type, metric.metric_need
    if metric.smaller and name not in smaller_metrics:
        smaller_metrics.append(name)
    return metric.__name__


def settle_metrics(values, given) -> None:
    """Put metrics of somebody's own in the place of their import paths, in a configuration.

    ``given``: what of the configuration are no defaults.
    """
    less = less_is_better(str(values.get("valid_metric")))
    if given.get("valid_metric_bigger", not less) == less:
        told = "RecBole knows of each metric whether more is better"
        getLogger().warning(f"valid_metric_bigger has no effect: {told}.")
    asked = values.get("metrics") or []
    names = list(asked) if isinstance(asked, (list, tuple)) else [asked]
    for name in names:
        if isinstance(name, str) and name.lower() not in metric_types and not is_import_path(name):
            near = nearest(name, [kind.__name__ for kind in metrics_dict.values()], 1)
            hint = f"did you mean {near[0]}?" if near else "take NDCG or Hit, for example."
            told = f"metrics: there is no metric named {name[:80]!r}; {hint}"
            raise UserError(told, key="metrics")
    if any(map(is_import_path, names)):
        own = {name: add_metric(METRICS[name]) for name in names if is_import_path(name)}
        values["metrics"] = [own.get(name, name) for name in names]
