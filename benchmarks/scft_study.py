"""What fine-tuning brings downstream: the raw table, and SCFT's by ``soft`` and ``infonce``.

    python -m benchmarks.scft_study --data_path=DIR [--out=DIR] [--only=TEXT] [--list | --table]

LLMEmbSASRec under the paper's protocol, three seeds, on Amazon_Beauty and ml-100k. Stage 1 is
part of each run (``--scft=True``), done once for all seeds and then found in the cache.
"""

from __future__ import annotations

from benchmarks import study

DATASETS = ("Amazon_Beauty", "ml-100k")
# About 15 minutes on one idle core; the authors' 4,000 steps are for 7 billion weights.
STAGE1 = ["--scft=True", "--scft_steps=300", "--scft_batch_size=64"]
KINDS = {
    "raw": [],
    "soft": [*STAGE1, "--scft_loss=soft"],
    "infonce": [*STAGE1, "--scft_loss=infonce"],
}
COLUMNS = [
    (group, metric) for group in ("all", "tail_items", "head_items") for metric in ("ndcg@10",)
]


def jobs(data_path):
    """Name and ``recbole-llm`` arguments of each run, in the order they are worth having."""
    for dataset in DATASETS:
        for seed in study.SEEDS:
            for kind, stage1 in KINDS.items():
                arguments = [
                    "--model=LLMEmbSASRec",
                    f"--dataset={dataset}",
                    f"--config_files={study.ROOT}/properties/protocol/paper.yaml",
                    *stage1,
                    f"--seed={seed}",
                    "--stopping_step=5",
                    "--epochs=100",
                    "--show_progress=False",
                ]
                if dataset != "ml-100k":  # which RecBole carries
                    arguments.append(f"--data_path={data_path}")
                yield f"{dataset}-{kind}-{seed}", arguments


if __name__ == "__main__":
    study.main(study.options(__doc__, "scft"), jobs, COLUMNS)
