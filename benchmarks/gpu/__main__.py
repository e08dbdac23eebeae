"""What this package does on a GPU: its tests, then measurements, most telling first.

    python -m benchmarks.gpu [--minutes=8] [--out=FILE.json] [--device=cuda|cpu] [--steps NAME …]

Each step has its share of the minutes and a process of its own; one that fails, or runs out of
memory, does not stop the others. Results are written after every line, and the same command again,
on such a card and with the same versions, measures what the file lacks. Nothing is downloaded:
vectors are random and encoders are made from configurations. On a CPU everything runs at toy
size, which measures nothing.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.gpu import wheels
from benchmarks.gpu.results import Results
from benchmarks.gpu.runner import ROOT, STEPS, run


def main(argv: list[str] | None = None) -> int:
    """Measure; 0 if every step came to its end, 1 if not, 2 without a GPU or a package."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8, help="of all steps (default: 8)")
    parser.add_argument(
        "--out",
        type=Path,
        help="results, .json; the same as .md beside it (default: benchmarks/results/gpu.json; "
        "on a CPU none)",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    names = [step.name for step in STEPS]
    parser.add_argument("--steps", nargs="+", choices=names, default=names, metavar="NAME")
    chosen = parser.parse_args(argv)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print(
            "PyTorch finds no CUDA device here, so there is nothing to measure; run this where "
            "there is a GPU, or with --device=cpu at toy size.",
            file=sys.stderr,
        )
        return 2
    if names := wheels.absent():  # known now rather than from each step's failure
        print(
            f"This environment lacks {', '.join(names)}; install what it lacks "
            "(`make gpu-wheels` collects it).",
            file=sys.stderr,
        )
        return 2
    out = chosen.out
    if out is None and chosen.device == "cuda":
        out = ROOT / "benchmarks" / "results" / "gpu.json"
    on_gpu = chosen.device == "cuda"
    facts = {
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "minutes": chosen.minutes,
        "toy": not on_gpu,
    }
    steps = [step for step in STEPS if step.name in chosen.steps]
    results = Results(
        None if out is None else out.with_suffix(".json").resolve(),
        facts,
        {step.name: step.title for step in STEPS},
    )
    print(f"{facts['device']}, PyTorch {facts['torch']}, Python {facts['python']}")
    with tempfile.TemporaryDirectory(prefix="benchmark-gpu-", ignore_cleanup_errors=True) as folder:
        return 0 if run(steps, chosen.device, chosen.minutes, Path(folder), results) else 1


if __name__ == "__main__":
    sys.exit(main())
