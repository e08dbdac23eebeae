"""Each heal of RecBole, by what breaks without it."""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import child_env

from recbole_llmemb import compat
from recbole_llmemb.config.recbole_config import without_argv
from recbole_llmemb.core.errors import UserError

compat.apply()

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"show_progress": False, "load_col": None, "epochs": 1, "embedding_size": 8}


def write_interactions(folder: Path, users: int = 20, items: int = 15, each: int = 7) -> None:
    """A dataset named like its folder, as RecBole's atomic file."""
    folder.mkdir(parents=True)
    chance = random.Random(0)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    rows += [
        f"u{user}\ti{chance.randrange(items)}\t{moment}"
        for user in range(users)
        for moment in range(each)
    ]
    (folder / f"{folder.name}.inter").write_text("\n".join(rows) + "\n")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Settings for a run on a tiny dataset, in a folder of its own."""
    monkeypatch.chdir(tmp_path)  # RecBole writes log/ and log_tensorboard/ where it stands
    monkeypatch.setattr(sys, "argv", ["program"])
    write_interactions(tmp_path / "data" / "tiny")
    return {**QUIET, "data_path": str(tmp_path / "data"), "checkpoint_dir": str(tmp_path / "saved")}


def fresh_python(code: str, folder: Path) -> dict:
    """Run code in a new interpreter, with ``folder`` first on its path.

    ``hide(names)`` makes modules absent there; ``facts`` is what comes back.
    """
    prelude = """
import json, sys, warnings
class Hidden:
    def __init__(self, names): self.names = names
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names: raise ModuleNotFoundError(f"No module named {name!r}")
def hide(*names):
    import importlib.util
    for name in [name for name in sys.modules if name.split(".")[0] in names]: del sys.modules[name]
    sys.meta_path.insert(0, Hidden(names))
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: (
        None if name.split(".")[0] in names else find(name, package))
facts = {}
"""
    path = os.pathsep.join([str(folder), str(ROOT)])
    result = subprocess.run(
        [sys.executable, "-c", prelude + code + "\nprint('\\n' + json.dumps(facts))"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return json.loads(result.stdout.rstrip().splitlines()[-1])


def test_fresh_interpreter(tmp_path):
    """Import with a ray, distutils, lightgbm and xgboost that do not work, and train."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("import pkg_resources_of_old\n")
    write_interactions(tmp_path / "data" / "tiny")
    facts = fresh_python(
        """
hide("distutils", "lightgbm", "xgboost")
from recbole_llmemb import compat
compat.apply()

import importlib.util
facts["ray loaded"] = [name for name in sys.modules if name.split(".")[0] == "ray"]
facts["ray origin"] = importlib.util.find_spec("ray").origin
facts["distutils left"] = "distutils" in sys.modules

import torch
facts["anomaly detection"] = torch.is_anomaly_enabled()

from recbole.data.interaction import Interaction
facts["without a Config"] = Interaction({"x": [1.5, 2.5]})["x"].tolist()

from recbole.quick_start import quick_start, run_recbole
try:
    quick_start.tune.run
except Exception as error:
    facts["tune"] = [type(error).__name__, str(error)]

try:
    run_recbole(model="SASRecc", dataset="tiny")
except Exception as error:
    facts["misspelt"] = str(error)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for model, extra in ("SASRec", {"train_neg_sample_args": None}), ("BPR", {}):
        settings = {"data_path": "data", "show_progress": False, "load_col": None, "epochs": 1}
        result = run_recbole(model=model, dataset="tiny", config_dict={**settings, **extra})
        facts[model] = result["test_result"]
    searched = quick_start.objective_function({**settings, "model": "BPR", "dataset": "tiny"})
    facts["searched"] = searched["test_result"]
unseen = DeprecationWarning, PendingDeprecationWarning, ResourceWarning  # Python hides these
ours = "Distutils was imported", "Setuptools is replacing"  # by hiding it above
facts["warnings"] = [
    str(w.message)
    for w in caught
    if not issubclass(w.category, unseen) and not str(w.message).startswith(ours)
]
""",
        tmp_path,
    )
    assert facts["ray loaded"] == []
    assert facts["ray origin"] == str(tmp_path / "ray" / "__init__.py")
    assert facts["distutils left"] is False
    assert facts["anomaly detection"] is False  # RecBole's SINE switches it on at import
    assert facts["without a Config"] == [1.5, 2.5]
    kind, message = facts["tune"]
    assert kind == "UserError" and "recbole-llmemb[tune]" in message and "\n" not in message
    assert "'SASRecc'" in facts["misspelt"] and "take SASRec" in facts["misspelt"]
    assert facts["warnings"] == []
    assert 0 <= facts["SASRec"]["ndcg@10"] <= 1 and 0 <= facts["BPR"]["ndcg@10"] <= 1
    assert facts["searched"] == facts["BPR"]


