"""Before the first trial: the dataset, the table and the teacher, made once."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from recbole_llmemb.apps.tune import shared
from recbole_llmemb.apps.tune.plan import needs_teacher
from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.run import stages

# Settings of the encoder and of what is done to a table afterwards: not of the table itself.
_AFTER = ("llm_pca_dim", "llm_whiten", "llm_missing", "llm_freeze", "llm_table_dtype",
          "llm_init_std", "llm_cache_dir", "llm_batch_size", "llm_device")  # fmt: skip
# More than this many variants of the dataset are left to the trials.
_VARIANTS = 4


def prepare(plan, config, space=None, report=print) -> dict:
    """Everything that trials share, as data that Ray can send to any node.

    ``config``: without the searched keys.
    ``space``: the dataset is prepared for each choice of settings that it depends on.
    ``report``: told in one line each what is going on.
    Returns ``data`` by :func:`~recbole_llmemb.apps.tune.shared.data_key`, and ``table``,
    ``teacher`` and ``items`` as ``(path, files)`` or None.
    """
    report(f"prepare: reading {config['dataset']} …")
    packed = {}
    for choices in _data_choices(config, space):
        own = make_config(plan.model, plan.dataset, overrides=plan.values(choices))
        data = stages.prepare_data(own)
        if not len(data.valid._dataset):
            raise UserError(
                f"A search needs a validation part, but eval_args leave none of {own['dataset']} "
                f"({own['eval_args']['split']}); give another split."
            )
        packed[shared.data_key(own)] = shared.pack_data(own, data)
    train = data.train._dataset
    megabytes = shared.size_of(packed) / 1e6
    report(
        f"prepare: {train.user_num - 1:,} users, {train.item_num - 1:,} items; "
        f"{megabytes:,.0f} MB for all trials to share"
    )
    searched = set(plan.searched)
    return {
        "data": packed,
        "table": _table(config, data, searched, report),
        "teacher": _teacher(plan, config, searched, report),
        "items": _item_file(config),
    }


def _data_choices(config, space):
    keys = shared.data_keys(config)
    found = [one for one in (space.dimensions if space else ()) if one.key in keys]
    count = 1
    for one in found:
        count *= len(one.values) if one.kind == "choice" and not one.when else _VARIANTS + 1
    if count > _VARIANTS:
        found = []
    return [dict(zip([o.key for o in found], v)) for v in product(*(o.values for o in found))]


def _table(config, data, searched, report):
    from recbole_llmemb.encode import ensure_table
    from recbole_llmemb.encode.build_or_load import Overlay
    from recbole_llmemb.models.llmemb.sources import item_table
    from recbole_llmemb.plugin import is_ours

    if not is_ours(config["model"]):
        return None
    if config["item_embedding"] == "id" or config["item_input"] == "text":
        return None
    if any(_of_table(key) for key in searched):
        return None  # trials build their own, in the cache, where the next one finds it
    item_table(config, data.dataset, report)  # refused here, if it does not fit
    # As it was before its reduction, for which each width has a copy in the cache.
    path = ensure_table(Overlay(config, llm_pca_dim=None), report=lambda line: None)
    return str(path), shared.read_files(path)


def _of_table(key) -> bool:
    text = ("item_text_fields", "item_prompt", "item_value_max_chars", "item_embedding")
    ours = key.startswith(("llm_", "scft")) and not key.startswith("llm_model")
    return (ours and key not in _AFTER) or key in (*text, "item_input")


def _teacher(plan, config, searched, report):
    from recbole_llmemb.cli.run import item_embedding_size
    from recbole_llmemb.run.teacher import ensure_teacher

    own = {"hidden_size", "embedding_size", "align_teacher", "align_teacher_config"}
    if not needs_teacher(config) or searched & (own | shared.data_keys(config)):
        return None
    config = make_config(plan.model, plan.dataset, overrides=plan.values({}))
    size = item_embedding_size(config)
    if not size:
        return None
    path = ensure_teacher(config, size, report)
    return str(path), shared.read_files(path)


def _item_file(config):
    """The items' texts, which some models read themselves."""
    from recbole_llmemb.plugin import is_ours

    file = Path(config["data_path"]) / f"{config['dataset']}.item"
    if not is_ours(config["model"]) or not file.is_file():
        return None
    return str(file), shared.read_files(file)
