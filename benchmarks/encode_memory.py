"""Peak memory of encoding a large catalogue: texts held, and as a stream.

    python -m benchmarks.encode_memory [--n=1000000] [--width=64]

A synthetic item file with about 110 characters per item. ``held`` is how local encoding prepares
it; ``streamed`` how ``--ray`` does. ``whole`` is all that the process of ``--ray`` does, with
vectors made up here in the place of workers: read, feed every text, keep shards, put the table
together, save it. Each in a process of its own, above what it had before. Mapped files are
resident too, but the system takes them back when it needs memory: without them is what counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks import timing

LIMIT = 3.0
MIB = 2**20
WORDS = "red blue soap gel for hair and skin with oil of olive in a bottle that lasts very long"


def synthesise(path: Path, n: int) -> None:
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


def measure(side: str, path: Path, width: int) -> dict:
    """Do one side's work in this process; returns bytes and seconds."""
    import torch

    from recbole_llmemb.encode.assemble import assemble
    from recbole_llmemb.encode.item_stream import read_span
    from recbole_llmemb.encode.job import EncodeJob
    from recbole_llmemb.encode.prompts import item_prompt
    from recbole_llmemb.encode.shards import ShardFolder
    from recbole_llmemb.records.items import open_items
    from recbole_llmemb.table import EmbeddingTable

    watch, began = Watch(), time.perf_counter()
    job = EncodeJob(path)
    ready = job.prepare(streamed=side != "held")
    found = {"unique": ready.unique, "key": job.key}
    if side == "whole":
        size, catalogue = job.shard_size, ready.catalogue
        count = -(-catalogue.unique // size)
        shards = ShardFolder(
            path.parent / "work",
            count,
            lambda shard: catalogue.shard_digest(shard, size),
            lambda shard: min(size, catalogue.unique - shard * size),
        )
        texts = read_span(open_items(path), item_prompt, catalogue.span(0, count, size))
        for shard, part in enumerate(texts):
            shards.put(shard, torch.rand(len(part), width))
        vectors = assemble(shards, catalogue.text_of, size, path.parent / "work")
        EmbeddingTable(catalogue.tokens, vectors).save(path.parent / "table")
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
    synthesise(path, chosen.n)
    print(f"{chosen.n:,} items, {path.stat().st_size / MIB:,.0f} MiB of text")
    peaks, keys = {}, set()
    for side in ("held", "streamed", "whole"):
        command = [sys.executable, "-m", "benchmarks.encode_memory", "--side", side, str(path)]
        command += [f"--width={chosen.width}"]
        output = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(output.stdout.splitlines()[-1])
        peaks[side] = found["peak"]
        keys.add(found["key"])
        print(
            f"  {side:<9} {found['peak'] / MIB:>8,.0f} MiB, {found['peak'] / chosen.n:,.0f} bytes "
            f"per item ({found['seconds']:.1f} s), {found['unique']:,} different texts",
            flush=True,
        )
    if len(keys) != 1:
        print("  FAIL  the keys differ")
    print(f"  the table has {4 * chosen.width} bytes per item, which none of these hold")
    timing.report("preparation, held against streamed", peaks["held"] / peaks["streamed"], LIMIT)


if __name__ == "__main__":
    main()
