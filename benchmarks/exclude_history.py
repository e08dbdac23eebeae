"""The time that exclude_history adds to an evaluation of Amazon_Beauty's test users.

    python -m benchmarks.exclude_history [--repeats=9] [--data_path=DIR]

LLMEmbSASRec with IDs, untrained: the history kept among the candidates, and removed, under full
ranking and against 100 sampled items. Where Amazon_Beauty is not there, random interactions of as
many users and items take its place.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import subjects, timing

DATASET = "Amazon_Beauty"
USERS, ITEMS, INTERACTIONS = 22_363, 12_101, 198_502
LIMIT = 1.1


def random_data(folder):
    """Write a dataset of that size, each item at least once; returns the folder to read from."""
    random = np.random.default_rng(0)
    users = np.sort(np.r_[np.tile(np.arange(USERS), 5), random.integers(0, USERS, INTERACTIONS)])
    users = users[:INTERACTIONS]
    items = (ITEMS * random.random(INTERACTIONS) ** 2).astype(int)
    items[random.permutation(INTERACTIONS)[:ITEMS]] = np.arange(ITEMS)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"{user}\t{item}\t{time}" for time, (user, item) in enumerate(zip(users, items))]
    target = folder / "random" / DATASET
    target.mkdir(parents=True)
    (target / f"{DATASET}.inter").write_text("\n".join(lines) + "\n")
    return target.parent


def compare(mode, chosen):
    """Measure one way of ranking; returns whether the limit is kept."""
    sides, users = {}, 0
    args = {**subjects.FULL_RANKING["eval_args"], "mode": mode}
    for name, excluded in (("history kept", False), ("history removed", True)):
        subject = subjects.ours(
            DATASET,
            chosen.data_path,
            item_embedding="id",
            loss_type="CE",
            eval_args=args,
            exclude_history=excluded,
        )
        subject.model.eval()
        users = len(subject.data.test._dataset)
        sides[name] = lambda s=subject: s.trainer.evaluate(s.data.test, load_best_model=False) and 1
    seconds = timing.alternate(sides, chosen.repeats)
    print(f"\n{mode}, {users:,} users")
    for name, turns in seconds.items():
        print(f"  {name:<16} {timing.median(turns):>8.3f} s  {timing.spread(turns)}")
    kept, removed = (timing.median(turns) for turns in seconds.values())
    return timing.report(f"{mode}, removed over kept", removed / kept, LIMIT, at_least=False)


def main(argv=None):
    chosen = timing.start(timing.options(__doc__, repeats=9), argv)
    if not (chosen.data_path / DATASET).is_dir():
        print("random data")
        chosen.data_path = random_data(Path(chosen.scratch.name))
    for mode in ("full", "uni100"):
        compare(mode, chosen)


if __name__ == "__main__":
    main()
