"""Train a model on a dataset in RecBole's atomic files and rank it.

The item table and the collaborative teacher are built first if the cache does
not have them.

  --model, -m     {models},
                  or any RecBole model
  --dataset, -d   the dataset's name (default: ml-100k, which RecBole carries)
  --data_path     where the dataset's folder is (default: dataset/)
  --preset        a variant of items and scores: best where items have
                  telling texts, best_longtail for rare items, id_only
                  to compare; all of them:
                  {presets}
  --protocol      paper: sampled negatives, ranking among 100;
                  full: cross-entropy, full ranking
  --config_files  RecBole property files, separated by spaces; later ones win
  --seeds         1,2,3: a run for each, then means and standard deviations
  --result_json   a file for the results, or a folder for one of its own
                  (default: runs/)
  --KEY=VALUE     any configuration key of ours, which follow, or RecBole's

{keys}
"""

from __future__ import annotations

import textwrap
import warnings
from typing import Any

from recbole_llmemb.config.values import bundled_names, typed_value
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.llmemb.backbones import NAMES
from recbole_llmemb.run.schema import help_text, refuse_typed

RUNS = "runs/"
_NAMES = ("model", "dataset", "preset", "protocol", "config_files")
_SHORT = {"-m": "--model", "-d": "--dataset"}  # as with RecBole's own script


def parse(argv: list[str]) -> dict:
    """Read ``--key=value`` (or ``--key value``) into typed values."""
    values: dict = {}
    argv = list(argv)
    while argv:
        argument = argv.pop(0)
        argument = _SHORT.get(argument[:2], argument[:2]) + argument[2:]
        if not argument.startswith("--"):
            raise UserError(f"Argument {argument!r} is not of the form --key=value.")
        key, given, text = argument[2:].partition("=")
        if not given:
            if not argv or argv[0].startswith("--"):
                raise UserError(f"--{key} has no value; write --{key}=VALUE.")
            text = argv.pop(0)
        if not text and key in _NAMES:  # as an empty variable of a shell gives it
            raise UserError(f"--{key} is empty; give a name, or leave it off.", key=key)
        value = None if text.lower() in ("none", "null", "~") else typed_value(key, text)
        if key in values and values[key] != value:
            raise UserError(f"--{key} is given twice, as {values[key]!r} and as {value!r}.")
        values[key] = value
    return values


def main(argv: list[str]) -> int:
    if any(argument in ("-h", "--help") for argument in argv):
        models, presets = _listed([*NAMES, "LLMSRec"]), _listed(bundled_names("preset"))
        print("usage: recbole-llm run --model=MODEL [--dataset=NAME] [--KEY=VALUE …]\n")
        print((__doc__ or "").format(models=models, presets=presets, keys=help_text()))
        return 0
    typed = parse(argv)
    seeds = _seeds(typed.pop("seeds"), typed) if "seeds" in typed else None
    options = ("model", "dataset", "config_files", "preset", "protocol", "result_json")
    settings = {key: value for key, value in typed.items() if key not in options}
    refuse_typed(settings, typed.get("model"))
    typed.setdefault("result_json", RUNS)
    from recbole_llmemb.run.execute import execute, execute_seeds

    if seeds is None:
        execute(typed)
    else:
        execute_seeds(typed, seeds)
    return 0


def _listed(words) -> str:
    """Words in lines that begin where an option's text does."""
    indent = " " * 18
    text = ", ".join(words)
    return textwrap.fill(text, 79, initial_indent=indent, subsequent_indent=indent).lstrip()


def _seeds(value, typed) -> list[int]:
    """The seeds in ``1,2,3``."""
    entries = str(value).strip("[]() ").split(",")
    if "seed" in typed or not all(str(entry).strip().isdecimal() for entry in entries):
        raise UserError(f"--seeds is {value!r}; give numbers as in 1,2,3, and no --seed.",
                        key="seeds")  # fmt: skip
    seeds = list(map(int, entries))
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds is {value!r}; give each seed once.", key="seeds")
    return seeds


def __getattr__(name: str) -> Any:
    if name != "execute":  # which was here, and was documented so
        raise AttributeError(name)
    old, new = f"{__name__}.execute", "recbole_llmemb.run.execute.execute"
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=2)
    from recbole_llmemb.run.execute import execute

    return execute
