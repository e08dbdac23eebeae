"""What else might make the preset best better, one thing at a time, on Amazon_Beauty.

    python -m benchmarks.levers_study --data_path=DIR [--only=TEXT] [--list | --table]

The preset at a width of 128, to be done in a day of a CPU, beside each model of
``benchmarks.levers``, and changes of a setting. Two more need no training: the scores of several
checkpoints summed, as if they were towers of one model, and a bonus for candidates whose text is
like that of an item of the history. ``NAME.json`` notes NDCG@10 of validation and test, with the
history kept and removed. One seed; validation with the history kept decides.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch

import benchmarks.levers  # noqa: F401  (its models are known by name)
from benchmarks import measures_study, study
from recbole_llmemb.evaluation.groups import GroupEvaluator
from recbole_llmemb.evaluation.ranking import GroupCollector, evaluate
from recbole_llmemb.run.restore import restore
from recbole_llmemb.table import EmbeddingTable, match

SHARED = [
    *measures_study.SHARED[1:],
    "--dataset=Amazon_Beauty",
    "--preset=best",
    "--hidden_size=128",
    "--inner_size=512",
    "--tail_item_threshold=0.8",
    "--stopping_step=5",
]
#: What is compared after the first half of a training, where seeds differ by 0.0006.
SHORT = ["--epochs=25", "--eval_step=5"]
#: Over a frozen, whitened table.
FROZEN = ["--adapter=mlp", "--llm_freeze=True", "--llm_whiten=1"]
#: Trainings: the model, the seed and what is set otherwise.
TRAININGS = {
    "best": ("LLMEmbSASRec", 2020, []),
    "best-2021": ("LLMEmbSASRec", 2021, []),
    "smoothed": ("LLMEmbSmoothedSASRec", 2020, []),
    "mlp_tower": ("LLMEmbSASRec", 2020, FROZEN),
    "half": ("LLMEmbSASRec", 2020, SHORT),
    "half-null_space": ("LLMEmbNullSpaceSASRec", 2020, SHORT),
    "half-bounded": ("LLMEmbBoundedSASRec", 2020, SHORT),
    "half-filtered": ("LLMEmbFilteredSASRec", 2020, SHORT),
    "half-two_blocks": ("LLMEmbSASRec", 2020, [*SHORT, "--n_layers=2"]),
    "half-twice_passed": ("LLMEmbTwicePassedSASRec", 2020, SHORT),
    "half-mlp_tower": ("LLMEmbSASRec", 2020, [*SHORT, *FROZEN]),
    "half-twice_whitened": ("LLMEmbTwiceWhitenedSASRec", 2020, [*SHORT, *FROZEN]),
}
#: Sums of the cosines of trainings, and weights of the likest text of the history.
SUMS = {"best+best-2021": ("best", "best-2021"), "best+mlp_tower": ("best", "mlp_tower")}
BONUSES = (0.5, 1.0, 2.0)
#: The command that knows the models of ``benchmarks.levers``.
PROGRAM = (
    "-c",
    f"import sys; sys.path.insert(0, {str(study.ROOT)!r}); import benchmarks.levers;"
    "from recbole_llmemb.cli.main import main; sys.exit(main())",
)


def ranked(checkpoint, data_path, scores=None) -> dict:
    """NDCG@10 of validation and test users and on tail items, under both measures.

    ``scores``: called with the model, its restored run and a batch, in place of the model's own.
    """
    found = {}
    for name, removed in measures_study.MEASURES.items():
        changes = {"exclude_history": removed, "metrics": ["NDCG"], "topk": [10]}
        run = restore(checkpoint, device="cpu", changes=changes, loaders=True, data_path=data_path)
        if scores is not None:
            own, made = run.model.full_sort_predict, scores(run)
            run.model.full_sort_predict = lambda batch: made(batch, own(batch))  # noqa: B023
        evaluator = GroupEvaluator(run.config, GroupCollector(run.config))
        evaluator.collector.data_collect(run.data.train)
        evaluator.know_groups(run.data.train._dataset)
        for split in ("valid", "test"):
            with torch.no_grad():
                overall = evaluate(run.config, run.model, getattr(run.data, split), evaluator)
            tail = evaluator.group_metrics["tail_items"]["ndcg@10"]
            found[f"{split} {name}"] = [float(overall["ndcg@10"]), float(tail)]
    return found


def with_others(checkpoints, data_path):
    """Scores summed with those of other checkpoints, as one product of joined vectors would."""

    def made(_):
        models = [restore(c, device="cpu", data_path=data_path).model.eval() for c in checkpoints]
        return lambda batch, own: own + sum(m.full_sort_predict(batch) for m in models)

    return made


def with_bonus(weight):
    """Plus ``weight`` times the largest cosine of a candidate's text and one of the history."""

    def made(run):
        dataset = run.data.train._dataset
        table = EmbeddingTable.load(run.config["llm_table"])
        rows = torch.as_tensor(match(table, dataset.field2id_token[dataset.iid_field])).float()
        rows = torch.nn.functional.normalize(rows, dim=-1)

        def scored(batch, own):
            likest = own.new_full(own.shape, -1.0)
            for column in batch[run.model.ITEM_SEQ].T:
                known = (column > 0).unsqueeze(1)
                torch.maximum(likest, (rows[column] @ rows.T).where(known, -1.0), out=likest)
            return own + weight * likest

        return scored

    return made


