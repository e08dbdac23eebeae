"""Encoding with Ray: the local table, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import ROOT, child_env
from encode_models import encode_job, make_model, many_items, write_dataset
from ray_stubs import stub, vector

from recbole_llmemb.cli.encode import main
from recbole_llmemb.cli.main import main as command
from recbole_llmemb.core.devices import require_ray
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode import item_prompts, read_items
from recbole_llmemb.encode.job import run_job
from recbole_llmemb.encode.settings import Workers
from recbole_llmemb.table import EmbeddingTable

ITEMS = 60


@pytest.fixture(scope="module")
def cluster():
    """One Ray for all tests."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        patch.setenv("OMP_NUM_THREADS", "1")
        ray = require_ray("encode --ray", "ray", "ray", {})
        options = {"num_cpus": 2, "object_store_memory": 100 << 20, "include_dashboard": False}
        for patience in (2, 1, 0):  # Ray gives a slow machine half a minute to start
            try:
                ray.init(address="local", log_to_driver=False, logging_level="ERROR", **options)
                break
            except Exception:
                ray.shutdown()
                if not patience:
                    raise
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("models") / "tiny", "bert"))


@pytest.fixture
def job(tmp_path, encoder):
    """Sixty items in shards of four, and the last two of them with texts of the first shard."""
    text = many_items(ITEMS - 2)
    second, first = (line.partition("\t")[2] for line in text.splitlines()[2:0:-1])
    text += f"x1\t{second}\nx2\t{first}\n"
    path = write_dataset(tmp_path, text=text)
    options = {"item_file": path, "encoder": encoder, "batch_size": 4, "shard_size": 4}
    return lambda **more: encode_job(**{**options, **more})


@pytest.fixture
def stubbed(tmp_path, monkeypatch):
    """``stubbed(sleep, broken, deadly)``: workers without a model from now on; gives their log."""

    def put(sleep=0.0, broken="", deadly=""):
        log = tmp_path / "log.txt"
        worker = stub(log, sleep, broken, deadly)
        monkeypatch.setattr("recbole_llmemb.encode.pools.EncodeWorker", worker)
        return log

    return put


def texts_of(path):
    return item_prompts(read_items(path).attributes)


def check_table(path, items):
    """The table has what the stub makes of each item's text, in file order."""
    table = EmbeddingTable.load(path)
    assert table.tokens == read_items(items).tokens
    assert torch.equal(table.vectors, torch.tensor([vector(text) for text in texts_of(items)]))


def finished(folder, name="out"):
    """Shards on the disk: number to when it was written."""
    files = folder.glob(f".{name}.work-*-ray/shard-*.safetensors")
    return {int(file.stem.rpartition("-")[2]): file.stat().st_mtime_ns for file in files}


