"""``python -m tests.record``: the numbers of small seeded runs, to the last digit.

    python -m tests.record                      compare with numbers.json; 1 where they differ
    python -m tests.record --write              write numbers.json
    python -m tests.record --only=A,B           these entries only (--list names them)

Everything goes through the command line of the package, in this process, and what comes out is
read from the files that commands write. So a change of the code that is to change no number can
be checked against the commit before it. Numbers are written and compared on one machine: another
processor or another PyTorch may round otherwise, so these files are no test that must pass
everywhere. Write the numbers at the commit before, then compare after each step.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter

# One thread, no GPU, no network: before anything imports PyTorch.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "RECBOLE_LLMEMB_CACHE": "cache",
}

NUMBERS = Path(__file__).with_name("numbers.json")


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="write the numbers, compare none")
    parser.add_argument("--only", help="entries, separated by commas")
    parser.add_argument("--list", action="store_true", help="name the entries")
    parser.add_argument("--file", type=Path, default=NUMBERS, help="default: numbers.json here")
    options = parser.parse_args(argv)
    os.environ |= ENVIRONMENT
    from .entries import ENTRIES

    names = options.only.split(",") if options.only else list(ENTRIES)
    if unknown := set(names) - set(ENTRIES):
        parser.error(f"no such entry: {', '.join(sorted(unknown))}")
    if options.list:
        print("\n".join(names))
        return 0
    options.file = options.file.resolve()
    known = json.loads(options.file.read_text()) if options.file.is_file() else {}
    found = record(names)
    failed = [name for name in names if "failed" in found[name]]
    if options.write and failed:
        print("nothing is written, as these failed:", *failed, sep="\n")
        return 1
    if options.write:
        kept = {name: known[name] for name in known if options.only and name in ENTRIES}
        options.file.write_text(written(kept | found))
        return 0
    differing = differences({name: known.get(name, {}) for name in names}, found)
    for line in differing:
        print(line)
    print(f"{len(differing)} figures differ" if differing else f"{len(names)} entries: the same")
    return 1 if differing else 0


def record(names):
    """Figures of entries, made in a folder that is gone afterwards."""
    import torch

    from .entries import ENTRIES, Commands

    torch.set_num_threads(1)
    before, found = os.getcwd(), {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            commands = Commands()
            for name in names:
                began = perf_counter()
                try:
                    found[name] = ENTRIES[name](commands)
                except Exception as error:  # of the package: the other entries are still wanted
                    found[name] = {"failed": f"{type(error).__name__}: {error}"}
                    print(f"{name} failed: {error}", file=sys.stderr)
                print(f"{name}: {perf_counter() - began:.1f} s", file=sys.stderr)
        finally:
            os.chdir(before)
    return json.loads(json.dumps(found))


def written(numbers):
    """JSON with a line for each part of an entry; Python writes floats to the last digit."""

    def line(value):
        return json.dumps(value, ensure_ascii=False)

    entries = []
    for name, parts in sorted(numbers.items()):
        lines = (f"  {line(part)}: {line(value)}" for part, value in parts.items())
        entries.append(f" {line(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def differences(known, found, where=""):
    """A line for each figure that differs: where it stands, what it was, what it is."""
    if isinstance(known, list) and isinstance(found, list):
        known, found = (dict(enumerate(values)) for values in (known, found))
    if not (isinstance(known, dict) and isinstance(found, dict)):
        # By their text, so that 1 and 1.0, or 0.0 and -0.0, differ.
        return [f"{where}: {known!r} -> {found!r}"] if repr(known) != repr(found) else []
    lines = []
    for key in [*known, *(key for key in found if key not in known)]:
        pair = known.get(key, "nothing"), found.get(key, "nothing")
        lines += differences(*pair, f"{where}/{key}" if where else str(key))
    return lines


if __name__ == "__main__":
    sys.exit(main())