def test_recbole_absent(tmp_path):
    facts = fresh_python(
        """
hide("recbole")
try:
    from recbole_llmemb import compat
    compat.apply()
except Exception as error:
    facts["error"] = [type(error).__name__, str(error)]
""",
        tmp_path,
    )
    kind, message = facts["error"]
    assert kind == "UserError"
    assert "pip install --no-deps recbole==1.2.1" in message and "\n" not in message


def test_applying_again_changes_nothing():
    from recbole.data.dataset import Dataset
    from recbole.evaluator import Evaluator

    before = Dataset._load_feat, Dataset._dataframe_to_interaction, Evaluator.evaluate
    compat.apply()
    assert before == (Dataset._load_feat, Dataset._dataframe_to_interaction, Evaluator.evaluate)


def test_metrics_reach_ray_in_the_form_it_takes_today(monkeypatch):
    from recbole.quick_start import quick_start

    seen = []
    tune = types.ModuleType("ray.tune")
    tune.report = lambda metrics, *, checkpoint=None: seen.append(metrics)
    tune.choice = lambda options: options[0]
    ray = types.ModuleType("ray")
    ray.tune = tune
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", tune)
    quick_start.tune.report(**{"ndcg@10": 0.5})  # the way RecBole's objective_function does
    quick_start.tune.report({"ndcg@10": 0.75})
    assert seen == [{"ndcg@10": 0.5}, {"ndcg@10": 0.75}]
    assert quick_start.tune.choice([3]) == 3


def test_a_search_draws_as_hyperopt_asks():
    """hyperopt asks RecBole's exhaustive search for ``integers``, older ones for ``randint``."""
    from recbole.trainer import hyper_tuning

    draw = hyper_tuning.np.random.RandomState(7)
    expected = np.random.RandomState(7).randint(0, 50, 8)
    assert draw.integers(0, 50, 4).tolist() + draw.randint(0, 50, 4).tolist() == expected.tolist()
    assert hyper_tuning.np.prod([2, 3]) == 6


def test_numpy_names_are_those_config_sets():
    assert (np.float_, np.complex_, np.unicode_) == (np.float64, np.complex128, np.str_)
    assert np.zeros(1, dtype=np.float).dtype == np.float64
    assert np.zeros(1, dtype=np.long).dtype == np.int64


