"""Peak memory of data preparation: RecBole's augmentation against ours.

    python -m benchmarks.memory [--n=5000000] [--length=50]

Synthetic interactions in RecBole's atomic format, prepared by the same calls, each side in
a process of its own. Two peaks of resident memory: of the step from sorted interactions to
loaders (augmentation, split, loaders), and of the whole preparation, reading the file
included, which is RecBole's code and the same on both sides.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks import subjects, timing

LIMIT = 5.0
SIDES = {"RecBole SASRec": "SASRec", "LLMEmbSASRec": "LLMEmbSASRec"}
MIB = 2**20


def synthesise(folder: Path, n: int) -> None:
    """Write ``n`` interactions of n/40 users of uneven activity with 50,000 items."""
    rng = np.random.default_rng(0)
    users = max(1, n // 40)
    activity = rng.lognormal(0.0, 1.0, users)
    user = np.sort(rng.choice(users, n, p=activity / activity.sum()))
    item = rng.integers(0, 50_000, n)
    when = rng.integers(1_300_000_000, 1_600_000_000, n)
    folder.mkdir(parents=True)
    with open(folder / f"{folder.name}.inter", "w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for begin in range(0, n, 100_000):
            part = slice(begin, begin + 100_000)
            rows = zip(user[part].tolist(), item[part].tolist(), when[part].tolist())
            file.writelines(f"u{u}\ti{i}\t{t}\n" for u, i, t in rows)


class Peak:
    """High-water mark of this process's resident memory since :meth:`reset`."""

    def __init__(self):
        self.reset()

    def reset(self):
        # Memory that is free but still held would hide what is asked for next.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.exact = True
        except OSError:  # the mark of the whole process is all there is
            self.exact = False
        self.base = self._read("VmRSS") if self.exact else self.highest()

    def highest(self):
        if self.exact:
            return self._read("VmHWM")
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def risen(self):
        """Bytes above where it was at the reset."""
        return self.highest() - self.base

    @staticmethod
    def _read(name):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise OSError(name)


def measure(model: str, folder: Path, length: int) -> dict:
    """Prepare the data in this process; returns peaks in bytes and seconds."""
    from recbole.data.dataset import SequentialDataset

    from recbole_llmemb.data.dataset import LazySequentialDataset
    from recbole_llmemb.run import stages

    config = subjects.configure(
        model, folder.name, folder.parent, MAX_ITEM_LIST_LENGTH=length, loss_type="CE"
    )
    peak = Peak()
    whole_base, before, began = peak.base, [], []

    def watched(original):
        def data_augmentation(self):
            before.append(peak.highest())
            peak.reset()
            began.append(perf_counter())
            return original(self)

        return data_augmentation

    for dataset_class in (SequentialDataset, LazySequentialDataset):
        method = dataset_class.__dict__["data_augmentation"]
        dataset_class.data_augmentation = watched(method)

    started = perf_counter()
    data = stages.prepare_data(config)
    ended = perf_counter()
    return {
        "rows": len(data.train._dataset),
        "step": peak.risen(),
        "whole": max(peak.highest(), before[0]) - whole_base,
        "step_seconds": ended - began[0],
        "whole_seconds": ended - started,
        "exact": peak.exact,
    }


def main(argv=None):
    parser = timing.options(__doc__, repeats=1)
    parser.add_argument("--n", type=int, default=5_000_000, help="interactions")
    parser.add_argument("--length", type=int, default=50, help="MAX_ITEM_LIST_LENGTH")
    parser.add_argument("--side", nargs=2, metavar=("MODEL", "FOLDER"), help="used internally")
    given = parser.parse_args(argv)
    if given.side:
        timing.quiet()
        print(json.dumps(measure(given.side[0], Path(given.side[1]), given.length)))
        return
    root = Path.cwd()
    chosen = timing.start(parser, argv)
    folder = Path(chosen.scratch.name) / f"synthetic-{chosen.n}"
    synthesise(folder, chosen.n)
    print(f"{chosen.n:,} interactions, histories of at most {chosen.length}")
    found = {}
    for name, model in SIDES.items():
        command = [sys.executable, "-m", "benchmarks.memory", "--side", model, str(folder)]
        command += [f"--length={chosen.length}"]
        output = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = side = json.loads(output.stdout.splitlines()[-1])
        print(
            f"  {name:<15} augmentation to loaders {side['step'] / MIB:>8,.0f} MiB"
            f" ({side['step_seconds']:.1f} s), whole {side['whole'] / MIB:>8,.0f} MiB"
            f" ({side['whole_seconds']:.1f} s), {side['rows']:,} training positions"
            + ("" if side["exact"] else " (marks of the whole process)"),
            flush=True,
        )
    recbole, ours = found.values()
    timing.report("augmentation to loaders", recbole["step"] / ours["step"], LIMIT)
    timing.report("whole preparation", recbole["whole"] / ours["whole"], LIMIT)


if __name__ == "__main__":
    main()
