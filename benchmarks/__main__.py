"""Run the benchmarks one after the other and keep what they print in ``results/``.

    python -m benchmarks [NAME …] [--option=value …]

Options go to every benchmark that is run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import perf_counter

NAMES = (
    "plain_step",
    "adapter_cost",
    "backbones",
    "throughput",
    "memory",
    "time_to_score",
    "encoding",
    "scft_step",
    "exclude_history",
    "serving",
    "llmsrec_step",
    "llmsrec_memory",
    "convert_reviews",
    "tune_overhead",
)
RESULTS = Path(__file__).resolve().parent / "results"


def run(name: str, options: list[str]) -> tuple[int, list[str]]:
    """Run one benchmark, showing and keeping its output; returns its status and lines."""
    RESULTS.mkdir(exist_ok=True)
    command = [sys.executable, "-u", "-m", f"benchmarks.{name}", *options]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    # Written at the end: a run that was broken off leaves the last whole one.
    if process.returncode == 0:
        (RESULTS / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    return process.returncode, lines


def main(argv: list[str]) -> int:
    names = [argument for argument in argv if argument in NAMES] or list(NAMES)
    options = [argument for argument in argv if argument not in NAMES]
    if "-h" in options or "--help" in options:
        print(f"{__doc__}\nNames: {', '.join(NAMES)}")
        return 0
    failed = []
    verdicts: list[str] = []
    for name in names:
        print(f"\n=== {name} ===", flush=True)
        began = perf_counter()
        status, lines = run(name, options)
        if status:
            failed.append(name)
        verdicts += [f"{name:<14}{v.rstrip()}" for v in lines if v.lstrip()[:4] in ("PASS", "FAIL")]
        print(f"({perf_counter() - began:.0f} s)", flush=True)
    print("\n" + "\n".join(verdicts))
    if failed:
        print(f"\nDid not run to the end: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
