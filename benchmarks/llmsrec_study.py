"""LLM-SRec beside its CF model and LLMEmbSASRec: two rankings, and the order test of each.

    python -m benchmarks.llmsrec_study --data_path=DIR [--only=TEXT] [--list | --table]

Each run trains under full ranking; its checkpoint is then tested with true and with shuffled
histories, under full ranking and against 99 sampled items (``NAME-order.json``). Sized for one
CPU core: the LLM is MiniLM, in bfloat16 where the CPU has instructions for it, and on
Amazon_Beauty the text form is trained on a sample of 3,000 users, for whom every model is tested
there.
``--have`` names a folder of checkpoints that are there already, as
``DATASET-cf-SEED.pth`` (CF models) and ``DATASET-llmemb-SEED.pth``: these are not trained again.
The CF model of an LLM-SRec is the study's own of the same seed, which is trained before it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import study
from recbole_llmemb.models.llmemb.parts import has_bfloat16_matmul

DATASETS = ("ml-100k", "Amazon_Beauty")
#: Emulated, bfloat16 takes many times as long.
DTYPE = f"--llm_model_dtype={'bfloat16' if has_bfloat16_matmul('cpu') else 'float32'}"
#: What ``strong`` is without one of its parts each, or with one more.
PARTS = {
    "strong_alone": ["--cf_score_weight=0"],
    "strong_dot": ["--cosine_temperature=None"],
    "strong_distilled": ["--distill_weight=1", "--uniformity_weight=1"],
    "strong_prompts": [
        "--causal_pass=False", "--head_hidden_size=2048", "--input_dropout=0", "--epochs=30",
        "--train_targets=one", "--train_batch_size=20", "--learning_rate=0.0001",
    ],
}  # fmt: skip
#: ``wide``: the table form with more candidates than the paper's four. ``authors``: the paper's own
#: comparison, with its CF model, which is trained with BCE.
KINDS = ("cf", "strong", "table", "wide", "llmemb", "text", "authors", *PARTS)
#: Kinds that are run on ml-100k alone.
SMALL = ("authors", "strong_alone", "strong_distilled", "strong_prompts")
NAMES = {
    "authors": "LLM-SRec (authors)",
    "strong_alone": "strong without the CF model's scores",
    "strong_dot": "strong with dot products",
    "strong_distilled": "strong with distillation and uniformity",
    "strong_prompts": "strong without the causal pass",
    "cf": "SASRec (the CF model)",
    "strong": "LLM-SRec (strong)",
    "table": "LLM-SRec, table form",
    "wide": "LLM-SRec, table form, 50 and in-batch negatives",
    "llmemb": "LLMEmbSASRec (longtail)",
    "text": "LLM-SRec, text form",
}
#: Preset and dropout of what is not LLM-SRec. SASRec with IDs is its CF model, or is one like it.
PRESETS = {"cf": ("id_only", 0.35), "llmemb": ("longtail", 0.2)}
#: Users that models are tested for, and that the text form is trained on; None: all.
USERS = {"ml-100k": None, "Amazon_Beauty": 3000}
#: Of LLM-SRec. The paper's 10 are few steps for the few users of ml-100k.
EPOCHS = {"ml-100k": 30, "Amazon_Beauty": 10}
TEXT_EPOCHS = {"ml-100k": 6, "Amazon_Beauty": 4}
#: Epochs between validations where these would take as long as the training.
VALIDATED = {
    ("Amazon_Beauty", "text"): 2,
    ("Amazon_Beauty", "table"): 2,
    ("Amazon_Beauty", "wide"): 2,
}
FULL = ["--show_progress=False", "--topk=[10,20]", "--metrics=['Hit','NDCG']"]
SHUFFLES = 3
METRICS = ("ndcg@10", "ndcg@20", "hit@10", "hit@20")


def checkpoint_of(name, options):
    """The checkpoint of a run, given or made here; None as long as there is none."""
    given = options.have and Path(options.have) / f"{name}.pth"
    if given and given.is_file():
        return given.resolve()
    result = options.out / f"{name}.json"
    return options.out / json.loads(result.read_text())["checkpoint"] if result.is_file() else None


def arguments_of(dataset, kind, seed, options):
    """``recbole-llm`` arguments of a run."""
    found = [f"--dataset={dataset}", f"--seed={seed}", *FULL]
    if dataset != "ml-100k":  # which RecBole carries
        found.append(f"--data_path={options.data_path}")
    if kind in PRESETS:  # as in variants_study, at the rates that were the best there
        preset, rate = PRESETS[kind]
        protocol = f"--config_files={study.ROOT}/properties/protocol/full_ce.yaml"
        sizes = ["--hidden_size=64", "--n_heads=2", "--stopping_step=5", "--epochs=100"]
        rates = [f"--hidden_dropout_prob={rate}", f"--attn_dropout_prob={rate}"]
        return ["--model=LLMEmbSASRec", f"--preset={preset}", protocol, *sizes, *rates, *found]
    if kind == "authors":
        return ["--model=LLMSRec", "--preset=authors", DTYPE, *found]
    teacher = [f"--align_teacher={checkpoint_of(f'{dataset}-cf-{seed}', options) or 'SASRec'}"]
    if kind.startswith("strong"):
        own = ["--preset=strong", DTYPE, *PARTS.get(kind, ())]
        return ["--model=LLMSRec", *own, *teacher, *found]
    text = kind == "text"
    epochs = (TEXT_EPOCHS if text else EPOCHS)[dataset]
    own = [f"--item_input={'text' if text else 'table'}", DTYPE]
    own += [f"--epochs={epochs}", f"--eval_step={VALIDATED.get((dataset, kind), 1)}"]
    if text and USERS[dataset]:
        own.append(f"--user_sample={USERS[dataset]}")
    if kind == "wide":
        own += ["--negative_items=50", "--in_batch_negatives=True"]
    return ["--model=LLMSRec", *own, *teacher, *found]


def runs(options):
    """Name, dataset, kind and seed of each run, the most telling first."""
    for seed in study.SEEDS:
        for kind in KINDS:
            for dataset in DATASETS:
                name = f"{dataset}-{kind}-{seed}"
                if options.only in name and (kind not in SMALL or dataset == "ml-100k"):
                    yield name, dataset, kind, seed


def order_test(name, dataset, kind, options):
    """Test the checkpoint of a run that is done, unless that is done too."""
    target = options.out / f"{name}-order.json"
    file = checkpoint_of(name, options)
    if file is None or target.is_file():
        return
    sample = [f"--user_sample={USERS[dataset]}"] if USERS[dataset] else []
    data = [f"--data_path={options.data_path}"] if dataset != "ml-100k" else []
    folder = options.out / "order" / name
    command = [sys.executable, str(study.ROOT / "run_recbole_llm.py"), "order-test"]
    command += [f"--checkpoint={kind}={file}", "--mode=full,uni99", f"--shuffles={SHUFFLES}"]
    alone = [] if kind == "authors" else ["--no-teacher"]  # its CF model is no run of the study
    command += [f"--out={folder}", "--quiet", *alone, *sample, *data]
    with open(options.out / f"{name}.log", "a") as log:
        status = subprocess.run(command, cwd=options.out, stdout=log, stderr=log).returncode
    if status == 0:
        (folder / "order.json").replace(target)
    print(f"{name}: order test {'done' if status == 0 else f'failed, see {log.name}'}", flush=True)


def tests(options):
    """``{(dataset, what, mode): [test of each seed]}`` of what is there."""
    found: dict = {}
    for name, dataset, kind, _ in runs(options):
        file = options.out / f"{name}-order.json"
        if not file.is_file():
            continue
        for each in json.loads(file.read_text())["tests"]:
            own = each["name"] == kind
            what = NAMES[kind] if own else f"CF model of {NAMES[kind]}"
            if own or kind == "authors":  # other CF models are runs of their own
                found.setdefault((dataset, what, each["mode"]), []).append(each)
    return found


def table(found):
    """Print metrics on true histories and the drop when they are shuffled, as Markdown."""
    print(f"| dataset | model | ranking | users | seeds | {' | '.join(METRICS)} | order: NDCG@10 |")
    print("|---" * (len(METRICS) + 6) + "|")
    for (dataset, what, mode), each in sorted(found.items()):
        cells = [study.mean_std([one["true"][metric] for one in each]) for metric in METRICS]
        drops = [one["summary"]["ndcg@10"]["drop"] for one in each]
        drop = f"−{statistics.mean(drops):.0%}".replace("−-", "+")
        row = [dataset, what, mode, f"{each[0]['users']:,}", str(len(each)), *cells, drop]
        print(f"| {' | '.join(row)} |")


def main():
    parser = study.options(__doc__, "llmsrec")
    parser.add_argument("--have", help="folder of checkpoints that are there already")
    options = parser.parse_args()
    options.out = options.out.resolve()
    if options.table:
        return table(tests(options))
    for name, dataset, kind, seed in runs(options):
        arguments = arguments_of(dataset, kind, seed, options)
        if options.list:
            print("recbole-llm", *arguments)
            continue
        options.out.mkdir(parents=True, exist_ok=True)
        if not (options.have and (Path(options.have) / f"{name}.pth").is_file()):
            study.run(name, arguments, options.out)
        order_test(name, dataset, kind, options)


if __name__ == "__main__":
    main()
