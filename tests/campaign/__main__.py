"""``python -m tests.campaign``: looks for what breaks, at random, for as long as it is given.

    python -m tests.campaign                      every part, 5 minutes, at once
    python -m tests.campaign --minutes=60         longer
    python -m tests.campaign --only=kills,faults  these parts (--list names them)
    python -m tests.campaign --seed=7             other cases

Each part has a process of its own; it prints its counts when it ends, and each case that fell at
once. The exit code is 1 where any did.
The same seed draws the same cases, as many as there is time for.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from tests.record.__main__ import ENVIRONMENT

# Each a module here with ``run(minutes, seed, folder)``, which returns its Counts. ``folder`` is
# its own and empty; it runs in it.
PARTS = {
    "kills": "commands killed at random moments, and given again",
    "faults": "every file that a command writes, damaged; disks that are full",
    "inputs": "wrong values for every key and option, and wrong files",
    "hostile": "a payload in every format and behind every key that takes a path",
}
# Those that try thousands leave the processors to those that start a process for each case.
PATIENT = {"inputs": 10, "hostile": 10, "kills": 5}


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=5, help="of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="parts, separated by commas")
    parser.add_argument("--list", action="store_true", help="name the parts")
    options = parser.parse_args(argv)
    names = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.list:
        print("\n".join(f"{name:<10} {PARTS[name]}" for name in names))
        return 0
    if len(names) == 1:
        os.environ |= ENVIRONMENT
        return part(names[0], options.minutes, options.seed)
    words = [sys.executable, "-m", __package__, f"--minutes={options.minutes}"]
    words.append(f"--seed={options.seed}")
    running = []
    for name in names:
        work = subprocess.Popen([*words, f"--only={name}"])
        os.setpriority(os.PRIO_PROCESS, work.pid, PATIENT.get(name, 0))
        running.append(work)
    return max(work.wait() for work in running)


def part(name, minutes, seed) -> int:
    """1 where a part fell, else 0; it works in a folder that is gone afterwards."""
    run, before = importlib.import_module(f"{__package__}.{name}").run, os.getcwd()
    began = perf_counter()
    with tempfile.TemporaryDirectory(prefix=f"campaign-{name}-") as folder:
        os.chdir(folder)
        try:
            counts = run(minutes, seed, Path(folder))
        finally:
            os.chdir(before)
    print(f"{name}: {counts} ({(perf_counter() - began) / 60:.1f} min)", flush=True)
    return int(bool(counts.fell))


if __name__ == "__main__":
    sys.exit(main())
