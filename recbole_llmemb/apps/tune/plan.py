"""What a search tunes: the model's configuration, and the metric that decides."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from recbole_llmemb.apps.tune.space import Space
from recbole_llmemb.config.known import known_keys
from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.core.errors import UserError, nearest
from recbole_llmemb.encode.build_or_load import CACHE_VARIABLE
from recbole_llmemb.evaluation.groups import GROUP_NAMES
from recbole_llmemb.evaluation.metrics import less_is_better
from recbole_llmemb.models.registry import find, is_ours
from recbole_llmemb.run.schema import Use, keys, refuse_values

_PLACES = keys(Use.PLACE) | {"pre_model_path"}


@dataclass
class Metric:
    """The metric that decides between trials."""

    # In lower case, such as ``ndcg@10``, of which a group may be asked: ``tail_items ndcg@10``.
    name: str
    group: str | None
    mode: str  # ``max`` or ``min``


@dataclass
class Plan:
    """What all trials have in common, as plain data."""

    model: str
    dataset: str
    settings: dict  # Configuration beside the searched keys
    metric: Metric
    epochs: int  # At most, of a trial
    space: Space | None = None
    # What of ``align_teacher_config`` keeps one teacher for all trials.
    fixed_teacher_settings: dict = field(default_factory=dict)
    # Searched files and folders, as they stand in the space, where they are.
    places: dict = field(default_factory=dict)

    @property
    def searched(self) -> list[str]:
        """The searched keys."""
        return self.space.keys if self.space else []

    def values(self, chosen: dict) -> dict:
        """The configuration of a trial, as a file may have it."""
        named = {key: value for key, value in chosen.items() if key in _PLACES and value}
        found = {key: self.places.get(str(value), value) for key, value in named.items()}
        values = {**self.settings, **chosen, **found}
        if self.fixed_teacher_settings:
            own = values.get("align_teacher_config") or {}
            values["align_teacher_config"] = {**self.fixed_teacher_settings, **own}
        return values


def make_plan(model, dataset, files=(), settings=None, space=None, metric=None):
    """Read the configuration of a search.

    ``files``: configuration files, later ones win.
    ``metric``: ``valid_metric`` of the configuration if not given.
    Returns the :class:`Plan` and the configuration it starts from.
    """
    settings = dict(settings or {})
    config = make_config(model, dataset, files, settings, strict=settings)
    merged = {k: v for k, v in config.file_config_dict.items() if k not in ("model", "dataset")}
    merged |= settings
    # Relative ones mean the folder that the search was started in, where trials do not run.
    merged |= {key: _absolute(key, merged[key]) for key in _PLACES & merged.keys()}
    # Made where it is not there yet; without this, by every trial in its own folder.
    cache = merged.get("llm_cache_dir") or os.environ.get(CACHE_VARIABLE)
    if cache and not os.path.isabs(os.path.expanduser(cache)):
        merged["llm_cache_dir"] = os.path.abspath(cache)
    if merged.get("data_path") is None:  # RecBole's default is relative, too
        merged["data_path"] = os.path.dirname(os.path.realpath(config["data_path"]))
    if Path(str(resources.files("recbole"))) in Path(merged["data_path"]).parents:
        del merged["data_path"]  # ml-100k, which every RecBole has with it
    decides = _metric(metric, config)
    if decides.group is None and metric:
        merged["valid_metric"] = config["valid_metric"] = metric
        config = make_config(model, dataset, overrides=merged)
    most = config["epochs"] if space is None or "epochs" not in space.keys else math.inf
    if not 1 <= (step := config["eval_step"] or 0) <= most:
        told = f"A search validates, but eval_step is {step} and epochs {config['epochs']}"
        raise UserError(f"{told}; set eval_step: 1, and as many epochs.", key="eval_step")
    plan = Plan(model, config["dataset"], merged, decides, config["epochs"], space)
    if space is not None:
        named = [(one.key, str(v)) for one in space.dimensions for v in one.values]
        plan.places = {value: _absolute(key, value) for key, value in named if key in _PLACES}
        _check_space(space, config, merged)
        plan.fixed_teacher_settings = _fixed_teacher_settings(config, space)
    return plan, config


def _absolute(key, value):
    """A path that is there, from the root; anything else as it is."""
    name = key == "align_teacher" and str(value).isidentifier()  # of a model
    if not isinstance(value, str) or name or not os.path.exists(os.path.expanduser(value)):
        return value
    return os.path.abspath(os.path.expanduser(value))


def _metric(asked, config):
    known = [str(name).lower() for name in config["metrics"]]
    cut = [f"{name}@{k}" for name in known for k in config["topk"]]
    words = str(asked or config["valid_metric"]).lower().split()
    name, group = " ".join(words), words[0] if len(words) == 2 else None
    wrong = None
    if group is not None and group not in GROUP_NAMES:
        wrong = f"names the group {group!r}; it must be one of {', '.join(GROUP_NAMES)}."
    elif len(words) not in (1, 2) or words[-1] not in [*cut, *known]:
        wrong = f"is {name!r}; it must be one of {', '.join(cut)}, with a group before it or not."
    elif group is not None and not is_ours(config["model"]):
        wrong = f"is {name!r}, but RecBole's {config['model']} has no groups; take {words[-1]}."
    if wrong:
        raise UserError(f"--metric {wrong}", key="metric")
    return Metric(name, group, "min" if less_is_better(words[-1]) else "max")


def _check_space(space, config, settings):
    """Refuse, before the first trial, keys and values that no trial could have."""
    known = known_keys(config)
    for one in space.dimensions:
        wrong, key = None, one.key
        if key in settings and key != "valid_metric":
            wrong = "is both set and searched; drop one of the two."
        elif key in keys(Use.MEASURE | Use.ROWS):
            wrong = "cannot be searched: scores would not compare."
        elif key in keys(Use.MACHINE):
            wrong = "cannot be searched: it changes no score."
        elif key not in known:
            near = nearest(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else "."
            wrong = f"is no configuration key of {config['model']}{hint}"
        if wrong:
            raise UserError(f"In {space.where}, {key} {wrong}", key=key, where=space.where)
        for value in one.values if one.kind == "choice" else one.values[:2]:
            try:
                refuse_values({key: value}, config.model_class)
            except UserError as error:
                told = f"In {space.where}: {error}"
                raise UserError(told, key=key, where=space.where) from None


def _fixed_teacher_settings(config, space) -> dict:
    """Trials are to differ in themselves, not in a teacher that learns as they do.

    A teacher is trained with the settings of the run that asks for it: without this, every
    learning rate would train a teacher of its own. And a trial that was stopped early, run
    again for as many epochs, would have one that was stopped early.
    """
    model = find(config["model"])
    if model is None or not (config["align_weight"] or "align_weight" in space.keys):
        return {}
    if not model.teacher_shares_training:
        return {}
    learning = keys(Use.LEARNING) & {*space.keys, "epochs"}
    return {key: config[key] for key in sorted(learning)}
