"""Fine-tuning in other processes: two at a time, and one that is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, child_env
from safetensors.torch import load_file
from scft_data import settings

pytest.importorskip("peft")
pytest.importorskip("datasets")

from recbole_llmemb.cli.main import main  # noqa: E402
from recbole_llmemb.core.artifacts import build_lock  # noqa: E402
from recbole_llmemb.scft.job import Processes  # noqa: E402
from recbole_llmemb.scft.trainer import last_checkpoint  # noqa: E402


def arguments(folder, kind, out, *options, save_steps=3):
    values = settings(folder, kind)
    return [
        "scft",
        "--dataset=tiny",
        f"--data_path={folder}",
        f"--encoder={values['llm_encoder']}",
        f"--out={folder / out}",
        "--device=cpu",
        f"--save_steps={save_steps}",
        "--learning_rate=0.01",
        *options,
    ]


def weights(folder, out):
    return load_file(folder / out / "adapter_model.safetensors")


# The command, where whoever waits for a group gives up soon, unless told to wait.
DRIVER = """
import datetime, os, sys
from pathlib import Path
from torch.distributed import distributed_c10d
from recbole_llmemb.cli.main import main
from recbole_llmemb.scft.job import Processes

distributed_c10d.default_pg_timeout = datetime.timedelta(seconds=4)
broadcast = Processes.broadcast

def marked(self, thing):
    Path(f"waits-{os.environ['RANK']}").touch()
    return broadcast(self, thing)

Processes.broadcast = marked
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="PyTorch without gloo")
def test_two_processes_are_one_with_a_larger_batch(tmp_path):
    """Views are compared across processes, and the gradient is that of the whole batch. While
    somebody else makes the adapter, both wait, longer than a group would."""
    options = ["--steps=7", "--lora_dropout=0"]
    two = arguments(tmp_path, "qwen2", "two", "--batch_size=4", *options)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    launch += ["--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]
    (tmp_path / "driver.py").write_text(DRIVER)
    with build_lock(tmp_path / "two", "adapter"):
        started = subprocess.Popen(
            [*launch, str(tmp_path / "driver.py"), *two],
            env={**child_env(), "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2400):
            if (tmp_path / "waits-1").exists() or started.poll() is not None:
                break
            time.sleep(0.05)
        time.sleep(10)
    out, error = started.communicate(timeout=240)
    assert started.returncode == 0, error[-3000:]
    assert out.count("scft: trained") == 1  # one of them speaks
    assert main(arguments(tmp_path, "qwen2", "one", "--batch_size=8", *options)) == 0
    one, two = weights(tmp_path, "one"), weights(tmp_path, "two")
    assert max(value.abs().max().item() for value in one.values()) > 0.05
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_and_continued(tmp_path):
    options = ["--steps=200", "--batch_size=8"]
    command = arguments(tmp_path, "bert", "cut", *options, save_steps=25)
    child = subprocess.Popen(
        [sys.executable, str(ROOT / "run_recbole_llm.py"), *command],
        env=child_env(),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(1200):
            works = list(tmp_path.glob(".cut.work-*"))
            if (works and last_checkpoint(works[0])) or child.poll() is not None:
                break
            time.sleep(0.05)
        assert child.poll() is None, "it ended before it could be killed"
        os.kill(child.pid, signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    assert not (tmp_path / "cut").exists()
    assert last_checkpoint(works[0])
    assert main(command) == 0
    assert main(arguments(tmp_path, "bert", "whole", *options, save_steps=25)) == 0
    cut, whole = weights(tmp_path, "cut"), weights(tmp_path, "whole")
    assert all(torch.equal(cut[name], value) for name, value in whole.items())
    assert not list(tmp_path.glob(".cut.work-*"))


@pytest.mark.parametrize(
    ("device", "computes", "precision"),
    [("cuda", True, "bfloat16"), ("cuda", False, "float32"), ("cpu", True, "float32")],
)
def test_precision_is_what_the_gpu_computes_in(monkeypatch, device, computes, precision):
    def supported(including_emulation=True):
        return computes or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert Processes(device).precision("auto") == precision
    assert Processes(device).precision("bfloat16") == "bfloat16"
