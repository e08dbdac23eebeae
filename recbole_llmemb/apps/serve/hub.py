"""The table of a model as a dataset of the Hugging Face hub, which is still a table."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from recbole_llmemb.core.errors import TableError, explained
from recbole_llmemb.core.imports import optional
from recbole_llmemb.core.reports import no_html, render
from recbole_llmemb.records.values import one_line
from recbole_llmemb.table import EmbeddingTable
from recbole_llmemb.table.format import MANIFEST_FILE, TOKENS_FILE, VECTORS_FILE

DATA_FILE = "items.parquet"
_SIZES = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6}


def write_table(directory: Path, config) -> EmbeddingTable:
    """Write the table of a model, a Parquet file of the same and a dataset card.

    Returns what :meth:`EmbeddingTable.load` reads from there again.
    """
    table = EmbeddingTable.load(config["llm_table_used"]["path"])
    table.save(directory)
    write_parquet(directory / DATA_FILE, "item", table.tokens, table.vectors.float())
    (directory / "README.md").write_text(_card(table, config["dataset"]), encoding="utf-8")
    return table


def write_parquet(path: Path, what: str, tokens, vectors: torch.Tensor) -> None:
    """Write tokens, in a column called ``what``, beside their ``vectors`` ``(n, d)``."""
    arrow, parquet = (optional(m, "parquet", "Parquet") for m in ("pyarrow", "pyarrow.parquet"))
    flat = arrow.array(vectors.flatten().numpy())
    column = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    names = arrow.array([str(token) for token in tokens], arrow.string())
    parquet.write_table(arrow.table({what: names, "vectors": column}), path)


def _card(table: EmbeddingTable, dataset: str) -> str:
    """What the hub reads, then what people read."""
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        pretty_name=f"Item embeddings of {dataset}",
        tags=["recommender-systems", "sequential-recommendation", "embeddings", "recbole"],
        size_categories=[next((n for n, most in _SIZES.items() if len(table) < most), "n>1M")],
        configs=[{"config_name": "default", "data_files": DATA_FILE}],
    )
    manifest = {key: value for key, value in table.manifest.items() if key != "inputs_hash"}
    told = {key: one_line(manifest.get(key)).replace("`", "'") for key in ("encoder", "prompt")}
    fields = one_line(", ".join(map(str, manifest.get("fields") or ())))
    return render(
        __package__, "card.md.j2", data=data.to_yaml(), dataset=no_html(dataset), width=table.width,
        count=f"{len(table):,}", encoder=told["encoder"], prompt=no_html(told["prompt"]),
        fields=no_html(fields), vectors_file=VECTORS_FILE,
        tokens_file=TOKENS_FILE, data_file=DATA_FILE, manifest_file=MANIFEST_FILE,
        manifest=json.dumps(manifest, indent=2, ensure_ascii=False),
    )  # fmt: skip


def push_table(directory: Path, repo: str, private: bool = True) -> str:
    """Upload an exported table to the Hugging Face hub, as a dataset; returns where it is.

    ``repo``: ``USER/NAME``; made if there is none.
    """
    from huggingface_hub import HfApi

    EmbeddingTable.load(directory)
    if not (directory / "README.md").is_file():
        raise TableError(f"{directory} has no dataset card; export the table (--what=table) first.")
    told = f"{repo} cannot be written on the Hugging Face hub ({{reason}})"
    advice = "log in with `hf auth login`, check the name, and whether HF_HUB_OFFLINE is set"
    with explained(f"{told}; {advice}.", Exception, key="push"):  # whatever a network does
        api = HfApi()
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=str(directory))
    return f"https://huggingface.co/datasets/{repo}"
