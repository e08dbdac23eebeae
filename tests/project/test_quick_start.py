"""What is imported when: little by the package and by commands, everything with RecBole."""

import json
import subprocess
import sys

import pytest
from conftest import child_env

from recbole_llmemb.cli.main import COMMANDS

HEAVY = ("torch", "pandas", "scipy", "recbole", "transformers", "sentence_transformers",
         "ray", "optuna", "matplotlib", "pyarrow", "datasets", "peft")  # fmt: skip


def fresh(code, folder):
    """The last line that a process of its own prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=child_env(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_package_alone_imports_next_to_nothing(tmp_path):
    code = "import sys; before = set(sys.modules); import recbole_llmemb, json\n"
    code += "print(json.dumps(sorted(set(sys.modules) - before)))"
    found = fresh(code, tmp_path)
    assert not set(HEAVY) & set(found)
    assert len(found) < 60


def test_an_adapter_in_the_cache_needs_no_library_of_training(tmp_path):
    code = "import json, sys, recbole_llmemb.scft.job; print(json.dumps(sorted(sys.modules)))"
    training = {"peft", "datasets", "accelerate", "transformers", "sentence_transformers"}
    assert not training & set(fresh(code, tmp_path))


REFUSED = {
    "run": [
        "--epochs",
        "x",
        "--seed=1 --seed=2",
        "--learning_rat=1",
        "--model=LLMEmbX --epochs=-1",
    ],
    "encode": ["--nonsense=1", "--out=x"],
    "scft": ["--nonsense=1"],
    "tune": ["--nonsense=1", "--model=SASRec --space=x --num_samples=none"],
    "recommend": ["--nonsense=1", "--checkpoint=x", "--checkpoint=x --users=a --topk=0"],
    "export": ["--nonsense=1", "--checkpoint=x --out=y --what=soap"],
    "compare": ["--nonsense=1"],
    "order-test": ["--nonsense=1"],
    "convert": ["--nonsense=1"],
}


def test_help_and_refusals_import_nothing_heavy(tmp_path):
    asked = [["--help"], ["--version"], ["runn"]]
    asked += [[command, "--help"] for command in COMMANDS]
    asked += [[command, *line.split()] for command, lines in REFUSED.items() for line in lines]
    code = f"""
import contextlib, io, json, sys
from recbole_llmemb.cli.main import main
found = []
for argv in {asked!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            status = main(argv)
        except SystemExit as end:
            status = end.code
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    found.append([argv, status, heavy])
    for name in heavy:
        del sys.modules[name]  # so that each is called once
print(json.dumps(found))
"""
    for argv, status, heavy in fresh(code, tmp_path):
        about = argv[-1] in ("--help", "--version")
        assert (status, heavy) == (0 if about else 2, []), argv


@pytest.mark.parametrize(
    "first",
    [
        "import recbole; import recbole_llmemb",
        "import recbole_llmemb.data.dataset",  # which the plugin imports, too
        "import recbole_llmemb.plugin",
        "from recbole_llmemb import Recommender",
    ],
)
def test_recbole_knows_our_models_whatever_is_imported_first(tmp_path, first):
    code = f"""
{first}
import json
import numpy
from recbole.quick_start import load_data_and_model
from recbole.utils import get_model
found = get_model("LLMEmbSASRec").__name__, hasattr(numpy, "float_"), load_data_and_model.__module__
print(json.dumps(found))
"""
    wanted = ["LLMEmbSASRec", True, "recbole_llmemb.run.restore"]
    assert fresh(code, tmp_path) == wanted


@pytest.mark.parametrize("first", ["recbole.model.layers", "recbole_llmemb.plugin"])
def test_recbole_is_healed_before_anything_is_installed(tmp_path, first):
    """Ray is not there, and RecBole's first import of it must be put off."""
    code = f"""
import json, sys
sys.modules["ray"] = None
import recbole_llmemb
import {first}
from recbole.quick_start import run_recbole
print(json.dumps(run_recbole.__name__))
"""
    assert fresh(code, tmp_path) == "run_recbole"


def test_recbole_that_is_not_there(tmp_path):
    code = """
import json, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "recbole":
            raise ModuleNotFoundError("No module named 'recbole'", name="recbole")
sys.meta_path.insert(0, Hidden())
import recbole_llmemb
import contextlib, io
from recbole_llmemb.cli.main import main
with contextlib.redirect_stderr(io.StringIO()) as told:
    status = main(["run", "--model=SASRec"])
print(json.dumps([status, told.getvalue()]))
"""
    status, told = fresh(code, tmp_path)
    assert status == 2 and "pip install --no-deps recbole==1.2.1" in told and told.count("\n") == 1
