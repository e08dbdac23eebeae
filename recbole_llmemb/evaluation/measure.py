"""Which measure an evaluation is: among what the targets are ranked.

RecBole leaves the items of a user's history among the candidates of a sequential model, other
code takes them out (``filter_viewed`` of RecTools). The key ``exclude_history`` chooses.
"""

from __future__ import annotations

from recbole.evaluator import metric_types, smaller_metrics
from recbole.utils import EvaluatorType, ModelType

from recbole_llmemb.core.errors import UserError

KEEP_TARGET = "keep_target"
#: Of ``exclude_history``.
VALUES = (False, True, KEEP_TARGET)


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
    chosen = config["exclude_history"]
    if chosen is not None and chosen not in VALUES:
        raise UserError(
            f"exclude_history is {chosen!r}; it must be True, False or '{KEEP_TARGET}'."
        )
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        if chosen not in (None, KEEP_TARGET):
            raise UserError(
                f"exclude_history is {chosen!r}, but of models like {config['model']} RecBole "
                f"always removes the history but for the target; leave the key out."
            )
        return
    if not chosen:
        return
    args = config["eval_args"]
    modes = args.get("mode") if isinstance(args, dict) else None
    modes = list(modes.values()) if isinstance(modes, dict) else [modes]
    if config["eval_type"] == EvaluatorType.VALUE or "labeled" in modes:
        raise UserError(
            "exclude_history takes items out of a ranking, but AUC, LogLoss, MAE, RMSE and the "
            "mode labeled rank nothing; set exclude_history: False or take other metrics."
        )
    if not ours and any(str(mode)[:3] in ("uni", "pop") for mode in modes):
        raise UserError(
            f"exclude_history with sampled candidates is not offered for RecBole's own "
            f"{config['model']}; take mode: full, or --model=LLMEmb{config['model']} with "
            "--item_embedding=id."
        )
    if not ours and "gauc" in [str(name).lower() for name in config["metrics"] or ()]:
        raise UserError(
            f"exclude_history with GAUC is not offered for RecBole's own {config['model']}; take "
            f"other metrics, or --model=LLMEmb{config['model']} with --item_embedding=id."
        )
