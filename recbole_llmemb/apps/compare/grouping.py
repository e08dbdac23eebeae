"""Which runs are one and the same but for their seed, and what to call them."""

from __future__ import annotations

import glob
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path

from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.core.files import split_tokens
from recbole_llmemb.encode.settings import EncodeSettings
from recbole_llmemb.records.values import one_line
from recbole_llmemb.run.result import RunResult
from recbole_llmemb.run.schema import Use, keys

# Settings that may differ between runs that are otherwise the same.
_APART = {"seed", "reproducibility", "log_dir"} | keys(Use.SPEED)
# What a table that is given was not made by.
_ENCODER = EncodeSettings.model_fields.keys() - {"llm_table", "llm_pca_dim"}
# Settings that say what a run is about, to be named before others in which it differs.
_FIRST = (
    "item_embedding", "adapter", "item_similarity", "loss_type", "train_mode", "llm_table",
    "llm_encoder",
)  # fmt: skip


@dataclass
class Group:
    """Runs that differ in their seed only, or that were given one name."""

    label: str
    runs: list[RunResult]


def read_groups(arguments) -> list[Group]:
    """Read result files and put those together that belong together.

    ``arguments``: files, patterns such as ``results/*.json``, or ``LABEL=FILE,FILE`` (patterns as
    well), which names a group whatever its runs are. Files given twice count once.
    Returns in the order in which they were given.
    """
    found: dict[tuple, list[RunResult]] = {}  # in order of appearance, labels and all
    seen: dict[str, str | None] = {}
    tables: dict[tuple, str] = {}  # Of the first run of each group that tells
    for argument in arguments:
        label, files = _split(argument)
        if ("label", label) in found:
            raise UserError(f"The label {label!r} is given twice; give all its files at once.")
        for file in files:
            place = os.path.realpath(file)
            if place not in seen:
                seen[place] = label
                run = _read(file)
                key = _identity(run) if label is None else ("label", label)
                if label is None and run.table and tables.setdefault(key, run.table) != run.table:
                    key = (*key, run.table)  # one path, but what is there has changed
                found.setdefault(key, []).append(run)
            elif label not in (None, seen[place]):
                raise UserError(f"{str(file)!r} is given twice, as {label!r} and before.")
    unnamed = [runs for key, runs in found.items() if key[0] != "label"]
    for runs in found.values():
        _refuse_repeated_seeds(runs)
    names = iter(_names(unnamed, {key[1] for key in found if key[0] == "label"}))
    return [
        Group(key[1] if key[0] == "label" else one_line(next(names)), runs)
        for key, runs in found.items()
    ]


def _read(file) -> RunResult:
    run = RunResult.read(file)
    if not run.test_result:
        told = f"{str(file)!r} cannot be compared, as its 'test_result' has no metrics"
        raise UserError(f"{told}; give files of runs that were tested.", where=file)
    return run


def differing_settings(groups) -> dict[str, list]:
    """Settings in which the groups differ, with the value of each; groups that tell only.

    Returns by key, one value per group, None where it is empty.
    """
    configs = [_used(group.runs[0].config) for group in groups]
    if not all(configs):
        return {}
    keys = sorted(set().union(*configs) - _APART)
    rows = {key: [config.get(key) for config in configs] for key in keys}
    return {key: row for key, row in rows.items() if len({_text(value) for value in row}) > 1}


def differing_tables(runs) -> dict[str, RunResult]:
    """By fingerprint the tables of runs that had others under the same settings, a run of each."""
    found: dict[tuple, dict[str, RunResult]] = {}
    for run in runs:
        if run.table:
            found.setdefault(_identity(run), {}).setdefault(run.table, run)
    return {table: run for each in found.values() if len(each) > 1 for table, run in each.items()}


def _used(config) -> dict:
    """Settings without those of an encoder that took no part, as a table was given."""
    unused = _ENCODER if (config or {}).get("llm_table") else ()
    return {key: value for key, value in (config or {}).items() if key not in unused}


def _split(argument) -> tuple[str | None, list[Path]]:
    """Label and files of an argument; a file whose name has ``=`` in it is a file."""
    label, equals, rest = str(argument).partition("=")
    named = "/" not in label or Path(rest.partition(",")[0]).exists()  # a/b=FILE, or a path
    if not equals or Path(argument).exists() or not named:
        return None, _files(str(argument))
    label = one_line(label)
    if not label or not rest.strip(", "):
        raise UserError(f"{argument!r} is neither a file nor of the form LABEL=FILE,FILE.")
    files = [file for part in split_tokens(rest, where=str(argument)) for file in _files(part)]
    return label, files


