"""The LLMEmb authors' pickles: one NumPy array, or a list of vectors, without item tokens.

Unpickling can run any code a file asks for. The unpickler here admits nothing but what NumPy
arrays are made of, and runs only when explicitly asked for.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from recbole_llmemb.core.errors import TableError, explained

# Module and name of everything a pickled NumPy array refers to, over NumPy 1 and 2.
_ADMITTED = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is no array")
        # NumPy 1 wrote numpy.core, which NumPy 2 only forwards with a warning; and the reverse.
        if module.startswith(("numpy.core.", "numpy._core.")):
            leaf = module.rpartition(".")[2]
            core = "_core" if hasattr(np, "_core") else "core"
            module = f"numpy.{core}.{leaf}"
        return super().find_class(module, name)


def load_arrays_pickle(path: Path, allowed: bool) -> np.ndarray:
    """Read a pickled (n, D) array, or a list of n vectors.

    ``path``: the pickle.
    ``allowed``: whether whoever calls trusts the file. A warning is given all the same.
    Returns (n, D).
    """
    if not allowed:
        raise TableError(
            f"{path} is a pickle, which can run code when it is read; if you trust where it comes "
            "from, say so (--i-trust-this-pickle), or convert it to .npy."
        )
    warnings.warn(
        f"Reading the pickle {path}: only arrays are admitted, but prefer .npy or .npz files.",
        UserWarning,
        stacklevel=3,
    )
    sentence = f"{path} was not read as a pickled array ({{reason}})."
    with (
        explained(sentence, Exception, kind=TableError, where=path),  # damaged ones raise anything
        open(path, "rb") as file,
    ):
        loaded = _ArraysOnly(file).load()
    if isinstance(loaded, (list, tuple)):
        sentence = f"{path} holds a list that is not one vector per item ({{reason}})."
        with explained(sentence, ValueError, TypeError, kind=TableError, where=path):
            loaded = np.stack([np.asarray(row, dtype=np.float32) for row in loaded])
    if not isinstance(loaded, np.ndarray) or loaded.dtype.kind not in "fiu":
        raise TableError(
            f"{path} holds a {type(loaded).__name__}; an array of numbers (items × width) is "
            "needed."
        )
    return loaded
