"""Whether a model uses the order of histories: its metrics when they are shuffled.

The question of LLM-SRec (arXiv 2502.13909, section 2): a model that reads a history as a
sequence must lose when its items change places; one that reads it as a set does not.
"""

from __future__ import annotations

import itertools
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from recbole_llmemb.core.devices import preserve_random_state
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.reports import COLORS, in_markdown, legend, new_figure, svg
from recbole_llmemb.data.histories import with_sampled_users, with_shuffled_histories
from recbole_llmemb.evaluation.groups import GroupEvaluator
from recbole_llmemb.evaluation.metrics import history_in_words, measure_of
from recbole_llmemb.evaluation.ranking import GroupCollector, evaluate, loader_like
from recbole_llmemb.records.values import one_line
from recbole_llmemb.run.restore import USED, restore
from recbole_llmemb.run.saved import read
from recbole_llmemb.run.schema import check_changes

_FILES = ["order.json", "order.md", "order.svg"]


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


def order_test(path, shuffles=5, seed=2020, last=None, name=None, changes=None, report=print):
    """Evaluate a checkpoint on true and on shuffled histories of its test set.

    ``path``: A checkpoint of one of this package's models, or of a sequential model of RecBole's.
    ``shuffles``: how often to shuffle; the i-th time by ``seed + i``. 0: only as they are.
    ``last``: only this many items at the end of each history change places.
    ``name``: in tables; the model's by default.
    ``changes``: settings that differ from the checkpoint's: keys of the configuration, such as
    ``metrics``, ``topk``, ``data_path`` and ``user_sample``, ``mode`` (list of str),
    ``exclude_history`` (one value or a list of them), and ``trust_remote_code`` (bool), which a
    checkpoint cannot say of itself.
    Returns one per mode and value of ``exclude_history``.
    """
    state = read(path)
    plain, changes = state["config"], dict(changes or {})
    modes = changes.pop("mode", None) or [_mode(plain)]
    histories = changes.pop("exclude_history", None)
    histories = plain.get("exclude_history", False) if histories is None else histories
    histories = histories if isinstance(histories, list) else [histories]
    names = ("data_path", "trust_remote_code", *USED)
    places = {key: changes.pop(key) for key in names if key in changes}
    for key, used in USED.items():
        if not plain.get(used):
            places.pop(key, None)
    if (use_gpu := changes.pop("use_gpu", None)) is not None:
        places["device"] = "auto" if use_gpu else "cpu"
    check_changes(changes)
    name, seeds = one_line(name or plain["model"]), [seed + i for i in range(shuffles)]
    found, model = [], None
    for mode, excluded in itertools.product(modes, histories):
        own = _changed(plain, mode, {**changes, "exclude_history": excluded})
        restored = restore(path, state=state, **places, changes=own, loaders=True, model=model)
        config, model = restored.config, restored.model
        test = restored.data.test._dataset
        if not len(test):
            told = f"Checkpoint {path} is of a run whose eval_args leave no test set"
            raise UserError(f"{told}; give one of a run that was tested.", where=path)
        if config["user_sample"]:
            test = with_sampled_users(test, config["user_sample"])
        if not len(test):
            told = f"None of the {config['user_sample']} users of user_sample is tested"
            raise UserError(f"{told}; take more.", key="user_sample")
        ranking = measure_of(config)
        report(f"{name}, {ranking}: {len(test):,} users, true order …")
        evaluator = GroupEvaluator(config, GroupCollector(config))
        evaluator.collector.data_collect(restored.data.train)  # for some metrics: popularity
        evaluator.know_groups(restored.data.train._dataset)
        about = str(path), plain["model"], plain["dataset"], mode, len(test), last, seeds
        order = Order(name, *about, _score(restored, evaluator, test), exclude_history=excluded)
        order.groups = evaluator.group_metrics
        for number, each in enumerate(seeds, start=1):
            report(f"{name}, {ranking}: shuffle {number} of {shuffles} …")
            shuffled = with_shuffled_histories(test, each, last)
            order.shuffled.append(_score(restored, evaluator, shuffled))
        found.append(order)
    return found


def _score(restored, evaluator, split):
    """Metrics of a split like the test set's."""
    config, like = restored.config, restored.data.test
    with preserve_random_state():
        loader = loader_like(like, split, config)
        result = evaluate(config, restored.model, loader, evaluator, config["show_progress"])
    return {key: float(value) for key, value in result.items()}


def teacher_of(path, changes=None) -> str | None:
    """The checkpoint of the CF model that an LLM-SRec checkpoint reads through.

    Returns None for other models, and where the CF model's file is not there any more.
    """
    used = read(path)["config"].get("teacher_used")
    files = [(changes or {}).get("align_teacher"), used["path"]] if used else []
    return next((file for file in files if file and Path(file).is_file()), None)


