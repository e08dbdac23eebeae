"""Interactions that come split: RecBole's ``benchmark_filename``, three files of one dataset.

Two forms are read, file by file. *Whole interactions* are lines as of any ``.inter`` file; what
precedes a line of the same user, in its file and the files before, is its history. Lines *with
their history* have it in ``item_id_list``; they are put together into the sequence of their user.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.utils import FeatureSource, FeatureType

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.windows import is_first

NAMES = ("training", "validation", "test")


@dataclass
class Lines:
    """Where interactions come from, ``(n,)`` each, as they lie in the dataset that is read."""

    files: np.ndarray  # File that each is a target of; of one in histories alone, -1 minus the file
    seen: np.ndarray  # How long its history is; -1: all that precedes it
    without_history: tuple[int, ...] = (0, 0, 0)  # Lines of each file that were left out
    placed: bool = False  # Whether times are places in a sequence, which need no more order


@dataclass
class Matched:
    """How the lines of one file fit what is trained on."""

    name: str  # Of :data:`NAMES`
    rows: int  # Targets
    # users, items: How many there are, and how many of them occur in training.
    users: tuple[int, int]
    items: tuple[int, int]
    without_history: int  # Lines that are left out because nothing precedes them

    def __str__(self):
        left = f", {self.without_history:,} lines without a history left out"
        return (
            f"{self.name}: {self.rows:,} targets; {self.users[1]:,} of {self.users[0]:,} users and "
            f"{self.items[1]:,} of {self.items[0]:,} items are known from training"
            + (left if self.without_history else "")
        )


def interaction_files(config) -> list[Path]:
    """Where a dataset's interactions are: one file, or those of ``benchmark_filename``."""
    names = [f".{part}" for part in config["benchmark_filename"] or ()] or [""]
    return [Path(config["data_path"]) / f"{config['dataset']}{name}.inter" for name in names]


def load(dataset):
    """The interactions of the three files in one frame, and their :class:`Lines`.

    ``dataset``: while it reads its files.
    Returns tokens as in the files, in the order of the files.
    """
    config, paths = dataset.config, interaction_files(dataset.config)
    listed = dataset.iid_field + config["LIST_SUFFIX"]
    columns = config["load_col"]
    if columns and columns.get("inter") and listed not in columns["inter"]:
        config["load_col"] = {**columns, "inter": [*columns["inter"], listed]}
    frames = [dataset._load_feat(str(path), FeatureSource.INTERACTION) for path in paths]
    config["load_col"] = columns
    if not any(listed in frame for frame in frames):
        files = np.repeat(np.arange(3), [len(frame) for frame in frames])
        return pd.concat(frames, ignore_index=True), Lines(files, np.full(len(files), -1))
    for properties in (dataset.field2type, dataset.field2source, dataset.field2seqlen):
        properties.pop(listed, None)
    alias = config["alias_of_item_id"] or []  # which may say that the list holds items
    config["alias_of_item_id"] = [field for field in alias if field != listed] or None
    time = dataset.time_field
    dataset.set_field_property(time, FeatureType.FLOAT, FeatureSource.INTERACTION, 1)
    return _joined(dataset, frames, paths, listed)


def _joined(dataset, frames, paths, listed):
    """Whole interactions from lines with their histories; times are places in a sequence."""
    uid, iid, time = dataset.uid_field, dataset.iid_field, dataset.time_field
    sequences: dict = {}  # of [item, file it is a target of, length of its history], by user
    alone = [0, 0, 0]
    for part, (frame, path) in enumerate(zip(frames, paths)):
        if listed in frame:
            histories = [list(history) for history in frame[listed]]
            order = np.argsort([len(history) for history in histories], kind="stable")
        else:
            histories = [None] * len(frame)
            times = frame[time] if time in frame else np.zeros(len(frame))
            order = np.argsort(np.asarray(times), kind="stable")
        users, items = frame[uid].to_numpy(), frame[iid].to_numpy()
        for row in order:
            sequence, history = sequences.setdefault(users[row], []), histories[row]
            if history == []:
                alone[part] += 1
                continue
            place = _put(sequence, history, items[row], -1 - part)
            if place is None:
                raise UserError(
                    f"{path}: a history of user {users[row]!r} contradicts another line of this "
                    "user, so they are no parts of one sequence; give each sequence a user of its "
                    f"own, or whole interactions without {listed}.",
                    where=path,
                )
            if sequence[place][1] < 0:
                sequence[place][1:] = part, -1 if history is None else len(history)
    rows = [
        (user, item, float(place), part, seen)
        for user, sequence in sequences.items()
        for place, (item, part, seen) in enumerate(sequence)
    ]
    frame = pd.DataFrame(rows, columns=[uid, iid, time, "part", "seen"])
    # Tokens are numbered as they appear: as in files of whole interactions.
    file = np.maximum(frame["part"], -1 - frame["part"])
    frame = frame.iloc[np.argsort(file, kind="stable")].reset_index(drop=True)
    files, seen = (frame.pop(name).to_numpy(np.int64, copy=True) for name in ("part", "seen"))
    return frame, Lines(files, seen, tuple(alone), placed=True)


def _put(sequence, history, item, untold):
    """Where ``item`` comes in a sequence, which grows as needed; None where it cannot be."""
    items = [entry[0] for entry in sequence]
    if history is None:
        sequence.append([item, untold, -1])
        return len(items)
    whole = [*history, item]
    shared = min(len(items), len(whole))
    if items[:shared] == whole[:shared]:
        sequence.extend([one, untold, -1] for one in whole[shared:])
        return len(history)
    if items[-len(history) :] == history:  # the last ones only, as histories are often cut
        sequence.append([item, untold, -1])
        return len(items)
    return None


def in_order(dataset):
    """Sort the interactions of a dataset and its :class:`Lines` by user, file and time."""
    lines, inter = dataset.lines, dataset.inter_feat
    times, users = inter[dataset.time_field], inter[dataset.uid_field]
    times = times if times.dim() == 1 else times[:, 0]
    files = np.zeros_like(lines.files) if lines.placed else lines.files
    order = np.lexsort((times.numpy(), files, users.numpy()))
    dataset.inter_feat = inter[order]
    dataset.lines = replace(lines, files=lines.files[order], seen=lines.seen[order])


def matched(dataset, parts) -> list[Matched]:
    """How each file's lines fit training; the first is training itself.

    ``dataset``: whose rows are built.
    ``parts``: the rows of each file.
    """
    store, rows = dataset.sorted_interactions.fields, dataset.inter_feat
    fields = dataset.uid_field, dataset.iid_field
    files = dataset.lines.files
    trained = (files == 0) | (files == -1)  # as targets, or in histories
    known = {field: store[field][trained] for field in fields}
    first, found = is_first(store[dataset.uid_field].numpy()), []
    for part, (name, chosen) in enumerate(zip(NAMES, parts)):
        ids = {field: rows[field][chosen].unique() for field in fields}
        users, items = ((len(ids[f]), int(torch.isin(ids[f], known[f]).sum())) for f in fields)
        without = dataset.lines.without_history[part]
        without += int((first & (files == part)).sum()) if part else 0
        found.append(Matched(name, len(chosen), users, items, without))
    return found
