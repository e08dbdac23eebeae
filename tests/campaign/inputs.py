"""Wrong values for every key and option, and wrong files, in this process: thousands a minute.

Each case is one command. It has to end as a user may expect it: with exit code 0 and numbers that
are numbers, or with exit code 2 and one sentence that names what is wrong.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import itertools
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml

from .cases import SLOW, Case, limit_memory, run_case
from .counts import Counts, within
from .readings import changed_files
from .shop import prepare, prepare_more

MODELS = {
    "LLMEmbSASRec": {"llm_table": "table", "align_weight": 0.0},
    "LLMEmbGRU4Rec": {"llm_table": "table", "align_weight": 0.0},
    "LLMEmbBERT4Rec": {"llm_table": "table", "align_weight": 0.0},
    "LLMSRec": {"llm_table": "table", "llm_model": "llm", "head_hidden_size": 24,
                "representation_size": 12, "history_items": 4,
                "align_teacher_config": {"loss_type": "CE", "epochs": 1}},
    "SASRec": {},
    "GRU4Rec": {},
    "BPR": {},
}  # fmt: skip
# -- values -------------------------------------------------------------------------------

DEEP: Any = "x"
for _ in range(60):
    DEEP = [DEEP]
#: One of each kind that somebody may write where another is meant.
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, -1, 7, 10**6, 10**20, -(10**20), 10**400,
    0.0, 0.5, -0.5, 1.5, 1e-320, 1e20, 1e39, -1e39, 1e308, math.nan, math.inf, -math.inf,
    "", " ", "x", "None", "none", "null", "nan", "inf", "True", "no", "1", "0.5", "-1", "1e39",
    "a,b", "[1,2]", "{'a': 1}", "ü☃𝔘", "\x00", "\ud800", "a\nb", "\t", "x" * 5000, "../x", "/", ".",
    "/etc/passwd", "/dev/null", "/dev/zero", "/proc/self/mem", "/dev/stdin", "data", "shared.yaml",
    "table", "http://localhost:9/x", "os:system", "user_id", "item_id", "title", "SASRec",
    [], [None], [1], [0], [-1], [1, 1], [1.5], [math.nan], ["x"], [""], [[1]], ["x", 1], [True],
    ["user_id"], ["rating"], [10**20],
    {}, {"a": 1}, {"x": None}, {1: 2}, {"inter": 3}, {"user_id": "x"}, {"rating": 1},
    {"rating": "[1,2"}, {"a": {"b": {"c": [1]}}}, DEEP,
    datetime.date(2026, 11, 21), datetime.datetime(2026, 1, 1), b"\xff\x00", {1, 2},
]  # fmt: skip
#: What some keys are made of inside.
PARTS = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user",
                  "mode": "full"},
    "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "alpha": 1.0,
                              "dynamic": False, "candidate_num": 0},
    "clip_grad_norm": {"max_norm": 5.0, "norm_type": 2, "error_if_nonfinite": False,
                       "foreach": None},
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title"],
                 "user": ["user_id"]},
    "unload_col": {"inter": ["rating"]},
    "val_interval": {"rating": "[1,5]", "timestamp": "[0,inf)"},
    "threshold": {"rating": 3},
    "seq_len": {"title": 3},
    "align_teacher_config": {"epochs": 1, "loss_type": "CE", "n_layers": 1},
    "discretization": {"rating": {"method": "ED", "bucket": 3}},
    "preload_weight": {"item_id": "vector"},
}  # fmt: skip
MODES = [
    "full", "uni", "uni0", "uni5", "uni99999999", "pop5", "pop99999999", "labeled", "uni-1",
    {"valid": "full"}, {"valid": "uni5", "test": "full"}, {"valid": 3}, {"tset": "full"},
    {"valid": None, "test": None}, {}, {"valid": "labeled"},
]  # fmt: skip
SPLITS = [
    {"RS": [0, 0, 0]}, {"RS": [8, 1, 1]}, {"RS": [1, 0, 0]}, {"RS": [0.5, 0.5]}, {"RS": [1e39] * 3},
    {"RS": [1e-300, 1e-300, 1e-300]}, {"RS": "0.8"}, {"RS": [True, 1, 1]}, {"RS": [-1, 1, 1]},
    {"LS": "x"}, {"LS": "valid_only"}, {"LS": "test_only"}, {"LS": None}, {"TS": [0.8, 0.1, 0.1]},
    {"LS": "valid_and_test", "RS": [1, 1, 1]}, {"XX": 1}, {}, "LS",
]  # fmt: skip


def inside(key: str, draw: random.Random) -> Any:
    """A dictionary of a key of which one part is wrong, misspelt, one too many or missing."""
    value = {name: part for name, part in PARTS[key].items()}
    name = draw.choice(list(value))
    how = draw.randrange(5)
    if how == 0:
        value[name[:-1] if draw.random() < 0.5 else name.upper()] = value.pop(name)
    elif how == 1:
        del value[name]
    elif key == "eval_args" and how == 2:
        value["mode" if draw.random() < 0.5 else "split"] = draw.choice([*MODES, *SPLITS])
    else:
        value[name] = draw.choice(VALUES)
    return value


# -- keys ---------------------------------------------------------------------------------


def keys_of() -> dict[str, list[str]]:
    """The keys that each model knows."""
    from recbole_llmemb.config.known import known_keys
    from recbole_llmemb.config.recbole_config import make_config

    return {
        model: sorted(known_keys(make_config(model, "small", ["shared.yaml"], given)))
        for model, given in MODELS.items()
    }


def keys(draw: random.Random) -> Iterator[Case]:
    """Every key of every model with every wrong value, in an order of the seed's."""
    by_model = keys_of()
    known = [(model, key) for model in MODELS for key in by_model[model] if key != "config_files"]
    pairs = [(model, key, value) for model, key in known for value in VALUES]
    draw.shuffle(pairs)
    for number, (model, key, value) in enumerate(pairs):
        if key in PARTS and draw.random() < 0.6:
            value = inside(key, draw)
        yield run_with(model, key, value, "yaml" if number % 2 else "typed")


