"""Peak memory of LLM-SRec's table form on Amazon_Beauty: data, model, steps, an evaluation batch.

    python -m benchmarks.llmsrec_memory --data_path=../shared/data --threads=1

All users, MiniLM in float32, the defaults otherwise; the table and the CF model are of random
numbers, which are as large as trained ones. Prompts are of one length at most, so that a few
steps reach the peak of an epoch.
"""

from __future__ import annotations

import resource
import sys
from itertools import islice
from pathlib import Path

import torch

from benchmarks import timing
from benchmarks.llmsrec_step import build


def main(argv=None):
    parser = timing.options(__doc__, repeats=1)
    parser.add_argument("--steps", type=int, default=30)
    options = timing.start(parser, argv)
    if not (options.data_path / "Amazon_Beauty").is_dir():
        print(f"  SKIP  there is no Amazon_Beauty in {options.data_path}")
        return 0
    report("imports")
    own = {"data_path": str(options.data_path), "llm_model": None, "checkpoint_dir": "saved"}
    data, model, trainer = build(Path.cwd(), "table", dataset="Amazon_Beauty", **own)
    frozen, trained = model.frozen_parameters(), sum(p.numel() for p in model.parameters())
    print(f"  {frozen:,} frozen and {trained:,} trained parameters")
    report("data, LLM, CF model and table")
    data.train.form = model.form
    batches = list(islice(data.train, options.steps))
    trainer._train_epoch(batches_of(batches, data.train), 0)
    report(f"{options.steps} training steps of {trainer.config['train_batch_size']} users")
    model.eval()
    with torch.no_grad():
        model.full_sort_predict(next(iter(data.valid))[0])
    report(f"full ranking of {data.valid.step} users")
    return 0


def batches_of(batches, loader):
    """These batches with what a trainer looks for on a loader."""

    class Some(list):
        sampler = loader.sampler

    return Some(batches)


def report(when):
    """The peak so far, the most that ever was resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"  {peak:8,.0f} MiB  after {when}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
