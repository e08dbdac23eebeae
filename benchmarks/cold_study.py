"""Do new items come to lie beside their kind: by the whitening's ridge, and by where they are put.

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
from recbole_llmemb.encode.build_or_load import ensure_table
from recbole_llmemb.evaluation.cold import evaluate_cold
from recbole_llmemb.models.contract import ItemTable, given_to
from recbole_llmemb.models.llmemb.parts import prepared
from recbole_llmemb.models.losses import Items
from recbole_llmemb.run.restore import restore

DATASETS = {"ml-100k": "ml-100k", "beauty": "Amazon_Beauty", "toys": "Toys"}
RIDGES = ("0", "0.3", "1", "3")
SAMPLES = study.SEEDS[:2]  # holdout_seed
SHARED = [
    "--model=LLMEmbSASRec",
    f"--config_files={study.ROOT}/properties/protocol/full_ce.yaml",
    "--preset=best",
    "--stopping_step=5",
    "--holdout_items=0.1",
    "--holdout_targets=all",
    "--show_progress=False",
]
#: So that a run takes minutes; ``whole`` is without, on one dataset and one sample.
CUT = [
    "--hidden_size=128",
    "--inner_size=512",
    "--softmax_negatives=1000",
    "--popularity_adjustment=0",
    "--epochs=25",
]
WHOLE = {"beauty-whole": ("Amazon_Beauty, the preset as it is", ("0", "1"))}
NEIGHBORS = 10
COLUMNS = {
    "recall": f"text neighbors found, of {NEIGHBORS}",
    "cold": "NDCG@10 among all",
    "among_cold": "among held out",
    "auc": "AUC",
}
#: Where held-out items are put: where training begins, and where the model puts new ones.
PLACES = {"begun": "where training begins", "placed": "as the model does"}


def jobs(data_path):
    """Name and ``recbole-llm`` arguments of each training."""
    for sample in SAMPLES:
        for short, dataset in DATASETS.items():
            where = [] if dataset == "ml-100k" else [f"--data_path={data_path}"]
            for ridge in RIDGES:
                given = [f"--dataset={dataset}", f"--llm_whiten_ridge={ridge}", *where]
                held = f"--holdout_seed={sample}"
                yield f"{short}-{ridge}-{sample}", [*SHARED, *CUT, *given, held]
    for short, (_, ridges) in WHOLE.items():
        for ridge in ridges:
            given = ["--dataset=Amazon_Beauty", f"--llm_whiten_ridge={ridge}"]
            held = f"--holdout_seed={SAMPLES[0]}"
            yield (
                f"{short}-{ridge}-{SAMPLES[0]}",
                [*SHARED, *given, f"--data_path={data_path}", held],
            )


@torch.no_grad()
def measure(checkpoint, llm_table, changes) -> dict:
    """How held-out items are ranked, and which share of their nearest items by text is found.

    Those are the known items whose vectors of the encoder have the largest cosines with its own;
    found are those with the largest cosines of what the model scores with.
    ``llm_table``: as the run was given it.
    """
    restored = restore(checkpoint, device="cpu", changes=changes, loaders=True)
    config, model, train = restored.config, restored.model, restored.data.train._dataset
    tokens, texts = train.held_out.tokens, _texts(config, llm_table, train)
    near = _nearest(texts.rows_of(tokens), texts.rows()[1:])
    begun = model.scored(prepared(config, given_to(train, config, "table"), tokens))
    found = {}
    for place, items in (("begun", Items(begun)), ("placed", model.unseen(config, train, tokens))):
        model.unseen = lambda *_, items=items: items
        cold = evaluate_cold(config, restored.data, model)
        same = near.unsqueeze(2) == _nearest(items.vectors, model.items().vectors[1:]).unsqueeze(1)
        ranked = cold["all_items"]["model"]
        found[place] = {
            "recall": same.any(2).float().mean().item(),
            "cold": ranked["ndcg@10"],
            "among_cold": cold["cold_items"]["model"]["ndcg@10"],
            "auc": ranked["auc"],
        }
    return found


def _texts(config, llm_table, train):
    """The encoder's vectors, of which a model's table may be the principal components."""
    kept = {key: config[key] for key in ("llm_table", "llm_pca_dim")}
    config["llm_table"], config["llm_pca_dim"] = llm_table, None
    path = ensure_table(config)
    for key, value in kept.items():
        config[key] = value
    return ItemTable(path, train.field2id_token[train.iid_field], config["llm_missing"])


def _nearest(those, others):
    cosines = F.normalize(those.float(), dim=1) @ F.normalize(others.float(), dim=1).T
    return cosines.topk(NEIGHBORS).indices


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
            scores = measure(
                trained / found["checkpoint"], found["config"].get("llm_table"), changes
            )
        except UserError as error:
            print(f"{name}: {error}", flush=True)
            return
        finally:
            os.chdir(here)
    scores |= {"valid": found["best_valid_result"]["ndcg@10"], "epochs": found["epochs"]}
    scores |= {"test": found["test_result"]["ndcg@10"], "items": found["cold_items"]["items"]}
    options.out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(scores, indent=1) + "\n")
    print(f"{name}: {scores}", flush=True)


def table(out) -> str:
    """A Markdown table, mean and standard deviation over the samples that are there."""
    heads = ["", "`llm_whiten_ridge`", "held-out items", *COLUMNS.values(), "others, test NDCG@10"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    rows = {short: (dataset, RIDGES) for short, dataset in DATASETS.items()} | WHOLE
    for short, (dataset, ridges) in rows.items():
        for ridge in ridges:
            files = [Path(out) / f"{short}-{ridge}-{sample}.json" for sample in SAMPLES]
            runs = [json.loads(file.read_text()) for file in files if file.is_file()]
            for place, words in PLACES.items() if runs else ():
                cells = [study.mean_std([one[place][key] for one in runs]) for key in COLUMNS]
                cells.append(study.mean_std([one["test"] for one in runs]))
                lines.append(f"| {' | '.join([dataset, ridge, words, *cells])} |")
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
