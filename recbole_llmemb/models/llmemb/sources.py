"""Where a model's vectors come from: the table and the collaborative teacher."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path

import torch

from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.checkpoint import fingerprint
from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.data.trained_on import check_same
from recbole_llmemb.models.whitening import Affine


def item_table(config, dataset, report=None, size=None):
    """The table's rows in the dataset's item order, matched by item token.

    ``config``: one that comes from a checkpoint names the table the model was trained over.
    ``report``: told in one line where the table comes from; the log by default.
    ``size``: reduce a wider table to this many columns, unless ``llm_pca_dim`` says to how many.
    Returns (n_items, D): Row 0, padding, is zero.
    """
    from recbole_llmemb.encode import ensure_table
    from recbole_llmemb.table import EmbeddingTable, match

    report = report or getLogger().info
    path = _table_in_use(config) or ensure_table(config, report=report)
    table = EmbeddingTable.load(path)
    if size and table.width > size and not config["llm_pca_dim"]:
        report(f"table: {table.width} wide and no adapter to learn, so llm_pca_dim is {size}")
        config["llm_pca_dim"] = size  # as a checkpoint will say
        path = ensure_table(config, report=report)
        table = EmbeddingTable.load(path)
    needed = config["llm_table_used"]
    if needed and needed["fingerprint"] != table.fingerprint:
        raise TableError(
            f"{path} is not the table this model was trained over (fingerprint "
            f"{table.fingerprint}, not {needed['fingerprint']}, then in {needed['path']}); "
            "set llm_table to that one."
        )
    # The checkpoint names the table it needs: where it was and what was in it.
    where = str(Path(path).absolute())  # a checkpoint may be read from another folder
    config["llm_table_used"] = {"path": where, "fingerprint": table.fingerprint}
    tokens = dataset.field2id_token[dataset.iid_field]
    return match(table, tokens, missing=config["llm_missing"] or "error", where=str(path))


def _table_in_use(config):
    """The table that a checkpoint's configuration names, if it is still there and the same.

    Found without a look at the item file, which may have got new items since.
    """
    from recbole_llmemb.table.format import read_manifest

    used, chosen = config["llm_table_used"], config["llm_table"]
    if used and chosen and Path(chosen).is_dir() and Path(chosen).absolute() != Path(used["path"]):
        return None  # another one is asked for, which is to be looked at
    try:
        same = used and read_manifest(used["path"]).get("fingerprint") == used["fingerprint"]
    except TableError:
        same = False
    return Path(used["path"]) if same else None


def table_projection(config):
    """What ``llm_pca_dim`` did to the vectors of the table in use, or None.

    ``config``: after :func:`item_table` was called with it.
    """
    from recbole_llmemb.table.format import read_projection

    if not config["llm_pca_dim"]:
        return None
    found = read_projection(config["llm_table_used"]["path"])
    return None if found is None else Affine(found["mean"], found["matrix"])


def teacher_embeddings(config, dataset, size):
    """The collaborative item embeddings that RAT aligns with, in the dataset's item order.

    ``config``: ``align_teacher``: a RecBole model to train (once, then cached) or a checkpoint.
    ``size``: size of the model's item embeddings; the teacher's must be the same.
    Returns (n_items, size).
    """
    from recbole_llmemb.run.teacher import ensure_teacher, is_checkpoint, read_item_embeddings
    from recbole_llmemb.table import EmbeddingTable, match

    given = is_checkpoint(config["align_teacher"])
    used = (config["align_teacher_used"] or {}).get("path")  # of a checkpoint's training
    if given or not (used and Path(used).is_file()):
        used = ensure_teacher(config, size, report=getLogger().info)
    path = Path(used)
    if given:
        check_same(config, checkpoint.load(path).get("config"), path)
    tokens, vectors = read_item_embeddings(path)
    if vectors.shape[1] != size:
        raise UserError(
            f"align_teacher {path} has item embeddings of size {vectors.shape[1]}, the model of "
            f"size {size}; train a teacher of that size or set align_weight: 0."
        )
    # So that an interrupted training is not continued towards another one.
    mark = fingerprint({"item_embedding": vectors})
    config["align_teacher_used"] = {"path": str(path), "fingerprint": mark}
    table = EmbeddingTable(tokens, torch.as_tensor(vectors).float(), {})
    return match(table, dataset.field2id_token[dataset.iid_field], where=f"teacher {path}")
