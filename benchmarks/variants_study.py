"""Ways to use an LLM table in SASRec: full ranking and cross-entropy on Amazon_Beauty.

    python -m benchmarks.variants_study --data_path=DIR [--only=TEXT] [--list | --table]
    python -m benchmarks.variants_study --figure=FILE

A kind of item embedding is searched with the seed 2020: three settings for those that are
compared, one or two for those that show what a part of the method does. What is best on validation
(see :func:`best`) is run with the other seeds too, and only those runs are compared on the test
set. Tail items are the 80% least popular, by training interactions.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import study


def dropout(*rates):
    """Settings that differ in the rate of dropout."""
    return {
        f"dropout{rate:g}": [f"--hidden_dropout_prob={rate}", f"--attn_dropout_prob={rate}"]
        for rate in rates
    }


def weight(*weights):
    """Settings that differ in the weight of the popularity adjustment."""
    (rate,) = dropout(0.2).values()
    return {f"weight{w:g}": [*rate, f"--popularity_adjustment={w}"] for w in weights}


#: Item embeddings compared: what they are, and the settings tried. What all share is in SHARED.
KINDS = {
    "recbole": (  # RecBole's own training, whose losses prefix mode repeats (tests/test_parity.py)
        [
            "--preset=id_only",
            "--train_mode=prefix",
            "--prefix_trim=True",
            "--train_batch_size=2048",
        ],
        dropout(0.2, 0.35, 0.5),
    ),
    "id": (["--preset=id_only"], dropout(0.2, 0.35, 0.5)),
    "longtail": (["--preset=longtail"], weight(0.3, 0.5, 0.7)),
    # Without its parts: the table, the adjustment, the wide spread.
    "id_adjusted": (["--preset=id_only", "--popularity_adjustment=0.5"], dropout(0.35)),
    "whitened_cosine": (["--preset=whitened_cosine"], dropout(0.2, 0.35)),
    "longtail_narrow": (["--preset=longtail", "--llm_whiten=0.3"], weight(0.6)),
    # Other uses of a table.
    "llm2x": (["--preset=llm2x"], dropout(0.2)),
    "residual_cosine": (["--preset=residual_cosine"], dropout(0.2)),
    "both_cosine": (["--preset=both_cosine"], dropout(0.2)),
    "text_cosine": (["--preset=text_cosine"], dropout(0.2)),
    "text_only": (["--preset=text_only"], dropout(0.2)),
}
#: Kinds that are run with every seed; the others with the first one only.
REPEATED = ("recbole", "id", "longtail", "id_adjusted", "whitened_cosine", "longtail_narrow")
#: What a kind made for the tail has to reach on validation: tail-item NDCG@10 over RecBole's own.
TAIL_GAIN = 1.3
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
    ("valid tail_items", "ndcg@10"),
    *((group, metric) for group in ("all", "tail_items", "head_items")
      for metric in ("ndcg@10", "hit@10")),
]  # fmt: skip


def scores(out, kind, group):
    """Validation NDCG@10 of each setting that was tried with the first seed."""
    found = {}
    for setting in KINDS[kind][1]:
        for (run,) in study.results(out, [f"{kind}-{setting}-{study.SEEDS[0]}"]).values():
            result = run["best_valid_result"] if group == "all" else run["valid_groups"][group]
            found[setting] = result["ndcg@10"]
    return found


def best(out, kind):
    """The setting of a kind with the best validation NDCG@10; None as long as none was tried.

    ``longtail`` is there for tail items: its setting is the best among those that reach
    ``TAIL_GAIN`` times the validation tail-item NDCG@10 of RecBole's own training, or, where none
    does, the one that comes closest.
    """
    overall = scores(out, kind, "all")
    if kind == "longtail" and best(out, "recbole"):
        needed = TAIL_GAIN * scores(out, "recbole", "tail_items")[best(out, "recbole")]
        tail = scores(out, kind, "tail_items")
        overall = {s: overall[s] for s in overall if tail[s] >= needed} or tail
    return max(overall, key=overall.get, default=None)


def jobs(out):
    """A function of the data path: names and arguments of the runs, the search first."""

    def runs(data_path):
        for kind, setting, seed in _settings(out):
            arguments, settings = KINDS[kind]
            arguments = [*SHARED, f"--data_path={data_path}", *arguments, *settings[setting]]
            yield f"{kind}-{setting}-{seed}", [*arguments, f"--seed={seed}"]

    return runs


def _settings(out):
    first, *others = study.SEEDS
    for kind, (_, settings) in KINDS.items():
        yield from ((kind, setting, first) for setting in settings)
    for kind in REPEATED:
        if len(scores(out, kind, "all")) == len(KINDS[kind][1]):  # the search has ended
            yield from ((kind, best(out, kind), seed) for seed in others)


def chosen(out):
    """Result files of each kind in the best of the settings tried, by kind and setting."""
    found = {}
    for kind in KINDS:
        if setting := best(out, kind):
            found.update(study.results(out, [f"{kind}-{setting}-{s}" for s in study.SEEDS]))
    return found


def figure(found, file):
    """Overall and tail-item NDCG@10 of each kind, mean and spread over seeds."""
    import statistics

    from recbole_llmemb.core.reports import COLORS, new_figure, svg

    kinds = [name.partition("-")[0].replace("_", " ") for name in found]
    picture = new_figure(5, 0.34 * len(kinds) + 0.9)
    axes = picture.subplots(1, 2, sharey=True)
    for axis, group, title in zip(axes, ("all", "tail_items"), ("all users", "tail items")):
        values = [[study.value(r, group, "ndcg@10") for r in runs] for runs in found.values()]
        means = [statistics.mean(v) for v in values]
        spread = [statistics.stdev(v) if len(v) > 1 else 0 for v in values]
        ids = [kind.startswith(("id", "recbole")) for kind in kinds]
        colors = ["0.5" if each else COLORS[0] for each in ids]
        axis.barh(kinds, means, xerr=spread, color=colors, ecolor="0.5", capsize=2)
        for place, mean in enumerate(means):
            look = {"va": "center", "ha": "center", "color": "white", "fontsize": 9}
            axis.text(mean / 2, place, f"{mean:.4f}", **look)
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=9)
        axis.locator_params(axis="x", nbins=4)
    axes[0].invert_yaxis()
    picture.supxlabel("NDCG@10 on Amazon_Beauty, full ranking", fontsize=10)
    file.write_bytes(svg(picture))


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
        study.table(study.results(options.out, names), COLUMNS[:2])
    else:
        study.main(parser, jobs(options.out), COLUMNS)


if __name__ == "__main__":
    main()
