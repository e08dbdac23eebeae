"""``python -m tests.kept.make FOLDER``: work, finished and interrupted, as users have it on disk.

``work.tar.xz`` was made with this by version 0.1.0, before the package's modules were moved. It is
not made again when the code changes: later versions take it as it is. All paths are relative to the
folder, except in ``search.json``, where the folder is ``@HERE@``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from tests.record import files
from tests.record.entries import Commands

from .commands import COMMANDS, LISTS, SETTINGS, recommend

ROOT = Path(__file__).resolve().parents[2]
ARCHIVE = Path(__file__).resolve().with_name("work.tar.xz")
HERE = "@HERE@"


class Kept(Commands):
    def _prepare(self):
        if Path("data").exists():
            return
        files.write_dataset("data", name="kept", users=30, items=40)
        files.write_model("encoder", "bert", positions=128)
        files.write_model("llm", "llama", positions=256)
        Path("settings.yaml").write_text(SETTINGS)
        header = "item_id:token\ttitle:token_seq\tbrand:token"
        Path("new.item").write_text(f"{header}\nn1\tsoft red lamp\tbrand\n")
        Path("space.yaml").write_text("hidden_dropout_prob: {choice: [0.1, 0.2]}\n")

    def make(self, name):
        self._run(list(COMMANDS[name]))


@contextlib.contextmanager
def stopped(owner, name, count):
    """Interrupt what is done in the ``count``-th call of a function."""
    calls, function = [], getattr(owner, name)

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    setattr(owner, name, counted)
    try:
        yield
    except Exception as error:
        if "ended with 130" not in str(error):
            raise
    finally:
        setattr(owner, name, function)


def mark_shards():
    """Add 1 to what was encoded, so that it shows whether a table was made of it."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    (work,) = Path("tables").glob(".interrupted.work-*")
    for shard in work.glob("shard-*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            vectors, facts = file.get_tensor("vectors") + 1, file.metadata()
        facts["digest"] = hashlib.blake2b(vectors.numpy().tobytes(), digest_size=16).hexdigest()
        save_file({"vectors": vectors}, shard, facts)


def kill_search():
    """Within the second of two trials."""
    command = [sys.executable, str(ROOT / "run_recbole_llm.py"), *COMMANDS["interrupted_search"]]
    process = subprocess.Popen(command)
    result = Path("tune/search/trial_00002/result.json")
    while not (result.exists() and len(result.read_text().splitlines()) >= 4):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def main(folder):
    import torch

    torch.set_num_threads(1)
    Path(folder).mkdir(parents=True)
    os.chdir(folder)
    os.environ["RECBOLE_LLMEMB_CACHE"] = "cache"
    commands = Kept()
    for name in COMMANDS:
        if not name.startswith("interrupted_"):
            commands.make(name)
    Path("found").mkdir()
    for name in LISTS:
        result = json.loads(Path(f"results/{name}.json").read_text())
        checkpoint = os.path.normpath(Path("results", result["checkpoint"]))
        commands._run(recommend(name, checkpoint, "found"))
    with stopped(torch.optim.Adam, "step", 13):
        commands.make("interrupted_run")
    with stopped(torch.optim.Adam, "step", 9):
        commands.make("interrupted_llmsrec")
    with stopped(torch.optim.AdamW, "step", 6):
        commands.make("interrupted_scft")
    with stopped(os, "replace", 4):  # of the order of the texts, then of shards
        commands.make("interrupted_encoding")
    mark_shards()
    kill_search()
    search = Path("tune/search/search.json")
    search.write_text(search.read_text().replace(os.getcwd(), HERE))
    unasked = [Path("results", json.loads(Path(f"results/{name}.json").read_text())["checkpoint"])
               for name in ("reduced", "aligned")]  # fmt: skip
    for file in [*Path(".").rglob("*.lock"), *Path(".").rglob("*.tmp"), *unasked]:
        file.unlink()
    with tarfile.open(ARCHIVE, "w:xz") as archive:
        for part in sorted(set(os.listdir()) - {"log", "log_tensorboard"}):
            archive.add(part)


if __name__ == "__main__":
    main(sys.argv[1])
