"""Each preset under two measures: the history kept among the candidates, and removed.

    python -m benchmarks.measures_study --data_path=DIR [--only=TEXT] [--list | --table]

LLMEmbSASRec on Amazon_Beauty, Toys and ml-100k, cross-entropy and full ranking; one seed, three for
``best``, ``best_longtail`` and ``id_best``, which have their own width and dropout and alone are
trained on Toys. Training stops early by the history kept. The same checkpoint's test users are then
ranked under both measures, and ``DATASET-PRESET.json`` notes what came out. Runs that are done
already, ``DATASET-PRESET.json`` of ``--result_json`` in the folder that ``--trained`` names, are
not trained again. Below a table stands how many times ``id_best`` those of three seeds have, with
the p-value of Welch's t-test over the seeds.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from benchmarks import study
from recbole_llmemb.apps.order_test import order_test
from recbole_llmemb.config.values import bundled_names
from recbole_llmemb.core.errors import UserError

SHARED = [
    "--model=LLMEmbSASRec",
    f"--config_files={study.ROOT}/properties/protocol/full_ce.yaml",
    "--show_progress=False",
]
#: Presets with settings of their own for what DATASETS settles for the others.
WHOLE = ("best", "best_longtail", "id_best")
#: With whom those are compared.
OPPONENT = "id_best"
_TRAINING = ["--tail_item_threshold=0.8", "--stopping_step=5"]
_SMALL = ["--hidden_size=64", "--n_heads=2", "--hidden_dropout_prob=0.2", "--attn_dropout_prob=0.2"]
#: Name of the dataset, the settings of every preset, and what those have beside that are not WHOLE.
DATASETS = {
    "ml-100k": ("ml-100k", [], []),
    "beauty": ("Amazon_Beauty", _TRAINING, [*_SMALL, "--epochs=25"]),
    "toys": ("Toys", _TRAINING, None),
}
MEASURES = {"kept": False, "removed": True}
COLUMNS = (("all", "ndcg@10"), ("all", "hit@10"), ("tail_items", "ndcg@10"))


def jobs(data_path):
    """Name and ``recbole-llm`` arguments of each training."""
    for short, (dataset, settings, others) in DATASETS.items():
        where = [] if dataset == "ml-100k" else [f"--data_path={data_path}"]
        for preset in presets(short):
            own = [] if preset in WHOLE else others
            for name, seed in names(short, preset):
                given = [f"--dataset={dataset}", f"--preset={preset}", f"--seed={seed}"]
                yield name, [*SHARED, *given, *where, *settings, *own]


def presets(short) -> list[str]:
    """Those that are trained on a dataset."""
    return [p for p in bundled_names("preset") if p in WHOLE or DATASETS[short][2] is not None]


def names(short, preset):
    """Name and seed of each run of a preset."""
    seeds = study.SEEDS if preset in WHOLE else study.SEEDS[:1]
    return [(f"{short}-{preset}" + f"-{seed}" * (seed != seeds[0]), seed) for seed in seeds]


def measure(result_file, data_path=None) -> dict:
    """Rank the test users of a run's checkpoint under both measures.

    Parameters
    ----------
    result_file : path-like
        Of the run.
    data_path : path-like, optional
        The folder of the dataset's folder, if it is not where it was.

    Returns
    -------
    dict
        What the run was, and for each of :data:`MEASURES` and group its metrics.
    """
    result_file = Path(result_file)
    run = json.loads(result_file.read_text())
    changes = {
        "exclude_history": list(MEASURES.values()),
        "metrics": ["NDCG", "Hit"],
        "topk": [10],
        "data_path": data_path,
    }
    found = {key: run[key] for key in ("model", "dataset", "seed", "epochs")}
    checkpoint = result_file.parent / run["checkpoint"]
    for name, order in zip(MEASURES, order_test(checkpoint, shuffles=0, changes=changes)):
        found[name] = {"all": {"users": order.users, **order.true}, **order.groups}
    return found


def run(name, arguments, options):
    """Do one job unless it is done, training first where there is no run."""
    record = options.out / f"{name}.json"
    if record.is_file():
        return
    trained = options.trained.resolve()
    study.run(name, arguments, trained)
    if not (trained / f"{name}.json").is_file():
        return  # another process is at it, or it failed and said so
    moved = None if "ml-100k" in name else Path(options.data_path).resolve()
    try:
        with tempfile.TemporaryDirectory() as folder:  # for what RecBole leaves behind
            here = Path.cwd()
            os.chdir(folder)
            try:
                found = measure(trained / f"{name}.json", moved)
            finally:
                os.chdir(here)
    except UserError as error:
        print(f"{name}: {error}", flush=True)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{name}: measured", flush=True)


def of_seeds(out, short, preset) -> list[dict]:
    """What is there of a preset's seeds."""
    files = [Path(out) / f"{name}.json" for name, _ in names(short, preset)]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def ratios(out, short, titles) -> list[str]:
    """Markdown: how many times what OPPONENT has each has, and Welch's t-test over the seeds."""
    from scipy.stats import ttest_ind

    theirs, lines = of_seeds(out, short, OPPONENT), []
    for preset in WHOLE:
        ours = of_seeds(out, short, preset)
        if preset == OPPONENT or min(len(ours), len(theirs)) < len(study.SEEDS):
            continue
        cells = []
        for group, metric in COLUMNS:
            for how in MEASURES:
                both = [[run[how][group][metric] for run in runs] for runs in (ours, theirs)]
                times = sum(both[0]) / sum(both[1])
                p = ttest_ind(*both, equal_var=False).pvalue
                cells.append(f"{times:.2f} ({p:.1g})")
        lines.append(f"| {preset} | {' | '.join(cells)} |")
    if not lines:
        return []
    return ["", f"| times {OPPONENT} (p) | {titles} |", "|---" * (len(cells) + 1) + "|", *lines]


def table(out) -> str:
    """A Markdown table for each dataset; cells of runs that are not there say so."""
    lines = []
    groups = {"all": "", "tail_items": "tail "}
    titles = [f"{groups[g]}{m.upper()}, {how}" for g, m in COLUMNS for how in MEASURES]
    for short, (dataset, *_) in DATASETS.items():
        lines += ["", f"{dataset}:", "", "| preset | epochs | " + " | ".join(titles) + " |"]
        lines.append("|---" * (len(titles) + 2) + "|")
        for preset in presets(short):
            runs = of_seeds(out, short, preset)
            cells = ["not measured", *[""] * len(titles)]
            if runs:
                cells = ["/".join(str(run["epochs"]) for run in runs)]
                for group, metric in COLUMNS:
                    for how in MEASURES:
                        cells.append(study.mean_std([run[how][group][metric] for run in runs]))
            lines.append(f"| {preset} | {' | '.join(cells)} |")
        lines += ratios(out, short, " | ".join(titles))
    return "\n".join(lines[1:])


def main(argv=None):
    parser = study.options(__doc__, "measures")
    parser.add_argument(
        "--trained",
        type=Path,
        default=Path("measures_runs"),
        help="where runs are, or are trained (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    options.out = options.out.resolve()
    wanted = [job for job in jobs(options.data_path) if options.only in job[0]]
    if options.list:
        for _, arguments in wanted:
            print("recbole-llm", *arguments)
    elif options.table:
        print(table(options.out))
    else:
        for name, arguments in wanted:
            run(name, arguments, options)


if __name__ == "__main__":
    main()
