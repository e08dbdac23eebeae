"""What came of the trials of a search, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from recbole_llmemb.core.errors import UserError


@dataclass
class Trial:
    """One trial of a finished search."""

    number: int  # From 1, in the order in which they were begun
    settings: dict  # The searched keys
    score: float | None = None  # The search's metric at the trial's best epoch
    failed: str | None = None  # Why there is none
    epochs: int = 0
    best_epoch: int = 0
    stopped: bool = False  # Whether the scheduler ended it before it had ended itself
    seconds: float = 0.0
    curve: list = field(default_factory=list)  # Epoch, and the metric at that epoch
    node: str = ""  # Where it ran: the address, and how Ray calls the node
    checkpoint: object = None

    @property
    def status(self) -> str:
        """In a word, for tables."""
        return "failed" if self.failed else "stopped early" if self.stopped else "finished"


def settings_of(config: dict) -> dict:
    """The searched keys of what Ray calls a trial's configuration."""
    return dict(config["trial"]["settings"] if "trial" in config else config)


def number_of(config: dict) -> int:
    """A trial's number, from 1."""
    return config["trial"]["number"] if "trial" in (config or {}) else 0


def stopped_early(result: dict) -> bool:
    """Whether a last result is of a trial that had not ended itself."""
    return "epoch" in result and not result.get("ended")


def in_words(settings: dict) -> str:
    """``learning_rate=0.00123, n_layers=2``."""
    return ", ".join(f"{key}={short(value)}" for key, value in settings.items())


def short(value) -> str:
    """A value for tables, floats to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def collect(grid, metric) -> list[Trial]:
    """The trials of a :class:`ray.tune.ResultGrid`, in the order in which they began."""
    return sorted((_trial(result, metric) for result in grid), key=lambda trial: trial.number)


def _trial(result, metric) -> Trial:
    last, frame = dict(result.metrics or {}), result.metrics_dataframe
    rows = [last] if frame is None else frame.to_dict("records")
    # Without NaN; of an epoch that was trained twice, the later.
    rows = [{key: value for key, value in row.items() if value == value} for row in rows]
    epochs = {int(row["epoch"]): row for row in rows if row.get("score") is not None}
    trial = Trial(number_of(result.config), settings_of(result.config))
    trial.failed = next((row["failed"] for row in [last, *rows] if row.get("failed")), None)
    if result.error is not None and not trial.failed:
        trial.failed = _why(result.error)
    trial.seconds = float(last.get("time_total_s") or 0.0)
    nodes = [row["node"] for row in rows if "node" in row]
    trial.node = " ".join(filter(None, (last.get("node_ip"), *nodes[-1:])))
    trial.checkpoint = result.checkpoint
    name = metric.name
    trial.curve = [
        (epoch, epochs[epoch][name]) for epoch in sorted(epochs) if name in epochs[epoch]
    ]
    if epochs:
        trial.epochs = max(epochs)
        final = epochs[trial.epochs]
        trial.best_epoch = int(final["best_epoch"])
        trial.stopped = not trial.failed and stopped_early(final)
        trial.score = None if trial.failed else final["score"]
    elif not trial.failed:
        trial.failed = "it was never begun"
    return trial


def _why(error) -> str:
    text = " ".join(str(error).split())
    if "died" in text.lower() or "ActorDied" in type(error).__name__:
        return "its process died, 3 times (killed, or the machine was out of memory)"
    return text[-300:]


def best_of(trials, metric) -> Trial:
    """The trial with the best score, the first of equals."""
    scored = [trial for trial in trials if trial.score is not None and trial.checkpoint]
    if scored:
        return ranked_trials(scored, metric)[0]
    reasons = [trial.failed for trial in trials if trial.failed]
    first = max(set(reasons), key=reasons.count) if reasons else "none was begun"
    raise UserError(f"All {len(trials)} trials failed, most of them with: {first.rstrip('.')}.")


def ranked_trials(trials, metric) -> list[Trial]:
    """The best first, failed ones last."""
    sign = -1 if metric.mode == "max" else 1
    return sorted(trials, key=lambda t: (t.score is None, sign * (t.score or 0.0), t.number))
