"""Files with a payload, in every format and behind every key that takes a path.

A payload that runs leaves a marker. What a page or a table is made of must not become its code
either.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from . import shop
from .cases import Case, run_case
from .counts import Counts, within
from .inputs import MODELS, keys_of
from .readings import READINGS

MARKER = Path("ran")
_CODE = "open({!r}, 'a').close()"
_SCRIPT = "<script>alert(1)</script>"


class Payload:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return exec, (_CODE.format(str(MARKER.resolve())),)


def pickles() -> dict[str, bytes]:
    """The payload as what unpickles: bare, as PyTorch has it, and as NumPy has it."""
    import numpy as np
    import torch

    found = {f"pickle {protocol}": pickle.dumps(Payload(), protocol) for protocol in (0, 2, 4)}
    for old in (True, False):
        for name, thing in (
            ("alone", Payload()),
            ("inside", {"config": {"model": Payload()}, "state_dict": Payload()}),
        ):
            file = io.BytesIO()
            torch.save(thing, file, _use_new_zipfile_serialization=not old)
            found[f"torch {'old' if old else 'new'} {name}"] = file.getvalue()
    array = np.array([Payload()], dtype=object)
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    found["npy"] = file.getvalue()
    file = io.BytesIO()
    np.savez(file, embeddings=array)
    found["npz"] = file.getvalue()
    return found


def texts() -> dict[str, str]:
    """The payload as what is evaluated, loaded or rendered."""
    code = _CODE.format(str(MARKER.resolve()))
    shell = f"touch {MARKER.resolve()}"
    call = f"__import__('os').system('{shell}')"
    return {
        "yaml apply": f"!!python/object/apply:os.system ['{shell}']",
        "yaml new": f"!!python/object/new:os.system ['{shell}']",
        "yaml inside": f"x: !!python/object/apply:os.system ['{shell}']",
        "yaml module": "!!python/module:evil",
        "yaml name": "!!python/name:evil.Part",
        "expression": call,
        "exec": f"exec({code!r})",
        "lambda": f"(lambda: {call})()",
        "list": f"[x for x in [{call}]]",
        "template": "{{ cycler.__init__.__globals__.os.system('" + shell + "') }}",
        "f-string": "{" + call + "}",
        "shell": f"$({shell}); `{shell}` | {shell} && {shell}",
        "latex": f"\\immediate\\write18{{{shell}}}",
        "import path": "evil:Part",
        "dotted": "evil.Part",
        "script": _SCRIPT,
    }


def cases(draw: random.Random) -> Iterator[Case]:
    """Every payload in the place of every file, as every key, and in what names code."""
    makers: list[Callable[[], Iterator[Case]]] = [_files, _keys, _names]
    found = [case for maker in makers for case in maker()]
    draw.shuffle(found)
    yield from found


def _files() -> Iterator[Case]:
    """A payload in the place of a file that a command reads."""
    payloads = pickles() | {name: text.encode() for name, text in texts().items()}
    for reading in READINGS:
        for name, content in payloads.items():
            if Path(reading.file).exists() and not reading.slow:
                yield reading.case(f"payload {name}", lambda file, new=content: _write(file, new))


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _keys() -> Iterator[Case]:
    """A payload as the value of a key, or in a file that it names."""
    Path("evil.pth").write_bytes(pickles()["torch new inside"])
    Path("evil.pkl").write_bytes(pickles()["pickle 4"])
    Path("evil").mkdir(exist_ok=True)
    for model, keys in keys_of().items():
        for key in keys:
            for name, text in texts().items():
                if name in ("expression", "lambda", "yaml apply", "template"):
                    yield Case(f"{key}: {name}", _run(model, **{key: text}), key=key)
            if key.endswith(("_path", "_dir", "path", "warm_up", "teacher", "table", "weight")):
                for file in ("evil.pth", "evil.pkl", "evil"):
                    yield Case(f"{key}: {file}", _run(model, **{key: file}), key=key)


def _run(model: str, /, **more: str) -> list[str]:
    given = {"dataset": "small", "data_path": "data", "model": model, "config_files": "shared.yaml"}
    given |= {key: str(value) for key, value in MODELS[model].items()}
    return ["run", *(f"--{key}={value}" for key, value in (given | more).items())]


def _names() -> Iterator[Case]:
    """Settings in files that name code."""
    encode = ["encode", "--dataset=small", "--data_path=data", "--device=cpu"]
    kinds = "sentence_transformers.models"
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"{kinds}.Transformer"}]
    inside: dict[str, dict[str, object]] = {
        "modules": {"modules.json": [{**modules[0], "type": "evil.Part"}]},
        "second module": {"modules.json": [
            *modules, {"idx": 1, "name": "1", "path": "1_Part", "type": "evil.Part"},
        ]},
        "router": {"modules.json": [{**modules[0], "type": f"{kinds}.Router"}],
                   "router_config.json": {"types": {"a": "evil.Part"}, "structure": {"a": ["a"]},
                                          "parameters": {}}},
        "activation": {"modules.json": [
            *modules,
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kinds}.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Dense", "type": f"{kinds}.Dense"},
        ], "2_Dense/config.json": {"in_features": 16, "out_features": 8, "bias": True,
                                   "activation_function": "evil.Part"}},
        "auto_map": {"config.json": {"auto_map": {"AutoModel": "evil.Part",
                                                  "AutoConfig": "evil.Part"}}},
        "tokenizer": {"tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["evil.Part", None]},
                                                "tokenizer_class": "Part"}},
        "attention": {"config.json": {"_attn_implementation": "evil/kernel"}},
        "kernels": {"config.json": {"use_kernels": True}},
        "prompts": {"config_sentence_transformers.json": {"prompts": {"a": "{{7*7}}"},
                                                          "model_type": "evil.Part"}},
    }  # fmt: skip
    for name, changed in inside.items():
        for used in ("encoder", "llm"):
            folder = Path("hostile", f"{used} {name}".replace(" ", "_"))
            if not folder.exists():
                shutil.copytree(used, folder)
            _evil(folder)
            for file, content in changed.items():
                place = folder / file
                place.parent.mkdir(exist_ok=True)
                old = json.loads(place.read_text()) if place.exists() else None
                merged = old | content if isinstance(old, dict) else content
                place.write_text(json.dumps(merged))
            if used == "encoder":
                yield Case(f"encoder {name}", [*encode, f"--encoder={folder}", "--out=tables/x"])
            yield Case(f"LLM {name}", _run("LLMSRec", llm_model=str(folder)))
    weights = pickles()["torch new alone"]
    for name, drop in (("encoder", "model.safetensors"), ("adapter", "adapter_model.safetensors")):
        folder = Path("hostile", f"{name} pickled".replace(" ", "_"))
        shutil.copytree(name, folder, dirs_exist_ok=True)
        (folder / drop).unlink(missing_ok=True)
        (folder / drop.replace("model.safetensors", "pytorch_model.bin")).write_bytes(weights)
        (folder / "adapter_model.bin").write_bytes(weights)
        given = [f"--{name}={folder}"] + (["--encoder=encoder"] if name == "adapter" else [])
        yield Case(f"{name} pickled", [*encode, *given, "--out=tables/x"])
    for name, more in {
        "megatron": {"megatron_config": {"a": 1}, "megatron_core": "evil"},
        "mapping": {"auto_mapping": {"base_model_class": "Part", "parent_library": "evil"},
                    "task_type": None},
        "base": {"base_model_name_or_path": "hostile/encoder_modules"},
        "type": {"peft_type": "evil.Part"},
    }.items():  # fmt: skip
        folder = Path("hostile", f"adapter_{name}")
        shutil.copytree("adapter", folder, dirs_exist_ok=True)
        _evil(folder)
        config = folder / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | more))
        given = ["--encoder=encoder", f"--adapter={folder}", "--out=tables/x"]
        yield Case(f"adapter {name}", [*encode, *given])
        yield Case(f"adapter as encoder {name}", [*encode, f"--encoder={folder}", "--out=tables/x"])
    yield from _checkpoints()
    _pickles_of_recbole()
    yield Case("pickles of RecBole", _run("SASRec", save_dataset="True", save_dataloaders="True"))
    yield Case("pickles of RecBole", _run("SASRec", dataset_save_path="saved/evil.pth"))


def _checkpoints() -> Iterator[Case]:
    """Plain checkpoints whose configuration names code, and result files that name pickles."""
    import torch

    state = torch.load("model.pth", weights_only=True)
    for key, value in {
        "adapter": "evil:Part", "item_embedding": "evil:Part", "loss_type": "evil:Part",
        "metrics": ["evil:Part"], "llm_trust_remote_code": True, "llm_encoder": "hostile/evil",
        "checkpoint_dir": "/", "llm_cache_dir": "hostile", "model": "evil", "log_wandb": True,
        "align_teacher": "evil.pth", "pre_model_path": "evil.pth", "dataset": "../evil",
        "llm_table": "evil", "save_dataset": True, "dataset_save_path": "evil.pth",
    }.items():  # fmt: skip
        file = Path("hostile", f"{key}.pth")
        torch.save({**state, "config": {**state["config"], key: value}}, file)
        yield Case(f"checkpoint {key}", ["recommend", f"--checkpoint={file}", "--users=u1"])
        yield Case(f"teacher {key}", _run("LLMEmbSASRec", align_teacher=str(file),
                                          align_weight="0.1"))  # fmt: skip
    result = json.loads(Path("results/ours.json").read_text())
    for name in pickles():
        if name.startswith("torch"):
            file = Path("hostile", f"{name.replace(' ', '_')}.pth")
            file.write_bytes(pickles()[name])
            place = Path("results", f"{file.stem}.json")
            place.write_text(json.dumps({**result, "checkpoint": f"../{file}"}))
            for words in (["recommend", "--users=u1"], ["export", "--out=exported/x"],
                          ["order-test", "--quiet"]):  # fmt: skip
                yield Case(f"result {name}", [*words, f"--checkpoint={place}"])
    for key in ("model", "dataset"):
        place = Path("results", f"script_{key}.json")
        place.write_text(json.dumps({**result, key: _SCRIPT, "seed": 3}))
        argv = ["compare", f"LABEL{_SCRIPT}={place}", "results/stock.json", "--map=none"]
        yield Case(f"script {key}", [*argv, f"--out=report_{key}"])


def _evil(folder: Path) -> None:
    (folder / "evil.py").write_text(f"{_CODE.format(str(MARKER.resolve()))}\nclass Part: pass\n")


def _pickles_of_recbole() -> None:
    """Where RecBole looks for datasets and loaders that it kept."""
    Path("saved").mkdir(exist_ok=True)
    for name in ("SequentialDataset", "Dataset", "for-SASRec-dataloader"):
        Path("saved", f"small-{name}.pth").write_bytes(pickles()["pickle 4"])
    Path("saved/evil.pth").write_bytes(pickles()["pickle 4"])


def scripts(folder: Path) -> list[str]:
    """Pages and tables in a folder that hold our script as one."""
    kinds = (".html", ".md", ".svg")
    pages = [file for file in folder.rglob("*") if file.suffix in kinds and file.is_file()]
    return [str(page) for page in pages if _SCRIPT in page.read_text(errors="replace")]


def prepare() -> None:
    """Where payloads lie, and a module of the current folder, for Python to find."""
    Path("hostile").mkdir(exist_ok=True)
    _evil(Path())


def ran() -> bool:
    """Whether a payload has run since this was asked."""
    found = MARKER.exists() or "evil" in sys.modules
    MARKER.unlink(missing_ok=True)
    sys.modules.pop("evil", None)
    return found


def run(minutes: float, seed: int, folder: Path) -> Counts:
    """Try each payload, in an order of the seed's."""
    counts, draw = Counts(), random.Random(seed)
    shop.prepare()
    shop.prepare_more()
    prepare()
    sys.path.insert(0, os.getcwd())
    try:
        for case, _ in zip(cases(draw), within(minutes)):
            end, text = run_case(case)
            counts.note("ran" if ran() else end, f"{case.name}: {text}")
        for page in scripts(folder):
            counts.note("ran", f"a script in {page}")
    finally:
        sys.path.remove(os.getcwd())
    return counts
