"""Training: interrupted and continued, its checkpoints, its groups, its refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import child_env

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.core import checkpoint  # isort: skip
from recbole_llmemb.cli.main import main  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.evaluation import Groups  # isort: skip
from recbole_llmemb.run.stages import train_and_evaluate  # isort: skip
from recbole_llmemb.table import EmbeddingTable  # isort: skip
from recbole_llmemb.training import LLMEmbTrainer  # isort: skip

MODELS = ["LLMEmbSASRec", "LLMEmbGRU4Rec", "LLMEmbBERT4Rec"]
RANDOM = {
    "epochs": 4,
    "hidden_dropout_prob": 0.3,
    "attn_dropout_prob": 0.2,
    "dropout_prob": 0.3,
    "learning_rate": 0.02,
}


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def whole_run(tiny_run):
    """Train and test as ``run`` does; optionally stop when an epoch is to begin."""

    def run(name="LLMEmbSASRec", stop_before=None, **settings):
        config, data, model, trainer = tiny_run(name, **{**RANDOM, **settings})
        train_epoch = trainer._train_epoch

        def until(loader, epoch, *args, **kwargs):
            if epoch == stop_before:
                raise Interrupted
            return train_epoch(loader, epoch, *args, **kwargs)

        trainer._train_epoch = until
        lines = []
        outcome = train_and_evaluate(config, data, model, trainer, report=lines.append)
        weights = checkpoint.load(outcome.checkpoint)["state_dict"]
        return outcome, weights, trainer, lines

    return run


def assert_same_outcome(one, other):
    for field in ("best_valid_result", "test_result", "valid_groups", "groups", "epochs"):
        assert getattr(one, field) == getattr(other, field), field


@pytest.mark.parametrize("settings", [{}, {"train_mode": "prefix"}, {"loss_type": "CE"}], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_continued_to_the_same_result(whole_run, name, settings):
    expected, weights, trainer, lines = whole_run(name, **settings)
    assert not lines and expected.epochs == 4
    history = trainer.history
    assert not os.path.exists(trainer.resume_file)
    os.unlink(expected.checkpoint)
    with pytest.raises(Interrupted):
        whole_run(name, stop_before=2, **settings)
    assert os.path.exists(trainer.resume_file)
    found, resumed, trainer, lines = whole_run(name, **settings)
    assert lines == ["train: an interrupted run is there; continuing from epoch 2"]
    assert_same_outcome(found, expected)
    assert trainer.history == history  # the losses of all epochs, not only the best weights
    assert resumed.keys() == weights.keys()
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)
    assert not os.path.exists(trainer.resume_file)


def test_interrupted_twice_and_with_alignment(whole_run):
    settings = {"align_weight": 0.05, "eval_args": {"mode": "uni5", "order": "TO",
                "split": {"LS": "valid_and_test"}, "group_by": "user"}}  # fmt: skip
    expected, weights, *_ = whole_run(**settings)
    for epoch in (1, 3):
        with pytest.raises(Interrupted):
            whole_run(stop_before=epoch, **settings)
    found, resumed, trainer, lines = whole_run(**settings)
    assert lines[0].endswith("continuing from epoch 3")
    assert_same_outcome(found, expected)
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)
    assert [entry["epoch"] for entry in trainer.history] == [0, 1, 2, 3]
    assert len(trainer.epoch_seconds) == 4


@pytest.mark.parametrize("settings", [{}, {"stopping_step": 1, "epochs": 9}])
def test_interrupted_between_training_and_test(whole_run, settings, monkeypatch):
    """Nothing is trained again, whether all epochs are done or stopping came early."""
    valid_epoch = LLMEmbTrainer._valid_epoch

    def worse_each_time(self, *args, **kwargs):
        return -len(self.history), valid_epoch(self, *args, **kwargs)[1]

    if settings:  # what would stop a real training early differs between machines
        monkeypatch.setattr(LLMEmbTrainer, "_valid_epoch", worse_each_time)
    expected, weights, trainer, _ = whole_run(**settings)
    stopped_early = trainer.cur_step > trainer.stopping_step
    assert stopped_early == bool(settings) and (expected.epochs < 9)
    evaluate = LLMEmbTrainer.evaluate

    def fails_on_test(self, data, load_best_model=True, **kwargs):
        if load_best_model:
            raise Interrupted
        return evaluate(self, data, load_best_model=load_best_model, **kwargs)

    monkeypatch.setattr(LLMEmbTrainer, "evaluate", fails_on_test)
    with pytest.raises(Interrupted):
        whole_run(**settings)
    monkeypatch.setattr(LLMEmbTrainer, "evaluate", evaluate)
    found, resumed, _, lines = whole_run(stop_before=expected.epochs, **settings)
    assert lines
    assert_same_outcome(found, expected)
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


def test_a_test_that_was_interrupted_reads_the_training_data_again(whole_run, monkeypatch):
    settings = {"metrics": ["NDCG", "ItemCoverage", "AveragePopularity"], "epochs": 2}
    expected, *_ = whole_run(**settings)
    with monkeypatch.context() as patched:
        patched.setattr(LLMEmbTrainer, "evaluate_per_row", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            whole_run(**settings)
    found, *_, lines = whole_run(**settings)
    assert lines and found.test_result == expected.test_result


def test_the_best_checkpoint_knows_what_made_it_the_best(whole_run):
    """And training continues from it, too, in a trainer of its own as in the docs."""
    settings = {"epochs": 6, "stopping_step": 5}
    outcome, weights, trainer, _ = whole_run(**settings)
    state = checkpoint.load(outcome.checkpoint)
    assert state["best_valid_result"] == outcome.best_valid_result
    assert state["best_valid_groups"] == outcome.valid_groups
    assert state["history"] == trainer.history[: state["epoch"] + 1]
    assert state["best_valid_score"] == outcome.best_valid_result["ndcg@10"]
    assert 0 < state["epoch"] < 5  # so that nothing after it is better


@pytest.mark.parametrize("where", ["best", "resume"])
def test_continued_as_the_docs_do(whole_run, tiny_run, where):
    settings = {"epochs": 6, "stopping_step": 5}
    expected, weights, trainer, _ = whole_run(**settings)
    file = expected.checkpoint
    if where == "resume":
        with pytest.raises(Interrupted):
            whole_run(stop_before=checkpoint.load(file)["epoch"] + 1, **settings)
        file = trainer.resume_file
    _, data, model, trainer = tiny_run(**{**RANDOM, **settings})
    trainer.saved_model_file = "saved/again.pth"
    trainer.resume_checkpoint(file)
    score, result = trainer.fit(data.train, data.valid)
    assert result == expected.best_valid_result and score == result["ndcg@10"]
    assert trainer.best_valid_groups == expected.valid_groups
    assert [entry["epoch"] for entry in trainer.history] == list(range(6))
    assert dict(trainer.evaluate(data.test)) == expected.test_result
    kept = checkpoint.load("saved/again.pth")["state_dict"]
    assert all(torch.equal(kept[key], weights[key]) for key in weights)


def test_the_teachers_curves_are_not_the_runs(tiny_run, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    own = {"align_weight": 0.1, "align_teacher_config": {"epochs": 4}, "epochs": 2}
    config, data, model, trainer = tiny_run("LLMEmbSASRec", **own)
    train_and_evaluate(config, data, model, trainer)
    found = {}
    for folder in (tmp_path / "log_tensorboard").iterdir():
        curves = EventAccumulator(str(folder)).Reload()
        if curves.Tags()["scalars"]:
            found[len(curves.Scalars("Vaild_score"))] = folder.name
    assert set(found) == {2, 4}
    assert found[4].endswith("-LLMEmbSASRec") and found[2] != found[4]


@pytest.mark.parametrize("changed", ["llm_table", "align_teacher"])
def test_not_continued_over_another_table_or_teacher(whole_run, tiny, tiny_table, changed):
    teacher = Path("teacher.pth")
    rows = torch.randn(len(tiny.items) + 1, 8) / 10
    tokens = ["[PAD]", *tiny.items]
    state = {"state_dict": {"item_embedding.weight": rows}, "item_tokens": tokens}
    checkpoint.save(state, teacher)
    shutil.copytree(tiny_table, "table")
    settings = {"llm_table": "table", "align_weight": 0.05, "align_teacher": str(teacher)}
    settings["align_teacher_unchecked"] = True
    with pytest.raises(Interrupted):
        whole_run(stop_before=2, **settings)
    table = EmbeddingTable.load("table")
    for times, told in ((2, f"another {changed}"), (1, "continuing from epoch 2")):
        if changed == "llm_table":
            other = EmbeddingTable(table.tokens, table.vectors * times, {})
            other.save("table", overwrite=True)
        else:
            state["state_dict"]["item_embedding.weight"] = rows * times
            checkpoint.save(state, teacher)
        (line,) = whole_run(**settings)[3]  # beside the first; and on, as what it read is back
        assert told in line


def test_other_settings_are_another_run(whole_run):
    with pytest.raises(Interrupted):
        whole_run(stop_before=2)
    for change in ({"learning_rate": 0.01}, {"seed": 1}, {"MAX_ITEM_LIST_LENGTH": 8}):
        assert not whole_run(**change)[3]
    assert whole_run(show_progress=True)[3]  # but this changes nothing


def test_killed_process_is_continued(tiny_settings, tmp_path, capsys):
    """SIGKILL in the third epoch, then the same command."""
    settings = tiny_settings("LLMEmbSASRec", epochs=4, hidden_dropout_prob=0.3, learning_rate=0.02)
    settings.pop("gpu_id")
    arguments = ["--model=LLMEmbSASRec", "--dataset=tiny"]
    arguments += [f"--{key}={value}" for key, value in settings.items()]
    killing = f"""
