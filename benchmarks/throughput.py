"""Training positions per second: LLMEmbSASRec in sequence mode against RecBole's SASRec.

    python -m benchmarks.throughput [--repeats=5] [--data_path=DIR]

A position is one (history, target) pair trained on. RecBole's side runs its own class,
augmented prefixes, loader and trainer, 2,048 rows a step; ours 128 sequences a step. Same
hidden size, layers, heads, length and loss; anomaly detection, which importing RecBole's
models switches on, is off on both sides.
"""

from __future__ import annotations

from benchmarks import subjects, timing

LIMITS = {"ml-100k": 15.0, "Amazon_Beauty": 5.0}


def compare(dataset, loss, chosen):
    """Measure one dataset under one loss."""
    shared = {"loss_type": loss, **subjects.SIZES}
    recbole = subjects.stock(dataset, chosen.data_path, **shared)
    table = subjects.ours(dataset, chosen.data_path, item_embedding="table", **shared)
    ids = subjects.ours(dataset, chosen.data_path, item_embedding="id", **shared)
    sides = {
        "RecBole SASRec": lambda: recbole.train_steps(chosen.steps),
        "LLMEmbSASRec, table": lambda: table.train_steps(chosen.our_steps),
        "LLMEmbSASRec, ids": lambda: ids.train_steps(chosen.our_steps),
    }
    seconds = timing.alternate(sides, chosen.repeats)
    print(f"\n{dataset}, {loss}: {len(recbole.data.train._dataset):,} positions an epoch")
    for name, turns in seconds.items():
        each = timing.median(turns)
        print(f"  {name:<20} {1 / each:>10,.0f} positions/s  {timing.spread(turns)}")
    stock = timing.median(seconds["RecBole SASRec"])
    for name in list(sides)[1:]:
        timing.report(name, stock / timing.median(seconds[name]), LIMITS[dataset])


def main(argv=None):
    parser = timing.options(__doc__, repeats=5)
    parser.add_argument("--steps", type=int, default=3, help="steps of RecBole's in a turn")
    parser.add_argument("--our_steps", type=int, help="steps of ours (default: an epoch)")
    parser.add_argument("--datasets", nargs="+", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--losses", nargs="+", default=["CE", "BPR"], choices=["CE", "BPR"])
    chosen = timing.start(parser, argv)
    for dataset in chosen.datasets:
        for loss in chosen.losses:
            compare(dataset, loss, chosen)


if __name__ == "__main__":
    main()
