"""Interactions that come split, and items that a run does without.

RecBole's ``benchmark_filename`` names three files of one dataset. Two forms are read, file by file.
*Whole interactions* are lines as of any ``.inter`` file; what precedes a line of the same user, in
its file and the files before, is its history. Lines *with their history* have it in
``item_id_list``; they are put together into the sequence of their user.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.histories import POSITION
from recbole_llmemb.data.windows import is_first, stretches
from recbole_llmemb.records.reader import open_records

NAMES = ("training", "validation", "test")


@dataclass
class Lines:
    """Where interactions come from, ``(n,)`` each, as they lie in the dataset that is read."""

    files: np.ndarray  # File that each is a target of; of one in histories alone, -1 minus the file
    seen: np.ndarray  # How long its history is; -1: all that precedes it
    without_history: tuple[int, ...] = (0, 0, 0)  # Lines of each file that were left out
    twice: tuple[int, ...] = (0, 0, 0)  # And those that are the same as an earlier line
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
    twice: int  # Lines with a history that are left out because an earlier line is the same
    again: int  # Targets that an earlier file holds, too: the same user, item and time
    repeat: int  # Targets that are the last item of their own history

    def __str__(self):
        left = f", {self.without_history:,} lines without a history left out"
        twice = f", {self.twice:,} lines left out that are the same as an earlier one"
        again = (
            f"; {self.again:,} of the targets are lines of an earlier file, so were learned from"
        )
        repeat = f"; {self.repeat:,} of the targets are the last item of their own history"
        return (
            f"{self.name}: {self.rows:,} targets; {self.users[1]:,} of {self.users[0]:,} users and "
            f"{self.items[1]:,} of {self.items[0]:,} items are known from training"
            + (left if self.without_history else "")
            + (twice if self.twice else "")
            + (again if self.again else "")
            + (repeat if self.repeat * 2 > self.rows else "")
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
    form = {"delimiter": config["field_separator"], "encoding": config["encoding"]}
    lists = any(listed in open_records(path, "atomic", **form).columns for path in paths)
    if lists and columns and columns.get("inter") and listed not in columns["inter"]:
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
    sequences: dict[str, _Sequence] = {}
    alone, twice = [0, 0, 0], [0, 0, 0]
    longest = max((len(one) for frame in frames for one in frame.get(listed, [])), default=0)
    for part, frame in enumerate(frames):
        if listed in frame:
            histories = [tuple(history) for history in frame[listed]]
            order = np.argsort([len(history) for history in histories], kind="stable")
        else:
            histories = [None] * len(frame)
            times = frame[time] if time in frame else np.zeros(len(frame))
            order = np.argsort(np.asarray(times), kind="stable")
        users, items = frame[uid].to_numpy(), frame[iid].to_numpy()
        for row in order:
            sequence = sequences.setdefault(users[row], _Sequence(longest))
            if histories[row] == ():
                alone[part] += 1
            else:
                twice[part] += not sequence.put(histories[row], items[row], part)
    for user, waiting in ((user, each.waiting) for user, each in sequences.items() if each.waiting):
        path = paths[next(iter(waiting.values()))[0][1]]
        told = f"{path}: a history of user {user!r} contradicts another of this user"
        advice = f"give lines in order, and each sequence a user of its own, or no {listed}"
        raise UserError(f"{told}; {advice}.", where=path)
    rows = [
        (user, item, float(place), part, seen)
        for user, sequence in sequences.items()
        for place, (item, part, seen) in enumerate(sequence.entries)
    ]
    frame = pd.DataFrame(rows, columns=[uid, iid, time, "part", "seen"])
    # Tokens are numbered as they appear: as in files of whole interactions.
    file = np.maximum(frame["part"], -1 - frame["part"])
    frame = frame.iloc[np.argsort(file, kind="stable")].reset_index(drop=True)
    files, seen = (frame.pop(name).to_numpy(np.int64, copy=True) for name in ("part", "seen"))
    return frame, Lines(files, seen, tuple(alone), tuple(twice), placed=True)


class _Sequence:
    """The items of a user, put together from lines of a history and the item that follows."""

    def __init__(self, longest):
        self.longest = longest  # Of all histories: those of this length may be cut to their end
        self.items: list[str] = []
        self.entries: list[list] = []  # [item, file it is a target of, length of its history]
        self.waiting: dict[tuple, list] = {}  # Lines whose history is not there yet, by history

    def put(self, history, item, part) -> bool:
        """Give a line its place, once it has one; False for one that is there already.

        ``history``: None for an item that follows whatever there is.
        """
        seen = -1 if history is None else len(history)
        history = tuple(self.items) if history is None else history
        whole, place = [*history, item], len(history)
        shared = min(len(self.items), len(whole))
        at_end = self.items[-place:] == whole[:-1]
        if self.items[:shared] == whole[:shared]:
            for one in whole[shared:-1]:
                self._append(one, -1 - part, -1)
            if place < len(self.items) and self.entries[place][1] < 0:
                self.entries[place][1:] = part, place
                return True
            at_end = at_end or place == len(self.items)
            if place < len(self.items) and not (at_end and place == self.longest):
                return False
        self.waiting.setdefault(history, []).append((item, part, seen))
        while lines := at_end and self.waiting.get(history):
            self._append(*lines.pop(0))
            if not lines:
                del self.waiting[history]
            ends = (tuple(self.items[-length:]) for length in {*map(len, self.waiting)})
            history = next((one for one in ends if one in self.waiting), ())
        return True

    def _append(self, item, part, seen):
        self.items.append(item)
        self.entries.append([item, part, seen])


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
    again = torch.from_numpy(_again(dataset, files))
    for part, (name, chosen) in enumerate(zip(NAMES, parts)):
        ids = {field: rows[field][chosen].unique() for field in fields}
        users, items = ((len(ids[f]), int(torch.isin(ids[f], known[f]).sum())) for f in fields)
        without = dataset.lines.without_history[part]
        without += int((first & (files == part)).sum()) if part else 0
        places = rows[POSITION][chosen]
        repeat = int((store[fields[1]][places] == store[fields[1]][places - 1]).sum())
        told, twice = int(again[places].sum()), dataset.lines.twice[part]
        found.append(Matched(name, len(chosen), users, items, without, twice, told, repeat))
    return found


def _again(dataset, files):
    """Mask of the interactions that a file before their own holds, too."""
    store = dataset.sorted_interactions.fields
    same = {f: store[f].numpy() for f in (dataset.uid_field, dataset.iid_field, dataset.time_field)}
    frame = pd.DataFrame({**same, "file": np.maximum(files, -1 - files)})
    first = frame.groupby(list(same))["file"].transform("min")
    return (frame["file"] > first).to_numpy(copy=True)


@dataclass(frozen=True)
class HeldOut:
    """What was taken out of a dataset before anything was made of it."""

    tokens: list[str]  # The held-out items
    interactions: int  # How many interactions went with them
    # (n,): The targets: token of the user, index of the item in ``tokens``, and how many of the
    # user's other interactions came before.
    users: np.ndarray
    items: np.ndarray
    history_lengths: np.ndarray
    without_history: int  # Targets that were left out because nothing came before
    # (m,): The held-out items in the histories of targets: number of the target, in ascending
    # order, and index in ``tokens``.
    met: tuple[np.ndarray, np.ndarray]

    def __len__(self):
        return len(self.items)


def hold_out(dataset, share, seed, targets="last") -> HeldOut:
    """Take a sample of items, and every interaction with them, out of a dataset.

    It is done between RecBole's filters and its numbering of tokens, so that to all that
    follows (histories, targets, negatives, the softmax over all items, whitening, a teacher)
    these items do not exist.

    ``dataset``: filtered, with tokens still as in the files; changed in place.
    ``share``: share of the items with interactions.
    ``seed``: of the sample, which depends on nothing else but the items.
    ``targets``: the interactions with held-out items that are kept as test targets: those that are
    their user's last one, or all of them.
    """
    inter, item_field = dataset.inter_feat, dataset.iid_field
    items = sorted(map(str, inter[item_field].unique()))
    size = math.floor(share * len(items) + 1e-9)  # 0.29 of 100 is 29
    if size == 0:
        what = f"less than one of the {len(items)} items of dataset {dataset.dataset_name}"
        raise UserError(f"holdout_items is {share}, which is {what}; give a larger share.")
    drawn = np.random.default_rng(seed).choice(len(items), size, replace=False)
    tokens = [items[i] for i in sorted(drawn)]

    index = {token: i for i, token in enumerate(tokens)}
    held = inter[item_field].astype(str).map(index).fillna(-1).astype(np.int64).to_numpy()
    if (held >= 0).all():
        told = f"holdout_items is {share}, which leaves dataset {dataset.dataset_name} without"
        raise UserError(f"{told} interactions; give a smaller share.")
    found = _targets(dataset, held, targets)
    dataset.inter_feat = inter[held < 0].reset_index(drop=True)
    if dataset.item_feat is not None:
        known = ~dataset.item_feat[item_field].astype(str).isin(tokens)
        dataset.item_feat = dataset.item_feat[known].reset_index(drop=True)
    return HeldOut(tokens, int((held >= 0).sum()), *found)


def _targets(dataset, held, which):
    """What :class:`HeldOut` says of the targets."""
    inter = dataset.inter_feat
    times = inter[dataset.time_field].to_numpy()  # equal ones stay as they stand in the file
    codes = inter[dataset.uid_field].astype("category").cat.codes.to_numpy()
    order = np.lexsort((times, codes))
    held, codes = held[order], codes[order]
    users = inter[dataset.uid_field].astype(str).to_numpy()[order]
    cold, first = held >= 0, is_first(codes)
    others = np.cumsum(~cold) - ~cold  # before each, all users together
    before = others - np.maximum.accumulate(np.where(first, others, 0))
    wanted = cold & np.r_[first[1:], True] if which == "last" else cold
    targets = np.flatnonzero(wanted & (before > 0))
    places = np.flatnonzero(cold)
    begin = np.searchsorted(codes[places], codes[targets])
    rows, earlier = stretches(begin, np.searchsorted(places, targets) - begin)
    without = int(wanted.sum()) - len(targets)
    met = rows, held[places[earlier]]
    return users[targets], held[targets], before[targets], without, met


def histories(held: HeldOut, dataset, rows):
    """What came before some of the targets, as a model reads it.

    ``dataset``: built, without the held-out items.
    ``rows``: which targets.
    Returns user ids, padded histories ``(b, w)`` and their lengths under RecBole's names.
    """
    store = dataset.sorted_interactions
    users, positions = _places(held, dataset, rows)
    lengths = torch.from_numpy(held.history_lengths[rows]).clamp(max=store.max_length)
    item_list = dataset.item_id_list_field
    width = int(lengths.max()) if len(lengths) else 1
    return Interaction(
        {
            dataset.uid_field: users,
            item_list: store.history(item_list, positions, lengths, width),
            dataset.item_list_length_field: lengths,
        }
    )


def met_before(held: HeldOut, dataset, rows: slice):
    """All that the users of some targets had met, however long ago.

    Returns (m,): Numbers of the targets, within ``rows``, and positions among the other items and,
    after them, the held-out ones.
    """
    users, positions = _places(held, dataset, rows)
    store = dataset.sorted_interactions
    warm, items = store.before(dataset.uid_field, dataset.iid_field, positions, users)
    begin, end, _ = rows.indices(len(held))
    first, last = np.searchsorted(held.met[0], [begin, end])
    cold, more = (torch.from_numpy(part[first:last]) for part in held.met)
    return torch.cat([warm, cold - begin]), torch.cat([items - 1, more + dataset.item_num - 1])


def _places(held, dataset, rows):
    """User ids, and where in the dataset's interactions the targets would lie."""
    ids = dataset.field2token_id[dataset.uid_field]
    users = torch.tensor([int(ids[user]) for user in held.users[rows]], dtype=torch.long)
    starts = torch.searchsorted(dataset.sorted_interactions.fields[dataset.uid_field], users)
    return users, starts + torch.from_numpy(held.history_lengths[rows])
