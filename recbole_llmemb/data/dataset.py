"""The dataset class of our models: RecBole's, without materialized prefixes; and its digests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import file_digests
from recbole_llmemb.data import splits
from recbole_llmemb.data.histories import POSITION, LazyInteraction, SortedInteractions
from recbole_llmemb.data.splits import hold_out, interaction_files
from recbole_llmemb.data.windows import is_first


def item_tokens(dataset) -> list[str]:
    """A dataset's items by id, padding first."""
    return [str(token) for token in dataset.field2id_token[dataset.iid_field]]


def user_tokens(dataset) -> list[str]:
    """A dataset's users by id, padding first."""
    return [str(token) for token in dataset.field2id_token[dataset.uid_field]]


def check_parts(parts, config):
    """Refuse a split dataset that leaves nothing to train on, or nobody to evaluate.

    ``parts``: training, validation and test. One of the latter may be empty.
    """
    train, *held_out = map(len, parts)
    names, split = config["benchmark_filename"], config["eval_args"]["split"]
    how = f"benchmark_filename {names} splits it" if names else f"eval_args split it ({split})"
    where = f"dataset {config['dataset']} as {how}"
    if not train:
        advice = "give another split, or data in which users have two training interactions"
        raise UserError(f"There is nothing to train on in {where}: {advice}.")
    if not any(held_out):
        advice = "give another split, or data in which users have at least three interactions"
        raise UserError(f"There is nobody to evaluate in {where}: {advice}.")


@dataclass(frozen=True)
class TimeScaling:
    """The range of a time field that RecBole scaled to 0..1 (``normalize_all``).

    RecBole's own configuration of ml-100k does so. Order is all that most models need of times;
    a prompt that names dates needs the times themselves.
    """

    start: float = 0.0  # The smallest time; the defaults change nothing
    span: float = 1.0  # How far the greatest lies behind it

    @classmethod
    def of(cls, times):
        """The scaling of times ``(n,)`` that RecBole scales; equal ones all become 1."""
        first, span = float(times.min()), float(times.max() - times.min())
        return cls(first, span) if span else cls(first - 1)

    def times(self, scaled):
        """Times of scaled ones, ``float64``.

        Late by as much as scaling may have taken from them, so that the midnight which stands
        for a date stays on its day.
        """
        scaled = np.asarray(scaled, dtype=np.float64)
        if self == TimeScaling():
            return scaled
        times = self.start + self.span * scaled
        return times + 2 * np.spacing(np.abs(times))

    def scaled(self, times):
        """Scaled ones of times, ``float64``; they may lie outside 0..1."""
        return (np.asarray(times, dtype=np.float64) - self.start) / self.span


