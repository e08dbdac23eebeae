"""A cluster of two nodes on this machine: a search uses both; encoding survives one's death."""

import os
import subprocess
import sys
import tempfile
import threading
import time

import psutil
import pytest
import torch
from conftest import ROOT, child_env
from encode_models import encode_job, make_model, many_items, write_dataset
from ray_stubs import stub, vector
from tune_settings import settings_for

from recbole_llmemb.apps.tune import search
from recbole_llmemb.encode import item_prompts, read_items
from recbole_llmemb.encode.job import run_job
from recbole_llmemb.encode.settings import Workers
from recbole_llmemb.table import EmbeddingTable

pytest.importorskip("ray")

ADDRESS = "127.0.0.1:6400"
ITEMS = 120
PATIENCE = 600  # on a machine that others use too


class Node:
    """``ray start --block``, and all its processes."""

    def __init__(self, *options):
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        command += ["--num-cpus=1", f"--object-store-memory={100 << 20}"]
        command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.said = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = psutil.Popen(
            command,
            # A head asks for a token unless told otherwise; this process has none to show.
            env={
                **child_env(),
                "PYTHONPATH": paths,
                "RAY_worker_niceness": "0",
                "RAY_AUTH_MODE": "disabled",
            },
            stdin=subprocess.DEVNULL,
            stdout=self.said,
            stderr=subprocess.DEVNULL,
        )

    def runs(self):
        self.said.seek(0)
        return b"Ray runtime started" in self.said.read()

    def processes(self):
        return self.process.children(recursive=True) if self.process.is_running() else []

    def kill(self):
        for process in [self.process, *self.processes()]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def nodes():
    """Head and another, and RAY_ADDRESS set. The test that kills one comes last."""
    environment = pytest.MonkeyPatch()
    environment.delenv("RAY_ADDRESS", raising=False)
    first = ["--head", "--port=6400", "--ray-client-server-port=6401", "--include-dashboard=false"]
    started = []
    try:
        started.append(up(*first, "--dashboard-agent-listen-port=6402"))
        started.append(up(f"--address={ADDRESS}", "--dashboard-agent-listen-port=6403"))
        environment.setenv("RAY_ADDRESS", ADDRESS)
        yield started
    finally:
        environment.undo()
        for node in reversed(started):
            node.kill()


def up(*options):
    """A node that runs. Ray gives a slow machine half a minute to start one."""
    for _ in range(4):
        node = Node(*options)
        wait_for(lambda node=node: node.runs() or node.process.poll() is not None)
        if node.runs():
            return node
        node.kill()
    raise AssertionError("ray start does not succeed")


def test_a_search_runs_on_both(tmp_path, nodes, tiny, tiny_table):
    space = {"learning_rate": {"loguniform": [1e-3, 1e-1]}}
    lines = []
    for attempt in "abc":  # on a busy machine short trials can be over before a node takes one
        found = search("LLMEmbSASRec", "tiny", space, num_samples=6, storage=tmp_path / attempt,
                       report=lines.append, **settings_for(tiny, tiny_table))  # fmt: skip
        if len({trial.node for trial in found.trials}) == 2:
            break
    assert any(f"cluster at {ADDRESS}, 2 nodes, 2 CPUs" in line for line in lines)
    assert len(found.trials) == 6 and not any(trial.failed for trial in found.trials)
    assert len({trial.node for trial in found.trials}) == 2
    assert found.best.score == max(trial.score for trial in found.trials)


def test_a_node_is_lost(tmp_path, nodes, monkeypatch):
    path = write_dataset(tmp_path, text=many_items(ITEMS))
    encoder = make_model(tmp_path / "tiny-model", "bert")
    log, out, killed = tmp_path / "log.txt", tmp_path / "out", []
    worker = stub(log, sleep=0.5)
    monkeypatch.setattr("recbole_llmemb.encode.pools.EncodeWorker", worker)

    def workers():
        lines = log.read_text().splitlines() if log.exists() else []
        return {int(line.split()[0]) for line in lines}

    def kill():
        """As soon as both nodes have given something, the second one dies."""
        own = {process.pid for process in nodes[1].processes()}
        wait_for(lambda: len(workers()) >= 2)
        own |= {process.pid for process in nodes[1].processes()}
        killed.extend(own & workers())
        assert len(workers() - own) == len(killed) == 1
        nodes[1].kill()

    lines = []
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    job = encode_job(item_file=path, encoder=str(encoder), batch_size=4, shard_size=4)
    result = run_job(job, out, workers=Workers(number=2), report=lines.append)
    killer.join()
    assert killed and any("nodes 2, workers 2, shards to encode 30 of 30" in line for line in lines)
    assert result.encoded == ITEMS
    table, read = EmbeddingTable.load(out), read_items(path)
    expected = torch.tensor([vector(text) for text in item_prompts(read.attributes)])
    assert table.tokens == read.tokens and torch.equal(table.vectors, expected)
