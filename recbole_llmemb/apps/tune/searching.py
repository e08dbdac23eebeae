"""The search: trials by Ray Tune, then the test set, once, and the report; and where it is kept."""

from __future__ import annotations

import json
import logging
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import ray
import torch
from pyarrow import fs

from recbole_llmemb.apps.tune import SearchOptions
from recbole_llmemb.apps.tune import report as reporting
from recbole_llmemb.apps.tune.plan import make_plan
from recbole_llmemb.apps.tune.prepare import prepare, read_beside
from recbole_llmemb.apps.tune.space import read_space
from recbole_llmemb.apps.tune.trial import evaluate
from recbole_llmemb.apps.tune.tuning import Trial, best_of, collect, make_tuner
from recbole_llmemb.core.artifacts import build_lock
from recbole_llmemb.core.devices import connected, preserve_cuda_visible_devices
from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.files import atomic_file, seal, unseal
from recbole_llmemb.core.imports import optional
from recbole_llmemb.core.reports import need_matplotlib
from recbole_llmemb.core.terminal import counted
from recbole_llmemb.data.dataset import files_hash
from recbole_llmemb.table.format import read_manifest

_RECORD = "search.json"
# Of trials, in JSON, and of what draws them, pickles.
_NOTES = ("experiment_state-", "search_gen_state-", "searcher-state-", "basic-variant-state-")
# Options that a search goes on with, if it goes on.
_RECORDED = {"num_samples", "scheduler", "search", "grace_epochs", "max_concurrent"}


@dataclass
class SearchResult:
    """What a search found."""

    best: Trial
    trials: list
    valid: dict  # valid, test: ``result`` and ``groups`` of the best trial's best epoch
    test: dict
    settings: dict  # The best configuration, as its yaml file has it
    folder: Path  # Where the report is
    seconds: float
    table: str = ""  # The trials, the best first, for people
    files: list = field(default_factory=list)  # What was written


def search(
    model, dataset=None, space=None, *, config_files=(), report=print, **settings
) -> SearchResult:
    """Search for the best settings of a model.

    ``model``: any model of this package or of RecBole.
    ``dataset``: ``ml-100k`` if not given.
    ``space``: see :func:`~recbole_llmemb.apps.tune.space.read_space`.
    ``config_files``: configuration files, later ones win.
    ``report``: called with one line per stage.
    ``**settings``: any of :class:`~recbole_llmemb.apps.tune.SearchOptions`, and any
    configuration key.
    """
    began = perf_counter()
    given = {key: settings.pop(key) for key in SearchOptions.model_fields if key in settings}
    options = SearchOptions(**given)
    need_matplotlib("tune", "The report of a search")
    optuna = optional("optuna", "tune", "A search")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if space is None:
        raise UserError("There is no search space; give one with --space=FILE.", key="space")
    if not options.gpus_per_trial:
        settings.setdefault("use_gpu", False)
    with preserve_cuda_visible_devices():
        plan, config = make_plan(
            model, dataset or "ml-100k", config_files, settings, read_space(space), options.metric
        )
        place = Storage(options.storage, options.name or f"{plan.model}-{plan.dataset}")
    # Of two searches of one name the second waits, and then finds that of the first.
    with nullcontext() if place.remote else build_lock(Path(place.path), "search"):
        return _search(plan, config, place, options, report, began)


