"""Time and memory of `recbole-llm convert` on synthetic reviews.

    python -m benchmarks.convert_reviews [--n=1000000] [--folder=DIR]

Json lines laid out like Amazon Reviews 2023 (about 440 bytes each, text included), of n/8 users
with n/20 items, and the items' metadata. Each conversion has a process of its own; memory is its
peak over what it had after the imports. A tenth of the reviews is converted before, to see what
grows with them.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time

from benchmarks import timing

MIB = 2**20
FIRST_DAY, DAYS = 1_400_000_000_000, 3 * 10**11


def synthesise(folder: Path, n: int) -> list[Path]:
    """Write ``n`` reviews and the items' metadata."""
    draw = random.Random(0)
    users, items = max(1, n // 8), max(1, n // 20)
    reviews, meta = folder / "reviews.jsonl", folder / "meta.jsonl"
    with open(reviews, "w") as file:
        for _ in range(n):
            item = f"B{int(items * draw.random() ** 2.5):09d}"
            row = {
                "rating": float(draw.randint(1, 5)), "title": "Nice",
                "text": "very good " * draw.randint(3, 40), "images": [], "asin": item,
                "parent_asin": item, "user_id": f"AE{int(users * draw.random() ** 1.7):026d}",
                "timestamp": FIRST_DAY + draw.randrange(DAYS), "helpful_vote": 0,
                "verified_purchase": True,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    with open(meta, "w") as file:
        for item in range(items):
            row = {
                "main_category": "All Beauty", "title": f"Shampoo no {item}", "store": "Acme",
                "features": ["soft", "long"], "description": ["A fine product. " * 8],
                "price": 12.5, "categories": ["Beauty", "Hair"], "parent_asin": f"B{item:09d}",
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return [reviews, meta]


def measure(reviews: str, meta: str, out: str) -> None:
    """Convert, and print seconds, processor seconds, and MiB over those after the imports."""
    from recbole_llmemb.apps.convert import ConvertJob, convert

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, used = perf_counter(), process_time()
    done = convert(
        ConvertJob(interactions=[reviews], items=[meta], out=out, progress=False),
        report=lambda line: None,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        json.dumps([perf_counter() - began, process_time() - used, peak / 1024, done.interactions])
    )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="time and memory of convert")
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where the files go; a temporary one by default")
    options, _ = parser.parse_known_args(argv)
    print(timing.machine())
    for n in (options.n // 10, options.n):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            reviews, meta = synthesise(Path(folder), n)
            size = (reviews.stat().st_size + meta.stat().st_size) / MIB
            command = [sys.executable, "-m", "benchmarks.convert_reviews", "measure"]
            command += [str(reviews), str(meta), f"{folder}/out/reviews"]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            seconds, used, peak, left = json.loads(printed.splitlines()[-1])
            print(
                f"{n:>9,} reviews, {size:,.0f} MiB: {seconds:.1f} s ({used:.1f} s of processor), "
                f"{peak:,.0f} MiB over the imports; {left:,} interactions left",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*sys.argv[2:])
    else:
        main(sys.argv[1:])
