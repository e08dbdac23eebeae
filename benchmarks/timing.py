"""Both sides of a comparison in one process, alternated, as medians and a ratio."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import platform
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import torch

_clock = perf_counter


def now() -> float:
    """Seconds of the clock in use: wall time unless ``--cpu_time`` is given."""
    return _clock()


def clock() -> str:
    """What its seconds are."""
    return "wall time" if _clock is perf_counter else "processor seconds"


def alternate(sides: dict[str, Callable], repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Time the sides in turns, A B A B …, so that a slow minute of the machine hits both.

    Parameters
    ----------
    sides : dict of str to callable
        Each does its work once and returns how many units it did (None: one).
    repeats : int
        Timed turns.
    warmup : int
        Turns before them that do not count.

    Returns
    -------
    dict of str to list of float
        Seconds per unit of each turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    for turn in range(-warmup, repeats):
        for name, work in sides.items():
            began = now()
            units = work() or 1
            passed = now() - began
            if turn >= 0:
                seconds[name].append(passed / units)
    return seconds


def median(seconds: list[float]) -> float:
    """The middle of the timed turns."""
    return statistics.median(seconds)


def spread(seconds: list[float]) -> str:
    """How far the turns lie apart, as ``±7%``: half their range over the median."""
    return f"±{(max(seconds) - min(seconds)) / 2 / median(seconds):.0%}"


def report(what: str, ratio: float, limit: float, at_least: bool = True) -> bool:
    """Print a ratio beside its limit; returns whether it is kept."""
    kept = ratio >= limit if at_least else ratio <= limit
    word = "at least" if at_least else "at most"
    print(
        f"  {'PASS' if kept else 'FAIL'}  {what}: {ratio:.2f}x ({word} {limit:g}x)",
        flush=True,
    )
    return kept


def machine() -> str:
    """One line on where the numbers come from."""
    model = platform.processor() or "unknown CPU"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return (
        f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )


def load() -> str:
    """How busy the machine was before the start: timings on a busy one say little."""
    try:
        busy = os.getloadavg()[0]
    except OSError:
        return "load unknown"
    return f"load {busy:.1f} at the start"


def options(description: str, repeats: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats, help="timed turns of each side")
    parser.add_argument("--threads", type=int, help="PyTorch threads (default: its own choice)")
    parser.add_argument(
        "--cpu_time",
        action="store_true",
        help="count processor seconds, for a busy machine; together with --threads=1",
    )
    parser.add_argument(
        "--data_path",
        default=Path("../shared/data"),
        type=Path,
        help="the folder that holds Amazon_Beauty/ (default: %(default)s)",
    )
    return parser


def quiet() -> None:
    """Let a process that measures say its figures alone; an import silences nobody."""
    logging.getLogger().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="recbole")


def start(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """Read the options, say where this runs, and go where a run's files may be left."""
    global _clock
    quiet()
    chosen = parser.parse_args(argv)
    _clock = process_time if chosen.cpu_time else perf_counter
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    chosen.data_path = chosen.data_path.resolve()
    print(parser.description)
    print(f"{machine()}; {clock()}; {load()}")
    # RecBole's trainers write checkpoints and TensorBoard files beside whoever starts them.
    chosen.scratch = tempfile.TemporaryDirectory(prefix="benchmark-")
    os.chdir(chosen.scratch.name)
    return chosen
