"""``python -m tests.campaign``: looks for what breaks, at random, for as long as it is given.

    python -m tests.campaign                      every part, 5 minutes in all
    python -m tests.campaign --minutes=60         longer
    python -m tests.campaign --only=kills,faults  these parts (--list names them)
    python -m tests.campaign --seed=7             other cases

Each part prints its counts and a line for each case that fell; the exit code is 1 where any did.
The same seed draws the same cases, as many as there is time for.
"""

from __future__ import annotations

import argparse
import importlib
import os
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


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=5, help="shared by the parts")
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
    os.environ |= ENVIRONMENT
    fell = 0
    for name in names:
        began = perf_counter()
        counts = part(name, options.minutes / len(names), options.seed)
        fell += len(counts.fell)
        print(f"{name}: {counts} ({(perf_counter() - began) / 60:.1f} min)", flush=True)
        for line in counts.fell:
            print(f"  {line}", flush=True)
    return 1 if fell else 0


def part(name, minutes, seed):
    """The counts of a part, which works in a folder that is gone afterwards."""
    run = importlib.import_module(f"{__package__}.{name}").run
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix=f"campaign-{name}-") as folder:
        os.chdir(folder)
        try:
            return run(minutes, seed, Path(folder))
        finally:
            os.chdir(before)


if __name__ == "__main__":
    sys.exit(main())
