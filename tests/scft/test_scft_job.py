"""Fine-tuning from an item file to an adapter: the job, its cache, its interruptions."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from encode_models import write_dataset
from safetensors.torch import load_file
from scft_data import item_file, settings

pytest.importorskip("peft")
pytest.importorskip("datasets")

from recbole_llmemb.core.errors import DamagedError, UserError  # noqa: E402
from recbole_llmemb.core.files import sealed  # noqa: E402
from recbole_llmemb.encode.adapters import find_adapter  # noqa: E402
from recbole_llmemb.encode.encoder import load_pipeline  # noqa: E402
from recbole_llmemb.encode.source import find_encoder  # noqa: E402
from recbole_llmemb.scft import job_from_config, run_job  # noqa: E402
from recbole_llmemb.scft.trainer import ScftTrainer, last_checkpoint  # noqa: E402


@pytest.fixture
def run(tmp_path):
    """``run(out, **changes)``: fine-tune, give the result and the lines reported."""

    def run(out="out", overwrite=False, resume=True, learning_rate=None, **changes):
        lines = []
        job = job_from_config(settings(tmp_path, **changes))
        if learning_rate is not None:  # beyond what a configuration may ask for
            job.settings = job.settings.model_copy(update={"scft_learning_rate": learning_rate})
        result = run_job(job, tmp_path / out, overwrite, resume, lines.append)
        return result, lines

    return run


def weights(result):
    return load_file(result.path / "adapter_model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["bert", "llama", "qwen2"])
@pytest.mark.parametrize("loss", ["soft", "infonce"])
def test_adapter_is_a_standard_one(run, tmp_path, kind, loss):
    from peft import PeftModel
    from transformers import AutoModel

    result, lines = run(kind=kind, scft_loss=loss)
    assert sorted(p.name for p in result.path.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "scft.json",
    ]  # fmt: skip
    assert any(value.abs().sum() > 0 for name, value in weights(result).items() if "lora_B" in name)

    # Two other ways to read it, which agree with each other and not with the bare model.
    base = str(tmp_path / f"encoder-{kind}")
    plain = load_pipeline(find_encoder(base)).eval()
    tokens = plain.preprocess(["red soap", "blue gel one"])
    want = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        without = AutoModel.from_pretrained(base).eval()(**want).last_hidden_state
        inner = PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(result.path)).eval()
        states = inner(**want).last_hidden_state
        plain.load_adapter(str(result.path))
        vectors = plain(dict(tokens))["sentence_embedding"]
    mask = want["attention_mask"].unsqueeze(-1)
    assert (states - without).abs().max() > 1e-3
    torch.testing.assert_close(vectors, (states * mask).sum(1) / mask.sum(1), rtol=1e-4, atol=1e-5)


def test_manifest_and_report(run, tmp_path):
    result, lines = run()
    kept = json.loads((result.path / "scft.json").read_text())
    assert kept == sealed(result.manifest) and not result.cache_hit
    assert kept["pooling"] == "mean" and kept["fields"] == ["title", "brand", "class"]
    assert kept["prompt"].strip() == "The item has the following attributes:"
    assert kept["items"] == {"train": 32, "held_out": 8} and kept["steps"] == 6
    for measures in (kept["before"], kept["after"]):
        assert 0 <= measures["top1"] <= 1 and set(measures) == {"top1", "alignment", "uniformity"}
    assert kept["before"] != kept["after"] and kept["final_temperature"] != 3.0
    text = "\n".join(lines)
    assert "scft: training" in text and "scft: step 4, loss " in text and "other view found" in text
    logs = list((Path.cwd() / "log_tensorboard").glob("scft-out-*/events*"))
    assert logs and logs[0].stat().st_size > 500
    assert not list(tmp_path.glob(".out.work-*"))


def test_training_helps(run):
    """On random weights: the loss falls, and held-out items tell apart better."""
    result, lines = run(
        kind="qwen2",
        scft_steps=80,
        scft_save_steps=20,
        scft_learning_rate=0.005,
        scft_loss="infonce",
        scft_drop_ratio=0.0,
    )
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines if "loss " in line]
    assert losses[-1] < losses[0] - 0.1
    before, after = result.manifest["before"], result.manifest["after"]
    assert after["top1"] > before["top1"] and after["uniformity"] < before["uniformity"]


def test_second_call_finds_it(run):
    first, _ = run()
    second, lines = run()
    assert second.cache_hit and second.manifest == first.manifest
    assert len(lines) == 1 and lines[0].startswith("scft: cache hit")
    with pytest.raises(UserError, match="already holds an adapter.*--overwrite"):
        run(scft_seed=1)
    third, _ = run(scft_seed=1, overwrite=True)
    assert not third.cache_hit and third.manifest["seed"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"scft_loss": "infonce"},
        {"scft_seed": 1},
        {"scft_steps": 7},
        {"scft_drop_ratio": 0.2},
        {"scft_lora_rank": 4},
        {"item_prompt": "Else:"},
        {"item_text_fields": ["title", "brand"]},
        {"llm_pooling": "last"},
        {"kind": "llama"},
    ],
)
def test_key_has_all_that_matters(tmp_path, change):
    known = job_from_config(settings(tmp_path)).key
    assert job_from_config(settings(tmp_path)).key == known
    assert job_from_config(settings(tmp_path, **change)).key != known


def test_key_has_nothing_else(tmp_path):
    known = job_from_config(settings(tmp_path)).key
    for change in ({"scft_save_steps": 3}, {"llm_batch_size": 7}, {"scft_mini_batch_size": 4}):
        assert job_from_config(settings(tmp_path, **change)).key == known
    several = job_from_config(settings(tmp_path))
    several.processes.count = 2
    assert several.key != known


def stop_at(monkeypatch, step):
    """Die in the middle of the training, as if killed."""

    class Killed(BaseException):
        pass

    original = ScftTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == step:
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ScftTrainer, "training_step", training_step)
    return Killed


@pytest.mark.parametrize(("step", "changes"), [(3, {}), (11, {}), (5, {"scft_mini_batch_size": 5})])
def test_interrupted_and_continued_gives_the_same_adapter(run, monkeypatch, step, changes):
    """In the first epoch of four steps, in the second and in the third."""
    changes = {"scft_steps": 13, **changes}
    whole, _ = run("whole", **changes)
    with monkeypatch.context() as patch:
        killed = stop_at(patch, step)
        with pytest.raises(killed):
            run("cut", **changes)
    assert not (whole.path.parent / "cut").exists()
    result, lines = run("cut", **changes)
    assert f"scft: continues after step {step - step % 2}" in lines
    assert equal(weights(result), weights(whole))
    assert result.manifest["final_temperature"] == whole.manifest["final_temperature"]
    assert result.manifest["after"] == whole.manifest["after"]


def test_texts_that_are_cut_before_they_differ_are_refused(run):
    with pytest.raises(UserError) as refused:
        run(llm_max_length=3)
    assert refused.value.key == "llm_max_length"


def test_a_full_disk_is_told_with_the_folder(run, monkeypatch, tmp_path):
    """As PyTorch says it, which names no file; the same command goes on where there is room."""
    full = RuntimeError("PytorchStreamWriter failed writing file: iostream error")
    with monkeypatch.context() as patch:
        patch.setattr("torch.save", lambda *args, **kwargs: (_ for _ in ()).throw(full))
        with pytest.raises(UserError) as refused:
            run()
    (work,) = tmp_path.glob(".out.work-*")
    assert refused.value.where == str(work) and str(work) in str(refused.value)
    run()


def test_no_resume_begins_again(run, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(stop_at(patch, 3)):
        run()
    _, lines = run(resume=False)
    assert not [line for line in lines if "continues" in line]


def test_half_a_checkpoint_is_not_taken(run, monkeypatch, tmp_path):
    whole, _ = run("whole")
    with monkeypatch.context() as patch, pytest.raises(stop_at(patch, 5)):
        run()
    (work,) = tmp_path.glob(".out.work-*")
    assert last_checkpoint(work).endswith("checkpoint-4")
    (work / "checkpoint-4" / "whole").unlink()
    (work / "checkpoint-4" / "optimizer.pt").write_bytes(b"half")
    result, lines = run()
    assert "scft: continues after step 2" in lines
    assert equal(weights(result), weights(whole))


def test_killed_before_publication(run, monkeypatch):
    """All steps done, nothing published: not one step more is trained."""
    from recbole_llmemb.scft import job as module

    whole, _ = run("whole")

    def full(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(module, "atomic_directory", full)
        with pytest.raises(OSError, match="disk full"):
            run()
    result, _ = run()
    assert equal(weights(result), weights(whole))


def test_checkpoints_are_small_and_read_without_pickles(run, monkeypatch, tmp_path):
    loads = []
    original = torch.load

    def load(*args, **kwargs):
        loads.append(kwargs.get("weights_only"))
        return original(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(stop_at(patch, 5)):
        run()
    (work,) = tmp_path.glob(".out.work-*")
    names = {path.name for path in Path(last_checkpoint(work)).iterdir()}
    assert names == {
        "trained.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth",
        "trainer_state.json", "whole",
    }  # fmt: skip
    assert len(list(work.glob("checkpoint-*"))) == 2
    monkeypatch.setattr(torch, "load", load)
    run()
    assert len(loads) == 3 and all(loads)


@pytest.mark.parametrize("file", ["trained.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_damaged_checkpoint_is_named_and_passed_over(run, monkeypatch, tmp_path, file):
    whole, _ = run("whole")
    with monkeypatch.context() as patch, pytest.raises(stop_at(patch, 5)):
        run()
    (work,) = tmp_path.glob(".out.work-*")
    flip(Path(last_checkpoint(work)) / file)
    result, lines = run()
    assert any(file in line for line in lines) and "scft: continues after step 2" in lines
    assert equal(weights(result), weights(whole))


def test_a_checkpoint_of_another_job_is_passed_over(run, monkeypatch, tmp_path):
    whole, _ = run("whole")
    for name, seed in (("other", 9), ("out", None)):
        changes = {} if seed is None else {"scft_seed": seed}
        with monkeypatch.context() as patch, pytest.raises(stop_at(patch, 5)):
            run(name, **changes)
    (other,), (work,) = tmp_path.glob(".other.work-*"), tmp_path.glob(".out.work-*")
    shutil.rmtree(work / "checkpoint-4")
    shutil.copytree(other / "checkpoint-4", work / "checkpoint-4")
    result, lines = run()
    assert any("checkpoint-4" in line for line in lines)
    assert "scft: continues after step 2" in lines
    assert equal(weights(result), weights(whole))


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_adapter_is_not_found(run, tmp_path, file):
    result, _ = run()
    before = {name: value.clone() for name, value in weights(result).items()}
    flip(result.path / file)
    with pytest.raises(DamagedError) as refused:
        find_adapter(result.path)
    assert refused.value.where == str(result.path / file)
    with pytest.raises(UserError, match="already holds an adapter.*--overwrite"):
        run()
    again, lines = run(overwrite=True)
    assert not again.cache_hit and equal(weights(again), before)
    assert any(str(result.path) in line and "damaged" in line for line in lines)
    half = (result.path / file).stat().st_size // 2
    (result.path / file).write_bytes((result.path / file).read_bytes()[:half])
    assert not run(overwrite=True)[0].cache_hit and run()[0].cache_hit


def flip(file):
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


def test_nan_stops_and_keeps_the_last_good_checkpoint(run, monkeypatch, tmp_path):
    from recbole_llmemb.scft.trainer import ViewLoss

    original = ViewLoss.compare
    calls = []

    def compare(self, vectors, order):
        calls.append(1)
        return original(self, vectors, order) * (float("nan") if len(calls) > 4 else 1)

    monkeypatch.setattr(ViewLoss, "compare", compare)
    with pytest.raises(UserError, match="diverged.*lower scft_learning_rate.*checkpoint-4"):
        run()
    (work,) = tmp_path.glob(".out.work-*")
    kept = load_file(Path(last_checkpoint(work)) / "trained.safetensors")
    assert all(bool(value.isfinite().all()) for value in kept.values())
    assert not (tmp_path / "out").exists()


def test_diverging_learning_rate(run):
    with pytest.raises(UserError, match="diverged: at step 6 .*there was no checkpoint yet"):
        run(learning_rate=1e30, scft_save_steps=6)


def test_views_are_new_in_every_epoch_and_orders_too(run, monkeypatch):
    from recbole_llmemb.scft.views import Views

    seen = {}
    original = Views.__call__

    def call(self, batch):
        seen.setdefault(self.epoch, []).append((list(batch["item"]), original(self, batch)))
        return original(self, batch)

    monkeypatch.setattr(Views, "__call__", call)
    run(scft_steps=10)
    assert set(seen) == {0, 1, 2} and [len(seen[e]) for e in (0, 1)] == [4, 4]
    orders = [[i for items, _ in seen[epoch] for i in items] for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(32)) and orders[0] != orders[1]
    texts = [dict(zip(items, views["view_a"])) for epoch in (0, 1) for items, views in seen[epoch]]
    first, second = (
        {k: v for part in half for k, v in part.items()} for half in (texts[:4], texts[4:])
    )
    assert sum(first[i] != second[i] for i in range(32)) > 16


def test_rng_of_a_run_is_left_as_it_was(run):
    run("first")  # makes the encoder, with a seed
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    assert not run("second")[0].cache_hit
    assert torch.equal(torch.rand(3), wanted)


def test_gradient_checkpointing_changes_nothing(run):
    plain, _ = run("plain")
    saved, lines = run("saved", scft_gradient_checkpointing=True)
    assert not saved.cache_hit
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(saved)[name], value, rtol=1e-3, atol=1e-5)


def test_bfloat16_on_the_cpu(run):
    result, _ = run(scft_precision="bfloat16")
    assert result.manifest["precision"] == "bfloat16"
    assert {value.dtype for value in weights(result).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_text_fields": ["title"]}, "two of title, so its two views"),
        ({"item_text_fields": ["plot"]}, "no field 'plot'"),
        ({"llm_encoder": "./gone"}, "no encoder directory ./gone"),
        ({"scft_lora_targets": ["q_proj"]}, "scft_lora_targets names 'q_proj'"),
        ({"scft_precision": "float16"}, "scft_precision is 'float16', in which no CPU"),
        ({"scft_quantize": 4}, "scft_quantize is set, which needs a GPU and bitsandbytes"),
        ({"llm_device": "cuda:3"}, "llm_device is 'cuda:3'.*CUDA_VISIBLE_DEVICES"),
        ({"scft_holdout": 0.99, "scft_batch_size": 2}, "leaves 1 item to train on"),
    ],
)
def test_user_errors(run, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(**changes)
    assert not (tmp_path / "out").exists()


def test_few_items_make_a_smaller_batch(run, tmp_path):
    result, _ = run(scft_batch_size=500)
    assert not result.cache_hit
    assert job_from_config(settings(tmp_path, scft_batch_size=500)).batch_per_process == 32


def test_nothing_held_out(run):
    result, lines = run(scft_holdout=0.0)
    assert result.manifest["before"] is None and result.manifest["items"]["held_out"] == 0


def test_missing_library_is_one_sentence(tmp_path, monkeypatch):
    import sys

    job = job_from_config(settings(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delitem(sys.modules, "recbole_llmemb.scft.training", raising=False)
    with pytest.raises(
        UserError, match=r"needs .*datasets.*pip install 'recbole-llmemb\[finetune\]'"
    ):
        run_job(job, tmp_path / "out", report=lambda line: None)


def test_items_without_text_are_left_out(tmp_path):
    config = settings(tmp_path)
    write_dataset(tmp_path, text=item_file(20) + "i90\t\t\t\ni91\tsoap\t\t\n")
    train, held = job_from_config(config).views
    sizes = {len(item) for item in train.items + held.items}
    assert 0 not in sizes and 1 in sizes
    shutil.rmtree(tmp_path / "tiny")
