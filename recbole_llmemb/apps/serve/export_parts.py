"""The files of an export: vectors with their tokens, an index, a table with its dataset card."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from recbole_llmemb.core.errors import TableError, explained
from recbole_llmemb.core.imports import optional
from recbole_llmemb.table import EmbeddingTable
from recbole_llmemb.table.format import MANIFEST_FILE, TOKENS_FILE, VECTORS_FILE

FORMATS = ("safetensors", "parquet")
_NAME = "vectors"
_BEST = 10
DATA_FILE = "items.parquet"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


def write(path: Path, tokens, vectors: torch.Tensor, what: str) -> None:
    """Write vectors ``(n, d)``: as one tensor, or as a column beside the tokens'.

    Shapes: ``vectors`` (n, d).
    ``path``: its suffix says which.
    ``tokens``: for Parquet; beside safetensors they are in a text file.
    ``what``: what the column of the tokens is called.
    """
    vectors = vectors.float().contiguous()
    if path.suffix == ".safetensors":
        save_file({_NAME: vectors}, str(path))
        return
    arrow, parquet = pyarrow()
    flat = arrow.array(vectors.flatten().numpy())
    column = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    names = arrow.array([str(token) for token in tokens], arrow.string())
    parquet.write_table(arrow.table({what: names, _NAME: column}), path)


def read(path: Path) -> torch.Tensor:
    """The vectors of a file that :func:`write` made, ``(n, d)``."""
    if path.suffix == ".safetensors":
        return load_file(str(path))[_NAME]
    _, parquet = pyarrow()
    column = parquet.read_table(path)[_NAME].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.copy()).view(len(column), -1)


def write_tokens(path: Path, tokens: Iterable[str]) -> None:
    """One token per line, in the order of the vectors."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.writelines(f"{token}\n" for token in tokens)


def write_index(path: Path, vectors: torch.Tensor, kind: str = "Flat") -> None:
    """A FAISS index by inner product over vectors ``(n, d)``."""
    library = faiss()
    rows = vectors.float().contiguous().numpy()
    with explained(
        f"FAISS makes no index {kind!r} of {len(rows)} vectors ({{reason}}); give --index another "
        "name that its index_factory knows, such as Flat or HNSW32.",
        RuntimeError,
        key="index",
    ):
        index = library.index_factory(rows.shape[1], kind, library.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(rows)
        index.add(rows)
    library.write_index(index, str(path))


def search(path: Path, queries: torch.Tensor) -> torch.Tensor:
    """Rows of the best vectors in an index for each query, ``(b, k)`` with k at most 10."""
    index = faiss().read_index(str(path))
    found = index.search(queries.float().contiguous().numpy(), min(_BEST, index.ntotal))[1]
    return torch.from_numpy(found)


def pyarrow():
    """The library for Parquet files, and its module for them."""
    who = "Parquet"
    return optional("pyarrow", "parquet", who), optional("pyarrow.parquet", "parquet", who)


def faiss():
    """The library for indexes."""
    return optional("faiss", "faiss", "An index")


def write_table(directory, config) -> EmbeddingTable:
    """Write the table of a model, a Parquet file of the same and a dataset card.

    ``directory``: new.
    ``config``: that names the table in use.
    Returns which :meth:`EmbeddingTable.load` reads from there again.
    """
    directory = Path(directory)
    table = EmbeddingTable.load(config["llm_table_used"]["path"])
    table.save(directory)
    write(directory / DATA_FILE, table.tokens, table.vectors, "item")
    (directory / "README.md").write_text(card(table, config["dataset"]), encoding="utf-8")
    return table


def card(table: EmbeddingTable, dataset: str) -> str:
    """The dataset card of a table: what the hub reads, then what people read."""
    from huggingface_hub import DatasetCardData

    size = next((name for limit, name in _SIZES if len(table) < limit), "n>1M")
    data = DatasetCardData(
        pretty_name=f"Item embeddings of {dataset}",
        tags=["recommender-systems", "sequential-recommendation", "embeddings", "recbole"],
        size_categories=[size],
        configs=[{"config_name": "default", "data_files": DATA_FILE}],
    )
    manifest = {key: value for key, value in table.manifest.items() if key != "inputs_hash"}
    encoder = manifest.get("encoder")
    made = f"by `{encoder}`" if encoder else "elsewhere"
    text = ""
    if encoder:
        fields = ", ".join(manifest.get("fields") or ())
        text = f'\nAn item\'s text is "{manifest.get("prompt", "")}" and its {fields}.\n'
    return f"""---
{data.to_yaml()}
---

# Item embeddings of {dataset}

{len(table):,} items of the dataset {dataset}, a vector of {table.width} numbers each, made
{made}.
{text}
```python
from datasets import load_dataset

items = load_dataset("USER/NAME", split="train")  # columns: item, vectors
```

As a table for recbole-llmemb, matched to a dataset by item token:

```python
from huggingface_hub import snapshot_download

snapshot_download("USER/NAME", repo_type="dataset", local_dir="table")
# recbole-llm --model=LLMEmbSASRec --dataset={dataset} --llm_table=table
```

`{VECTORS_FILE}` holds the vectors, `{TOKENS_FILE}` the item tokens, one per line in the same
order; `{DATA_FILE}` has both. `{MANIFEST_FILE}` says how they were made:

```json
{json.dumps(manifest, indent=2, ensure_ascii=False)}
```
"""


def push_table(directory, repo: str, private: bool = True, token: str | None = None) -> str:
    """Upload an exported table to the Hugging Face hub, as a dataset.

    ``directory``: what :func:`write_table` wrote.
    ``repo``: ``USER/NAME``; made if there is none.
    ``private``: of a new one.
    ``token``: by default that of ``hf auth login``.
    Returns where it is.
    """
    from huggingface_hub import HfApi

    directory = Path(directory)
    EmbeddingTable.load(directory)
    if not (directory / "README.md").is_file():
        raise TableError(f"{directory} has no dataset card; export the table (--what=table) first.")
    api = HfApi(token=token)
    with explained(
        f"{repo} cannot be written on the Hugging Face hub ({{reason}}); log in with `hf auth "
        "login` and check the name.",
        Exception,  # whatever a network does
        key="push",
    ):
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=str(directory))
    return f"https://huggingface.co/datasets/{repo}"
