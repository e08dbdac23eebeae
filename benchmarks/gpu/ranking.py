"""Full ranking: ours against RecBole's collector, on the same scores."""

from __future__ import annotations

from itertools import islice

import torch
from recbole.evaluator.collector import Collector

from benchmarks.gpu.data import READ, write_dataset

from benchmarks import subjects  # isort: skip  (heals RecBole)


def rows(bench):
    """Users ranked per second among all items."""
    users, items = bench.size((100_000, 1_000_000), (40, 60))
    name = f"users-{users}"
    write_dataset(bench.scratch, name, items, users, 5)
    made = subjects.ours(
        name,
        bench.scratch,
        item_embedding="id",
        hidden_size=bench.size(64, 8),
        inner_size=bench.size(256, 16),
        n_heads=2,
        **READ,
        **bench.placed,
    )
    shape = f"{users:,} users, {items:,} items"
    yield bench.row(f"{shape}: LLMEmbTrainer", ours, made)
    yield bench.row(f"{shape}: full_sort_predict, RecBole's collector", theirs, made)


def ours(bench, made):
    """An evaluation of everybody, with the metrics of all groups."""
    made.trainer.evaluator.know_groups(made.data.train._dataset)
    users = len(made.data.test.dataset)
    found = {}

    def work():
        found.update(made.trainer.evaluate(made.data.test, load_best_model=False))
        return users

    memory = bench.memory(work)
    return {"users/s": bench.rate(work), "GiB": memory, "rows/batch": made.data.test.step}


@torch.no_grad()
def theirs(bench, made):
    """Some batches of the same loader through RecBole's code."""
    collector, model = Collector(made.config), made.model.eval()
    batches = list(islice(made.data.test, bench.size(8, 2)))

    def work():
        done = 0
        for interaction, _, positive_u, positive_i in batches:
            scores = model.full_sort_predict(interaction.to(bench.device))
            scores = scores.view(-1, made.data.dataset.item_num)
            scores[:, 0] = -torch.inf
            collector.eval_batch_collect(scores, interaction, positive_u, positive_i)
            done += len(interaction)
        collector.get_data_struct()
        return done

    memory = bench.memory(work)
    return {"users/s": bench.rate(work), "GiB": memory, "rows/batch": made.data.test.step}