def wait_for(condition, alive=lambda: True, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert alive() and time.monotonic() < deadline
        time.sleep(0.02)


def test_same_table_as_local(tmp_path, cluster, job, capfd):
    lines = []
    result = run_job(job(), tmp_path / "ray", report=lines.append, workers=Workers(number=2))
    assert (result.rows, result.encoded, result.cache_hit) == (ITEMS, result.unique, False)
    assert result.unique < ITEMS
    assert any("workers 2, shards to encode 15 of 15" in line for line in lines)
    run_job(job(), tmp_path / "local")
    ours, local = (EmbeddingTable.load(tmp_path / name) for name in ("ray", "local"))
    assert ours.tokens == local.tokens
    assert torch.allclose(ours.vectors, local.vectors, atol=1e-6)
    different = {"fingerprint"}  # of the last bits
    for key in (ours.manifest.keys() | local.manifest.keys()) - different:
        assert ours.manifest[key] == local.manifest[key], key
    # Each is a hit for the other, and nothing but the tables remains.
    assert run_job(job(), tmp_path / "ray").cache_hit
    assert run_job(job(), tmp_path / "local", workers=Workers(number=1)).cache_hit
    left = {".local.lock", ".ray.lock", "local", "ray", "tiny"}
    assert set(os.listdir(tmp_path)) - {"cache"} == left
    assert "core_worker" not in capfd.readouterr().err  # Ray keeps its talk to itself


def test_lost_worker(tmp_path, cluster, job, stubbed):
    log = stubbed(sleep=0.15)
    items = tmp_path / "tiny" / "tiny.item"
    job = job()
    out = tmp_path / "out"
    kept, after = {}, []

    def kill():
        wait_for(lambda: len(finished(tmp_path)) >= 3)
        kept.update(finished(tmp_path))
        lines = log.read_text().splitlines()
        after.append(len(lines))
        os.kill(int(lines[-1].split()[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    result = run_job(job, out, workers=Workers(number=2))
    killer.join()
    assert 3 <= len(kept) < 15 and result.encoded == result.unique
    check_table(out, items)
    # What was finished was not done again; what the dead worker was at, was.
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    done = {text for _, text in lines[: after[0]]}
    unique = list(dict.fromkeys(texts_of(items)))
    safe = {text for shard in kept for text in unique[4 * shard : 4 * shard + 4]}
    assert safe <= done and not safe & {text for _, text in lines[after[0] :]}
    assert len({pid for pid, _ in lines}) >= 2


DRIVER = """
import sys
from ray_stubs import stub
from recbole_llmemb.encode import pools
from encode_models import encode_job
from recbole_llmemb.encode.job import run_job
from recbole_llmemb.encode.settings import Workers
pools.EncodeWorker = stub({log!r}, sleep=0.3)
job = encode_job(item_file={items!r}, encoder={encoder!r}, batch_size=4, shard_size=4)
run_job(job, {out!r}, workers=Workers(number=1))
"""


def test_killed_driver(tmp_path, cluster, job, encoder, stubbed):
    """It is killed by SIGKILL; the next run finds what it left."""
    items, out = tmp_path / "tiny" / "tiny.item", tmp_path / "out"
    job = job()
    first = tmp_path / "first.txt"
    script = DRIVER.format(log=str(first), items=str(items), encoder=encoder, out=str(out))
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    address = cluster.get_runtime_context().gcs_address
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**child_env(), "PYTHONPATH": paths, "RAY_ADDRESS": address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(
            lambda: len(finished(tmp_path)) >= 2,
            alive=lambda: process.poll() is None or pytest.fail(process.stderr.read()),
        )
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert not out.exists()
    kept = finished(tmp_path)
    [work] = tmp_path.glob(".out.work-*")
    assert 2 <= len(kept) < 15
    # One of the finished shards is damaged: it is not taken for whole.
    damaged = work / f"shard-{min(kept):05d}.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 64
    damaged.write_bytes(data)

    log = stubbed()
    result = run_job(job, out, workers=Workers(number=1))
    check_table(out, items)
    again = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    assert result.encoded == len(again) == result.unique - 4 * (len(kept) - 1)
    assert len(set(again)) == len(again)


def test_encoder_overflow_is_one_sentence(tmp_path, cluster, job, stubbed):
    stubbed(broken="soap")
    with pytest.raises(UserError, match="NaN or infinity for 1 texts, the first of item '"):
        run_job(job(), tmp_path / "out", workers=Workers(number=1))
    assert not (tmp_path / "out").exists()
    assert (next(tmp_path.glob(".out.work-*")) / "ray.log").exists()


def test_a_text_that_kills_its_workers(tmp_path, cluster, job, stubbed):
    """Its shard is not tried for ever; the others are kept."""
    deadly = texts_of(job().item_file)[9]
    log = stubbed(deadly=deadly)
    with pytest.raises(UserError, match="workers died over the shard 2 "):
        run_job(job(), tmp_path / "out", workers=Workers(number=1))
    assert not (tmp_path / "out").exists() and 2 not in finished(tmp_path)
    stubbed()
    kept = len(finished(tmp_path))
    assert kept == 14 and len({line.split()[0] for line in log.read_text().splitlines()}) >= 2
    assert run_job(job(), tmp_path / "out", workers=Workers(number=1)).encoded <= ITEMS - 4 * kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "--num_workers=0"], "--num_workers is 0"),
        (["--ray", "--gpus_per_worker=-1"], "--gpus_per_worker is -1"),
        (["--ray", "--gpus_per_worker=1e400"], "--gpus_per_worker is inf"),
        (["--ray", "--gpus_per_worker=1.5"], "--gpus_per_worker is 1.5"),
        (["--ray", "--gpus_per_worker=nan"], "--gpus_per_worker is nan"),
        (["--ray", "--device=cuda:1"], "--device is 'cuda:1', but with --ray"),
        (["--ray", "--device=cpu", "--gpus_per_worker=1"], "--device is cpu, but"),
        (["--num_workers=2"], "--num_workers and"),
        (["--ray", "--fields=color"], "no field 'color'"),
        (["--ray", "--encoder=./gone"], "no encoder directory ./gone"),
    ],
)
def test_user_errors(tmp_path, job, encoder, options, message):
    """Before Ray is so much as imported."""
    items = job().item_file
    base = [f"--items={items}", f"--encoder={encoder}", f"--out={tmp_path / 'out'}"]
    names = tuple(f"{option.partition('=')[0]}=" for option in options)
    with pytest.raises(UserError, match=message):
        main([*(word for word in base if not word.startswith(names)), *options])
    assert not (tmp_path / "out").exists()


