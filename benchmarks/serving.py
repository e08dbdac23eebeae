"""Users per second for their ten best items: Recommender against RecBole's full_sort_topk.

Both sides have the same LLMEmbSASRec (RecBole's sizes, hidden 64, histories of at most 50 items),
whose item matrix is computed before the timing starts on both. A call gets user tokens, or ids on
RecBole's side, and ends with the items and scores of the ten best: history lookup, the pass of the
model, scores of all items, and top ten. The users are those of the test split.
"""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import subjects, timing  # isort: skip  (heals RecBole)
from recbole.utils.case_study import full_sort_topk

from recbole_llmemb.apps.serve.recommender import Recommender
from recbole_llmemb.run.restore import Restored

LIMIT = 3.0
TOP = 10


def write_catalog(folder: Path, items: int, seed: int = 0) -> None:
    """A dataset in which every item is met, with histories as long as those of Amazon_Beauty.

    Those have at least 5 items and 9 on average.
    """
    draw = np.random.default_rng(seed)
    sizes = 4 + draw.geometric(1 / 5, items // 9)
    sizes[-1] += max(0, items - sizes.sum())
    owners = np.repeat(np.arange(len(sizes)), sizes)
    more = draw.integers(0, items, len(owners) - items)
    met = np.concatenate([draw.permutation(items), more])
    name = folder / "synthetic"
    name.mkdir(parents=True)
    with open(name / "synthetic.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        file.writelines(f"u{u}\ti{i}\t{t}\n" for t, (u, i) in enumerate(zip(owners, met)))


def compare(subject, chosen) -> None:
    """Both sides of one catalog, for each batch size."""
    model, data = subject.model.eval(), subject.data
    splits = tuple(loader._dataset for loader in (data.train, data.valid, data.test))
    subject.trainer = None
    gc.collect()
    recommender = Recommender(Restored("a model", subject.config, data.dataset, splits, model))
    tokens = data.dataset.field2id_token[data.dataset.uid_field]
    ids = data.test.dataset.inter_feat[data.dataset.uid_field].numpy()
    draw = np.random.default_rng(1)
    print(f"\n{data.dataset.item_num - 1:,} items, {len(ids):,} users")
    for size in (1, chosen.batch):
        calls = 1 if size > 1 else chosen.single
        batches = [draw.choice(ids, size, replace=False) for _ in range(calls)]
        named = [[str(tokens[i]) for i in batch] for batch in batches]
        _check(recommender, model, data, batches[0], named[0])
        sides = {
            "RecBole": partial(_theirs, model, data, batches),
            "Recommender": partial(_ours, recommender, named),
        }
        seconds = timing.alternate(sides, chosen.repeats)
        print(f"  batch {size}")
        for name, turns in seconds.items():
            rate = 1 / timing.median(turns)
            print(f"    {name:<12} {rate:>10,.1f} users/s  {timing.spread(turns)}")
        ratio = timing.median(seconds["RecBole"]) / timing.median(seconds["Recommender"])
        if size > 1:
            timing.report(f"batch {size}", ratio, LIMIT)
        else:
            print(f"        batch {size}: {ratio:.2f}x", flush=True)


def _theirs(model, data, batches) -> int:
    for batch in batches:
        full_sort_topk(batch, model, data.test, TOP, model.device)[1].cpu()
    return sum(len(batch) for batch in batches)


def _ours(recommender, batches) -> int:
    found = [recommender.recommend(batch, topk=TOP, split="test").items for batch in batches]
    return sum(len(rows) for rows in found)


def _check(recommender, model, data, batch, named):
    """Both sides give the same lists, but for the order of scores that are equal to rounding."""
    scores, _ = full_sort_topk(batch, model, data.test, TOP, model.device)
    mine = recommender.recommend(named, topk=TOP, split="test").scores
    torch.testing.assert_close(mine, scores.cpu(), rtol=1e-4, atol=1e-5)


def main(argv=None):
    parser = timing.options(__doc__, repeats=7)
    parser.add_argument("--items", type=int, default=1_000_000, help="of the synthetic catalog")
    parser.add_argument(
        "--batch",
        type=int,
        default=1024,
        help="users at a time, beside one",
    )
    parser.add_argument("--hidden", type=int, default=64, help="size of states and items")
    parser.add_argument("--single", type=int, default=50, help="calls of one user in a turn")
    parser.add_argument("--gpu", action="store_true", help="run the model on the GPU")
    chosen = timing.start(parser, argv)
    common = {"use_gpu": chosen.gpu, "item_embedding": "id", "hidden_size": chosen.hidden}
    common |= {"n_heads": 2, "inner_size": 256}
    if (chosen.data_path / "Amazon_Beauty").is_dir():
        compare(subjects.ours("Amazon_Beauty", chosen.data_path, **common), chosen)
    folder = Path(chosen.scratch.name)
    write_catalog(folder, chosen.items)
    compare(subjects.ours("synthetic", folder, **common), chosen)


if __name__ == "__main__":
    main()