class LazySequentialDataset(SequentialDataset):
    """RecBole's sequential dataset with histories gathered per batch.

    Rows, their order, splits and the contents of every batch are RecBole's; memory
    grows with the number of interactions, not with that times the history length.
    """

    #: With ``holdout_items``, the items that were taken out, and their interactions (``HeldOut``).
    held_out = None
    #: With ``benchmark_filename``: where interactions come from (``splits.Lines``), and how the
    #: three files fit each other, a ``splits.Matched`` each.
    lines = matched = None
    #: Of a split that is such a file: where interactions lie that only its histories tell of.
    told_in = torch.empty(0, dtype=torch.long)
    time_scaling = TimeScaling()

    def _load_inter_feat(self, token, dataset_path):
        if not self.config["benchmark_filename"]:
            return super()._load_inter_feat(token, dataset_path)
        self.inter_feat, self.lines = splits.load(self)  # which RecBole filters and sorts no more
        if self.inter_feat.empty:
            check_parts(([], [], []), self.config)

    def _benchmark_presets(self):
        """Nothing: histories are made of the interactions."""

    def _change_feat_format(self):
        Dataset._change_feat_format(self)
        self.data_augmentation()

    def build(self):
        """RecBole's splits, or the three files of ``benchmark_filename``.

        Refused where there is nothing to train on or nobody to evaluate.
        """
        parts = self._files() if self.config["benchmark_filename"] else super().build()
        check_parts(parts, self.config)
        return parts

    def _files(self):
        self._change_feat_format()
        files = torch.from_numpy(self.lines.files)
        of_rows = files[self.inter_feat[POSITION]]
        rows = [(of_rows == part).nonzero().squeeze(1) for part in range(3)]
        self.matched = splits.matched(self, rows)
        self._drop_unused_col()
        parts = [self.copy(self.inter_feat[chosen]) for chosen in rows]
        for number, part in enumerate(parts):
            part.told_in = (files == -1 - number).nonzero().squeeze(1)
        return parts

    def _data_filtering(self):
        super()._data_filtering()
        share = self.config["holdout_items"]
        if share:
            seed, targets = self.config["holdout_seed"], self.config["holdout_targets"]
            self.held_out = hold_out(self, share, seed, targets)

    def _normalize(self):
        field = self.time_field
        before = self.inter_feat[field].to_numpy() if field in self.float_like_fields else []
        super()._normalize()
        if len(before) and not np.array_equal(before, self.inter_feat[field].to_numpy()):
            self.time_scaling = TimeScaling.of(before)

    def data_augmentation(self):
        """Give every interaction but a user's first a row that points at its history."""
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        if self.lines is None:
            self.sort(by=[self.uid_field, self.time_field], ascending=True)
        else:
            splits.in_order(self)

        places = np.arange(len(self.inter_feat))
        first = is_first(self.inter_feat[self.uid_field].numpy())
        position_in_history = places - np.maximum.accumulate(np.where(first, places, 0))
        targets = torch.from_numpy(np.flatnonzero(position_in_history))
        lengths = torch.from_numpy(position_in_history)[targets].clamp(max=self.max_item_list_len)
        if self.lines is not None:
            seen = torch.from_numpy(self.lines.seen)[targets]
            lengths = torch.where(seen < 0, lengths, lengths.minimum(seen))

        fields = {f: self.inter_feat[f] for f in self.inter_feat}
        list_fields = {getattr(self, f"{f}_list_field"): f for f in fields if f != self.uid_field}
        self.sorted_interactions = SortedInteractions(fields, list_fields, self.max_item_list_len)
        columns = {f: value[targets] for f, value in fields.items()}
        columns[self.item_list_length_field] = lengths.long()
        columns[POSITION] = targets
        self.inter_feat = LazyInteraction(
            columns, self.sorted_interactions, self.item_list_length_field
        )

    def __getitem__(self, index, join=True):
        rows = self.inter_feat[index]
        if isinstance(rows, LazyInteraction):
            rows = rows.materialize()
        return self.join(rows) if join else rows

    def leave_one_out(self, group_by, leave_one_mode):
        """RecBole's leave-one-out split, row for row, without its Python lists of rows."""
        left_out = {"valid_and_test": 2, "valid_only": 1, "test_only": 1}
        if group_by is None or leave_one_mode not in left_out:
            return super().leave_one_out(group_by, leave_one_mode)  # which says what is wrong

        group = pd.factorize(self.inter_feat[group_by].numpy())[0]  # in the order of appearance
        order, sizes = np.argsort(group, kind="stable"), np.bincount(group)
        from_end = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(group))  # 1 is the last row
        held_out = np.minimum(left_out[leave_one_mode], np.repeat(sizes, sizes) - 1)
        last = order[(from_end == 1) & (held_out >= 1)]
        before_last = order[(from_end == 2) & (held_out >= 2)]  # none, where one is left out
        parts = [order[from_end > held_out], before_last, last]
        if leave_one_mode == "valid_only":
            parts = [parts[0], last, before_last]
        self._drop_unused_col()
        return [self.copy(self.inter_feat[part]) for part in parts]

    def positions(self):
        """Where the interactions of this split lie among the sorted ones.

        A user's first interaction is never a target. It belongs where the second one does, so
        that the splits of a dataset share out all interactions of users who have two.

        Returns ``(n,)``, each once, in ascending order.
        """
        owners = self.sorted_interactions.fields[self.uid_field].numpy()
        first, targets = torch.from_numpy(is_first(owners)), self.inter_feat[POSITION]
        before = targets - 1
        return torch.cat([targets, before[first[before]], self.told_in]).unique()

    def interactions(self):
        """The interactions of this split as they were before augmentation.

        Returns one row each, in the order of :meth:`positions`.
        """
        fields, used = self.sorted_interactions.fields, self.positions()
        return Interaction({field: values[used] for field, values in fields.items()})

    def training_counts(self, train):
        """How often each item and each user occurs in the training interactions.

        A user's first interaction is never a target, but where the second one is in training it
        is training data all the same, so it is counted too. What is in no training batch counts
        nowhere: under a split along global time that is all of a user who came later.

        Returns counts per item ``(n_items,)`` and per user ``(n_users,)``.
        """
        fields, used = train.sorted_interactions.fields, train.positions()
        return (
            torch.bincount(fields[self.iid_field][used], minlength=self.item_num),
            torch.bincount(fields[self.uid_field][used], minlength=self.user_num),
        )


# -- what a model was trained on ---------------------------------------------------------


