"""Peak memory of encoding a large catalog, whose texts are on the disk.

    python -m benchmarks.encode_memory [--n=1000000] [--width=64]

A synthetic item file with about 110 characters per item. ``held`` is all texts and attributes in
memory; ``spooled`` how encoding prepares it. ``whole`` is all that the process of ``--ray`` does,
with vectors made up here in the place of workers: read, feed every text, keep shards, put the
table together, save it. Each in a process of its own, above what it had before. Mapped files are
resident too, but the system takes them back when it needs memory: without them is what counts.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks import timing

LIMIT = 2.0
MIB = 2**20
WORDS = "red blue soap gel for hair and skin with oil of olive in a bottle that lasts very long"


def synthesize(path: Path, n: int) -> None:
    """Write ``n`` items, one in ten with the text of another."""
    words = WORDS.split()
    with open(path, "w") as file:
        file.write("item_id:token\ttitle:token_seq\tbrand:token\tkind:token_seq\n")
        for i in range(n):
            j = i // 10 if i % 10 == 9 else i
            title = f"number {j} " + " ".join(words[(j >> k) % len(words)] for k in range(9))
            file.write(
                f"B{i:09d}\t{title}\tbrand {j % 977}\t{' '.join(words[j % 7 : j % 7 + 8])}\n"
            )


class Watch:
    """Highest anonymous memory of this process, looked at 50 times a second."""

    def __init__(self):
        self.base = self.peak = self._now()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            self.peak = max(self.peak, self._now())
            time.sleep(0.02)

    @staticmethod
    def _now():
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise OSError("RssAnon")


class RandomPool:
    """Vectors for nothing."""

    def __init__(self, width: int):
        self.width = width

    def running(self, missing, of):
        return contextlib.nullcontext()

    def encode(self, missing, texts_of, tell):
        import torch

        for number in missing:
            yield number, torch.rand(len(texts_of(number)), self.width)


def measure(side: str, path: Path, width: int) -> dict:
    """Do one side's work in this process; returns bytes and seconds."""
    from recbole_llmemb.encode import item_prompts, read_items
    from recbole_llmemb.encode.job import EncodeJob
    from recbole_llmemb.encode.shards import assemble, encode_resumably, plan_in_file_order
    from recbole_llmemb.table import EmbeddingTable

    watch, began = Watch(), time.perf_counter()
    job, work = EncodeJob(item_file=path), path.parent / "work"
    if side == "held":
        items = read_items(path)
        held = set(item_prompts(items.attributes))
        found = {"unique": len(held)}
    else:
        catalog = job.items
        found = {"unique": len(catalog.texts)}
    if side == "whole":
        plan = plan_in_file_order(catalog, work, job.key, job.shard_size)
        encode_resumably(plan, catalog, RandomPool(width))
        vectors = assemble(plan, catalog.text_of)
        EmbeddingTable(catalog.tokens, vectors).save(path.parent / "table")
    return {**found, "peak": watch.peak - watch.base, "seconds": time.perf_counter() - began}


def main(argv=None):
    parser = timing.options(__doc__, repeats=1)
    parser.add_argument("--n", type=int, default=1_000_000, help="items")
    parser.add_argument("--width", type=int, default=64, help="of the vectors")
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "FILE"), help="used internally")
    given = parser.parse_args(argv)
    if given.side:
        print(json.dumps(measure(given.side[0], Path(given.side[1]), given.width)))
        return
    root = Path.cwd()
    chosen = timing.start(parser, argv)
    path = Path(chosen.scratch.name) / "synthetic.item"
    synthesize(path, chosen.n)
    print(f"{chosen.n:,} items, {path.stat().st_size / MIB:,.0f} MiB of text")
    peaks, unique = {}, set()
    for side in ("held", "spooled", "whole"):
        command = [sys.executable, "-m", "benchmarks.encode_memory", "--side", side, str(path)]
        command += [f"--width={chosen.width}"]
        output = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(output.stdout.splitlines()[-1])
        peaks[side] = found["peak"]
        unique.add(found["unique"])
        print(
            f"  {side:<9} {found['peak'] / MIB:>8,.0f} MiB, {found['peak'] / chosen.n:,.0f} bytes "
            f"per item ({found['seconds']:.1f} s), {found['unique']:,} different texts",
            flush=True,
        )
    if len(unique) != 1:
        print("  FAIL  the texts differ")
    print(f"  the table has {4 * chosen.width} bytes per item, which none of these hold")
    timing.report("preparation, held against spooled", peaks["held"] / peaks["spooled"], LIMIT)


if __name__ == "__main__":
    main()
