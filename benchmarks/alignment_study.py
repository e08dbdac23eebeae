"""What the alignment of LLMEmb does: its gradient beside the loss's, and scores by its weight.

    python -m benchmarks.alignment_study [--dataset=ml-100k] [--only=TEXT] [--list | --table]

LLMEmbSASRec with the preset ``llmemb``, two losses, two seeds, full ranking; other settings are
those of the dataset. When training has ended, the weights of the best validation are taken and the
norm of the gradient of each weighted term on the adapter's last layer is averaged over some
batches. ``LOSS-WEIGHT-SEED.json`` keeps what came out; runs that are there are not done again.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import tempfile
from itertools import islice
from pathlib import Path

import torch

from benchmarks import study
from recbole_llmemb.config.recbole_config import make_config, preset_file
from recbole_llmemb.run import artifacts, stages

SEEDS = study.SEEDS[:2]
WEIGHTS = ("0", "0.01", "0.1", "1", "10")
BATCHES = 20
#: Settings by what they are called in the names of runs: the two losses with each weight, and what
#: else might let the alignment tell something.
KINDS = {
    f"{loss}-{weight}": {"loss_type": loss, "align_weight": float(weight)}
    for loss in ("CE", "BCE")
    for weight in WEIGHTS
} | {
    f"CE-0.1-tau{tau}": {"loss_type": "CE", "align_weight": 0.1, "align_temperature": float(tau)}
    for tau in ("0.5", "8")
}
for weight in ("0.1", "1"):
    own = {"loss_type": "CE", "align_weight": float(weight)}
    KINDS |= {
        f"CE-{weight}-unit_vectors": {"model": "LLMEmbUnitAlignedSASRec", **own},
        f"CE-{weight}-hard_targets": {"model": "LLMEmbContrastAlignedSASRec", **own},
    }
    KINDS[f"CE-{weight}-teacher_of_2_epochs"] = {**own, "align_teacher_config": {"epochs": 2}}
SHARED = {
    "model": "LLMEmbSASRec",
    "eval_args": {
        "split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full",
    },
    "show_progress": False,
}  # fmt: skip


def gradients(model, loader, batches=BATCHES) -> dict[str, float]:
    """Mean norm of the gradient of each term of the loss on the adapter's last layer (W2).

    ``model``: as it is after training; ``loader``: of its training batches.
    """
    weight, found = model.item_embedding.adapter.up.weight, {}
    model.train()
    for batch in islice(loader, batches):
        for name, term in model.loss_terms(batch.to(weight.device)).items():
            (slope,) = torch.autograd.grad(term, weight, retain_graph=True)
            found.setdefault(name, []).append(slope.norm().item())
    model.eval()
    return {name: statistics.mean(norms) for name, norms in found.items()}


def run(name, settings, options):
    """Train and measure one model, unless that is done."""
    record = options.out / f"{name}.json"
    if record.is_file():
        return
    if "model" in settings:
        importlib.import_module("benchmarks.levers")  # where those are
    values = {**SHARED, **settings, "data_path": options.data_path}
    if options.dataset == "ml-100k":
        del values["data_path"]  # which comes with RecBole
    preset = [str(preset_file("llmemb"))]
    config = make_config(values.pop("model"), options.dataset, preset, values)
    data = stages.prepare_data(config, artifacts=False)
    artifacts.provide(config, data.train._dataset)
    model, trainer = stages.build(config, data)
    result = stages.train_and_evaluate(config, data, model, trainer)
    found = {
        "epochs": result.epochs,
        "valid": result.best_valid_result["ndcg@10"],
        "test": result.test_result["ndcg@10"],
        "tail": result.groups["tail_items"]["ndcg@10"],
        "gradients": gradients(model, data.train),
    }
    record.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{name}: {found}", flush=True)


def table(out, kinds) -> str:
    """A Markdown table, mean and standard deviation over the seeds that are there."""
    titles = (
        "validation NDCG@10", "test NDCG@10", "tail items",
        "gradient of the loss", "of the alignment",
    )  # fmt: skip
    lines = ["| loss, weight | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for kind in kinds:
        files = [Path(out) / f"{kind}-{seed}.json" for seed in SEEDS]
        runs = [json.loads(file.read_text()) for file in files if file.is_file()]
        if not runs:
            continue
        cells = [study.mean_std([one[key] for one in runs]) for key in ("valid", "test", "tail")]
        for term in ("recommendation", "alignment"):
            norms = [one["gradients"][term] for one in runs if term in one["gradients"]]
            cells.append(f"{statistics.mean(norms):.1e}" if norms else "")
        shown = kind.replace("-tau", "-τ ").replace("-", ", ").replace("_", " ")
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv=None):
    parser = study.options(__doc__, "alignment")
    parser.add_argument("--dataset", default="ml-100k")
    options = parser.parse_args(argv)
    options.out = options.out.resolve() / options.dataset
    options.data_path = str(Path(options.data_path).resolve())
    kinds = {kind: one for kind, one in KINDS.items() if options.only in kind}
    if options.table:
        print(table(options.out, kinds))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = {f"{k}-{seed}": {**one, "seed": seed} for seed in SEEDS for k, one in kinds.items()}
    if options.list:
        print("\n".join(f"{name} {settings}" for name, settings in jobs.items()))
        return
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:  # for what RecBole and trainings leave behind
        os.chdir(folder)
        try:
            for name, settings in jobs.items():
                run(name, settings, options)
        finally:
            os.chdir(here)


if __name__ == "__main__":
    main()
