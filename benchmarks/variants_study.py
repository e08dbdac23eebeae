"""Ways to use an LLM table in SASRec: full ranking and cross-entropy on Amazon_Beauty.

    python -m benchmarks.variants_study --data_path=DIR [--only=TEXT] [--list | --table]
    python -m benchmarks.variants_study --figure=FILE

Every kind of item embedding gets the same search: one run per dropout rate with the seed 2020.
The rate with the best validation NDCG@10 is then run with the other seeds, and only those three
runs are compared on the test set. Tail items are the 80% least popular, by training interactions.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import study

#: Item embeddings compared. What all of them share is in SHARED.
KINDS = {
    "recbole": [  # RecBole's own training, whose losses prefix mode repeats (tests/test_parity.py)
        "--preset=id_only",
        "--train_mode=prefix",
        "--prefix_trim=True",
        "--train_batch_size=2048",
    ],
    "id": ["--preset=id_only"],
    "id_cosine": ["--preset=id_cosine"],
    "id_adjusted": ["--preset=id_only", "--popularity_adjustment=0.5"],
    "llm2x": ["--preset=llm2x"],
    "whitened_cosine": ["--preset=whitened_cosine"],
    "longtail": ["--preset=longtail"],
    # The spread of whitened_cosine and more of the adjustment: what the preset was before.
    "longtail_narrow": ["--preset=longtail", "--llm_whiten=0.3", "--popularity_adjustment=0.6"],
    "residual_cosine": ["--preset=residual_cosine"],
    "both_cosine": ["--preset=both_cosine"],
    "text_cosine": ["--preset=text_cosine"],
    "text_only": ["--preset=text_only"],
}
DROPOUTS = (0.2, 0.35, 0.5)
SHARED = [
    "--model=LLMEmbSASRec",
    "--dataset=Amazon_Beauty",
    f"--config_files={study.ROOT}/properties/protocol/full_ce.yaml",
    "--hidden_size=64",
    "--n_heads=2",
    "--tail_item_threshold=0.8",
    "--stopping_step=5",
    "--epochs=100",
    "--show_progress=False",
]
COLUMNS = [
    ("valid", "ndcg@10"),
    *((group, metric) for group in ("all", "tail_items", "head_items")
      for metric in ("ndcg@10", "hit@10")),
]  # fmt: skip


def group_name(kind, dropout):
    """Name of the runs of one setting."""
    return f"{kind}-dropout{dropout:g}"


def tried(out, kind):
    """Validation NDCG@10 of each rate that was tried with the first seed."""
    scores = {}
    for dropout in DROPOUTS:
        runs = study.results(out, [f"{group_name(kind, dropout)}-{study.SEEDS[0]}"])
        for found in runs.values():
            scores[dropout] = study.value(found[0], "valid", "ndcg@10")
    return scores


def jobs(out):
    """A function of the data path: names and arguments of the runs, the search first."""

    def runs(data_path):
        for kind, seeds, dropouts in _settings(out):
            for dropout in dropouts:
                for seed in seeds:
                    rates = [
                        f"--hidden_dropout_prob={dropout}",
                        f"--attn_dropout_prob={dropout}",
                    ]
                    arguments = [*SHARED, f"--data_path={data_path}", *KINDS[kind], *rates]
                    yield f"{group_name(kind, dropout)}-{seed}", [*arguments, f"--seed={seed}"]

    return runs


def _settings(out):
    yield from ((kind, study.SEEDS[:1], DROPOUTS) for kind in KINDS)
    for kind in KINDS:
        scores = tried(out, kind)
        if len(scores) == len(DROPOUTS):  # the search has ended
            yield kind, study.SEEDS[1:], [max(scores, key=scores.get)]


def chosen(out):
    """Result files of each kind at the best of the rates tried, by kind and rate."""
    found = {}
    for kind in KINDS:
        scores = tried(out, kind)
        if scores:
            best = max(scores, key=scores.get)
            names = [f"{group_name(kind, best)}-{seed}" for seed in study.SEEDS]
            found.update(study.results(out, names))
    return found


def figure(found, file):
    """Overall and tail-item NDCG@10 of each kind, mean and spread over seeds."""
    import statistics

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = [name.partition("-dropout")[0].replace("_", " ") for name in found]
    picture, axes = pyplot.subplots(1, 2, figsize=(9, 0.45 * len(kinds) + 1.2), sharey=True)
    for axis, group, title in zip(axes, ("all", "tail_items"), ("all users", "tail items")):
        values = [[study.value(r, group, "ndcg@10") for r in runs] for runs in found.values()]
        means = [statistics.mean(v) for v in values]
        spread = [statistics.stdev(v) if len(v) > 1 else 0 for v in values]
        colours = ["0.6" if kind.startswith(("id", "recbole")) else "C0" for kind in kinds]
        axis.barh(kinds, means, xerr=spread, color=colours, capsize=2)
        for place, mean in enumerate(means):
            axis.text(mean / 2, place, f"{mean:.4f}", va="center", ha="center", color="white")
        axis.set_title(title)
        axis.set_xlabel("test NDCG@10, full ranking")
    axes[0].invert_yaxis()
    picture.tight_layout()
    picture.savefig(file, dpi=150)


def main():
    parser = study.options(__doc__, "variants")
    parser.add_argument("--figure", type=Path, help="draw the chosen runs into this file and stop")
    options = parser.parse_args()
    if options.figure:
        figure(chosen(options.out), options.figure)
    elif options.table:
        print("Chosen on validation:\n")
        study.table(chosen(options.out), COLUMNS)
        print("\nThe search (seed 2020):\n")
        names = [n for n, _ in jobs(options.out)(options.data_path) if n.endswith("-2020")]
        study.table(study.results(options.out, names), COLUMNS[:3])
    else:
        study.main(parser, jobs(options.out), COLUMNS)


if __name__ == "__main__":
    main()
