"""What is recorded: each entry is a function of the commands that are run, to figures by name."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
from pathlib import Path

import yaml

from . import files
from .runs import RUNS, SHARED

ENTRIES = {}


def entry(function):
    ENTRIES[function.__name__.strip("_")] = function
    return function


class CommandFailed(Exception):
    """A command ended with another status than 0."""


class Commands:
    """Runs commands in the current folder and remembers what they left."""

    def __init__(self):
        self._done = {}

    def _prepare(self):
        """Write what commands read, once."""
        if Path("shared.yaml").exists():
            return
        rows = files.write_dataset("data")
        files.write_presplit("data", rows)
        tokens = [*sorted({row[1] for row in rows}), "x1", "i50", "x2", "i51"]
        random.Random(1).shuffle(tokens)
        files.write_table("table", tokens)
        files.write_model("encoder", "bert")
        files.write_model("llm", "llama")
        Path("shared.yaml").write_text(yaml.safe_dump(SHARED))

    def __call__(self, *words, **options):
        """Run a command once; its standard output."""
        argv = [*words, *(f"--{key}={value}" for key, value in options.items())]
        if tuple(argv) not in self._done:
            self._done[tuple(argv)] = self._run(argv)
        return self._done[tuple(argv)]

    def _run(self, argv):
        from run_recbole_llm import main  # which stays where it is, whatever moves in the package

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self._prepare()
            try:
                status = main(argv)
            except SystemExit as end:
                status = end.code
        if status:
            last = (out.getvalue() + err.getvalue()).strip().splitlines()[-5:]
            first = f"recbole-llm {' '.join(argv)} ended with {status}:"
            raise CommandFailed("\n".join([first, *last]))
        return out.getvalue()

    def run(self, name):
        """The result file of a run of :data:`RUNS`."""
        model, settings = RUNS[name]
        file = f"results/{name}.json"
        self.train(model, result_json=file, **settings)
        return json.loads(Path(file).read_text())

    def train(self, model, **settings):
        given = {"dataset": "small", "data_path": "data", "config_files": "shared.yaml"}
        return self("run", model=model, **given | settings)

    def checkpoint(self, name):
        return str(Path("results", self.run(name)["checkpoint"]))


def figures_of_run(commands, name):
    """All numbers of a result file but times, the weights, and what the checkpoint is called."""
    import torch

    result = commands.run(name)
    checkpoint = Path("results", result["checkpoint"])
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    parts = ("best_valid_result", "test_result", "groups", "valid_groups", "epochs", "parameters",
             "bins", "cold_items")  # fmt: skip
    figures = {part: result[part] for part in parts if part in result}
    figures["curve"] = [
        {key: row[key] for key in ("epoch", "train_loss", "valid_score")}
        for row in result.get("curve") or []
    ]
    figures["weights"] = sorted(files.tensor_digest(weight) for weight in weights.values())
    if result["model"].startswith("LLM"):  # others are called by the time
        figures["file"] = checkpoint.name
    if "users_file" in result:
        figures["users"] = files.tensors_of(Path("results", result["users_file"]))
    return figures


for _name in RUNS:
    ENTRIES[_name] = lambda commands, name=_name: figures_of_run(commands, name)


# -- tables and adapters ---------------------------------------------------------------------


def figures_of_table(folder):
    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    named = ("fingerprint", "inputs_hash", "texts_hash", "count", "width", "dtype", "pooling")
    tensors = {
        f"{file.stem}/{name}": digest
        for file in sorted(folder.glob("*.safetensors"))
        for name, digest in files.tensors_of(file).items()
    }
    return {
        **{name: manifest[name] for name in named if name in manifest},
        "items": files.text_digest(folder / "items.txt"),
        **tensors,
    }


def encode(commands, name, **options):
    out = f"tables/{name}"
    source = {} if "items" in options else {"dataset": "small", "data_path": "data"}
    commands("encode", out=out, device="cpu", **source | options)
    return figures_of_table(out)


@entry
def encode_whole(commands):
    return encode(commands, "whole", encoder="encoder")


@entry
def encode_sharded(commands):
    return encode(commands, "sharded", encoder="encoder", shard_size=7, batch_size=3)


@entry
def encode_decoder(commands):
    given = {"fields": "title,price", "prompt": "item - ", "value_max_chars": 9, "max_length": 12}
    return encode(commands, "decoder", encoder="llm", pooling="last", **given)


@entry
def encode_items_file(commands):
    draw = random.Random(5)
    names = ["item_id", "title", "brand", "categories", "price"]
    rows = [dict(zip(names, files.item_row(i, draw), strict=True)) for i in range(12)]
    Path("items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return encode(commands, "items", items="items.jsonl", encoder="encoder")


@entry
def encode_pca(commands):
    return encode(commands, "pca", encoder="encoder", pca_dim=5)


@entry
def encode_adapter(commands):
    scft(commands)
    return encode(commands, "adapted", encoder="encoder", adapter="adapter")


@entry
def import_(commands):
    import numpy as np

    np.save("vectors.npy", np.random.default_rng(0).normal(size=(9, 5)).astype("float32"))
    Path("tokens.txt").write_text("".join(f"t{i}\n" for i in range(9)))
    commands("encode", **{"import": "vectors.npy", "tokens": "tokens.txt", "out": "tables/import"})
    return figures_of_table("tables/import")


@entry
def pca_of_a_run(commands):
    """The reduced copies that runs put into the cache."""
    figures = {}
    for run, width in (("SASRec-pca", 6), ("SASRec-llm2x", 8)):
        commands.run(run)
        (folder,) = Path("cache").glob(f"table-pca{width}-*")
        figures[run] = {"name": folder.name, **figures_of_table(folder)}
    return figures


@entry
def table_of_a_run(commands):
    commands.run("SASRec-text")
    (folder,) = Path("cache").glob("small-encoder-*")
    return {"name": folder.name, **figures_of_table(folder)}


@entry
def teachers(commands):
    """What the teachers in the cache are called: a run that needs one finds it by that."""
    for name in ("SASRec-teacher", "BERT4Rec-teacher", "LLMSRec-table"):
        commands.run(name)
    found = Path("cache/teachers").glob("teacher-SASRec-*.pth")  # others train one of another model
    return {"names": sorted(file.name for file in found)}


@entry
def scft(commands):
    commands(
        "scft", dataset="small", data_path="data", encoder="encoder", out="adapter", device="cpu",
        steps=4, save_steps=2, batch_size=8, holdout=0.2,
    )  # fmt: skip
    left_out = ("encoder", "versions", "files", "seconds", "digests", "sha256")
    manifest = json.loads(Path("adapter/scft.json").read_text())
    manifest = {name: value for name, value in manifest.items() if name not in left_out}
    return {"manifest": manifest, "weights": files.tensors_of("adapter/adapter_model.safetensors")}


@entry
def scft_of_a_run(commands):
    given = {"scft": True, "scft_steps": 2, "scft_batch_size": 8, "scft_loss": "infonce"}
    model, settings = RUNS["SASRec-text"]
    given |= {"llm_cache_dir": "scft", "result_json": "results/scft.json"}
    commands.train(model, **settings | given)
    result = json.loads(Path("results/scft.json").read_text())
    (adapter,) = Path("scft").rglob("adapter_model.safetensors")
    return {
        "test": result["test_result"],
        "name": adapter.parent.name,
        "weights": files.tensors_of(adapter),
    }


# -- recommending and export -----------------------------------------------------------------


def recommend(commands, run, *words, **options):
    given = {"topk": 5, "device": "cpu"} | options
    commands("recommend", *words, checkpoint=commands.checkpoint(run), out="found.jsonl", **given)
    return [json.loads(line) for line in Path("found.jsonl").read_text().splitlines()]


def new_items():
    draw = random.Random(8)
    header = "item_id:token title:token_seq brand:token categories:token_seq price:float"
    rows = [header.split(), *(files.item_row(i, draw) for i in range(900, 903))]
    Path("new.item").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return "new.item"


@entry
def recommend_users(commands):
    return {
        "SASRec": recommend(commands, "SASRec-table", users="u1,u3,u9"),
        "BERT4Rec": recommend(commands, "BERT4Rec-longtail", users="u1,u3,u9", split="test"),
        "GRU4Rec": recommend(commands, "GRU4Rec-id", "--exclude_seen", users="u3"),
        "CORE": recommend(commands, "CORE-table", users="u1,u3"),
        "stock": recommend(commands, "SASRec-stock", users="u1,u3"),
        "LLMSRec": recommend(commands, "LLMSRec-table", users="u1,u3"),
        "LLMSRec-text": recommend(commands, "LLMSRec-text", users="u1,u3"),
    }


@entry
def recommend_histories(commands):
    Path("people.jsonl").write_text('{"user": "anna", "history": ["i1", "i2"]}\n[]\n["i3"]\n')
    Path("some.txt").write_text("".join(f"i{i}\n" for i in range(0, 40, 3)))
    return {
        "words": recommend(commands, "SASRec-table", history="i1 i2 i7"),
        "file": recommend(commands, "GRU4Rec-cosine", history_file="people.jsonl"),
        "some": recommend(commands, "SASRec-both", history="i5", candidates="some.txt"),
        "LLMSRec": recommend(commands, "LLMSRec-table", history="i5 i6"),
    }


@entry
def recommend_new_items(commands):
    given = {"new_items": new_items(), "history": "i1 i2", "topk": 60}
    return {"items": recommend(commands, "SASRec-text", **given)}


def export(commands, run, *, what="items,users", **options):
    out = f"exports/{run}"
    told = commands("export", checkpoint=commands.checkpoint(run), out=out, what=what,
                    device="cpu", **options)  # fmt: skip
    return {
        "checks": [line for line in told.splitlines() if line.startswith("check:")],
        **{file.stem: files.tensors_of(file) for file in sorted(Path(out).glob("*.safetensors"))},
        **{file.name: files.text_digest(file) for file in sorted(Path(out).glob("*.txt"))},
    }


@entry
def export_vectors(commands):
    runs = ("SASRec-table", "GRU4Rec-cosine", "BERT4Rec-longtail", "SASRec-whitened",
            "SASRec-residual_cosine", "LLMSRec-table")  # fmt: skip
    return {run: export(commands, run) for run in runs}


@entry
def export_table(commands):
    told = export(commands, "SASRec-text", what="items,table", new_items=new_items())
    return {**told, "table": figures_of_table("exports/SASRec-text/table")}


# -- convert, order test, comparison ---------------------------------------------------------


def convert(commands, name, **options):
    out = Path("converted", name)
    told = commands("convert", out=str(out), show_progress=False, **options)
    counts = [line.rstrip() for line in told.splitlines() if line[-1:].isdigit()]
    return {
        "inter": files.text_digest(out / f"{name}.inter"),
        "item": files.text_digest(out / f"{name}.item"),
        "yaml": yaml.safe_load((out / f"{name}.yaml").read_text()),
        "counts": counts,
    }


@entry
def convert_csv(commands):
    draw = random.Random(3)
    rows = [(f"u{draw.randrange(12)}", f"i{draw.randrange(9)}", draw.randint(1, 5),
             f"2024-05-{draw.randint(1, 28):02}") for _ in range(150)]  # fmt: skip
    rows = ["user,item,rating,date", *(",".join(map(str, row)) for row in rows), ",i1,2,2024-05-01"]
    Path("ratings.csv").write_text("\n".join(rows) + "\n")
    items = [",".join(map(str, files.item_row(i, draw)[:4])) for i in range(8)]
    Path("titles.csv").write_text("\n".join(["item,title,brand,genre", *items]) + "\n")
    given = {"interactions": "ratings.csv", "items": "titles.csv", "min_rating": 2}
    return convert(commands, "fromcsv", min_user=2, min_item=2, dedupe="last", **given)


@entry
def convert_amazon(commands):
    draw = random.Random(4)
    reviews = [
        {"user_id": f"A{draw.randrange(9)}", "parent_asin": f"P{draw.randrange(6)}", "asin": "Q",
         "rating": draw.randint(1, 5) / 2, "timestamp": 1_588_687_728_923 + draw.randrange(10**9)}
        for _ in range(90)
    ]  # fmt: skip
    meta = [
        {"parent_asin": f"P{i}", "title": f'Rose "{i}"\tsoap', "store": None, "price": i * 1.5,
         "categories": ["Beauty", "Hair"][: i % 3], "description": ["It cleans.", "Twice."]}
        for i in range(5)
    ]  # fmt: skip
    for name, rows in (("reviews.jsonl", reviews), ("meta.jsonl", meta)):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"interactions": "reviews.jsonl", "items": "meta.jsonl", "format": "amazon2023"}
    return convert(commands, "amazon", without_metadata="keep", **given)


@entry
def order_test(commands):
    names = ("SASRec-table", "LLMSRec-table", "GRU4Rec-stock")
    tested = ",".join(f"{name}={commands.checkpoint(name)}" for name in names)
    given = {"mode": "full,uni20", "topk": "5,10", "shuffles": 2, "out": "order"}
    commands("order-test", "--quiet", checkpoint=tested, use_gpu=False, **given)
    tests = json.loads(Path("order/order.json").read_text())["tests"]
    return {
        f"{test['name']} {test['mode']}": {
            key: value for key, value in test.items() if key not in ("checkpoint", "seconds")
        }
        for test in tests
    }


@entry
def comparison(commands):
    for name in ("SASRec-table", "SASRec-id", "SASRec-longtail"):
        model, settings = RUNS[name]
        for seed in (1, 2):
            file = f"compared/{name}-{seed}.json"
            given = {"save_users": True, "seed": seed, "result_json": file}
            commands.train(model, **settings | given)
    groups = [
        f"{name}=" + ",".join(f"compared/SASRec-{name}-{seed}.json" for seed in (1, 2))
        for name in ("id", "table", "longtail")
    ]
    commands("compare", *groups, baseline="id", out="report", map="none")
    parts = Path("report/table.md").read_text().split("\n\n")
    timed = [number for number, part in enumerate(parts) if "training s" in part]
    page = Path("report/report.html").read_text().split("Adjusted p-values")[-1]
    p_values = re.findall("<td>(.*?)</td>", page.split("</table>")[0])
    tables = [part.splitlines() for i, part in enumerate(parts) if i not in timed]
    return {"tables": tables, "p_values": p_values}
