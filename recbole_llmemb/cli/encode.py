"""``recbole-llm encode``: item text, or vectors made elsewhere, to a table directory."""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path

from recbole_llmemb.core.errors import UserError

_DESCRIPTION = """\
Encode the items of a dataset into an embedding table, or import vectors made elsewhere.

  recbole-llm encode --dataset=ml-100k --out=tables/ml-100k
  recbole-llm encode --dataset=mine --data_path=data --encoder=BAAI/bge-m3 --out=tables/mine
  recbole-llm encode --items=catalogue.parquet --item_id_field=asin --out=tables/catalogue
  recbole-llm encode --items=catalogue.parquet --ray --num_workers=8 --out=tables/catalogue
  recbole-llm encode --import=vectors.npy --tokens=items.txt --out=tables/mine

Train on it with --llm_table=DIRECTORY. An interrupted run continues where it stopped when the
same command is given again; a table that is there already is found, not built again.
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``recbole-llm encode``."""
    parser = argparse.ArgumentParser(
        prog="recbole-llm encode",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", required=True, help="table directory to make")
    parser.add_argument("--overwrite", action="store_true", help="replace a table that is there")
    parser.add_argument("--pca_dim", type=int, help="reduce to this width by PCA")

    text = parser.add_argument_group("item text")
    text.add_argument("--dataset", help="its items are encoded")
    text.add_argument("--data_path", help="folder that holds the dataset's folder")
    text.add_argument(
        "--items", metavar="FILE", help="encode these items: .item, .parquet or .jsonl"
    )
    text.add_argument("--config_files", help="property files of a run, whose text is the same")
    text.add_argument("--fields", help="attributes to use, in this order: a,b,c (default: all)")
    text.add_argument("--prompt", help="what stands before the attributes")
    text.add_argument("--value_max_chars", type=int, help="cut longer values (default: 100)")
    text.add_argument("--item_id_field", help="field of the item token (default: item_id)")
    text.add_argument("--field_separator", help="of the .item file (default: tab)")
    text.add_argument("--encoding", help="of the .item file (default: utf-8)")

    encoder = parser.add_argument_group("encoder")
    encoder.add_argument("--encoder", help="path or Hugging Face id (default: all-MiniLM-L6-v2)")
    encoder.add_argument("--adapter", help="LoRA adapter directory of recbole-llm scft, or peft's")
    encoder.add_argument("--pooling", choices=("mean", "last"), help="default: the encoder's own")
    encoder.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    encoder.add_argument(
        "--device", default="auto", help="auto, cpu, cuda:0, or several: cuda:0,cuda:1"
    )
    encoder.add_argument("--batch_size", type=int, default=32, help="texts per forward pass")
    encoder.add_argument("--max_length", type=int, help="cut longer texts, in tokens")
    encoder.add_argument("--normalize", action="store_true", help="scale vectors to length one")
    encoder.add_argument("--shard_size", type=int, default=1024, help="texts kept at a time")
    encoder.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run code that comes with the encoder; only where you have read it",
    )

    ray = parser.add_argument_group("on a cluster")
    ray.add_argument(
        "--ray", action="store_true", help="encode with Ray, on the cluster at RAY_ADDRESS if set"
    )
    ray.add_argument("--num_workers", type=int, help="encoders (default: as many as fit)")
    ray.add_argument(
        "--gpus_per_worker", type=float, help="may be a fraction (default: 1 if there are GPUs)"
    )

    imports = parser.add_argument_group("import")
    imports.add_argument(
        "--import", dest="source", metavar="FILE", help=".npy .npz .parquet .itememb .pkl"
    )
    imports.add_argument("--tokens", metavar="FILE", help="one item token per line, in row order")
    imports.add_argument("--token_column", help="token column of a Parquet file")
    imports.add_argument(
        "--i-trust-this-pickle",
        dest="trust_pickle",
        action="store_true",
        help="read a .pkl file (arrays only)",
    )
    return parser


