"""``recbole-llm tune``: search for the best settings of a model with Ray Tune."""

from __future__ import annotations

import sys

from recbole_llmemb.cli.run import parse
from recbole_llmemb.core.errors import UserError

HELP = """usage: recbole-llm tune --model=MODEL --space=FILE [--dataset=NAME] [--data_path=DIR]
                        [--num_samples=8] [--scheduler=asha] [--search=random]
                        [--metric="ndcg@10"] [--storage=DIR] [--resume] [--KEY=VALUE …]

Searches for the settings with which MODEL ranks validation best, on this machine or on the Ray
cluster that RAY_ADDRESS names. The test set is ranked once, for the best trial.

  --model           any model of this package or of RecBole
  --dataset         the dataset's name (default: ml-100k, which RecBole carries)
  --space           what is searched: a yaml file, or RecBole's hyper.test format
  --num_samples     trials (default: 8)
  --max_concurrent  trials at a time (default: as many as there is room for)
  --cpus_per_trial  CPUs and threads of a trial (default: 1)
  --gpus_per_trial  GPUs of a trial, 0.5 for two trials on one (default: 0)
  --scheduler       asha: stop trials that are behind; none (default: asha)
  --grace_epochs    epochs before which asha stops nothing (default: a tenth of epochs)
  --search          random, or optuna's TPE (default: random)
  --metric          such as ndcg@10 or "tail_items ndcg@10" (default: valid_metric)
  --storage         where searches are kept: a folder or s3://… (default: tune/)
  --name            of the search, below storage (default: MODEL-DATASET)
  --resume          continue a search that was interrupted
  --config_files    RecBole property files, separated by spaces; later ones win
  --preset          a variant of items and scores, as for run
  --KEY=VALUE       any configuration key of ours or RecBole's

In the search's folder, at the end: best.yaml (for --config_files), best.json, trials.csv,
report.html and its figures.
"""
#: Options beside the keys of the configuration, ``model`` and ``dataset``.
OPTIONS = (
    "space", "num_samples", "max_concurrent", "cpus_per_trial", "gpus_per_trial", "scheduler",
    "search", "metric", "storage", "name", "resume", "grace_epochs",
)  # fmt: skip


def parse_options(argv: list[str]) -> dict:
    """Read ``--key=value``, and ``--resume`` by itself."""
    return parse([f"{a}=True" if a == "--resume" else a for a in argv])


def main(argv: list[str]) -> int:
    """Run ``recbole-llm tune``; parameters and errors as of :mod:`recbole_llmemb.cli.encode`."""
    if any(argument in ("-h", "--help") for argument in argv):
        print(HELP)
        return 0
    typed = parse_options(argv)
    typed.pop("result_json", None)
    options = {key: typed.pop(key) for key in OPTIONS if typed.get(key) is not None}
    options = {key: value for key, value in options.items() if value is not None}
    # "none" is read as no value, and is a value here.
    if "scheduler" in typed and typed.pop("scheduler") is None:
        options["scheduler"] = "none"
    for key in ("metric", "storage", "name", "space"):
        if key in options:
            options[key] = str(options[key])
    model, dataset = typed.pop("model", None), typed.pop("dataset", None)
    files = str(typed.pop("config_files", None) or "").split()
    preset = typed.pop("preset", None)
    if not isinstance(model, str):
        raise UserError("No model is named; add --model=LLMEmbSASRec, for example.")

    from recbole_llmemb.apps.tune.needs import require_ray

    require_ray()
    from recbole_llmemb.apps.tune import search
    from recbole_llmemb.cli.run import _dataset_in
    from recbole_llmemb.config.recbole_config import preset_file

    if preset:
        files.insert(0, str(preset_file(preset)))
    dataset = dataset or _dataset_in(files)
    dataset = None if dataset is None else str(dataset)
    try:
        found = search(model, dataset, config_files=files, **options, **typed)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command with --resume continues", file=sys.stderr)
        return 130
    show(found)
    return 0


def show(found) -> None:
    """Print what a search found."""
    from recbole_llmemb.apps.tune.reporting import final_table

    print(f"\n{found.table}\n\nThe best, trial {found.best.number}:\n")
    print(final_table(found))
    print(f"\nsettings: {found.folder / 'best.yaml'}")
    print(f"report:   {found.folder / 'report.html'}")
    print(f"total:    {found.seconds:.1f} s")