def jobs(data_path):
    """Name and ``recbole-llm`` arguments of each training."""
    for name, (model, seed, others) in TRAININGS.items():
        where = f"--data_path={data_path}"
        yield name, [f"--model={model}", *SHARED, f"--seed={seed}", where, *others]


def rankings(trained, data_path):
    """What is ranked, by name: a function that does it."""

    def file(name):
        return trained / f"{name}.json"  # a result stands for its checkpoint

    for name in TRAININGS:
        yield name, partial(ranked, file(name), data_path)
    for name, (first, *others) in SUMS.items():
        scores = with_others([file(other) for other in others], data_path)
        yield name, partial(ranked, file(first), data_path, scores)
    for weight in BONUSES:
        yield f"bonus{weight:g}", partial(ranked, file("best"), data_path, with_bonus(weight))


def table(out) -> str:
    """A Markdown table of what is there."""
    splits = [f"{split} {how}" for split in ("valid", "test") for how in measures_study.MEASURES]
    lines = ["| | " + " | ".join(f"{split} | tail" for split in splits) + " |"]
    lines.append("|---" * (2 * len(splits) + 1) + "|")
    for name in [*TRAININGS, *SUMS, *(f"bonus{weight:g}" for weight in BONUSES)]:
        file = Path(out) / f"{name}.json"
        if file.is_file():
            found = json.loads(file.read_text())
            cells = [f"{value:.4f}" for split in splits for value in found[split]]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv=None):
    parser = study.options(__doc__, "levers")
    parser.add_argument("--trained", type=Path, default=Path("levers_runs"))
    options = parser.parse_args(argv)
    trained, data_path = options.trained.resolve(), Path(options.data_path).resolve()
    if options.list or options.table:
        found = [" ".join(["recbole-llm", *arguments]) for _, arguments in jobs(data_path)]
        print(table(options.out) if options.table else "\n".join(found))
        return
    for name, arguments in jobs(data_path):
        if options.only in name:
            study.run(name, arguments, trained, PROGRAM)
    for name, rank in rankings(trained, data_path):
        record = options.out / f"{name}.json"
        needed = SUMS.get(name, ["best"] if name.startswith("bonus") else [name])
        there = all((trained / f"{one}.json").is_file() for one in needed)
        if options.only in name and there and not record.is_file():
            found = rank()
            options.out.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{name}: measured", flush=True)


if __name__ == "__main__":
    main()
