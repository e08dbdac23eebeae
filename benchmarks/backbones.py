"""The cost of an adapted table over an ID embedding, for a step of the most used backbones.

    python -m benchmarks.backbones [--repeats=5] [--steps=10] [--data_path=DIR]

Amazon_Beauty, each backbone in its default train_mode at RecBole's own sizes (length 50, hidden
64), with CE: the same batches, only the item embedding differs. The 384-wide table is
the default encoder's. In prefix mode padding is left out where it may be (prefix_trim).
"""

from __future__ import annotations

from itertools import islice

from benchmarks import subjects, timing

DATASET = "Amazon_Beauty"
BACKBONES = ("SASRec", "GRU4Rec", "BERT4Rec", "NARM", "NextItNet")
LIMIT = 1.25
#: Where RecBole's sizes are not what the package sets for its own three.
SIZES = {
    "SASRec": subjects.SIZES,
    "BERT4Rec": subjects.SIZES,
    "GRU4Rec": {"embedding_size": 64, "hidden_size": 128, "dropout_prob": 0.3},
}


def build(backbone, kind, chosen, data=None, **more):
    """One side: the model over the table, or over IDs; ``more`` are settings."""
    given = {
        "item_embedding": kind,
        "loss_type": "CE",
        "align_weight": 0,
        **SIZES.get(backbone, {}),
        **more,
    }
    if backbone == "NARM":
        given["prefix_trim"] = True
    config = subjects.configure(f"LLMEmb{backbone}", DATASET, chosen.data_path, **given)
    if config["train_mode"] == "prefix":
        given["train_batch_size"] = 2048
        config = subjects.configure(f"LLMEmb{backbone}", DATASET, chosen.data_path, **given)
    return subjects.build(config, data)


def compare(backbone, chosen):
    """Measure one backbone; returns the seconds of a step by kind of item embedding."""
    ids = build(backbone, "id", chosen)
    table = build(backbone, "table", chosen, ids.data)
    halved = build(backbone, "table", chosen, ids.data, llm_table_dtype="bfloat16")
    batches = list(islice(ids.data.train, chosen.steps))

    def step(subject):
        def work():
            subject.train(batches)
            return len(batches)

        return work

    sides = {"id": step(ids), "table": step(table), "bfloat16": step(halved)}
    seconds = timing.alternate(sides, chosen.repeats)
    print(f"\n{backbone}, {ids.config['train_mode']} mode")
    for name, turns in seconds.items():
        print(f"  {name:<10} {timing.median(turns) * 1e3:>9.1f} ms  {timing.spread(turns)}")
    ratio = timing.median(seconds["table"]) / timing.median(seconds["id"])
    timing.report(f"{backbone}, table 384", ratio, LIMIT, at_least=False)
    ratio = timing.median(seconds["bfloat16"]) / timing.median(seconds["id"])
    print(f"        {backbone}, table 384 in bfloat16: {ratio:.2f}x")


def main(argv=None):
    parser = timing.options(__doc__, repeats=5)
    parser.add_argument("--steps", type=int, default=10, help="training steps in a turn")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, help="names of RecBole")
    chosen = timing.start(parser, argv)
    for backbone in chosen.backbones:
        compare(backbone, chosen)


if __name__ == "__main__":
    main()