import os, signal, sys
from recbole_llmemb.cli.main import main
from recbole_llmemb.training import LLMEmbTrainer
train_epoch = LLMEmbTrainer._train_epoch
def until(self, loader, epoch, *args, **kwargs):
    if epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_epoch(self, loader, epoch, *args, **kwargs)
LLMEmbTrainer._train_epoch = until
main({arguments!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", killing], cwd=tmp_path, env=child_env(), capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    outcomes = []
    for folder in ("saved", "elsewhere"):  # continued, and from the beginning
        file = tmp_path / f"{folder}.json"
        more = [f"--checkpoint_dir={folder}", f"--result_json={file}"]
        assert main([*arguments, *more]) == 0
        outcomes.append(json.loads(file.read_text()))
        for name in ("seconds", "checkpoint", "sha256"):  # the latter is of times, too
            assert outcomes[-1].pop(name)
        seconds = [row.pop("seconds") for row in outcomes[-1]["curve"]]
        assert len(seconds) == 4 and seconds == sorted(seconds)
        continued = "an interrupted run is there; continuing from" in capsys.readouterr().out
        assert continued == (folder == "saved")
    assert outcomes[0] == outcomes[1]


def test_checkpoint_is_plain_and_complete(whole_run):
    outcome, weights, *_ = whole_run()
    state = torch.load(outcome.checkpoint, weights_only=True)
    assert state["config"]["model"] == "LLMEmbSASRec"
    assert state["config"]["llm_table_used"]["fingerprint"]
    assert state["item_tokens"][0] == "[PAD]" and len(state["item_tokens"]) == 61
    assert {"optimizer", "rng", "loader_rng", "epoch", "best_valid_result"} <= set(state)
    assert not any("table" in key for key in weights)  # it is named, not copied


def test_checkpoints_that_do_not_fit(tiny_run, whole_run, tmp_path):
    outcome, *_ = whole_run()
    for settings, match in (
        ({"name": "LLMEmbGRU4Rec"}, "of model LLMEmbSASRec, not LLMEmbGRU4Rec"),
        ({"hidden_size": 16}, "does not fit this configuration"),
        ({"n_layers": 2}, "does not fit this configuration"),
    ):
        name = settings.pop("name", "LLMEmbSASRec")
        *_, trainer = tiny_run(name, **settings)
        with pytest.raises(UserError, match=match) as caught:
            trainer.resume_checkpoint(outcome.checkpoint)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no checkpoint at"):
        trainer.resume_checkpoint(tmp_path / "none.pth")


def test_parts_of_the_loss_have_names(tiny_run, tiny_table):
    _, data, model, trainer = tiny_run("LLMEmbSASRec", item_embedding="residual", offset_decay=0.1,
                                       epochs=1)  # fmt: skip
    losses = trainer._train_epoch(data.train, 0)
    line = trainer._generate_train_loss_output(0, 0.0, 1.0, losses)
    assert len(losses) == 2 and "train_loss" not in line
    assert all(f"{name} loss" in line for name in ("recommendation", "offsets"))
    told = {}
    trainer.tensorboard.add_scalar = lambda tag, value, epoch: told.update({tag: value})
    trainer._add_train_loss_to_tensorboard(0, losses)
    assert told == dict(zip(["Loss/Train recommendation", "Loss/Train offsets"], losses))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_no_number(tiny_run, bad):
    _, data, model, trainer = tiny_run()
    with torch.no_grad():
        model.item_embedding.adapter.up.bias.fill_(bad)
    with pytest.raises(UserError, match="no longer a number in epoch 0; lower learning_rate"):
        trainer.fit(data.train, data.valid)


@pytest.mark.parametrize("mode", ["full", "uni5", "uni100", "pop20"])
@pytest.mark.parametrize("name", MODELS)
def test_groups_add_up(tiny_run, name, mode):
    """Overall is the mean of tail and head, and of short and long, by their rows."""
    eval_args = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    _, data, _, trainer = tiny_run(
        name, eval_args={**eval_args, "mode": mode}, tail_item_threshold=3, short_user_threshold=4
    )
    trainer.fit(data.train, data.valid)
    overall = trainer.evaluate(data.test)
    groups = trainer.groups_of_last_evaluation
    for some, rest in (("tail_items", "head_items"), ("short_users", "long_users")):
        some, rest = groups[some], groups[rest]
        assert some["users"] > 0 < rest["users"]
        assert some["users"] + rest["users"] == len(data.test._dataset) == 30
        for metric, value in overall.items():
            both = some["users"] * some[metric] + rest["users"] * rest[metric]
            assert both / 30 == pytest.approx(value, abs=1e-7)


def test_groups_of_validation_are_the_best_epochs(tiny_run):
    _, data, _, trainer = tiny_run(epochs=8, learning_rate=0.3, stopping_step=20)
    seen = {}
    trainer.fit(
        data.train,
        data.valid,
        callback_fn=lambda epoch, score: seen.update({epoch: trainer.groups_of_last_evaluation}),
    )
    scores = {entry["epoch"]: entry["valid_score"] for entry in trainer.history}
    best = max(scores, key=scores.get)
    assert best < 7 and seen[best] != seen[7]
    assert trainer.best_valid_groups == seen[best]
    trainer.evaluate(data.valid)  # loads the best
    assert trainer.groups_of_last_evaluation == seen[best]
    assert checkpoint.load(trainer.saved_model_file)["epoch"] == best


def test_group_borders_are_of_training_interactions(tiny_run, tiny):
    _, data, _, trainer = tiny_run(epochs=1, tail_item_threshold=0.8, short_user_threshold=5)
    trainer.fit(data.train, data.valid)
    groups = trainer.evaluator.groups
    assert isinstance(groups, Groups) and int(groups.tail[1:].sum()) == 48
    tokens = data.dataset.field2id_token["user_id"]
    for token, short in zip(tokens[1:], groups.short[1:].tolist()):
        count = len(tiny.sequences[str(token)])
        assert short == (count - min(2, max(count - 2, 0)) < 5)


@pytest.mark.parametrize("loss_type", ["CE", "BPR", "BCE"])
@pytest.mark.parametrize("name", MODELS)
def test_half_precision(tiny_run, name, loss_type):
    """bfloat16 on the CPU: nearly the same losses, weights in float32."""
    losses = []
    for enable_amp in (False, True):
        _, data, model, trainer = tiny_run(name, enable_amp=enable_amp, loss_type=loss_type)
        losses.append([trainer._train_epoch(data.train, epoch) for epoch in range(3)])
        trainer.evaluate(data.valid, load_best_model=False)
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[0] != losses[1]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_settings_of_recboles_trainer(tiny_run):
    for settings in (
        {"learner": "sgd", "learning_rate": 0.5},
        {"learner": "adamw", "weight_decay": 0.1},
        {"clip_grad_norm": {"max_norm": 1e-3}},
        {"eval_step": 3, "epochs": 6},
        {"train_batch_size": 1000, "eval_batch_size": 1},
    ):
        _, data, _, trainer = tiny_run(**settings)
        trainer.fit(data.train, data.valid)
        assert trainer.evaluate(data.test)
    assert LLMEmbTrainer.__name__ == type(trainer).__name__


def test_betas_of_adam(tiny_run):
    """Two steps by hand, from the same gradients."""
    config, data, model, trainer = tiny_run(adam_betas=[0.5, 0.25], learning_rate=0.1)
    (weight,) = (p for n, p in model.named_parameters() if n == "item_embedding.adapter.up.bias")
    expected, first, second = weight.detach().clone(), 0.0, 0.0
    batches = iter(data.train)
    for step in (1, 2):
        batch = next(batches)
        model.zero_grad()
        sum(model.loss_terms(batch).values()).backward()
        first = 0.5 * first + 0.5 * weight.grad
        second = 0.25 * second + 0.75 * weight.grad**2
        move = (first / (1 - 0.5**step)) / ((second / (1 - 0.25**step)).sqrt() + 1e-8)
        expected = expected - 0.1 * move
        trainer.optimizer.step()
        torch.testing.assert_close(weight.detach(), expected)


def test_the_learning_rate_falls_after_each_epoch(tiny_run):
    rates = {"learning_rate": 0.5, "learning_rate_decay": 0.1, "item_learning_rate": 4.0}
    _, data, _, trainer = tiny_run(item_embedding="residual", **rates, epochs=3)
    seen = []
    trainer.optimizer.register_step_post_hook(
        lambda used, *_: seen.append([group["lr"] for group in used.param_groups])
    )
    trainer.fit(data.train, data.valid)
    steps = len(seen) // 3
    for epoch, factor in enumerate((1, 0.1, 0.01)):
        assert seen[epoch * steps] == pytest.approx([0.5 * factor, 4.0 * factor])


def test_nothing_to_train_on(tiny_data, tiny_run):
    _, data, _, trainer = tiny_run()
    for sampled, key in ((None, None), (3, "user_sample")):
        trainer.config["user_sample"] = sampled
        with pytest.raises(UserError, match="nothing to train on") as caught:
            trainer._train_epoch(type("Loader", (list,), {})(), 0)
        assert caught.value.key == key


def test_begins_anew_from_what_is_whole(whole_run):
    """A halved or flipped resume file is named; the best checkpoint takes its place, or nothing."""
    expected, weights, trainer, _ = whole_run()
    best, last = Path(expected.checkpoint), Path(trainer.resume_file)
    ways = {
        "halved": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        "flipped": flip,
        "emptied": lambda file: file.write_bytes(b""),
    }
    for damaged in ((last,), (best,), (last, best)):
        for way, damage in ways.items():
            best.unlink(missing_ok=True)
            with pytest.raises(Interrupted):
                whole_run(stop_before=2)
            for file in damaged:
                damage(file)
            found, resumed, trainer, lines = whole_run()
            assert_same_outcome(found, expected)
            assert all(torch.equal(resumed[key], weights[key]) for key in weights), way
            assert all(any(str(file) in line for line in lines) for file in damaged), (way, lines)
            continues = any("continuing from epoch" in line for line in lines)
            assert continues or best in damaged
            assert not last.exists()


@pytest.mark.parametrize("swapped", ["last", "best"])
def test_what_another_run_has_left_in_its_place_is_not_used(whole_run, swapped):
    expected, weights, trainer, _ = whole_run()
    files = {"best": Path(expected.checkpoint), "last": Path(trainer.resume_file)}
    for file in files.values():
        file.unlink(missing_ok=True)
    with pytest.raises(Interrupted):
        whole_run(stop_before=2)
    state = checkpoint.load(files[swapped])
    assert state["run_key"]
    checkpoint.save(state | {"run_key": "another"}, files[swapped])
    found, resumed, _, lines = whole_run()
    assert_same_outcome(found, expected)
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)
    assert any(str(files[swapped]) in line for line in lines)


def test_a_best_checkpoint_that_is_gone_is_written_as_it_was(whole_run):
    """Its random numbers, too, are those of its validation and not of the time it is written."""
    expected, _, trainer, _ = whole_run()
    best, last = Path(expected.checkpoint), Path(trainer.resume_file)
    best.unlink()
    with pytest.raises(Interrupted):
        whole_run(stop_before=1)
    kept = checkpoint.load(last)
    assert kept["cur_step"] == 0
    best.unlink()
    with pytest.raises(Interrupted):
        whole_run(stop_before=1)
    found = checkpoint.load(best)
    assert torch.equal(found["rng"]["torch"], kept["rng"]["torch"])
    assert torch.equal(found["loader_rng"], kept["loader_rng"])


def middle(file):
    """Where the largest part of an archive has its middle byte."""
    with zipfile.ZipFile(file) as archive:
        part = archive.read(max(archive.infolist(), key=lambda one: one.file_size))
    return file.read_bytes().index(part) + len(part) // 2


def flip(file):
    content = bytearray(file.read_bytes())
    content[middle(file)] ^= 1
    file.write_bytes(content)


def test_a_flipped_checkpoint_is_not_believed(whole_run):
    outcome, *_ = whole_run(epochs=1)
    file = Path(outcome.checkpoint)
    assert checkpoint.is_whole(file)
    content = file.read_bytes()
    size = content.index(b"PK\x01\x02") + 21  # in the archive's list of contents
    for place in (middle(file), size):
        damaged = bytearray(content)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        assert not checkpoint.is_whole(file)
        with pytest.raises(UserError) as refused:
            checkpoint.load(file)
        assert refused.value.where == str(file)