def parts(draw: random.Random) -> Iterator[Case]:
    """Dictionaries of which a part is wrong."""
    while True:
        model, key = draw.choice(list(MODELS)), draw.choice(list(PARTS))
        yield run_with(model, key, inside(key, draw), draw.choice(["yaml", "typed"]))


def run_with(model: str, key: str, value: Any, way: str) -> Case:
    """A run with one key set, in a file of settings or as it is typed."""
    given = {"dataset": "small", "data_path": "data", "model": model}
    given |= {name: setting for name, setting in MODELS[model].items() if name != key}
    given["config_files"] = "shared.yaml"
    content = ""
    if way == "yaml":
        try:
            content = yaml.safe_dump({key: value}, allow_unicode=True)
            content.encode()
        except (UnicodeEncodeError, ValueError, yaml.YAMLError):
            way = "typed"
    if way == "yaml":
        given.pop(key, None)
        given["config_files"] = "shared.yaml given.yaml" if key != "config_files" else "given.yaml"
    else:
        given[key] = _written(value)
    argv = ["run", *(f"--{name}={setting}" for name, setting in given.items())]

    def write() -> None:
        Path("given.yaml").write_text(content, encoding="utf-8")

    # As a sentence has it, in one line.
    named = [key, *(" ".join(str(part)[:40].split()) for part in _leaves(value) if str(part))]
    named = list(filter(None, named))
    believed = _of_another_kind(key, value, model) if way == "yaml" else ""
    return Case(f"{key}={value!r:.60} ({way}, {model})", argv, named, believed, key, write)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple, set)):
        for part in value:
            yield from _leaves(part)
    elif value is not None:
        yield value


def _written(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # Python writes out no more than some thousand digits
        return hex(value)


def _of_another_kind(key, value, model) -> str:
    """Whether RecBole's documentation, or our schema, says that the value is none for the key."""
    wanted = kinds().get(key)
    if wanted is None or value is None or key == "gpu_id":  # which RecBole takes as a number, too
        return ""
    if key == "train_neg_sample_args" and str(value).lower() == "none":  # how yaml says so
        return ""
    fits = {
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, (int, float)) and not isinstance(value, bool)
        and abs(value) < math.inf,
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "dict": isinstance(value, dict),
        "list": isinstance(value, list),
    }  # fmt: skip
    if any(fits.get(kind, True) for kind in wanted):
        return ""
    return f"{key} is {value!r:.40}, not of {wanted}"


_KINDS: dict[str, set[str]] = {}


def kinds() -> dict[str, set[str]]:
    """What RecBole's files say in comments that their keys are."""
    if not _KINDS:
        from recbole_llmemb.config.values import recbole_folder

        folder = recbole_folder()
        for file in folder.rglob("properties/**/*.yaml") if folder else ():
            for line in file.read_text(encoding="utf-8").splitlines():
                if found := re.match(r"(\w+) *:.*# *\(([^)]*)\)", line):
                    words = set(
                        re.findall("int|float|bool|str|dict|list", found[2].split(" of ")[0])
                    )
                    _KINDS.setdefault(found[1], set()).update(words or {"any"})
    return _KINDS


# -- texts --------------------------------------------------------------------------------