def test_missing_values_are_filled(tmp_path, monkeypatch):
    """Tokens become [PAD], numbers the mean, sequences empty; nothing warns."""
    from recbole.config import Config
    from recbole.data import create_dataset

    folder = tmp_path / "holes"
    write_interactions(folder, users=6, items=4)
    (folder / "holes.item").write_text(
        "item_id:token\tbrand:token\tprice:float\ttags:token_seq\tsizes:float_seq\n"
        "i0\tacme\t1.0\tred blue\t0.5 1.5\n"
        "i1\t\t\t\t\n"
        "i2\tzeta\t4.0\tred\t2.5\n"
    )  # and i3 has no line at all
    (folder / "holes.user").write_text("user_id:token\tage:float\nu0\t10\nu1\t\nu2\t40\n")
    settings = {"data_path": str(tmp_path), "load_col": None, "filter_inter_by_user_or_item": False}
    monkeypatch.setattr(sys, "argv", ["program"])
    config = Config(model="BPR", dataset="holes", config_dict=settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        dataset = create_dataset(config)
        dataset._change_feat_format()
    items = dataset.item_feat
    row = {token: dataset.token2id("item_id", token) for token in ("i0", "i1", "i2", "i3")}
    brands = dataset.field2id_token["brand"][items["brand"].numpy()]
    assert [brands[row[i]] for i in ("i0", "i1", "i2", "i3")] == ["acme", "[PAD]", "zeta", "[PAD]"]
    assert items["brand"].dtype == torch.int64
    assert [float(items["price"][row[i]]) for i in row] == [1.0, 2.5, 4.0, 2.5]
    tags = dataset.field2id_token["tags"]
    assert [list(tags[items["tags"][row[i]].numpy()]) for i in row] == [
        ["red", "blue"],
        ["[PAD]", "[PAD]"],
        ["red", "[PAD]"],
        ["[PAD]", "[PAD]"],
    ]
    assert [items["sizes"][row[i]].tolist() for i in row] == [[0.5, 1.5], [0, 0], [2.5, 0], [0, 0]]
    ages = dataset.user_feat["age"]
    assert [float(ages[dataset.token2id("user_id", u)]) for u in ("u0", "u1", "u2", "u5")] == [
        10.0,
        25.0,
        40.0,
        25.0,
    ]


def train(model, settings, **extra):
    """Train a stock model the way ``run_recbole`` does; its parts and checkpoint."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    config = Config(model=model, dataset="tiny", config_dict={**settings, **extra})
    init_seed(config["seed"], True)
    splits = data_preparation(config, create_dataset(config))
    network = get_model(model)(config, splits[0]._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)
    trainer.fit(splits[0], splits[1], verbose=False)
    return trainer, network, splits


MODELS = [
    ("SASRec", {"train_neg_sample_args": None}),
    ("BPR", {}),
    ("LightGCN", {}),  # keeps tensors beside its state_dict
    ("ItemKNN", {}),  # keeps SciPy matrices there
    ("EASE", {}),  # keeps a NumPy matrix there
    ("GRU4RecF", {"train_neg_sample_args": None, "selected_features": ["kind"]}),  # and a module
]


@pytest.mark.parametrize(("model", "extra"), MODELS, ids=[name for name, _ in MODELS])
def test_checkpoints_are_plain_and_rebuild_everything(model, extra, tiny):
    from recbole.quick_start import load_data_and_model

    kinds = "".join(f"i{item}\tk{item % 3}\n" for item in range(15))
    Path(tiny["data_path"], "tiny", "tiny.item").write_text("item_id:token\tkind:token\n" + kinds)
    trainer, _, splits = train(model, tiny, **extra)
    state = torch.load(trainer.saved_model_file, weights_only=True)
    assert state["config"]["model"] == model and type(state["best_valid_score"]) is float
    assert os.listdir(tiny["checkpoint_dir"]) == [os.path.basename(trainer.saved_model_file)]
    result = trainer.evaluate(splits[2], load_best_model=True)
    assert all(type(value) is float for value in result.values())

    config, again, dataset, *loaders = load_data_and_model(trainer.saved_model_file)
    assert config.final_config_dict == trainer.config.final_config_dict
    assert dataset.item_num == splits[0]._dataset.item_num
    other = type(trainer)(config, again)
    assert other.evaluate(loaders[2], model_file=trainer.saved_model_file) == result
    assert other.evaluate(loaders[2], load_best_model=False) == result


def test_training_resumes_from_a_checkpoint(tiny):
    first, _, splits = train("BPR", tiny)
    network = copy.deepcopy(first.model)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    again = type(first)(first.config, network)
    again.resume_checkpoint(first.saved_model_file)
    assert again.start_epoch == 1
    assert again.best_valid_score == first.best_valid_score
    assert all(map(torch.equal, network.state_dict().values(), first.model.state_dict().values()))
    moments = [state["exp_avg"] for state in again.optimizer.state_dict()["state"].values()]
    expected = [state["exp_avg"] for state in first.optimizer.state_dict()["state"].values()]
    assert moments and all(map(torch.equal, moments, expected))
    again.epochs = 2
    again.fit(splits[0], splits[1], verbose=False)
    assert list(again.train_loss_dict) == [1]


def test_old_checkpoints_are_refused(tiny):
    from recbole.quick_start import load_data_and_model

    trainer, network, splits = train("BPR", tiny)
    old = os.path.join(tiny["checkpoint_dir"], "old.pth")
    torch.save({"config": trainer.config, "state_dict": network.state_dict()}, old)
    for load in (
        load_data_and_model,
        trainer.resume_checkpoint,
        lambda path: trainer.evaluate(splits[2], model_file=path),
    ):
        with pytest.raises(UserError, match="holds pickled Python objects"):
            load(old)


def test_two_runs_start_in_one_folder(tmp_path, monkeypatch):
    """Both see that it is not there, and both make it."""
    from recbole.trainer import trainer
    from recbole.utils import ensure_dir, logger

    monkeypatch.setattr(os.path, "exists", lambda path: False)
    for function in (ensure_dir, logger.ensure_dir, trainer.ensure_dir):
        function(str(tmp_path / "log" / "SASRec"))
        function(str(tmp_path / "log" / "SASRec"))
    assert (tmp_path / "log" / "SASRec").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError):  # which says what is really in the way
        ensure_dir(str(tmp_path / "file"))


def test_use_gpu_is_obeyed(monkeypatch):
    from recbole.config import Config

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for asked, kind in ((False, "cpu"), (True, "cuda")):
        with without_argv():
            config = Config(model="BPR", dataset="tiny", config_dict={"use_gpu": asked})
        assert config["device"].type == kind


@pytest.mark.parametrize("notebook", [True, False])
def test_the_log_in_a_notebook(tiny, tmp_path, notebook):
    """On standard output, and without the configuration, which the file has."""
    code = f"""
import sys, types
if {notebook}:
    sys.modules["ipykernel"] = types.ModuleType("ipykernel")
import recbole_llmemb
from recbole.quick_start import run_recbole
run_recbole(model="SASRec", dataset="tiny", config_dict=dict(
    data_path={tiny["data_path"]!r}, epochs=1, hidden_size=8, inner_size=8,
    MAX_ITEM_LIST_LENGTH=5, topk=[5], valid_metric="NDCG@5", show_progress=True, use_gpu=False,
    load_col=dict(inter=["user_id", "item_id", "timestamp"])))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=child_env(),
                          capture_output=True, text=True, check=True)  # fmt: skip
    shown, other = (done.stdout, done.stderr) if notebook else (done.stderr, done.stdout)
    assert "epoch 0 training" in shown and "Train" in shown and "epoch 0 training" not in other
    assert ("MAX_ITEM_LIST_LENGTH" in shown) != notebook
    (log,) = (tmp_path / "log/SASRec").glob("*.log")
    assert "MAX_ITEM_LIST_LENGTH" in log.read_text()


def test_without_argv(monkeypatch):
    from recbole.config import Config

    line = ["program", "--epochs=77", "stray"]
    monkeypatch.setattr(sys, "argv", line)
    assert Config(model="BPR", dataset="tiny")["epochs"] == 77
    with pytest.raises(RuntimeError), without_argv():
        assert Config(model="BPR", dataset="tiny")["epochs"] == 300
        raise RuntimeError
    assert sys.argv is line


def test_the_thread_of_a_run_s_curves_ends_with_it(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    before = set(threading.enumerate())
    writer = SummaryWriter(str(tmp_path))
    writer.add_scalar("loss", 1.0, 0)
    begun = set(threading.enumerate()) - before
    assert begun
    del writer
    gc.collect()
    assert not any(thread.is_alive() for thread in begun)
