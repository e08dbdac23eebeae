"""The cost of an adapted table over an ID embedding, for a step and for full ranking.

    python -m benchmarks.adapter_cost [--repeats=5] [--data_path=DIR]

LLMEmbSASRec in sequence mode on Amazon_Beauty: the same batches, backbone and loss, only
the item embedding differs. The 384-wide table is the default encoder's; the 1,536-wide one
is random, which costs the same. ``llm_table_dtype`` is left to its default, which is bfloat16
for the wide table where the device computes in it; the other format is measured beside it, the
wide table in float32 without a limit: its products alone cost more than the rest of the step.
Every ranking follows a training step, so that the item matrix is adapted anew, as after an
epoch.
"""

from __future__ import annotations

from benchmarks import subjects, timing

DATASET = "Amazon_Beauty"
STEP_LIMITS = {
    "table 384": 1.25,
    "table 1536": 1.5,
    "table 384, bfloat16": 1.25,
    "table 1536, float32": None,
}
EVALUATION_LIMIT = 1.1


def compare(hidden_size, loss, chosen, evaluate):
    """Measure one size under one loss."""
    shared = {"loss_type": loss, "hidden_size": hidden_size}
    ids = subjects.ours(DATASET, chosen.data_path, item_embedding="id", **shared)
    wide = subjects.random_table(chosen.scratch.name, ids.data.dataset, 1536)
    models = {"id": ids}
    for name in STEP_LIMITS:
        dtype = name.partition(", ")[2]
        kind = {"llm_table_dtype": dtype} if dtype else {}
        if "1536" in name:
            kind["llm_table"] = str(wide)
        models[name] = subjects.ours(DATASET, chosen.data_path, ids.data, **kind, **shared)
    plan = ids.data.train.plan()[: chosen.steps]
    batches = [ids.data.train.collate(index) for index in plan]

    def step(subject):
        def work():
            subject.train(batches)
            return len(batches)

        return work

    seconds = timing.alternate({n: step(s) for n, s in models.items()}, chosen.repeats)
    print(f"\n{loss}, hidden {hidden_size}: a training step")
    _print(seconds, STEP_LIMITS)
    if not evaluate:
        return

    taken: dict = {name: [] for name in models}
    for _ in range(chosen.repeats + 1):
        for name, subject in models.items():
            subject.train(batches[:1])  # so nothing adapted before is still good
            took = timing.alternate({name: lambda s=subject: _rank(s)}, 1, warmup=0)
            taken[name] += took[name]
    print(f"\n{loss}, hidden {hidden_size}: full ranking of the validation users")
    _print(
        {n: turns[1:] for n, turns in taken.items()}, dict.fromkeys(STEP_LIMITS, EVALUATION_LIMIT)
    )


def _rank(subject):
    subject.trainer.evaluate(subject.data.valid, load_best_model=False)


def _print(seconds, limits):
    for name, turns in seconds.items():
        print(f"  {name:<20} {timing.median(turns) * 1e3:>9.1f} ms  {timing.spread(turns)}")
    for name, limit in limits.items():
        ratio = timing.median(seconds[name]) / timing.median(seconds["id"])
        if limit is None:
            print(f"        {name}: {ratio:.2f}x")
        else:
            timing.report(name, ratio, limit, at_least=False)


def main(argv=None):
    parser = timing.options(__doc__, repeats=5)
    parser.add_argument("--steps", type=int, default=20, help="training steps in a turn")
    parser.add_argument("--losses", nargs="+", default=["CE", "BCE"], choices=["CE", "BCE", "BPR"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 64])
    chosen = timing.start(parser, argv)
    for size in chosen.sizes:
        for loss in chosen.losses:
            # Ranking does not depend on the loss.
            compare(size, loss, chosen, evaluate=loss == chosen.losses[0])


if __name__ == "__main__":
    main()
