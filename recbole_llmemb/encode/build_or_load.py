"""The automatic build inside ``run``: the table a configuration asks for, made if it is missing."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from recbole_llmemb.config.keys import values_of
from recbole_llmemb.config.shared import DataSettings
from recbole_llmemb.config.values import defaults
from recbole_llmemb.core.artifacts import build_or_load
from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.encode.job import EncodeJob, find_table, run_job
from recbole_llmemb.encode.settings import EncodeSettings
from recbole_llmemb.encode.shards import hash_lists, item_prompt, read_catalog
from recbole_llmemb.records.items import open_items
from recbole_llmemb.table.format import EmbeddingTable, read_manifest, read_tokens
from recbole_llmemb.table.transform import reduce_pca

CACHE_VARIABLE = "RECBOLE_LLMEMB_CACHE"
# What a table's manifest calls the settings that it was made by.
_MADE_BY = {
    "llm_encoder": "encoder", "llm_adapter": "adapter", "llm_pooling": "pooling",
    "llm_dtype": "encoder_dtype", "llm_normalize": "normalize", "llm_max_length": "max_length",
    "item_prompt": "prompt", "item_text_fields": "fields",
    "item_value_max_chars": "value_max_chars",
}  # fmt: skip


def ensure_table(config: Mapping[str, Any], report: Callable[[str], None] = print) -> Path:
    """The directory of the table a configuration asks for.

    With ``llm_table`` that is the table given (with ``llm_pca_dim``, a reduced copy in the
    cache). Otherwise the dataset's items are encoded into the cache, once: the folder's name
    holds a hash of everything the vectors depend on.

    Parameters
    ----------
    config : mapping
        RecBole's Config or a dict; missing keys have their defaults.
    report : callable
        Is given one line of text saying what is built or found, and the seconds.

    Returns
    -------
    Path
        A directory that :meth:`EmbeddingTable.load` reads.

    Raises
    ------
    UserError
        When the configuration, the item file or the encoder cannot work.
    TableError
        When the table given cannot be used.
    """
    if values_of(config).get("scft"):
        told = "scft is set, whose adapter comes before the table"
        raise UserError(f"{told}; recbole_llmemb.scft.ensure_table makes both.", key="scft")
    settings = EncodeSettings.of(config)
    if settings.llm_table:
        path = Path(os.path.expanduser(settings.llm_table))
        if not path.is_dir():
            advice = "give a table directory, or leave llm_table empty to have one built"
            raise TableError(f"There is no embedding table at {path} (llm_table); {advice}.")
        if not settings.llm_pca_dim:
            report(f"table: using {path}")
    else:
        job = job_from_config(config)
        name = f"{values_of(config)['dataset']}-{job.source.short_name}-{job.key[:12]}"
        path = cache_directory(config) / name
        # A damaged table in the cache is replaced: nobody but this function puts tables there.
        run_job(job, path, overwrite=True, report=report)
    if settings.llm_pca_dim:
        path = _reduced(path, settings.llm_pca_dim, cache_directory(config), report)
    return path


def tell_unused(table: Path, config: Mapping[str, Any], report: Callable[[str], None]) -> None:
    """Report settings of a table's making that say nothing, as it is given and was made otherwise.

    Those that are as the package has them for the dataset were not asked for.
    """
    manifest, settings = read_manifest(table), EncodeSettings.of(config).model_dump()
    usual = EncodeSettings.of(defaults("", str(values_of(config)["dataset"]))).model_dump()
    adapter = manifest.get("adapter")
    made = manifest | {"adapter": str(adapter["path"]) if isinstance(adapter, dict) else None}
    unused = []
    for key, name in _MADE_BY.items():
        asked, then = settings[key], made.get(name)
        place = name in ("encoder", "adapter")
        same = then == asked or (place and Path(str(then)).name == Path(str(asked)).name)
        unused += [key] if asked != usual[key] and not same else []
    if unused:
        told = f"table: {table} is taken as it is and was made otherwise"
        report(f"{told}; {' and '.join(unused)} change nothing of it")


def tell_other_texts(table: Path, config: Mapping[str, Any], report: Callable[[str], None]) -> None:
    """Report that the texts a table was encoded from are not those that its items have now.

    Nothing is said where that cannot be known: of an imported table, of one with other items too,
    and where the dataset has no item file with the fields of that table.
    """
    manifest, data = read_manifest(table), DataSettings.of(config)
    fields, then = manifest.get("fields"), manifest.get("texts_hash")
    file = Path(data.data_path) / f"{data.dataset}.item"
    prompt = manifest.get("prompt", ""), manifest.get("value_max_chars")
    if not fields or not then or not file.is_file():
        return
    with suppress(UserError):
        place = fields, data.ITEM_ID_FIELD, data.field_separator, data.encoding or "utf-8"
        items = read_catalog(open_items(file, *place), lambda item: item_prompt(item, *prompt))
        tokens, text_of = read_tokens(table), dict(zip(items.tokens, items.text_of))
        if not text_of.keys() >= set(tokens):
            return
        if hash_lists(tokens, (items.texts[text_of[token]] for token in tokens)) != then:
            told = f"table: {table} was encoded from other texts than {file} holds now"
            report(f"{told}; encode it again (recbole-llm encode), unless that is meant")


def cache_directory(config: Mapping[str, Any]) -> Path:
    """``llm_cache_dir``, else $RECBOLE_LLMEMB_CACHE, else ``~/.cache/recbole-llmemb``."""
    chosen = EncodeSettings.of(config).llm_cache_dir or os.environ.get(CACHE_VARIABLE)
    path = Path(os.path.expanduser(chosen or os.path.join("~", ".cache", "recbole-llmemb")))
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not there.is_dir():
        told = f"{path} cannot be the cache of tables and teachers, as {there} is no folder"
        advice = f"set llm_cache_dir, or the variable {CACHE_VARIABLE}, to one"
        raise UserError(f"{told}; {advice}.", key="llm_cache_dir", where=there)
    return path


def job_from_config(config: Mapping[str, Any], items: Path | None = None) -> EncodeJob:
    """The encoding job of a configuration (without the PCA, which is a table of its own).

    ``items``: their file, where it is not the dataset's.
    """
    settings, data = EncodeSettings.of(config), DataSettings.of(config)
    item_file = items or Path(data.data_path) / f"{data.dataset}.item"
    if items is None and not item_file.is_file():
        told = f"The dataset {data.dataset!r} has no item file {item_file}, which would be encoded"
        advice = "provide it, give a ready table (llm_table), or set item_embedding to id"
        raise UserError(f"{told}; {advice}.")
    device = settings.llm_device
    return EncodeJob(
        item_file=item_file,
        settings=settings,
        id_field=data.ITEM_ID_FIELD,
        field_separator=data.field_separator,
        encoding=data.encoding or "utf-8",
        # That of training.
        device=values_of(config).get("device") if device == "auto" else device,
    )


def _reduced(source: Path, dim: int, cache: Path, report: Callable[[str], None]) -> Path:
    """A PCA copy of a table, in the cache."""
    began = time.perf_counter()
    table = EmbeddingTable.load(source)
    tag = hashlib.blake2b(f"{table.fingerprint} {dim}".encode(), digest_size=6).hexdigest()
    out = cache / f"{source.name}-pca{dim}-{tag}"

    def build() -> EmbeddingTable:
        reduced = reduce_pca(table, dim)
        reduced.save(out, overwrite=True)
        return reduced

    def find() -> EmbeddingTable | None:
        made = find_table(out)
        source = made and made.manifest.get("pca", {}).get("source_fingerprint")
        return made if source == table.fingerprint else None

    _, hit = build_or_load(find, build, out, "table")
    seconds = time.perf_counter() - began
    report(f"table: {'cache hit' if hit else f'reduced to {dim}'} {out} ({seconds:.1f} s)")
    return out
