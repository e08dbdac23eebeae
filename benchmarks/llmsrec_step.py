"""LLM-SRec against a straightforward implementation: training steps, and reading the catalog.

A decoder of the Llama kind with random weights, 4 layers, 512 wide; the titles, histories and
prompts of a part of Amazon_Beauty; 20 users per step, each with its next item and 3 others. The
other side is ``llmsrec_reference.py``, with the same weights on the same users.

    python -m benchmarks.llmsrec_step --data_path=../shared/data --threads=1
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch

from benchmarks import timing
from benchmarks.llmsrec_reference import Reference

BATCH = 20


def main(argv=None):
    parser = timing.options(__doc__, repeats=3)
    parser.add_argument("--users", type=int, default=200, help="users of the part of the dataset")
    parser.add_argument("--batches", type=int, default=4, help="steps per timed turn")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--form", choices=("text", "table"), help="only this one")
    options = timing.start(parser, argv)
    if not (options.data_path / "Amazon_Beauty").is_dir():
        print(f"  SKIP  there is no Amazon_Beauty in {options.data_path}")
        return 0
    here = Path.cwd()
    part_of_beauty(options.data_path / "Amazon_Beauty", here / "data" / "part", options.users)
    make_llm(here / "llm", options.layers, options.width)
    if options.form != "table":
        measure_text(here, options)
    if options.form != "text":
        measure_table(here, options)
    return 0


def measure_text(here, options):
    """The text form: a step, and the catalog read again after a step."""
    data, model, _ = build(here, "text")
    reference = Reference(model, model.form.titles)
    sides = step_sides(data, model, reference, options.batches)
    print(f"\ntext form: {describe(model)}")
    model.form.prefixes.layers(torch.tensor([0]))  # what is kept is computed here, once
    seconds = timing.alternate(sides, options.repeats)
    outcome("a training step", seconds, 1.5)

    ids = list(range(1, model.n_items))

    def ours():
        model._catalog.forget()
        model.item_matrix()

    sides = {"ours": ours, "reference": lambda: reference.catalog(ids, 64) is None}
    seconds = timing.alternate(sides, options.repeats)
    outcome(f"reading all {len(ids):,} items again", seconds, 3)


def measure_table(here, options):
    """The table form: a step, against the text form's straightforward one."""
    _, text, _ = build(here, "text")
    data, model, _ = build(here, "table")
    reference = Reference(text, text.form.titles)
    print(f"\ntable form: {describe(model)}")
    seconds = timing.alternate(step_sides(data, model, reference, options.batches), options.repeats)
    outcome("a training step", seconds, 8)


def outcome(what, seconds, limit):
    ours, theirs = (timing.median(seconds[name]) for name in ("ours", "reference"))
    for name in ("ours", "reference"):
        middle = timing.median(seconds[name])
        print(f"  {what}, {name:<10} {middle:8.3f} s {timing.spread(seconds[name])}")
    timing.report(what, theirs / ours, limit)


def describe(model):
    llm = model.llm
    trained = sum(p.numel() for p in model.parameters())
    return f"LLM of {llm.parameters:,} parameters, {trained:,} trained, {BATCH} users per step"


def step_sides(data, model, reference, batches):
    """Both sides of a step, each with its own way to batches: the same users, per step."""
    loader = data.train
    draw = random.Random(0)
    rows = draw.sample(loader.pairs().tolist(), BATCH * batches)
    loader.form = model.form
    loader.pairs = lambda: torch.tensor(rows).numpy()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    theirs = torch.optim.Adam(reference.model.parameters(), lr=1e-4, fused=True)

    def ours():
        for batch in loader:
            optimizer.zero_grad()
            sum(model.calculate_loss(batch)).backward()
            optimizer.step()
        return batches

    def straightforward():
        for begin in range(0, len(rows), BATCH):
            chosen = torch.tensor(rows[begin : begin + BATCH])
            loader.form = None
            batch = loader.collate(chosen.numpy())
            loader.form = model.form
            histories, candidates = lists_of(batch, loader)
            lists, lengths = batch[loader.list_field], batch[loader.length_field]
            theirs.zero_grad()
            states = reference.model.teacher.user_states(lists, lengths)
            reference.loss(histories, candidates, states).backward()
            theirs.step()
        return batches

    return {"ours": ours, "reference": straightforward}


def lists_of(batch, loader):
    from recbole_llmemb.models.llmsrec.prompts import CANDIDATE_ITEMS, CANDIDATES

    lists, lengths = batch[loader.list_field].tolist(), batch[loader.length_field].tolist()
    histories = [row[:length] for row, length in zip(lists, lengths)]
    return histories, batch[CANDIDATE_ITEMS][batch[CANDIDATES]].tolist()


def build(here, form, dataset="part", **changes):
    """Data, model and trainer of one form; the CF model and the table are of random numbers."""
    from recbole_llmemb.config.recbole_config import make_config
    from recbole_llmemb.run.stages import build as build_model
    from recbole_llmemb.run.stages import prepare_data
    from recbole_llmemb.table import EmbeddingTable

    shared = {
        "data_path": str(here / "data"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "show_progress": False,
        "use_gpu": False,
        "gpu_id": "",
    }
    shared["data_path"] = changes.get("data_path", shared["data_path"])
    teacher = here / "cf.pth"
    if not teacher.is_file():
        own = {"item_embedding": "id", "align_weight": 0.0, "hidden_size": 64}
        config = make_config("LLMEmbSASRec", dataset, overrides=shared | own)
        data = prepare_data(config)
        _, trainer = build_model(config, data)
        trainer._train_data = data.train
        trainer._save_checkpoint(0, verbose=False, saved_model_file=str(teacher))
        tokens = [str(t) for t in data.dataset.field2id_token["item_id"][1:]]
        EmbeddingTable(tokens, torch.randn(len(tokens), 384), {}).save(here / "table")
    own = {
        "item_input": form,
        "llm_model": str(here / "llm"),
        "align_teacher": str(teacher),
        "llm_table": str(here / "table"),
        "item_title_field": "title",
    }
    config = make_config("LLMSRec", dataset, overrides=shared | own | changes)
    data = prepare_data(config)
    return data, *build_model(config, data)


def part_of_beauty(source, target, users):
    """Write the interactions of some users of Amazon_Beauty, and their items, as a dataset."""
    target.mkdir(parents=True)
    header, *lines = (source / "Amazon_Beauty.inter").read_text(encoding="utf-8").splitlines()
    names = [column.partition(":")[0] for column in header.split("\t")]
    user, item = names.index("user_id"), names.index("item_id")
    rows = [line.split("\t") for line in lines]
    chosen = set(random.Random(0).sample(sorted({row[user] for row in rows}), users))
    rows = [row for row in rows if row[user] in chosen]
    items = {row[item] for row in rows}
    text = "\n".join([header, *("\t".join(row) for row in rows)])
    (target / "part.inter").write_text(text + "\n", encoding="utf-8")
    header, *lines = (source / "Amazon_Beauty.item").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line.partition("\t")[0] in items]
    (target / "part.item").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def make_llm(folder, layers, width):
    """A Llama of random weights, with the tokenizer of the bundled encoder."""
    import transformers

    from recbole_llmemb.encode.source import find_encoder

    tokenizer = transformers.AutoTokenizer.from_pretrained(find_encoder().location)
    shape = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    transformers.LlamaModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
