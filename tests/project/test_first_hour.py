"""What README and the docs ask a newcomer to type runs as typed, each on what came before."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, child_env
from encode_models import make_model

from recbole_llmemb.cli.main import main


def commands(file, heading):
    """The commands of the first block under a heading, as lists of words."""
    text = (ROOT / file).read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    block = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in block.split("\n")]
    return [line for line in lines if line]


def blocks(file):
    """All commands of a page's blocks, in order."""
    found = re.findall(r"```bash\n(.*?)```", (ROOT / file).read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in found for line in block.replace("\\\n", " ").split("\n")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def small(tmp_path):
    """What makes trainings short: an encoder of no size, an epoch, a narrow model."""
    return [f"--llm_encoder={make_model(tmp_path / 'encoder', 'bert')}", "--epochs=1",
            "--hidden_size=16", "--show_progress=False"]  # fmt: skip


def paste(words, small):
    """Run a command; files that the shell would name are named, and trainings are short."""
    assert words[0] == "recbole-llm"
    arguments = [
        str(name)
        for word in words[1:]
        for name in (sorted(Path().glob(word)) if "*" in word else [word])
    ]
    trains = any(word.startswith("--model=") for word in arguments)
    arguments = [word for word in arguments if not (trains and word.startswith("--epochs="))]
    assert main(arguments + small * trains) == 0, words


def test_readmes_first_commands_run_in_order(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    chain = commands("README.md", "## First commands")
    assert len(chain) >= 5
    for words in chain:
        paste(words, small)
    out = capsys.readouterr().out
    assert (tmp_path / "report/report.html").is_file() and out.count("score  title") == 2


def test_the_shop_goes_from_csv_to_recommendations(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/shop").symlink_to(ROOT / "docs/shop")
    chain = blocks("docs/shop.md")
    assert [words[1].split("=")[0] for words in chain] == [
        "convert", "--model", "recommend", "recommend"
    ]  # fmt: skip
    for words in chain:
        paste(words, small)
    out = capsys.readouterr().out
    # What convert says comes next is what the page says.
    (told,) = (line for line in out.split("\n") if line.startswith("next:    recbole-llm"))
    typed = [word for word in chain[1] if not word.startswith("--epochs")]
    assert told.removeprefix("next:").split() == typed
    assert "P4000" in out


def test_the_notebook_shows_what_came_out():
    """Outputs as anybody has them: no paths or warnings of a machine, no bars drawn over."""
    text = (ROOT / "docs/tutorial.ipynb").read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(cell["outputs"] for cell in cells[1:])
    assert sum("text/html" in output.get("data", {}) for output in outputs) >= 4
    shown = "".join(line for output in outputs for line in output.get("text", ()))
    assert "train: 3 epochs" in shown and len(shown) < 20_000
    assert not re.search(r"(?<![\w~.])/\w+/|[A-Z]:\\\\|Warning|\\r|\\u001b", json.dumps(outputs))


def test_the_notebook_runs(tmp_path):
    """Its cells as a script, with one epoch."""
    notebook = json.loads((ROOT / "docs/tutorial.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    script = "\n".join(cells).replace("EPOCHS = 3", "EPOCHS = 1")
    assert "EPOCHS = 1" in script
    done = subprocess.run([sys.executable, "-c", script + "\nprint(text['epochs'])"], cwd=tmp_path,
                          env=child_env(), capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and done.stdout.endswith("\n1\n"), done.stderr[-2000:]


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_no_command_names_a_file_that_only_a_checkout_has(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.search(r"--(config_files|space)=properties/", text)
