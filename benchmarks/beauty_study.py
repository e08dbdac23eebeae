"""The Amazon_Beauty results in the docs: every backbone, table against ID, two protocols.

    python benchmarks/beauty_study.py --data_path=DIR --out=DIR [--only=TEXT] [--list | --table]

Each run is one ``recbole-llm`` command with ``--result_json``; runs whose result is there
are skipped, so the study continues where it stopped. ``--table`` prints mean ± std over
seeds of what is there, as the docs show it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (2020, 2021, 2022)
BACKBONES = ("SASRec", "GRU4Rec", "BERT4Rec")
# RecBole's own default sizes, for the protocol in which RecBole's results are reported.
RECBOLE_SIZES = {
    "SASRec": [
        "--hidden_size=64",
        "--n_heads=2",
        "--hidden_dropout_prob=0.5",
        "--attn_dropout_prob=0.5",
    ],
    "GRU4Rec": ["--embedding_size=64", "--hidden_size=128", "--dropout_prob=0.3"],
    "BERT4Rec": [
        "--hidden_size=64",
        "--n_heads=2",
        "--hidden_dropout_prob=0.2",
        "--attn_dropout_prob=0.2",
        "--mask_ratio=0.2",
    ],
}
# The authors' dropout, for SASRec under their protocol; the default is 0.2.
DROPOUT50 = ["--hidden_dropout_prob=0.5", "--attn_dropout_prob=0.5"]
# Item embeddings compared (some for SASRec under the paper's protocol only): the table, IDs
# under the same training, and RecBole's own model and training (the same to float tolerance,
# which tests/test_parity.py proves).
ITEMS = {
    "table": ["--item_embedding=table"],
    "id": ["--item_embedding=id"],
    "table_raw": ["--item_embedding=table", "--llm_whiten=0"],
    "table_dropout50": ["--item_embedding=table", *DROPOUT50],
    "id_dropout50": ["--item_embedding=id", *DROPOUT50],
    "recbole": ["--item_embedding=id", "--train_mode=prefix", "--train_batch_size=2048"],
}
GROUPS = ("tail_items", "head_items", "short_users", "long_users")


def jobs(data_path):
    """Name and ``recbole-llm`` arguments of each run, in the order they are worth having."""
    order = [(b, s, i) for b in BACKBONES for s in SEEDS for i in ("table", "id")]
    variants = ("table_dropout50", "id_dropout50", "table_raw")
    order += [("SASRec", s, i) for s in SEEDS for i in variants]
    order += [(b, s, "recbole") for b in BACKBONES for s in SEEDS]  # hours each on two cores
    for protocol in ("paper", "full_ce"):
        for backbone, seed, items in order:
            if items in variants and protocol != "paper":
                continue
            arguments = [
                f"--model=LLMEmb{backbone}",
                "--dataset=Amazon_Beauty",
                f"--data_path={data_path}",
                f"--config_files={ROOT}/properties/protocol/{protocol}.yaml",
                *ITEMS[items],
                f"--seed={seed}",
                "--stopping_step=5",
                "--epochs=100",
                "--show_progress=False",
            ]
            if protocol == "full_ce":
                arguments += RECBOLE_SIZES[backbone]
            elif items == "recbole":
                arguments.append("--loss_type=BPR")  # RecBole has no BCE
            yield f"{protocol}-{backbone}-{items}-{seed}", arguments


def run(name, arguments, out):
    """Do one run unless its result is there."""
    result = out / f"{name}.json"
    if result.is_file():
        return
    lock = out / f"{name}.running"
    try:  # two processes may work through the study side by side
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    try:
        with open(out / f"{name}.log", "a") as log:
            command = [sys.executable, str(ROOT / "run_recbole_llm.py"), *arguments]
            command.append(f"--result_json={result}")
            status = subprocess.run(command, cwd=out, stdout=log, stderr=log).returncode
        print(f"{name}: {'done' if status == 0 else f'failed, see {log.name}'}", flush=True)
    finally:
        lock.unlink()


def table(out, names):
    """Mean ± std over seeds, one line per protocol, backbone and kind of item embedding."""
    found: dict = {}
    for name in names:
        file = out / f"{name}.json"
        if file.is_file():
            found.setdefault(name.rsplit("-", 1)[0], []).append(json.loads(file.read_text()))
    columns = [(group, metric) for group in ("all", *GROUPS) for metric in ("ndcg@10", "hit@10")]
    titles = [f"{group.replace('_', ' ')} {metric}" for group, metric in columns]
    print("| run | seeds | epochs | " + " | ".join(titles) + " |")
    print("|---" * (len(titles) + 3) + "|")
    for name, results in found.items():
        rows = [{**r["groups"], "all": r["test_result"]} for r in results]
        cells = [_mean_std([row[group][metric] for row in rows]) for group, metric in columns]
        epochs = "/".join(str(r["epochs"]) for r in results)
        print(f"| {name} | {len(results)} | {epochs} | {' | '.join(cells)} |")


def _mean_std(values):
    if len(values) == 1:  # no spread to speak of
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", default="dataset/")
    parser.add_argument("--out", default=ROOT / "benchmarks/results/beauty", type=Path)
    parser.add_argument("--only", default="", help="runs whose name contains this")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    options = parser.parse_args()
    chosen = [job for job in jobs(options.data_path) if options.only in job[0]]
    if options.list:
        for _, arguments in chosen:
            print("recbole-llm", *arguments)
    elif options.table:
        table(options.out, [name for name, _ in chosen])
    else:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, arguments in chosen:
            run(name, arguments, options.out.resolve())


if __name__ == "__main__":
    main()
