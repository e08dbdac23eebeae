"""Search for the settings with which MODEL ranks validation best.

It runs on this machine or on the Ray cluster that RAY_ADDRESS names. The test set is ranked once,
for the best trial.

Any other --KEY=VALUE is a configuration key of ours or RecBole's, the same for all trials.

In the search's folder, at the end: best.yaml (for --config_files), best.json, trials.csv,
report.html and its figures.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from recbole_llmemb.apps import tune
from recbole_llmemb.cli.options import Options
from recbole_llmemb.cli.run import parse
from recbole_llmemb.config.values import bundled_file, property_files, settings_of
from recbole_llmemb.core.checked import Checked, option
from recbole_llmemb.core.errors import UserError


class SearchTarget(Checked):
    """What is searched for."""

    model: str = option(..., "any model of this package or of RecBole")
    dataset: str | None = option(None, "its name (default: ml-100k, which RecBole carries)")
    space: str = option(
        ..., "llmemb, llmsrec, sasrec, a yaml file, or one in RecBole's format", metavar="FILE"
    )
    config_files: str = option("", "RecBole property files, separated by spaces; later ones win")
    preset: str | None = option(None, "a variant of items and scores, as for run")
    protocol: str | None = option(None, "paper or full, as for run")


def read_arguments(argv: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the search, and keys of the configuration, as they are typed."""
    keys: list[str] = []
    options = Options("tune", __doc__).add(SearchTarget).add(tune.SearchOptions).typed(argv, keys)
    settings = parse(keys)
    if "result_json" in settings:
        told = "--result_json is an option of run; a search writes best.json into its own folder."
        raise UserError(told, key="result_json")
    return options, settings


def _space(given: str) -> str:
    """The file of a search space: one that is there, or one of ours by its name."""
    named = given.isidentifier() and not Path(given).exists()
    return str(bundled_file("space", given)) if named else given


def main(argv: list[str]) -> int:
    options, settings = read_arguments(argv)
    tune.require_ray()
    files = property_files(options)
    options["space"] = _space(options["space"])
    options["dataset"] = options.get("dataset") or settings_of(files).get("dataset")
    try:
        result = tune.search(config_files=files, **options, **settings)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command with --resume continues", file=sys.stderr)
        return 130
    print(f"\n{result.table}\n\nThe best, trial {result.best.number}:\n")
    print(tune.final_table(result))
    print(f"\nsettings: {result.folder / 'best.yaml'}")
    print(f"report:   {result.folder / 'report.html'}")
    print(f"total:    {result.seconds:.1f} s")
    return 0
