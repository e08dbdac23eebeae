"""Metrics beside RecBole's: classes of your own, by import path."""

from __future__ import annotations

from typing import Any

from recbole.evaluator.base_metric import AbstractMetric
from recbole.evaluator.register import (
    metric_information,
    metric_types,
    metrics_dict,
    smaller_metrics,
)

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.registry import Registry, is_import_path

__all__ = ["add_metric"]

#: RecBole's, by their names in small letters. A class of yours extends RecBole's AbstractMetric and
#: says ``metric_type``, ``metric_need`` and ``smaller``.
METRICS = Registry("metrics", AbstractMetric, **metrics_dict)


def add_metric(metric: Any) -> str:
    """Let RecBole's evaluators know a metric by the name of its class, which is returned."""
    name = metric.__name__.lower()
    if metrics_dict.get(name, metric) is not metric and name in METRICS:
        raise UserError(
            f"metrics: {metric.__name__} is a metric of RecBole's; call yours otherwise.",
            key="metrics",
        )
    missing = [part for part in ("metric_type", "metric_need") if not hasattr(metric, part)]
    if missing:
        raise UserError(
            f"metrics: {metric.__name__} has no {missing[0]}; RecBole's Hit has one to look at.",
            key="metrics",
        )
    metrics_dict[name] = metric
    metric_types[name], metric_information[name] = metric.metric_type, metric.metric_need
    if metric.smaller and name not in smaller_metrics:
        smaller_metrics.append(name)
    return metric.__name__


def settle_metrics(values) -> None:
    """Put metrics of somebody's own in the place of their import paths, in a configuration."""
    asked = values.get("metrics") or []
    names = [asked] if isinstance(asked, str) else list(asked)
    if any(map(is_import_path, names)):
        own = {name: add_metric(METRICS[name]) for name in names if is_import_path(name)}
        values["metrics"] = [own.get(name, name) for name in names]
