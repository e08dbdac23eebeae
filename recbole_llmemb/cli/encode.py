"""Encode a dataset's items into a table, or import their vectors.

  recbole-llm encode --dataset=ml-100k --out=tables/ml-100k
  recbole-llm encode --dataset=mine --data_path=data --encoder=BAAI/bge-m3 --out=tables/mine
  recbole-llm encode --items=catalog.parquet --item_id_field=asin --out=tables/catalog
  recbole-llm encode --items=catalog.parquet --ray --num_workers=8 --out=tables/catalog
  recbole-llm encode --import=vectors.npy --tokens=items.txt --out=tables/mine

Train on it with --llm_table=DIRECTORY. An interrupted run continues where it stopped when the
same command is given again; a table that is there already is found, not built again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_llmemb import encode
from recbole_llmemb.cli.options import Options, taken
from recbole_llmemb.config.known import keys_of_any_model, tell_strange
from recbole_llmemb.config.shared import DataSettings
from recbole_llmemb.config.values import defaults, recbole_folder, settings_of
from recbole_llmemb.core.checked import Checked, option
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import refuse_inputs
from recbole_llmemb.encode.settings import EncodeSettings, Workers

# Configuration key → option; the key's own name does, too.
TEXT = {
    "item_text_fields": "fields",
    "item_prompt": "prompt",
    "item_lines": "lines",
    "item_value_max_chars": "value_max_chars",
    "ITEM_ID_FIELD": "item_id_field",
    "field_separator": "field_separator",
    "encoding": "encoding",
}
ENCODER = ("encoder", "pooling", "max_length", "end_token", "device", "trust_remote_code")
_ENCODER, _RAY, _IMPORT = "encoder", "on a cluster", "import"
_OF_IMPORT = {"source", "tokens", "token_column", "trust_pickle"}
_WITH_IMPORT = {*_OF_IMPORT, "out", "overwrite", "pca_dim"}


class DatasetOptions(Checked):
    """Whose items, and by which settings."""

    dataset: str | None = option(None, "its items are taken")
    data_path: str | None = option(None, "folder that holds the dataset's folder")
    config_files: str | None = option(None, "property files of a run, whose settings are the same")


class EncodeOptions(DatasetOptions):
    """What the command does beside encoding."""

    out: str = option(..., "table directory to make")
    overwrite: bool = option(False, "replace a table that is there")
    pca_dim: int | None = option(None, "reduce to this width by PCA", ge=1)
    shard_size: int = option(1024, "texts kept at a time", ge=1, group=_ENCODER)
    items: str | None = option(None, "these items: .item, csv, json, parquet", metavar="FILE")
    ray: bool = option(False, "encode with Ray, on the cluster at RAY_ADDRESS if set", group=_RAY)
    source: str | None = option(
        None, ".npy .npz .parquet .itememb .pkl", name="import", metavar="FILE", group=_IMPORT
    )
    tokens: str | None = option(None, "item tokens, a line each", metavar="FILE", group=_IMPORT)
    token_column: str | None = option(None, "token column of a Parquet file", group=_IMPORT)
    trust_pickle: bool = option(
        False, "read a .pkl file (arrays only)", name="i-trust-this-pickle", group=_IMPORT
    )


def build_parser() -> Options:
    """The options of ``recbole-llm encode``."""
    encoder = (*ENCODER, "adapter", "dtype", "normalize", "batch_size")
    return with_text(Options("encode", __doc__).add(EncodeOptions), encoder).add(Workers)


def with_text(parser: Options, encoder: Sequence[str]) -> Options:
    """The options of a text and of an encoder, which are keys of a run by shorter names."""
    parser.add(EncodeSettings, TEXT, "item text").add(DataSettings, TEXT, "item text")
    return parser.add(EncodeSettings, {f"llm_{name}": name for name in encoder}, _ENCODER)


def main(argv: list[str]) -> int:
    """Run ``recbole-llm encode``."""
    parser = build_parser()
    typed = parser.typed(argv)
    given = set(typed)
    options, workers = taken(EncodeOptions, typed), taken(Workers, typed)
    sources = {"--dataset": options.dataset, "--items": options.items, "--import": options.source}
    chosen = [name for name, value in sources.items() if value is not None]
    if len(chosen) != 1:
        wanted = "one of --dataset or --items, whose items to encode, and --import, what to import"
        told = f"takes one of them, and got {' and '.join(chosen)}" if chosen else f"needs {wanted}"
        raise UserError(f"recbole-llm encode {told}.", key=chosen[0][2:] if chosen else "dataset")
    if (options.source or not options.ray) and (options.ray or workers != Workers()):
        told = "--ray, --num_workers and --gpus_per_worker are for items that Ray encodes"
        raise UserError(f"{told}; add --ray, or leave them.")
    which = "--import" if options.source else "--items" if options.items else "--dataset"
    other = given - _WITH_IMPORT if options.source else given & _OF_IMPORT
    other |= given & {"data_path"} if options.items else set()
    if other:
        told = f"{parser.option_of(min(other))} has no effect with {which}; leave it off."
        raise UserError(told, key=min(other))
    if options.source is not None:
        return _import(options.source, options)
    return _encode(options, typed, workers if options.ray else None)


def _import(source: str, options: EncodeOptions) -> int:
    from recbole_llmemb.table import import_table, reduce_pca

    began = time.perf_counter()
    refuse_inputs(options.out, [source, options.tokens])
    table = import_table(
        source, options.tokens, options.trust_pickle, token_column=options.token_column
    )
    if options.pca_dim:
        table = reduce_pca(table, options.pca_dim)
    table.save(options.out, overwrite=options.overwrite, again=True)
    seconds = time.perf_counter() - began
    print(f"{options.out}: {len(table)} items × {table.width}, imported in {seconds:.1f} s")
    return 0


def _encode(options: EncodeOptions, typed: dict[str, Any], workers: Workers | None) -> int:
    items = options.items and Path(options.items).expanduser()
    items = items or item_file_of(options.dataset or "", options.data_path)
    settings = settings_for(options, typed)
    if settings.get("llm_pca_dim") and not options.pca_dim:
        told = "llm_pca_dim is for runs, which reduce a table themselves; give --pca_dim to reduce"
        getLogger().warning(f"{told} what is written.")
    job = encode.job_from_config(settings, items)
    job = job.model_copy(update={"shard_size": options.shard_size, "pca_dim": options.pca_dim})
    result = encode.run_job(job, options.out, overwrite=options.overwrite, workers=workers)
    print(
        f"{result.path}: {result.rows} items × {result.width}, {result.unique} different texts, "
        f"{result.encoded} encoded now, {result.seconds:.1f} s"
    )
    return 0


def settings_for(options: DatasetOptions, typed: dict[str, Any]) -> dict[str, Any]:
    """The settings that ``run`` would have: the dataset's, those of files, those typed."""
    files = (options.config_files or "").split()
    given = settings_of(files)
    tell_strange(given, keys_of_any_model())
    return defaults("", options.dataset or "") | given | typed


def item_file_of(dataset: str, data_path: str | None) -> Path:
    """The dataset's item file; ml-100k without a path is the one inside the recbole package."""
    if data_path:
        folders = [Path(data_path).expanduser()]
    else:
        folders = [Path("dataset")]  # RecBole's default
        if dataset == "ml-100k" and (package := recbole_folder()):
            folders.insert(0, package / "dataset_example")
    files = [folder / dataset / f"{dataset}.item" for folder in folders]
    for file in files:
        if file.is_file():
            return file
    told = f"The dataset {dataset!r} has no item file {files[-1]}"
    raise UserError(f"{told}; give the folder that holds its folder with --data_path.")
