"""What is made once, before the first trial: the dataset, the table and the teacher.

All travels through Ray's object store, once to each node. Trials read the dataset's tensors where
they lie there; files are written to a node's cache, unless they are on the node already.
"""

from __future__ import annotations

import copyreg
import io
import math
import pickle
import warnings
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_llmemb.apps.tune.plan import Plan
from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.core.artifacts import build_lock
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import asked_hash, atomic_file
from recbole_llmemb.core.registry import KEYS
from recbole_llmemb.data.dataset import files_hash, kinds_beside
from recbole_llmemb.encode.build_or_load import job_from_config
from recbole_llmemb.encode.source import find_encoder
from recbole_llmemb.models.contract import Needs, is_checkpoint
from recbole_llmemb.models.registry import find, is_ours, own_code
from recbole_llmemb.run import stages
from recbole_llmemb.run.artifacts import item_table
from recbole_llmemb.run.schema import Use, keys
from recbole_llmemb.run.teacher import ensure_teacher
from recbole_llmemb.scft import ensure_table
from recbole_llmemb.table.format import read_manifest

# More than this many variants of the dataset are left to the trials.
_VARIANTS = 4
# Keys whose values name what is read or run.
_NAMING = {*KEYS, *keys(Use.PLACE), "pre_model_path"}


@dataclass
class Prepared:
    """Everything that trials share."""

    plan: Plan
    data: dict = field(default_factory=dict)  # By data_key: what pack_data gave
    table: Files | None = None
    teacher: Files | None = None
    items: Files | None = None  # The items' texts, which some models read themselves

    @property
    def nbytes(self) -> int:
        """Bytes of what is shared."""
        arrays = [array for packed in self.data.values() for array in packed]
        for files in (self.table, self.teacher, self.items):
            arrays += files.contents.values() if files else ()
        return sum(array.nbytes for array in arrays)


def prepare(plan, config, report=print) -> Prepared:
    """Read the dataset, and make the table and the teacher where there are none.

    The dataset is prepared for each choice of settings that it depends on.
    """
    report(f"prepare: reading {config['dataset']} …")
    prepared = Prepared(plan)
    for choices in _data_choices(config, plan.space):
        own = make_config(plan.model, plan.dataset, overrides=plan.values(choices))
        data = stages.prepare_data(own, artifacts=False)
        _, train, valid, _ = data.parts
        if not len(valid):
            told = "A search needs a validation part, and eval_args leave none; give another split."
            raise UserError(told, key="eval_args")
        prepared.data[data_key(own)] = pack_data(own, data)
    report(
        f"prepare: {train.user_num - 1:,} users, {train.item_num - 1:,} items; "
        f"{prepared.nbytes / 1e6:,.0f} MB for all trials to share"
    )
    searched = set(plan.searched)
    prepared.table = _table(config, data, searched, report)
    prepared.teacher = _teacher(plan, config, searched, report)
    items = Path(config["data_path"]) / f"{config['dataset']}.item"
    if is_ours(config["model"]) and items.is_file():
        prepared.items = Files(items)
    return prepared


def read_beside(plan) -> dict:
    """Digests of what trials read that may change under its name, beside interactions.

    ``code`` of somebody's own, fields and titles of ``items``, teachers and other checkpoints that
    are ``files``, the ``llm``, and, where trials make their own, the ``tables``:
    those that the settings name, and those to choose from.
    """
    found = defaultdict[str, set[str]](set)
    chosen = [{one.key: value} for one in plan.space.dimensions if one.kind == "choice"
              for value in one.values if one.key in _NAMING]  # fmt: skip
    for choice in [{}, *chosen]:
        with suppress(UserError):  # a choice that goes with others alone
            config = make_config(plan.model, plan.dataset, overrides=plan.values(choice))
            for key, mark in _marks(config, set(plan.searched) & keys(Use.TABLE)):
                found[key].add(mark)
    # All of them: what there is none of may be there later.
    return {key: sorted(found[key]) for key in ("code", "files", "items", "llm", "tables")}


def _marks(config, searched):
    model, needs = find(config["model"]), Needs()
    if model is not None:
        needs = model.needs(config)
    making = needs.table and searched
    titles = ["item"] if needs.titles else []
    yield "items", files_hash(config, sorted({*kinds_beside(config), *titles}))
    for mark in own_code(config).values():
        yield "code", mark
    teacher = [config["align_teacher"]] if needs.teacher else []
    for file in [*filter(is_checkpoint, teacher), config["pre_model_path"]]:
        if isinstance(file, str) and Path(file).is_file():
            yield "files", asked_hash("", [file])
    if needs.llm:
        yield "llm", find_encoder(config["llm_model"] or config["llm_encoder"]).identity
    if making and config["llm_table"]:
        yield "tables", read_manifest(config["llm_table"]).get("fingerprint") or ""
    elif making:
        yield "tables", job_from_config(config).key


