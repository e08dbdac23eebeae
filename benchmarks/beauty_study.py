"""The Amazon_Beauty results in the docs: every backbone, table against ID, two protocols.

python -m benchmarks.beauty_study --data_path=DIR [--out=DIR] [--only=TEXT] [--list | --table]
"""

from __future__ import annotations

from benchmarks import study

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
# under the same training, and RecBole's own model and training: prefixes, whose losses equal
# RecBole's to float tolerance (tests/test_parity.py), with the padding left out for speed.
ITEMS = {
    "table": ["--item_embedding=table"],
    "id": ["--item_embedding=id"],
    "table_raw": ["--item_embedding=table", "--llm_whiten=0"],
    "table_dropout50": ["--item_embedding=table", *DROPOUT50],
    "id_dropout50": ["--item_embedding=id", *DROPOUT50],
    "recbole": [
        "--item_embedding=id",
        "--train_mode=prefix",
        "--prefix_trim=True",
        "--train_batch_size=2048",
    ],
}
COLUMNS = [
    (group, metric)
    for group in ("all", "tail_items", "head_items", "short_users", "long_users")
    for metric in ("ndcg@10", "hit@10")
]


def jobs(data_path):
    """Name and ``recbole-llm`` arguments of each run, in the order they are worth having."""
    order = [(b, s, i) for b in BACKBONES for s in study.SEEDS for i in ("table", "id")]
    variants = ("table_dropout50", "id_dropout50", "table_raw")
    order += [("SASRec", s, i) for s in study.SEEDS for i in variants]
    order += [(b, s, "recbole") for b in BACKBONES for s in study.SEEDS]
    for protocol in ("paper", "full_ce"):
        for backbone, seed, items in order:
            if items in variants and protocol != "paper":
                continue
            arguments = [
                f"--model=LLMEmb{backbone}",
                "--dataset=Amazon_Beauty",
                f"--data_path={data_path}",
                f"--config_files={study.ROOT}/properties/protocol/{protocol}.yaml",
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


if __name__ == "__main__":
    study.main(study.options(__doc__, "beauty"), jobs, COLUMNS)
