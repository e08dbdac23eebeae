"""LLM-SRec: a step in both forms, and the frozen LLM with and without kept beginnings."""

from __future__ import annotations

from itertools import islice

import torch

from benchmarks.gpu.data import READ, make_model, write_dataset
from benchmarks.gpu.training import fresh
from benchmarks.gpu.waiting import per_step
from benchmarks.llmsrec_step import build

_FORMS = {
    "table": {"item_input": "table"},
    "text": {"item_input": "text"},
    "text, nothing kept": {"item_input": "text", "prefix_cache": 0},
}


def rows(bench):
    """Users per second of a step, items per second of reading the catalog, waits."""
    here = bench.scratch
    items, users, length = bench.size((4096, 2000, 14), (40, 20, 8))
    make_model(here / "decoder", "decoder", bench.size("decoder", "toy"), bench.device)
    if not (here / "llm").exists():
        (here / "llm").symlink_to(here / "decoder")
    write_dataset(here / "data", "titles", items, users, length)
    for name, settings in _FORMS.items():
        yield bench.row(name, measured, here, settings)


def measured(bench, here, settings):
    """One form: data, model and trainer as a run has them."""
    sizes = {"train_batch_size": bench.size(20, 4), "llm_model_dtype": "bfloat16"}
    given = {**READ, **sizes, **settings, **bench.placed}
    data, model, trainer = build(here, given.pop("item_input"), "titles", **given)
    if model.device.type != bench.device.type:
        raise RuntimeError(f"the model is on {model.device}")
    data.train.form = model.form
    batches = list(islice(data.train, bench.size(8, 2)))
    users = sum(len(batch) for batch in batches)

    class Batches:
        sampler = None

        def __init__(self, count):
            self.chosen = batches[:count]

        def __iter__(self):
            return fresh(self.chosen)

    def train(count):
        trainer._train_epoch(Batches(count), 0)
        return users

    memory = bench.memory(lambda: train(len(batches)))
    rate = bench.rate(lambda: train(len(batches)))
    waits = per_step(bench.device, train, 1, len(batches))
    trainer.model.eval()

    @torch.no_grad()
    def read():
        model._catalog.forget()
        return len(model.item_matrix())

    return {"users/s": rate, "GiB": memory, **waits, "items read/s": bench.rate(read)}