def test_no_room_for_a_worker():
    nodes = [{"CPU": 4.0, "GPU": 3.0}, {"CPU": 1.0, "GPU": 2.0}]

    def fitted(device=None, **options):
        found = Workers(**options).allocate(nodes, device)
        return found.number, found.gpus

    assert fitted() == (4, 1)  # a CPU each
    assert fitted("cpu") == (5, 0)
    assert fitted(gpus=0.5) == (5, 0.5)
    assert fitted(gpus=2) == (2, 2)
    assert fitted(number=9, gpus=0) == (5, 0)
    assert fitted(number=3, gpus=0) == (3, 0)
    with pytest.raises(UserError, match="No node .* has 4 GPUs and a CPU"):
        Workers(gpus=4).allocate(nodes, None)
    with pytest.raises(UserError, match="No node .* has 1 GPUs"):
        Workers(gpus=1).allocate([{"CPU": 2.0}], None)


@pytest.mark.parametrize("installed", [None, "2.6.3"])
def test_ray_absent_or_too_old(tmp_path, job, encoder, installed, monkeypatch, capsys):
    import importlib.metadata as metadata

    original = metadata.version

    def version(name):
        if name == "ray" and installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed if name == "ray" else original(name)

    monkeypatch.setattr(metadata, "version", version)
    path = job().item_file
    options = ["encode", f"--items={path}", f"--encoder={encoder}", f"--out={tmp_path / 'out'}"]
    assert command([*options, "--ray"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    wanted = "ray 2.6.3 is too old" if installed else "ray, which is not installed"
    assert wanted in error and "pip install 'recbole-llmemb[ray]'" in error


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://far:10001", "from outside of the cluster"),
        ("127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1 cannot be reached"),
    ],
)
def test_no_cluster_at_the_address(monkeypatch, address, message):
    from recbole_llmemb.core import devices

    class FakeRay:
        def is_initialized(self):
            return False

        def init(self, **options):
            assert options["address"] == address and "num_cpus" not in options
            raise ConnectionError("nobody\nthere")

        def shutdown(self):
            pass

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(UserError, match=message), devices.connected(FakeRay()):
        pass


def test_local_encoding_does_not_import_ray(tmp_path, job, encoder):
    items = job().item_file
    script = (
        "import sys; from recbole_llmemb.cli.main import main; assert main(sys.argv[1:]) == 0;"
        "import json; print(json.dumps([m for m in sys.modules if m.partition('.')[0] == 'ray']))"
    )
    options = [f"--items={items}", f"--encoder={encoder}", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-c", script, "encode", *options],
        env=child_env(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert EmbeddingTable.load(tmp_path / "out").width == 16