TEXTS = {
    "twice": "epochs: 1\nepochs: 2\n",
    "twice inside": "eval_args: {mode: full, mode: uni5}\n",
    "tags": "epochs: !!python/object/apply:os.getcwd []\n",
    "own tags": "epochs: !mine 3\n",
    "recursion": "x: &a [*a]\n",
    "recursion of keys": "x: &a {b: *a}\n",
    "depth": "x: " + "[" * 5000 + "]" * 5000,
    "open": "x: " + "[" * 5000,
    "bomb": "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi")),
    "several": "epochs: 1\n---\nepochs: 2\n",
    "a list": "[1, 2]\n", "a word": "epochs\n", "a key of a list": "[1]: 2\n",
    "a key of a map": "? {a: 1}\n: 2\n",
    "numbers for keys": "1: 2\n", "switches for keys": "on: 1\n", "nothing": "", "null": "~\n",
    "binary": "epochs: !!binary aGVsbG8=\n", "sets": "metrics: !!set {Hit, NDCG}\n",
    "tabs": "epochs:\t1\n\ttopk: 3\n", "merge": "a: &a {epochs: 1}\n<<: *a\n",
    "merge of no map": "<<: 3\n", "dates": "seed: 2026-01-01\n", "odd dates": "seed: 2026-99-99\n",
    "halves": 'wandb_project: "\\ud800"\n', "zero": 'wandb_project: "\\0"\n',
    "octal": "seed: 0o777777777777777777777777\n", "colon": "a:b: c: d\n",
    "percent": "%YAML 9.9\n--- 3\n",
    "unclosed": "x: 'a\n", "anchor": "x: *nowhere\n", "long": "x: " + "a" * 10**6,
}  # fmt: skip


def texts(draw: random.Random) -> Iterator[Case]:
    """Files of settings that are odd as yaml."""
    Path("texts").mkdir(exist_ok=True)
    for name, text in draw.sample(list(TEXTS.items()), len(TEXTS)):
        file = Path("texts", f"{name.replace(' ', '_').replace('?', 'q')}.yaml")
        file.write_text(text)
        wrong = "" if name in ("merge", "long", "zero", "binary") else f"yaml {name}"
        given = ["--dataset=small", "--data_path=data", f"--config_files=shared.yaml {file}"]
        names = [str(file), *re.findall(r"^\w+", text)]
        run = ["run", "--model=LLMEmbSASRec", "--llm_table=table", "--align_weight=0", *given]
        yield Case(f"yaml {name}", run, names, wrong, key=name)
        encode = ["encode", "--encoder=encoder", "--device=cpu", f"--out=tables/{file.stem}"]
        yield Case(f"yaml {name} (encode)", [*encode, *given], key=name)


# -- options ------------------------------------------------------------------------------

COMMANDS = {
    "convert": ["--interactions=ratings.csv", "--items=items.csv", "--out=converted/{n}",
                "--min_user=1", "--min_item=1", "--show_progress=False"],
    "encode": ["--dataset=small", "--data_path=data", "--encoder=encoder", "--device=cpu",
               "--out=tables/{n}"],
    "scft": ["--dataset=small", "--data_path=data", "--encoder=encoder", "--device=cpu",
             "--steps=1", "--batch_size=4", "--lora_targets=query", "--out=adapters/{n}"],
    "recommend": ["--checkpoint=model.pth", "--users=u1", "--new_items=new.item", "--device=cpu"],
    "export": ["--checkpoint=model.pth", "--device=cpu", "--out=exported/{n}"],
    "compare": ["results/ours.json", "results/stock.json", "--map=none", "--out=reports/{n}"],
    "order-test": ["--checkpoint=model.pth", "--shuffles=1", "--quiet", "--out=orders/{n}"],
}  # fmt: skip


def options(draw: random.Random) -> Iterator[Case]:
    """Every option of every command with every wrong value."""
    pairs = [
        (command, option, value)
        for command in COMMANDS
        for option in _options_of(command)
        for value in VALUES
        if (option, value) != ("--steps", 10**6)  # which may well be wanted, and takes long
    ]
    draw.shuffle(pairs)
    for number, (command, option, value) in enumerate(pairs):
        given = [word.replace("{n}", f"o{number}") for word in COMMANDS[command]]
        given = [word for word in given if not word.startswith(f"{option}=")]
        text = _written(value)
        argv = [command, *given, f"{option}={text}"]
        names = [option, option.strip("-").replace("-", "_"), text[:40]]
        yield Case(f"{command} {option}={text:.60}", argv, names, key=option)


def _options_of(command: str) -> list[str]:
    from recbole_llmemb.cli.main import main

    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return sorted(set(re.findall(r"^ +(--[a-z_-]+)", told.getvalue(), re.MULTILINE)) - {"--push"})


def run(minutes: float, seed: int, folder: Path) -> Counts:
    """A share of each kind of input, in an order of the seed's."""
    counts, draw = Counts(), random.Random(seed)
    prepare()
    prepare_more()
    limit_memory()
    kinds = [kind(draw) for kind in (keys, parts, texts, changed_files, options)]
    turns = (case for round in itertools.zip_longest(*kinds) for case in round if case)
    for case, _ in zip(turns, within(minutes)):
        began = perf_counter()
        end, text = run_case(case)
        counts.note(end, f"{case.name}: {text}")
        if perf_counter() - began > SLOW:
            print(f"slow: {perf_counter() - began:.0f} s, {case.name}", flush=True)
    return counts