def _search(plan, config, place, options, report, began) -> SearchResult:
    cpus, gpus = options.cpus_per_trial, options.gpus_per_trial
    record = {
        "model": plan.model,
        "dataset": plan.dataset,
        "settings": plan.settings,
        "space": plan.space.plain(),
        "metric": plan.metric.name,
        "data": files_hash(config),
        **options.model_dump(include=_RECORDED),
    }
    record = json.loads(json.dumps(record | read_beside(plan), default=str))
    place.require_same_search(record, options.resume)
    if options.resume and place.read() is None:
        report(f"search: there is none in {place.path} to go on with; this one begins")
    with preserve_cuda_visible_devices():
        prepared = prepare(plan, config, report)
    if prepared.table:  # which may be another one, of the same path or of other texts
        record["table"] = read_manifest(prepared.table.path).get("fingerprint")
        place.require_same_search(record, options.resume)
    # Twice what is shared: in the object store, and on its way there.
    memory = 2 * prepared.nbytes + (100 << 20)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told by trial
    with connected(ray, memory) as here:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        report(_description(here, nodes))
        _require_room(nodes, cpus, gpus)
        resume = options.resume and bool(place.notes(_NOTES[0]))
        if resume and (damaged := place.damaged_note()):
            report(f"warning: {damaged} is damaged, so all trials begin anew")
            resume = False
        place.write(record)
        if resume:
            place.find_removed_checkpoints()
        trials = _trials(prepared, place, options, config["seed"], resume)
        if resume and len(trials) < options.num_samples:
            report(f"warning: what Ray noted in {place.path} is damaged, so all trials begin anew")
            trials = _trials(prepared, place, options, config["seed"], False)
        best = best_of(trials, plan.metric)
        report(f"test: trial {best.number} on the test set …")
        with preserve_cuda_visible_devices():
            valid, test = _evaluated(prepared, best, cpus, gpus)
    result = SearchResult(
        best=best,
        trials=trials,
        valid=valid,
        test=test,
        settings=reporting.best_settings(plan, best),
        folder=Path(f"tune/{place.name}" if place.remote else place.path),
        seconds=perf_counter() - began,
        table=reporting.trials_table(plan, trials, limit=20),
    )
    result.files = reporting.write(plan, result, place)
    return result


def _trials(prepared, place, options, seed, resume) -> list[Trial]:
    tuner = make_tuner(prepared, place, options, seed, resume)
    return collect(tuner.fit(), prepared.plan.metric)


def _description(here, nodes):
    """The Ray that a search runs on, in a line."""
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    count = f"{counted(len(nodes), 'node')}, {cpus:g} CPUs"
    return f"ray {ray.__version__}: {here}, {count}" + (f", {gpus:g} GPUs" if gpus else "")


def _require_room(nodes, cpus, gpus):
    """Refuse trials that no node has room for, which Ray would wait for without end."""
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        have = max(nodes, key=lambda node: (node.get("GPU", 0), node.get("CPU", 0)), default={})
        largest = f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs"
        key = "gpus_per_trial" if gpus else "cpus_per_trial"
        told = f"No node of Ray has {cpus} CPUs and {gpus:g} GPUs, the largest has {largest}"
        raise UserError(f"{told}; set --cpus_per_trial and --gpus_per_trial lower.", key=key)


def _evaluated(prepared, best, cpus, gpus):
    """Results of the best trial's best epoch on validation and test."""
    if gpus:  # which this process may be without
        task = ray.remote(evaluate).options(num_cpus=cpus, num_gpus=gpus)
        return ray.get(task.remote(prepared, best.settings, best.checkpoint, cpus, gpus))
    threads = torch.get_num_threads()
    try:
        return evaluate(prepared, best.settings, best.checkpoint, cpus, gpus)
    finally:
        torch.set_num_threads(threads)


