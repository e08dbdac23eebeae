"""What a model was trained on, so that no other model learns from one that saw its targets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_llmemb.config.keys import Use, keys
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import hash_file
from recbole_llmemb.data.dataset import check_parts
from recbole_llmemb.data.histories import POSITION, LazyInteraction
from recbole_llmemb.data.splits import interaction_files

# What decides which interactions are trained on, beside the data itself and the keys of that use.
_EVALUATION = ("split", "order", "group_by")
_OF_RECBOLE = {"rm_dup_inter", "filter_inter_by_user_or_item"}


def note(config, splits) -> None:
    """Note in the configuration what is trained on; refuse a split without training interactions.

    ``splits``: training, validation and test, built. RecBole's own models pass here, too.
    """
    train = splits[0]
    if not len(train):
        check_parts(splits, config)
    if all(field in train.inter_feat for field in (train.uid_field, train.iid_field)):
        interactions = interactions_digest(train)
        config["trained_on"] = {"interactions": interactions, "inter": files_hash(config)}


def files_hash(config, kinds=("inter",)) -> str:
    """Hash of a dataset's files of these kinds; empty where there is none.

    ``config``: already split files (``benchmark_filename``) count one after the other.
    ``kinds``: of ``inter``, ``item`` and ``user``.
    """
    found = []
    for kind in kinds:
        own = [Path(config["data_path"]) / f"{config['dataset']}.{kind}"]
        for file in interaction_files(config) if kind == "inter" else own:
            if file.is_file():
                digest = hashlib.sha256()
                hash_file(file, digest)
                found.append(digest.hexdigest())
    return found[0] if len(found) == 1 else "".join(digest[:32] for digest in found)


def interactions_digest(train) -> str:
    """Digest of (user, item before, target) of all training rows, whatever their order and ids.

    Rows without a history are of another kind, those of models that are not sequential.

    ``train``: the training split, built.
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


def check_same(config, plain, path) -> None:
    """Refuse a teacher that was trained on other interactions than the run.

    ``config``: of the run, whose data is prepared; ``align_teacher_unchecked`` lets any pass.
    ``plain``: the configuration in the teacher's checkpoint.
    ``path``: for the error message.
    """
    if config["align_teacher_unchecked"] is True:
        return
    meant = "or set align_teacher_unchecked: True if it is meant"
    if not plain:
        raise UserError(
            f"align_teacher {path} does not say what it was trained on, which may be what this run "
            f"is tested on; name a model, {meant}."
        )
    theirs, ours = plain.get("trained_on"), config["trained_on"]
    told = bool(theirs and ours)
    comparable = told and _kind(theirs) == _kind(ours)
    if comparable and theirs["interactions"] == ours["interactions"]:
        return
    different = _differences(config, plain)
    if not different and told and theirs["inter"] != ours["inter"]:
        different = [f"another {config['dataset']}.inter"]
    elif not different and comparable:
        different = ["other training interactions"]
    if different:
        raise UserError(
            f"align_teacher {path} was trained on other data than this run's "
            f"({'; '.join(different)}), so it may know what is tested; name a model, {meant}."
        )


def _kind(record):
    return record["interactions"].split("-")[0]


def _differences(config, plain):
    """Where two configurations choose other interactions, in words."""
    ours, theirs = config["eval_args"] or {}, plain.get("eval_args") or {}
    pairs = [(f"eval_args.{key}", theirs.get(key), ours.get(key)) for key in _EVALUATION]
    chosen = keys(Use.ROWS) | _OF_RECBOLE
    if not config["holdout_items"] and not plain.get("holdout_items"):
        chosen -= {"holdout_seed"}
    pairs += [(key, plain.get(key), config[key]) for key in sorted(chosen)]
    return [f"{key} {then!r}, not {now!r}" for key, then, now in pairs if _differ(then, now)]


def _differ(then, now):
    nothing = (None, "", "None", "none", "[0,inf)", False)
    return str(then) != str(now) and not (then in nothing and now in nothing)
