"""The per-user file: what a run scored for each user of the test set."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.files import atomic_file

FORMAT = "recbole-llmemb users 1"


@dataclass(frozen=True)
class UserResults:
    """The test set of one run, row by row; with leave-one-out, one row per user."""

    # users, items: Tokens of the user and of the target of each row; an empty item where a row has
    # several targets.
    users: list[str]
    items: list[str]
    # popularity, history: ``(n_rows,)``, training interactions of the target (-1: several) and of
    # the user.
    popularity: np.ndarray
    history: np.ndarray
    values: dict[str, np.ndarray]  # ``{metric: (n_rows,)}``

    def only(self, chosen: np.ndarray) -> UserResults:
        """The rows where ``chosen`` is true."""
        at = np.flatnonzero(chosen)
        return UserResults(
            [self.users[row] for row in at],
            [self.items[row] for row in at],
            self.popularity[at],
            self.history[at],
            {name: each[at] for name, each in self.values.items()},
        )

    def by_user(self) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
        """Targets of each user, in order, and the mean of its rows, ``{metric: (n_users,)}``."""
        tokens, place = np.unique(np.array(self.users, dtype=object), return_inverse=True)
        rows = np.bincount(place)
        means = {name: np.bincount(place, each) / rows for name, each in self.values.items()}
        targets: dict[str, list[str]] = {token: [] for token in tokens.tolist()}
        for user, item in sorted(zip(self.users, self.items)):
            targets[user].append(item)
        return targets, means


def write_users(path, details, dataset) -> None:
    """Write the per-user file of a run, whole or not at all.

    Tensors: ``user`` and ``item`` (tokens in UTF-8, a line feed after each), ``popularity``,
    ``history``, and ``metric.NAME`` for each metric, float32.

    ``details``: of the test set.
    ``dataset``: whose tokens the ids stand for.
    """
    users = dataset.id2token(dataset.uid_field, details.user_id)
    items = dataset.id2token(dataset.iid_field, np.maximum(details.item_id, 0))
    items = np.where(details.item_id < 0, "", items)
    tensors = {"user": _to_bytes(users), "item": _to_bytes(items)}
    for name in ("popularity", "history"):
        tensors[name] = getattr(details, name).astype(np.int64)
    for name, values in details.values.items():
        tensors[f"metric.{name}"] = values.astype(np.float32)
    about = {"format": FORMAT, "metrics": json.dumps(list(details.values))}
    about["sha256"] = _digest(about, tensors)
    with atomic_file(path) as fresh:
        fresh.write_bytes(save(tensors, about))


def read_users(path) -> UserResults:
    """Read a per-user file."""
    if not Path(path).is_file():
        told = f"There is no per-user file {str(path)!r}, which a result file names; put it back"
        raise UserError(f"{told}, or run again with --save_users=True.", where=path)
    damaged = f"{str(path)!r}, which a result file names, is damaged or no per-user file; run again"
    errors = SafetensorError, OSError, KeyError, ValueError
    with explained(f"{damaged}.", *errors, where=path), safe_open(path, "np") as file:
        about = file.metadata() or {}
        if about.get("format") != FORMAT:
            raise ValueError("another format")
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.pop("sha256", None) not in (None, _digest(about, found)):
            raise ValueError("another content")
        users, items = (_to_tokens(found[name]) for name in ("user", "item"))
        popularity, history = found["popularity"], found["history"]
        metrics = json.loads(about["metrics"])
        values = {name: found[f"metric.{name}"].astype(float) for name in metrics}
        columns = users, items, popularity, history, *values.values()
        if not users or len(set(map(len, columns))) > 1:
            raise ValueError("columns of several lengths")
    return UserResults(users, items, popularity, history, values)


def _digest(about, tensors) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def _to_bytes(tokens) -> np.ndarray:
    text = "".join(f"{token}\n" for token in tokens)
    return np.frombuffer(text.encode("utf-8"), dtype=np.uint8)


def _to_tokens(tensor) -> list[str]:
    return tensor.tobytes().decode("utf-8").split("\n")[:-1]