def note_training_data(config, splits) -> None:
    """Note in the configuration what is trained on; refuse a split without training interactions.

    ``splits``: training, validation and test, built. RecBole's own models pass here, too.
    """
    train = splits[0]
    if not len(train):
        check_parts(splits, config)
    if all(field in train.inter_feat for field in (train.uid_field, train.iid_field)):
        config["trained_on"] = {
            "interactions": (digest := interactions_digest(train)),
            "inter": files_hash(config),
            "item_fields": item_fields_digest(train),
        }
        config["tested_on"] = _tested_on(splits[-1]) | {"training": digest}
        # Which checkpoints keep, as the numbers of a file's tokens change with the file.
        fields = {"item_tokens": train.iid_field, "user_tokens": train.uid_field}
        config.tokens = {name: train.field2id_token[field] for name, field in fields.items()}


def _tested_on(test) -> dict[str, str]:
    """Number and digest of a split's (user, target), in any order, and of its dataset's items."""
    users, items = (_hashes(test, field) for field in (test.uid_field, test.iid_field))
    rows = (test.inter_feat[field].numpy() for field in (test.uid_field, test.iid_field))
    with np.errstate(over="ignore"):
        targets = _mix(_mix(users[next(rows)]) + items[next(rows)])
        digests = {"targets": targets, "items": _mix(items[1:])}
        return {
            name: f"{len(each)}-{int(each.sum(dtype=np.uint64)):016x}"
            for name, each in digests.items()
        }


def files_hash(config, kinds=("inter",)) -> str:
    """Hash of a dataset's files of these kinds; empty where there is none.

    ``config``: already split files (``benchmark_filename``) count one after the other.
    ``kinds``: of ``inter``, ``item`` and ``user``.
    """
    found: list[str] = []
    for kind in kinds:
        own = [Path(config["data_path"]) / f"{config['dataset']}.{kind}"]
        for file in interaction_files(config) if kind == "inter" else own:
            if file.is_file():
                found += file_digests(file.parent, [file.name]).values()
    return found[0] if len(found) == 1 else "".join(digest[:32] for digest in found)


def kinds_beside(config) -> list[str]:
    """Kinds of a dataset's files that are read beside the interactions: ``item``, ``user``, …"""
    columns, more = config["load_col"], config["additional_feat_suffix"] or ()
    every = dict.fromkeys(("item", "user", "kg", "link", "net"), True)
    kinds = {kind for kind, fields in (every if columns is None else columns).items() if fields}
    return sorted({*kinds, *([more] if isinstance(more, str) else more)} - {"inter"})


def item_fields_digest(dataset) -> str | None:
    """Digest of the fields of items that a model reads, as numbers by item; None if it reads none.

    A model knows a value by its number, which follows from the order of the lines of ``.item``.
    """
    config, features = dataset.config, dataset.get_item_feature()
    named = [config[key] or [] for key in ("selected_features", "item_attribute")]
    fields = [field for one in named for field in ([one] if isinstance(one, str) else one)]
    digest = hashlib.sha256()
    for field in (found := sorted({*fields} & {*features.columns})):
        digest.update(f"{field}\n".encode())
        digest.update(features[field].numpy().tobytes())
    return digest.hexdigest() if found else None


def interactions_digest(train) -> str:
    """Digest of (user, item before, target) of all training rows, whatever their order and ids.

    Rows without a history are of another kind, those of models that are not sequential.
    """
    rows, before = train.inter_feat, _items_before(train)
    users = _hashes(train, train.uid_field)[rows[train.uid_field].numpy()]
    items = _hashes(train, train.iid_field)
    targets = items[rows[train.iid_field].numpy()]
    kind, before = ("rows", 0 * targets) if before is None else ("sequences", items[before.numpy()])
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(_mix(users) + before) + targets)
        total = int(mixed.sum(dtype=np.uint64))
    return f"{kind}-{len(targets)}-{total:016x}"


def _items_before(train):
    """The item before each target, ``(n,)``; None where rows have no history."""
    rows, field = train.inter_feat, train.iid_field
    if isinstance(rows, LazyInteraction):
        return rows.store.fields[field][rows[POSITION] - 1]
    length_field = getattr(train, "item_list_length_field", None)
    if not (length_field and length_field in rows):
        return None
    listed = rows[f"{field}{train.config['LIST_SUFFIX']}"]
    last = (rows[length_field] - 1).clamp(min=0, max=listed.shape[1] - 1)
    return listed.gather(1, last.unsqueeze(1)).squeeze(1)


def _hashes(dataset, field):
    tokens = np.asarray(dataset.field2id_token[field]).astype(str).astype(object)
    return pd.util.hash_array(tokens, categorize=False)


def _mix(values):
    """A bijection of 64 bits that leaves no simple relation (splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
