"""An item table as a dataset that the Hugging Face hub shows, loads and takes."""

from __future__ import annotations

import json
from pathlib import Path

from recbole_llmemb.apps.serve import vector_files
from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.table import EmbeddingTable
from recbole_llmemb.table.format import MANIFEST_FILE, TOKENS_FILE, VECTORS_FILE

DATA_FILE = "items.parquet"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


def write_table(directory, config) -> EmbeddingTable:
    """Write the table of a model, a Parquet file of the same and a dataset card.

    ``directory``: new.
    ``config``: that names the table in use.
    Returns which :meth:`EmbeddingTable.load` reads from there again.
    """
    directory = Path(directory)
    table = EmbeddingTable.load(config["llm_table_used"]["path"])
    table.save(directory)
    vector_files.write(directory / DATA_FILE, table.tokens, table.vectors, "item")
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
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=str(directory))
    except Exception as error:  # whatever a network does
        text = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(
            f"{repo} cannot be written on the Hugging Face hub ({type(error).__name__}: {text}); "
            "log in with `hf auth login` and check the name."
        ) from None
    return f"https://huggingface.co/datasets/{repo}"
