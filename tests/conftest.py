"""A tiny dataset in RecBole's format, a table for it, and configurations to use them with."""

from __future__ import annotations

import logging
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

ROOT = Path(__file__).resolve().parents[1]
MAX_LENGTH = 10
LONG_USER = "u3"

# A process keeps the token of the first Ray that it starts, and then fails on a cluster that has
# none. Commands in processes of their own (child_env) go with Ray's default.
os.environ["RAY_AUTH_MODE"] = "disabled"
# Tables are as wide as the terminal; tests read whole ones.
os.environ.pop("COLUMNS", None)


def child_env():
    """Environment of a child process: it finds the package and does not crowd the machine."""
    few = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    own = {
        key: value for key, value in os.environ.items() if key not in ("RAY_AUTH_MODE", "COLUMNS")
    }
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**own, **few, "PYTHONPATH": os.pathsep.join(paths)}


@dataclass
class TinyData:
    """What the files of the dataset ``tiny`` hold."""

    folder: Path
    rows: list = field(default_factory=list)  # (user, item, time, rating), as in the file

    @property
    def sequences(self):
        """Items of each user in the order of time; equal times as in the file."""
        found = {}
        for user, item, _, _ in sorted(self.rows, key=lambda row: row[2]):
            found.setdefault(user, []).append(item)
        return found

    @property
    def items(self):
        return sorted({item for _, item, _, _ in self.rows})


def write_tiny(folder, n_users=40, n_items=60, seed=0):
    """Write ``tiny.inter`` and ``tiny.item`` and return what is in them.

    Users have 1 to 9 interactions, ``LONG_USER`` 26; many share their time with another of
    the same user; some users meet an item twice. Lines are shuffled. The item file has two
    items that nobody meets.
    """
    draw = random.Random(seed)
    data = TinyData(folder / "tiny")
    data.folder.mkdir(parents=True)
    unseen = list(range(n_items))
    draw.shuffle(unseen)
    for user in range(n_users):
        length = 26 if f"u{user}" == LONG_USER else 1 + user % 9
        time, met = 0, []
        for _ in range(length):
            item = unseen.pop() if unseen and draw.random() < 0.5 else draw.randrange(n_items)
            item = item if draw.random() < 0.2 or item not in met else draw.randrange(n_items)
            met.append(item)
            time += draw.choice([0, 1, 1, 2])
            data.rows.append((f"u{user}", f"i{item}", time, draw.randint(1, 5)))
    data.rows += [(f"u{n_users - 1}", f"i{item}", 99, 3) for item in unseen]
    draw.shuffle(data.rows)
    lines = ["user_id:token\titem_id:token\ttimestamp:float\trating:float"]
    lines += ["\t".join(map(str, row)) for row in data.rows]
    (data.folder / "tiny.inter").write_text("\n".join(lines) + "\n")
    lines = ["item_id:token\ttitle:token_seq\tcategories:token_seq"]
    lines += [
        f"i{i}\tthe item number {i} of brand {i % 7}\t{['red', 'blue', 'gel'][i % 3]}"
        for i in range(n_items + 2)
    ]
    (data.folder / "tiny.item").write_text("\n".join(lines) + "\n")
    return data


# What a test needs, from what is in its module or among its fixtures; the first that fits. A
# ``pytestmark`` says otherwise.
NEEDS = {
    "cluster": {"require_ray", "ray_stubs", "stub"},
    "process": {"subprocess", "child_env", "HUB_RUN"},
    "run": {"tiny_data", "main", "execute", "run_job", "run_recbole", "prepare_data",
            "train_and_evaluate"},
}  # fmt: skip


def pytest_collection_modifyitems(items):
    """Mark each test with what it needs: ``unit`` is nothing, and done in a moment."""
    for item in items:
        if not any(item.get_closest_marker(name) for name in ("unit", *NEEDS)):
            names = {*vars(item.module), *item.fixturenames}
            found = (name for name, signs in NEEDS.items() if names & signs)
            item.add_marker(next(found, "unit"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Logs, checkpoints, tables and teachers of a test go to its own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECBOLE_LLMEMB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["pytest"])


@pytest.fixture(autouse=True)
def _heard():
    """What a test or its imports silence would stay silent in each test of the process after it."""
    yield
    assert max(logging.root.level, logging.root.manager.disable) <= logging.WARNING


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Models this small are slower on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The dataset ``tiny``."""
    return write_tiny(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def tiny_table(tmp_path_factory, tiny):
    """A table directory for it, 16 wide: its items in another order, and three more."""
    from recbole_llmemb.table import EmbeddingTable

    tokens = ["x1", *tiny.items, "x2", "x3"]
    random.Random(1).shuffle(tokens)
    vectors = torch.randn(len(tokens), 16, generator=torch.Generator().manual_seed(2))
    path = tmp_path_factory.mktemp("table") / "table"
    EmbeddingTable(tokens, vectors, {"made": "by the tests"}).save(path)
    return path


@pytest.fixture
def tiny_settings(tiny, tiny_table):
    """Settings for small, quick, reproducible runs on ``tiny``, by model name."""

    def settings(model, **overrides):
        ours = model.startswith("LLMEmb")
        values = {
            "data_path": str(tiny.folder.parent),
            "load_col": {"inter": ["user_id", "item_id", "timestamp", "rating"]},
            "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
            "hidden_size": 8,
            "epochs": 2,
            "train_batch_size": 16,
            "eval_batch_size": 16,
            "metrics": ["Hit", "NDCG"],
            "topk": [5, 10],
            "valid_metric": "NDCG@10",
            "metric_decimal_place": 8,
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "order": "TO",
                "group_by": "user",
                "mode": "full",
            },
            "show_progress": False,
            "use_gpu": False,
            "gpu_id": "",
        }
        if "GRU" in model or not ours:
            values |= {"embedding_size": 8, "num_layers": 1, "dropout_prob": 0.0}
        if "GRU" not in model:
            values |= {"inner_size": 16, "n_layers": 1, "n_heads": 1}
            values |= {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
        if ours:
            values |= {"llm_table": str(tiny_table), "align_weight": 0.0}
        else:
            values |= {"train_neg_sample_args": None}
        return values | overrides

    return settings


@pytest.fixture
def tiny_config(tiny_settings):
    """``tiny_config(model, **overrides)``: a configuration for a run on ``tiny``."""
    from recbole_llmemb.config.recbole_config import make_config

    def config(model="LLMEmbSASRec", **overrides):
        return make_config(model, "tiny", overrides=tiny_settings(model, **overrides))

    return config


@pytest.fixture
def tiny_data(tiny_config):
    """``tiny_data(model, **overrides)``: configuration and :class:`pipeline.Data` of a run."""
    from recbole_llmemb.run.stages import prepare_data

    def data(model="LLMEmbSASRec", **overrides):
        config = tiny_config(model, **overrides)
        return config, prepare_data(config)

    return data


@pytest.fixture
def tiny_run(tiny_data):
    """``tiny_run(model, **overrides)``: configuration, data, model and trainer of a run."""
    from recbole_llmemb.run.stages import build

    def run(model="LLMEmbSASRec", **overrides):
        config, data = tiny_data(model, **overrides)
        return config, data, *build(config, data)

    return run


@pytest.fixture
def adaptations(monkeypatch):
    """How many rows each call of an adapter was given."""
    from recbole_llmemb.models.adapters import LinearAdapter

    calls = []
    forward = LinearAdapter.forward

    def counted(self, rows):
        calls.append(len(rows))
        return forward(self, rows)

    monkeypatch.setattr(LinearAdapter, "forward", counted)
    return calls