def main(argv: list[str]) -> int:
    """Run ``recbole-llm encode``.

    ``argv``: what follows ``encode``.
    Returns 0.
    """
    options = build_parser().parse_args(argv)
    if (options.source is None) == (options.dataset is None and options.items is None):
        raise UserError(
            "recbole-llm encode needs either --dataset or --items, whose items to encode, "
            "or --import, the file to import."
        )
    if not options.ray and not (options.num_workers is None and options.gpus_per_worker is None):
        raise UserError("--num_workers and --gpus_per_worker are for --ray; add it, or leave them.")
    if options.ray and options.source is not None:
        raise UserError("--ray encodes items; --import has nothing to encode, leave --ray out.")
    if options.pca_dim is not None and options.pca_dim < 1:
        raise UserError(f"--pca_dim is {options.pca_dim}; it must be at least 1.")
    return _import(options) if options.source is not None else _encode(options)


def _import(options: argparse.Namespace) -> int:
    from recbole_llmemb.core.files import refuse_inputs
    from recbole_llmemb.table import import_table, reduce_pca

    began = time.perf_counter()
    refuse_inputs(options.out, [options.source, options.tokens])
    table = import_table(
        options.source,
        tokens_path=options.tokens,
        allow_pickle_file=options.trust_pickle,
        token_column=options.token_column,
    )
    if options.pca_dim:
        table = reduce_pca(table, options.pca_dim)
    table.save(options.out, overwrite=options.overwrite)
    seconds = time.perf_counter() - began
    print(f"{options.out}: {len(table)} items × {table.width}, imported in {seconds:.1f} s")
    return 0


def _encode(options: argparse.Namespace) -> int:
    from recbole_llmemb.config.recbole_config import defaults, settings_of
    from recbole_llmemb.encode.job import EncodeJob, run_job
    from recbole_llmemb.encode.workers import Workers

    # The same text as `run` would use, unless told otherwise.
    known = defaults("", options.dataset or "") | settings_of(options.config_files)
    job = EncodeJob(
        item_file=(
            Path(options.items).expanduser()
            if options.items
            else item_file_of(options.dataset, options.data_path)
        ),
        encoder=options.encoder or known.get("llm_encoder"),
        fields=options.fields or known.get("item_text_fields"),
        prompt=known.get("item_prompt") if options.prompt is None else options.prompt,
        value_max_chars=(
            known.get("item_value_max_chars")
            if options.value_max_chars is None
            else options.value_max_chars
        ),
        id_field=options.item_id_field or known.get("ITEM_ID_FIELD") or "item_id",
        field_separator=(
            known.get("field_separator", "\t")
            if options.field_separator is None
            else options.field_separator
        ),
        encoding=options.encoding or known.get("encoding") or "utf-8",
        pooling=options.pooling,
        dtype=options.dtype,
        max_length=options.max_length,
        normalize=options.normalize,
        trust_remote_code=options.trust_remote_code,
        adapter=options.adapter or known.get("llm_adapter"),
        pca_dim=options.pca_dim,
        batch_size=options.batch_size,
        device=options.device,
        shard_size=options.shard_size,
    )
    workers = None
    if options.ray:
        workers = Workers(options.num_workers, options.gpus_per_worker)
        workers.check(options.device)
    result = run_job(job, options.out, overwrite=options.overwrite, workers=workers)
    print(
        f"{result.path}: {result.rows} items × {result.width}, {result.unique} different texts, "
        f"{result.encoded} encoded now, {result.seconds:.1f} s"
    )
    return 0


def item_file_of(dataset: str, data_path: str | None) -> Path:
    """The dataset's item file; ml-100k without a path is the one inside the recbole package."""
    if data_path:
        folders = [Path(data_path).expanduser() / dataset]
    else:
        folders = [Path("dataset") / dataset]  # RecBole's default
        # Found, not imported: importing RecBole takes seconds.
        spec = importlib.util.find_spec("recbole")
        if dataset == "ml-100k" and spec is not None and spec.submodule_search_locations:
            package = Path(next(iter(spec.submodule_search_locations)))
            folders.insert(0, package / "dataset_example" / dataset)
    for folder in folders:
        if (folder / f"{dataset}.item").is_file():
            return folder / f"{dataset}.item"
    raise UserError(
        f"The dataset {dataset!r} has no item file {folders[-1] / f'{dataset}.item'}; "
        "give the folder that holds the dataset's folder with --data_path."
    )