def order_tests(checkpoints, teachers=True, changes=None, **shared) -> list[Order]:
    """Test several checkpoints, and the CF models that they read through under the same settings.

    ``checkpoints``: pairs of a name or None, and a file.
    ``teachers``: whether CF models are tested; each once.
    """
    found, seen = [], {str(file) for _, file in checkpoints}
    for name, file in checkpoints:
        found += order_test(file, name=name, changes=changes, **shared)
        teacher = teacher_of(file, changes) if teachers else None
        if teacher and teacher not in seen:
            seen.add(teacher)
            plain = read(file)["config"]
            own = {key: plain.get(key) for key in ("user_sample", "exclude_history", "seed")}
            own = {"mode": [_mode(plain)], **own, **(changes or {})}
            label = f"CF model of {name}" if name else "CF model"
            found += order_test(teacher, name=label, changes=own, **shared)
    return found


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


# -- what was found -------------------------------------------------------------------


def to_text(found) -> str:
    """The table for a terminal; what repeats from line to line is left out."""
    rows = _rows(found)
    for row, above in zip(rows[:0:-1], rows[-2::-1]):
        row[:2] = ["" if row[:2] == above[:2] else cell for cell in row[:2]]
    return _table(rows, "simple")


def in_words(found) -> str:
    """What was done."""
    first = found[0]
    users = sorted({f"{order.users:,}" for order in found})
    tested = f"Test set of {first.dataset}, {' or '.join(users)} users"
    if not first.seeds:
        return f"{tested}; histories as they are."
    what = "all items" if first.last is None else f"the last {first.last} items"
    return (
        f"{tested}; {what} of each history "
        f"shuffled {len(first.seeds)} times (seeds {first.seeds[0]} to {first.seeds[-1]}), "
        "mean and standard deviation over these."
    )


def render_files(found) -> dict[str, bytes]:
    """The files of ``--out``: all numbers, ``{"tests": [...]}``, the table, the figure."""
    tests = [{**vars(order), "summary": order.summary()} for order in found]
    numbers = json.dumps({"files": _FILES, "tests": tests}, indent=2, allow_nan=False) + "\n"
    rows = [[in_markdown(name), *cells] for name, *cells in _rows(found)]
    table = f"{_table(rows, 'pipe')}\n\n{in_markdown(in_words(found))}\n"
    return dict(zip(_FILES, (numbers.encode(), table.encode(), svg(draw(found)))))


def _rows(found):
    """Cells of the table, one line per checkpoint, ranking and metric."""
    rows = []
    for order in found:
        for metric, values in order.summary().items():
            spread = "" if values["std"] is None else f" ± {values['std']:.4f}"
            drop = "-" if values["drop"] is None else f"{values['drop']:.1%}"
            shuffled = "-" if values["mean"] is None else f"{values['mean']:.4f}{spread}"
            true = f"{values['true']:.4f}"
            rows.append([order.name, order.ranking, metric, true, shuffled, drop])
    return rows


def _table(rows, form) -> str:
    columns = ("", "ranking", "metric", "true order", "shuffled", "relative drop")
    align = ("left",) * 3 + ("right",) * 3
    return tabulate(rows, columns, tablefmt=form, disable_numparse=True, colalign=align)


def draw(found):
    """True and shuffled order side by side by the first NDCG, or else the first metric.

    A panel for each ranking.
    """
    metrics = list(found[0].true)
    metric = next((m for m in metrics if m.startswith("ndcg")), metrics[0])
    panels: dict = {}
    for order in found:
        panels.setdefault(order.ranking, []).append(order)
    most = max(map(len, panels.values()))
    figure = new_figure(max(5, 1 + 0.9 * most), 2.6 * len(panels) + 0.4)
    grid = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (mode, shown) in zip(grid, panels.items()):
        for place, order in enumerate(shown):
            values = order.summary()[metric]
            mean, spread = values["mean"] or 0, values["std"] or 0
            axes.bar(place - 0.2, values["true"], 0.38, color=COLORS[0], label="true order")
            shuffled = {"yerr": spread, "capsize": 3, "color": COLORS[1], "label": "shuffled"}
            axes.bar(place + 0.2, mean, 0.38, **shuffled)
            if values["drop"] is not None:
                above = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
                text = f"{-values['drop']:+.0%}"
                axes.annotate(text, (place + 0.2, mean + spread), fontsize=8, **above)
        axes.set_xticks(range(len(shown)), [order.name for order in shown], fontsize=8)
        axes.set_title(mode.replace("full", "full ranking"), fontsize=10)
        axes.set_ylabel(metric.upper())
        axes.margins(y=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    legend(figure, axes)
    return figure
