"""What is prepared once and read by all trials: the dataset, split and indexed, and files.

Both travel through Ray's object store, once to each node. Large tensors stay there: trials
read them in place, without a copy of their own.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from recbole_llmemb.run import stages

# Smaller tensors are not worth a place of their own.
_LARGE = 1 << 14


class _Packer(pickle.Pickler):
    def __init__(self, file):
        super().__init__(file, protocol=5)
        self.arrays, self.numbers, self.kept = [], {}, []

    def persistent_id(self, thing):
        if type(thing) is not torch.Tensor or thing.numel() * thing.element_size() < _LARGE:
            return None
        if thing.device.type != "cpu" or thing.dtype is torch.bfloat16 or thing.requires_grad:
            return None
        if id(thing) not in self.numbers:
            self.numbers[id(thing)] = len(self.arrays)
            self.kept.append(thing)  # else its id could come back as another's
            self.arrays.append(thing.contiguous().numpy())
        return self.numbers[id(thing)]


class _Unpacker(pickle.Unpickler):
    def __init__(self, file, arrays):
        super().__init__(file)
        with warnings.catch_warnings():
            # Nobody writes into a dataset; that PyTorch cannot promise it is what it warns of.
            warnings.filterwarnings("ignore", message=".*not writable.*")
            self.tensors = [torch.from_numpy(array) for array in arrays]

    def persistent_load(self, number):
        return self.tensors[number]


def pack(thing) -> dict:
    """Take the large tensors out of an object, for Ray to keep them beside the rest.

    In memory only: nothing of this is ever written to a file.
    """
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(thing)
    return {"rest": np.frombuffer(file.getvalue(), dtype=np.uint8), "arrays": packer.arrays}


def unpack(packed: dict):
    """The object again, its large tensors being where Ray keeps them."""
    return _Unpacker(io.BytesIO(packed["rest"].tobytes()), packed["arrays"]).load()


def size_of(shared: dict) -> int:
    """Bytes of arrays in nested dicts and lists."""
    if isinstance(shared, np.ndarray):
        return shared.nbytes
    if isinstance(shared, dict):
        return sum(map(size_of, shared.values()))
    return sum(map(size_of, shared)) if isinstance(shared, (list, tuple)) else 0


# -- the dataset ------------------------------------------------------------------------


def data_keys(config) -> set[str]:
    """The settings that a dataset, filtered, split and indexed, depends on."""
    more = {"eval_args", "repeatable", "seed", "holdout_items", "holdout_seed", "holdout_targets"}
    return {*config.parameters["Dataset"], *more}


def data_key(config) -> str:
    """Hash of those settings."""
    values = {key: config[key] for key in sorted(data_keys(config))}
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:12]


def pack_data(config, data: stages.Data) -> dict:
    """A run's dataset and its splits; the loaders are made anew by each trial."""
    parts = [data.dataset, data.train._dataset, data.valid._dataset, data.test._dataset]
    kept = [part.config for part in parts]
    try:
        for part in parts:
            part.config = None
        return pack(parts)
    finally:
        for part, own in zip(parts, kept):
            part.config = own


def load_data(config, packed: dict | None) -> stages.Data:
    """The data of a trial; read from its files where what is shared was made otherwise.

    ``config``: of the trial.
    ``packed``: by :func:`data_key`, what :func:`pack_data` gave.
    """
    from recbole.data import data_preparation
    from recbole.utils import init_seed

    found = (packed or {}).get(data_key(config))
    if found is None:
        return stages.prepare_data(config)
    init_seed(config["seed"], config["reproducibility"])
    dataset, *splits = unpack(found)
    for part in (dataset, *splits):
        part.config = config
    dataset.build = lambda: splits
    return stages.Data(dataset, *data_preparation(config, dataset))


# -- files ------------------------------------------------------------------------------


def read_files(path) -> dict:
    """The bytes of a file, or of the files of a directory, by name."""
    path = Path(path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {
        file.name: np.fromfile(file, dtype=np.uint8)
        for file in files
        if file.is_file() and not file.name.startswith(".")
    }


def place(path, files: dict, folder) -> str:
    """Where such files are on this node, written there by the first who asks.

    ``path``: where they were when :func:`read_files` read them: used if they are there here too.
    ``folder``: of this node, for those that are not.
    """
    path = Path(path)
    if _are_there(path.parent if path.name in files else path, files):
        return str(path)
    digest = hashlib.blake2b(digest_size=8)
    for name, content in files.items():
        digest.update(name.encode())
        digest.update(content[: 1 << 20].tobytes())
        digest.update(str(content.nbytes).encode())
    target = Path(folder) / f"{path.stem}-{digest.hexdigest()}"
    target.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        for name, content in files.items():
            file = target / name
            if file.is_file() and file.stat().st_size == content.nbytes:
                continue
            beside = file.with_name(f".{name}.{os.getpid()}.tmp")
            with open(beside, "wb") as handle:
                handle.write(memoryview(content))
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(beside, file)
    return str(target / path.name if path.name in files else target)


def _are_there(folder, files):
    for name, content in files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != content.nbytes:
            return False
        # Manifests and teachers are small; they tell tables apart.
        if content.nbytes < 1 << 22 and not np.array_equal(
            np.fromfile(file, dtype=np.uint8), content
        ):
            return False
    return True
