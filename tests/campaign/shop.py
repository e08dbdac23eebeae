"""What the commands of a campaign read: data in every format, models, and what runs have left."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.record import files

SETTINGS: dict[str, Any] = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp", "rating"]},
    "MAX_ITEM_LIST_LENGTH": 10, "hidden_size": 8, "embedding_size": 8, "inner_size": 16,
    "n_layers": 1, "num_layers": 1, "n_heads": 2, "epochs": 1, "train_batch_size": 64,
    "eval_batch_size": 64, "metrics": ["Hit", "NDCG"], "topk": [5, 10], "valid_metric": "NDCG@10",
    "show_progress": False, "use_gpu": False, "gpu_id": "",
}  # fmt: skip


def prepare() -> None:
    """Write what the commands read into the current folder."""
    rows = files.write_dataset("data")
    files.write_presplit("data", rows)
    tokens = [*sorted({row[1] for row in rows}), "i50", "i51"]
    files.write_table("table", tokens)
    files.write_model("encoder", "bert")
    files.write_model("llm", "llama")
    Path("shared.yaml").write_text(yaml.safe_dump(SETTINGS))


def prepare_more() -> None:
    """Write what the other commands read."""
    import numpy as np
    import pandas as pd

    from recbole_llmemb.cli.main import main

    draw = random.Random(3)
    rows = [[f"u{i % 9}", f"i{i * i % 11}", 1 + i % 5, 1_500_000_000 + 5000 * i] for i in range(99)]
    ratings = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
    for kind, sep in (("csv", ","), ("tsv", "\t"), ("csv.gz", ",")):
        ratings.to_csv(f"ratings.{kind}", sep=sep, index=False)
    ratings.to_json("ratings.jsonl", orient="records", lines=True)
    ratings.to_json("ratings.json", orient="records")
    ratings.to_parquet("ratings.parquet")
    names = ["item_id", "title", "brand", "categories", "price"]
    items = pd.DataFrame([files.item_row(i, draw) for i in range(80)], columns=names)
    items["price"] = items["price"].astype(str)
    items.to_csv("items.csv", index=False)
    items.to_json("items.jsonl", orient="records", lines=True)
    items.to_parquet("items.parquet")
    header = "item_id:token\ttitle:token_seq\tbrand:token\tcategories:token_seq\tprice:float"
    lines = [header, *("\t".join(map(str, row)) for row in items.to_numpy()[60:])]
    Path("new.item").write_text("\n".join(lines) + "\n")
    tokens = [f"i{i}" for i in range(20)]
    Path("tokens.txt").write_text("\n".join(tokens) + "\n")
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    np.save("vectors.npy", vectors)
    np.savez("vectors.npz", embeddings=vectors)
    pd.DataFrame({"item_id": tokens, "vector": list(vectors)}).to_parquet("vectors.parquet")
    lines = [f"{t}\t{' '.join(map(str, v))}" for t, v in zip(tokens, vectors)]
    head = "item_id:token\tvector:float_seq"
    Path("vectors.itememb").write_text("\n".join([head, *lines]) + "\n")
    with open("vectors.pkl", "wb") as file:
        pickle.dump(vectors, file)
    Path("people.jsonl").write_text('{"user": "a", "history": ["i1", "i2"]}\n["i3", "i4"]\n')
    Path("people.csv").write_text("user,history\na,i1 i2\nb,i3\n")
    Path("space.yaml").write_text("learning_rate: {loguniform: [0.001, 0.1]}\n")
    Path("encoder/1_Pooling").mkdir()
    kinds = "sentence_transformers.models"
    Path("encoder/modules.json").write_text(json.dumps([
        {"idx": 0, "name": "0", "path": "", "type": f"{kinds}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kinds}.Pooling"},
    ]))  # fmt: skip
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    Path("encoder/1_Pooling/config.json").write_text(json.dumps(pooling))
    given = ["--config_files=shared.yaml", "--dataset=small", "--data_path=data"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for words in (
            ["encode", *given[1:], "--encoder=encoder", "--device=cpu", "--out=encoded"],
            ["run", *given, "--model=LLMEmbSASRec", "--llm_table=encoded", "--align_weight=0",
             "--result_json=results/ours.json"],
            ["run", *given, "--model=SASRec", "--result_json=results/stock.json"],
            ["scft", *given[1:], "--encoder=encoder", "--device=cpu", "--steps=2",
             "--batch_size=8", "--precision=float32", "--lora_targets=query,value",
             "--out=adapter"],
        ):  # fmt: skip
            assert main(words) == 0, words
    for name in ("ours", "stock"):
        found = json.loads(Path(f"results/{name}.json").read_text())["checkpoint"]
        shutil.copy(Path("results", found), "model.pth" if name == "ours" else "stock.pth")
