"""Do new items come to lie beside their kind: ``best`` with more and less ridge in its whitening.

    python -m benchmarks.cold_study --data_path=DIR [--only=TEXT] [--list | --table]

LLMEmbSASRec on ml-100k, Amazon_Beauty and Toys, a tenth of the items held out (two samples of
them), cross-entropy and full ranking. The preset ``best`` is cut down so that a run takes minutes:
128 wide, 1,000 sampled items, at most 25 epochs. ``DATASET-RIDGE-SAMPLE.json`` of ``--out`` keeps
what came out; runs that are there are not done again. They are trained in the folder that
``--trained`` names.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks import study
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.contract import given_to
from recbole_llmemb.run.restore import restore

DATASETS = {"ml-100k": "ml-100k", "beauty": "Amazon_Beauty", "toys": "Toys"}
RIDGES = ("0", "0.3", "1", "3")
SAMPLES = study.SEEDS[:2]  # holdout_seed
SHARED = [
    "--model=LLMEmbSASRec",
    f"--config_files={study.ROOT}/properties/protocol/full_ce.yaml",
    "--preset=best",
    "--hidden_size=128",
    "--inner_size=512",
    "--softmax_negatives=1000",
    "--epochs=25",
    "--stopping_step=5",
    "--holdout_items=0.1",
    "--holdout_targets=all",
    "--show_progress=False",
]
NEIGHBORS = 10
COLUMNS = {
    "recall": f"text neighbors found, of {NEIGHBORS}",
    "cold": "held out, NDCG@10 among all",
    "among_cold": "among held out",
    "auc": "AUC",
    "valid": "others, validation NDCG@10",
    "test": "others, test NDCG@10",
}


def jobs(data_path):
    """Name and ``recbole-llm`` arguments of each training."""
    for sample in SAMPLES:
        for short, dataset in DATASETS.items():
            where = [] if dataset == "ml-100k" else [f"--data_path={data_path}"]
            for ridge in RIDGES:
                given = [f"--dataset={dataset}", f"--llm_whiten_ridge={ridge}", *where]
                yield f"{short}-{ridge}-{sample}", [*SHARED, *given, f"--holdout_seed={sample}"]


@torch.no_grad()
def neighbors_found(checkpoint, changes) -> float:
    """Which share of the nearest known items by text is among a held-out item's nearest here.

    Cosines both: of the encoder's vectors, and of what the model scores with.
    """
    restored = restore(checkpoint, device="cpu", changes=changes, loaders=True)
    config, model, train = restored.config, restored.model, restored.data.train._dataset
    table, tokens = given_to(train, config, "table"), train.held_out.tokens
    known = model.items().vectors[1:]
    fresh = model.unseen(config, train, tokens).vectors
    near = []
    for those, all_others in ((table.rows_of(tokens), table.rows()[1:]), (fresh, known)):
        cosines = F.normalize(those.float(), dim=1) @ F.normalize(all_others.float(), dim=1).T
        near.append(cosines.topk(NEIGHBORS).indices)
    return (near[0].unsqueeze(2) == near[1].unsqueeze(1)).any(2).float().mean().item()


def run(name, arguments, options):
    """Train and measure one model, unless that is done."""
    record, trained = options.out / f"{name}.json", options.trained.resolve()
    if record.is_file():
        return
    study.run(name, arguments, trained)
    if not (trained / f"{name}.json").is_file():
        return  # another process is at it, or it failed and said so
    found = json.loads((trained / f"{name}.json").read_text())
    changes = {}
    if not name.startswith("ml-100k"):
        changes["data_path"] = str(Path(options.data_path, found["dataset"]).resolve())
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:  # for what RecBole leaves behind
        os.chdir(folder)
        try:
            recall = neighbors_found(trained / found["checkpoint"], changes)
        except UserError as error:
            print(f"{name}: {error}", flush=True)
            return
        finally:
            os.chdir(here)
    cold = found["cold_items"]
    scores = {
        "recall": recall,
        "cold": cold["all_items"]["model"]["ndcg@10"],
        "among_cold": cold["cold_items"]["model"]["ndcg@10"],
        "auc": cold["all_items"]["model"]["auc"],
        "valid": found["best_valid_result"]["ndcg@10"],
        "test": found["test_result"]["ndcg@10"],
    }
    about = {"epochs": found["epochs"], "items": cold["items"], "targets": cold["targets"]}
    options.out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(about | scores, indent=1) + "\n")
    print(f"{name}: {scores}", flush=True)


def table(out) -> str:
    """A Markdown table, mean and standard deviation over the samples that are there."""
    lines = ["| | `llm_whiten_ridge` | " + " | ".join(COLUMNS.values()) + " |"]
    lines.append("|---" * (len(COLUMNS) + 2) + "|")
    for short, dataset in DATASETS.items():
        shown = dataset
        for ridge in RIDGES:
            files = [Path(out) / f"{short}-{ridge}-{sample}.json" for sample in SAMPLES]
            runs = [json.loads(file.read_text()) for file in files if file.is_file()]
            if runs:
                cells = [study.mean_std([one[key] for one in runs]) for key in COLUMNS]
                lines.append(f"| {shown} | {ridge} | {' | '.join(cells)} |")
                shown = ""
    return "\n".join(lines)


def main(argv=None):
    parser = study.options(__doc__, "cold")
    parser.add_argument("--trained", default=Path("cold_runs"), type=Path)
    options = parser.parse_args(argv)
    options.out = options.out.resolve()
    if options.table:
        print(table(options.out))
        return
    for name, arguments in jobs(Path(options.data_path).resolve()):
        if options.only in name:
            if options.list:
                print(name, *arguments)
            else:
                run(name, arguments, options)


if __name__ == "__main__":
    main()