def _data_choices(config, space):
    own = data_keys(config)
    found = [one for one in (space.dimensions if space else ()) if one.key in own]
    countable = all(one.kind == "choice" and not one.when for one in found)
    if not countable or math.prod(len(one.values) for one in found) > _VARIANTS:
        found = []
    return [dict(zip([o.key for o in found], v)) for v in product(*(o.values for o in found))]


def _table(config, data, searched, report):
    model = find(config["model"])
    # Where it is searched, trials build their own, in the cache, where the next one finds it.
    if model is None or not model.needs(config).table or searched & keys(Use.TABLE):
        return None
    item_table(config, data.dataset, report)  # refused here, if it does not fit
    # As it was before its reduction, for which each width has a copy in the cache.
    whole = {**config.final_config_dict, "llm_pca_dim": None}
    return Files(ensure_table(whole, report=lambda line: None))


def _teacher(plan, config, searched, report):
    own = {"hidden_size", "embedding_size", "align_teacher", "align_teacher_config"}
    model = find(config["model"])
    if model is None or searched & (own | data_keys(config)) or not model.needs(config).teacher:
        return None
    config = make_config(plan.model, plan.dataset, overrides=plan.values({}))
    size = model.needs(config).teacher_size
    return Files(ensure_teacher(config, size, report)) if size else None


# -- the dataset ------------------------------------------------------------------------


def data_keys(config) -> set[str]:
    """The settings that a dataset, filtered, split and indexed, depends on."""
    more = {"eval_args", "repeatable", "seed", "holdout_items", "holdout_seed", "holdout_targets"}
    return {*config.parameters["Dataset"], *more}


def data_key(config) -> str:
    """Hash of those settings."""
    return asked_hash({key: config[key] for key in sorted(data_keys(config))})


def pack_data(config, data: stages.Data) -> list:
    """A run's dataset and its splits; the loaders are made anew by each trial."""
    for part in data.parts:
        part.config = None
    try:
        return pack(data.parts)
    finally:
        for part in data.parts:
            part.config = config


def load_data(config, packed: dict) -> stages.Data:
    """The data of a trial; read from its files where what is shared was made otherwise.

    ``packed``: by :func:`data_key`, what :func:`pack_data` gave.
    """
    found = packed.get(data_key(config))
    if found is None:
        return stages.prepare_data(config)
    return stages.reuse_data(config, unpack(found))


def pack(thing) -> list[np.ndarray]:
    """An object as bytes, and its arrays and tensors, for Ray to keep beside them.

    In memory only: nothing of this is ever written to a file.
    """
    file, buffers = io.BytesIO(), list[Any]()
    pickler = pickle.Pickler(file, protocol=5, buffer_callback=buffers.append)
    # Tensors as arrays, whose memory pickle can leave where it is.
    pickler.dispatch_table = {**copyreg.dispatch_table, torch.Tensor: _as_array}
    pickler.dump(thing)
    arrays = [np.frombuffer(buffer, dtype=np.uint8) for buffer in buffers]
    return [np.frombuffer(file.getvalue(), dtype=np.uint8), *arrays]


def _as_array(tensor):
    return torch.from_numpy, (tensor.contiguous().numpy(),)


def unpack(packed: list[np.ndarray]):
    """The object again, its arrays and tensors being where Ray keeps them."""
    with warnings.catch_warnings():
        # Nobody writes into a dataset; that PyTorch cannot promise it is what it warns of.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return pickle.loads(packed[0].data, buffers=packed[1:])


# -- files ------------------------------------------------------------------------------


class Files:
    """A file, or the files of a directory, to be found on every node."""

    def __init__(self, path):
        self.path = Path(path).absolute()  # trials work in folders of their own
        self.is_directory = self.path.is_dir()
        files = [self.path]
        if self.is_directory:
            files = [file for file in sorted(self.path.iterdir()) if file.is_file()]
            files = [file for file in files if not file.name.startswith(".")]
        self.times = {file.name: file.stat().st_mtime_ns for file in files}
        self.contents = {file.name: np.fromfile(file, dtype=np.uint8) for file in files}
        self.mark = asked_hash("", files)

    def on_this_node(self, folder, inner: str = "") -> str:
        """Their path here; the first who asks writes them.

        ``folder``: of this node, for those that are not where they were read.
        ``inner``: below a folder of their own in there.
        """
        there = self.path if self.is_directory else self.path.parent
        if all(self._is(there / name) for name in self.contents):
            return str(self.path)
        copy = Path(folder) / f"{self.path.stem}-{self.mark}"
        with build_lock(copy, "copy"):
            for name, content in self.contents.items():
                file = copy / inner / name
                if not self._is(file):
                    with atomic_file(file) as fresh:
                        content.tofile(fresh)
        return str(copy / inner if self.is_directory else copy / inner / self.path.name)

    def _is(self, file: Path) -> bool:
        """Whether a file is the one that was read, or a copy of it."""
        content = self.contents[file.name]
        if not file.is_file() or file.stat().st_size != content.nbytes:
            return False
        same = file.stat().st_mtime_ns == self.times[file.name]
        return same or np.array_equal(np.fromfile(file, dtype=np.uint8), content)