def _files(text) -> list[Path]:
    if Path(text).exists() or not glob.has_magic(text):
        return [Path(text)]
    files = [Path(file) for file in sorted(glob.glob(text, recursive=True))]
    if not files:
        raise UserError(f"There is no file like {text!r}; give result files.")
    return files


def _identity(run) -> tuple:
    """Equal for runs that differ in their seed only, as far as their files tell."""
    if run.config:
        kept = {key: value for key, value in _used(run.config).items() if key not in _APART}
        return "config", run.model, run.dataset, json.dumps(kept, sort_keys=True)
    # An older file: a name that ends in the seed says what the run was.
    name = str(run.file.parent / run.name) if run.name else str(run.file)
    return "file", run.model, run.dataset, json.dumps(run.parameters, sort_keys=True), name


def _refuse_repeated_seeds(runs):
    first: dict[tuple, RunResult] = {}
    for run in runs:
        other = first.setdefault((run.seed, *_identity(run)), run)
        same = other.data == run.data or None in (other.data, run.data)
        if other is not run and same:  # others are refused for their data
            told = f"{str(other.file)!r} and {str(run.file)!r} are the same run (seed {run.seed})"
            raise UserError(f"{told}; leave one out, or name them apart: LABEL=FILE LABEL=FILE.")


def _names(groups, taken) -> list[str]:
    """A name for each: its files' common name, or its model and what sets it apart."""
    models = [runs[0].model for runs in groups]
    settings = differing_settings([Group("", runs) for runs in groups])
    settings.pop("model", None)
    telling, names, used = _distinguishing_settings(settings), [], set(taken)
    for place, (model, runs) in enumerate(zip(models, groups)):
        common = {_file_says(run) for run in runs}
        values = ((key, settings[key][place]) for key in telling)
        apart = [f"{key}={_text(value)}" for key, value in values if value is not None]
        name = common.pop() if len(common) == 1 else None
        if name is not None:
            names.append(name)
        elif models.count(model) == 1:
            names.append(model)
        else:
            names.append(", ".join([model, *apart]) if telling else runs[0].file.stem)
    for place, name in enumerate(names):
        if name in used or names.count(name) > 1:
            names[place] = str(groups[place][0].file.with_suffix(""))
        used.add(names[place])
    return names


def _file_says(run) -> str | None:
    """The name that a result file's own has: of model and preset, or whatever precedes the seed."""
    name = run.name or run.file.stem
    given, here, rest = name.partition(f"{run.model}-{run.dataset}".replace("/", "_"))
    key = rest and str(run.checkpoint).endswith(f"{rest[1:].rpartition('-')[2]}.pth")
    if given or not here or key or rest[:1] not in ("", "-"):
        return run.name
    return f"{run.model}, {rest[1:]}" if rest else run.model


def _distinguishing_settings(settings, most=3) -> list[str]:
    """Settings that tell all groups apart, as few as do; the first ones if none do."""
    order = [*(key for key in _FIRST if key in settings), *settings]
    texts = {key: [_text(value) for value in settings[key]] for key in order}
    for count in range(1, most + 1):
        for chosen in itertools.combinations(texts, count):
            values = list(zip(*(texts[key] for key in chosen)))
            if len(set(values)) == len(values):
                return list(chosen)
    return list(texts)[:most]


def _text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _parts(label) -> set[str]:
    """``SASRec, dropout=0.2`` is also known as ``SASRec``, ``dropout=0.2`` and ``0.2``."""
    parts = label.split(", ")
    return {*parts, *(part.partition("=")[2] for part in parts)} - {""}


def choose_baseline(groups, name) -> list[Group]:
    """The groups with the baseline first.

    ``name``: A label, or what one label alone has in it: ``item_embedding=id``, or ``id``.
    """
    if name is None:
        return groups
    chosen = [group for group in groups if group.label == name]
    chosen = chosen or [group for group in groups if name in _parts(group.label)]
    if len(chosen) != 1:
        labels = name_some([group.label for group in groups], 8)
        raise UserError(f"--baseline is {name!r}; it must be one of {labels}.", key="baseline")
    return chosen + [group for group in groups if group is not chosen[0]]