class Storage:
    """The place of one search, below where searches are kept.

    ``root``: a folder, or an address that pyarrow's file systems know.
    """

    def __init__(self, root: str | Path, name: str):
        self.remote = "://" in str(root)
        self.root = str(root).rstrip("/")
        if not self.remote:
            self.root = os.path.realpath(os.path.expanduser(root))
        self.name = name
        self.path = f"{self.root}/{name}"
        told = f"The search cannot be kept in {self.path} ({{reason}}); set --storage."
        failures = (OSError, ValueError, NotImplementedError)
        with explained(told, *failures, key="storage", where=self.path):
            if self.remote:
                self.files, self.folder = fs.FileSystem.from_uri(self.path)
            else:
                self.files, self.folder = fs.LocalFileSystem(), self.path
            self.files.create_dir(self.folder, recursive=True)

    def read(self) -> dict | None:
        """What the search that is kept here was begun with, or None."""
        place, file = f"{self.folder}/{_RECORD}", f"{self.path}/{_RECORD}"
        if self.files.get_file_info(place).type == fs.FileType.NotFound:
            return None
        told = f"{file} is damaged ({{reason}}); begin another search."
        with explained(told, OSError, ValueError, RecursionError, where=file):
            found = unseal(self.files.open_input_stream(place).read())
            whole = isinstance(found, dict) and "space" in found  # as in the first of them
            if not whole or not isinstance(found.get("settings", {}), dict):
                raise ValueError("it is no record of a search")
            return found

    def write(self, record: dict) -> None:
        """Keep what the search is begun with."""
        self.write_file(_RECORD, seal(record).encode())

    def write_file(self, name: str, content: bytes) -> None:
        """Write a file of the search, whole or not at all."""
        place = f"{self.folder}/{name}"
        if self.remote:  # an object appears when it is complete
            with self.files.open_output_stream(place) as handle:
                handle.write(content)
            return
        with atomic_file(place) as fresh:
            fresh.write_bytes(content)

    def notes(self, kind: str) -> list[str]:
        """What Ray noted of a kind, the newest last."""
        found = self.files.get_file_info(fs.FileSelector(self.folder))
        return sorted(one.path for one in found if one.base_name.startswith(kind))

    def damaged_note(self) -> str | None:
        """The newest of Ray's notes of a kind if it is cut short: without it Ray loses trials."""
        for kind in _NOTES:
            newest = next(reversed(self.notes(kind)), "")
            content = self.files.open_input_stream(newest).read() if newest else b""
            try:
                whole = json.loads(content) if kind == _NOTES[0] else content.endswith(b".")
            except ValueError:
                whole = False
            if newest and not whole:
                return newest
        return None

    def find_removed_checkpoints(self) -> None:
        """Put an empty folder where Ray may look for a trial's checkpoint that it has removed.

        Ray removes one before it notes that there is a newer one, and begins no trial whose
        checkpoint is gone. The trial itself goes on from its last whole one.
        """
        for trial in self._folders(self.folder, "trial_"):
            names = [one.rpartition("_")[2] for one in self._folders(trial, "checkpoint_")]
            if (before := min(map(int, filter(str.isdecimal, names)), default=0) - 1) >= 0:
                self.files.create_dir(f"{trial}/checkpoint_{before:06d}")

    def _folders(self, folder: str, start: str) -> list[str]:
        found = self.files.get_file_info(fs.FileSelector(folder))
        folders = (one for one in found if one.type == fs.FileType.Directory)
        return [one.path for one in folders if one.base_name.startswith(start)]

    def require_same_search(self, record: dict, resume: bool) -> None:
        """Refuse to begin over what is here, or to go on with another search."""
        earlier, wrong = self.read(), ""
        if earlier is None:
            entries = self.files.get_file_info(fs.FileSelector(self.folder))
            names = [file.base_name for file in entries]
            # One that was killed while it began leaves half a record behind.
            others = [name for name in names if not name.startswith(f".{_RECORD}.")]
            if others:
                wrong = f"{self.path} holds something else than a search ({min(others)});"
        elif not resume:
            wrong = f"There is a search in {self.path} already; continue it with --resume, or"
        else:
            # Older searches noted less.
            differ = [key for key, value in record.items() if earlier.get(key, value) != value]
            if "settings" in differ:
                then, now = earlier["settings"], record["settings"]
                differ += sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
                differ.remove("settings")
            if differ:
                begun = f"The search in {self.path} was begun with other {' and '.join(differ)}"
                wrong = f"{begun}, so it cannot go on;"
        if wrong:
            raise UserError(f"{wrong} give this one another --name.", key="name", where=self.path)
