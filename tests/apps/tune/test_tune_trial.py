"""A trial continues from its checkpoint to the result it would have had."""

from __future__ import annotations

import importlib
import shutil

import pytest

pytest.importorskip("ray.tune")

from ray import tune  # noqa: E402

from recbole_llmemb.apps.tune.plan import Metric  # noqa: E402
from recbole_llmemb.apps.tune.trial import BEST, EXTRA, STATE, TrialReporter, _is_whole  # noqa: E402
from recbole_llmemb.core import checkpoint  # noqa: E402
from recbole_llmemb.core.errors import UserError  # noqa: E402
from recbole_llmemb.run import stages  # noqa: E402

NDCG = Metric("ndcg@10", None, "max")


class _Killed(BaseException):
    pass


@pytest.fixture
def reported(monkeypatch, tmp_path):
    """What a trial reports, and its last checkpoint; ``reported.until`` epochs long."""

    class Reported(list):
        until = None
        folder = tmp_path / "kept"

    found = Reported()

    def report(metrics, checkpoint=None):
        found.append(metrics)
        if checkpoint is not None:
            shutil.rmtree(found.folder, ignore_errors=True)
            shutil.copytree(checkpoint.path, found.folder)
        if found.until == len(found):
            raise _Killed

    monkeypatch.setattr(tune, "report", report)
    return found


def trained(tiny_run, scratch, model, metric=NDCG, restore=None, **overrides):
    config, data, _, trainer = tiny_run(model, epochs=5, stopping_step=9, **overrides)
    scratch.mkdir(exist_ok=True)
    trainer.saved_model_file = str(scratch / BEST)
    watch = TrialReporter(trainer, data.train, metric, scratch)
    if restore is None or not watch.restore(restore):
        trainer.fit(data.train, data.valid, callback_fn=watch.after_validation)
    return watch


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("LLMEmbSASRec", {"hidden_dropout_prob": 0.3}),
        ("SASRec", {"hidden_dropout_prob": 0.3}),
        (
            "SASRec",
            {
                "loss_type": "BPR",
                "train_neg_sample_args": {
                    "distribution": "uniform",
                    "sample_num": 1,
                    "alpha": 1.0,
                    "dynamic": False,
                    "candidate_num": 0,
                },
            },
        ),
    ],
)
def test_a_killed_trial_ends_as_if_it_had_not_been(tiny_run, tmp_path, reported, model, overrides):
    trained(tiny_run, tmp_path / "a", model, **overrides)
    whole = list(reported)
    assert [one["epoch"] for one in whole] == [1, 2, 3, 4, 5]
    assert [one["ended"] for one in whole] == [False] * 4 + [True]

    reported.clear()
    reported.until = 3
    with pytest.raises(_Killed):
        trained(tiny_run, tmp_path / "b", model, **overrides)
    reported.until = None
    trained(tiny_run, tmp_path / "c", model, restore=reported.folder, **overrides)
    assert list(reported) == whole


def test_a_trial_that_had_ended_is_not_trained_on(tiny_run, tmp_path, reported):
    trained(tiny_run, tmp_path / "a", "LLMEmbSASRec")
    last = reported[-1]
    again = trained(tiny_run, tmp_path / "b", "LLMEmbSASRec", restore=reported.folder)
    assert len(reported) == 5 and again.last == last


def test_parts_of_two_epochs_are_no_checkpoint(tiny_run, tmp_path, reported):
    reported.until = 4
    with pytest.raises(_Killed):
        trained(tiny_run, tmp_path / "a", "LLMEmbSASRec")
    earlier, reported.folder = reported.folder, tmp_path / "later"
    reported.until = None
    trained(tiny_run, tmp_path / "b", "LLMEmbSASRec", restore=earlier)
    assert _is_whole(earlier, 0) and _is_whole(reported.folder, 0)
    shutil.copy(reported.folder / STATE, earlier)
    assert not _is_whole(earlier, 0)


def test_the_score_is_that_of_the_best_epoch(tiny_run, tmp_path, reported):
    trained(tiny_run, tmp_path / "a", "LLMEmbSASRec", learning_rate=0.05)
    scores = [one["ndcg@10"] for one in reported]
    assert len(set(scores)) > 1
    assert [one["score"] for one in reported] == [max(scores[: n + 1]) for n in range(5)]
    best = checkpoint.load(reported.folder / BEST)
    assert best["best_valid_score"] == max(scores)
    assert best["epoch"] + 1 == reported[-1]["best_epoch"]


def test_the_score_of_a_group_is_its_metric_at_the_best_epoch(tiny_run, tmp_path, reported):
    tail = Metric("tail_items ndcg@10", "tail_items", "max")
    watch = trained(tiny_run, tmp_path / "a", "LLMEmbSASRec", tail, learning_rate=0.05)
    at_best = reported[reported[-1]["best_epoch"] - 1]
    assert reported[-1]["score"] == at_best["tail_items ndcg@10"]
    assert reported[-1]["score"] == watch.trainer.best_valid_groups["tail_items"]["ndcg@10"]


def test_a_group_without_users_is_no_score(tiny_run, tmp_path, reported):
    tail = Metric("long_users ndcg@10", "long_users", "max")
    with pytest.raises(UserError, match="There is no long_users ndcg@10"):
        trained(tiny_run, tmp_path / "a", "LLMEmbSASRec", tail, short_user_threshold=1000)


def test_checkpoints_are_plain_data(tiny_run, tmp_path, reported):
    trained(tiny_run, tmp_path / "a", "SASRec")
    for name in (STATE, BEST, EXTRA):
        checkpoint.load(reported.folder / name)  # with weights_only=True


def test_a_loss_that_is_no_number_is_told(tiny_run, tmp_path, reported):
    _, data, _, trainer = tiny_run("LLMEmbSASRec", epochs=5)
    trainer.optimizer.param_groups[0]["lr"] = 1e30
    reporter = TrialReporter(trainer, data.train, NDCG, tmp_path)
    with pytest.raises(UserError, match="no longer a number"):
        trainer.fit(data.train, data.valid, callback_fn=reporter.after_validation)


def test_shared_data_train_to_the_same_numbers(tiny_run, tiny_config, tmp_path, reported):
    from recbole_llmemb.apps.tune.prepare import data_key, load_data, pack_data

    trained(tiny_run, tmp_path / "a", "LLMEmbSASRec")
    expected = list(reported)
    reported.clear()
    config = tiny_config(epochs=5, stopping_step=9)
    known = {data_key(config): pack_data(config, stages.prepare_data(config))}
    data = load_data(config, known)
    _, trainer = stages.build(config, data)
    trainer.saved_model_file = str(tmp_path / BEST)
    watch = TrialReporter(trainer, data.train, NDCG, tmp_path)
    trainer.fit(data.train, data.valid, callback_fn=watch.after_validation)
    assert list(reported) == expected


@pytest.mark.filterwarnings("ignore:recbole_llmemb")
def test_searches_that_earlier_versions_began_find_what_they_name():
    """Ray keeps a search by the names of our classes, as they were then."""
    optuna = pytest.importorskip("optuna")
    named = {
        "by_optuna": ("SpaceByOptuna", "_Suggest"),
        "plan": ("Metric",),
        "progress": ("Progress",),
        "space": ("Space", "Dimension"),
        "tuning": ("_folder_of",),
    }
    modules = {name: importlib.import_module(f"recbole_llmemb.tune.{name}") for name in named}
    for module, names in named.items():
        assert all(hasattr(modules[module], name) for name in names)
    kept = object.__new__(modules["space"].Dimension)  # as pickle makes it again
    kept.__dict__.update(key="n", kind="quniform", values=(2, 6, 2), when={})
    assert kept.suggest(optuna.trial.FixedTrial({"n": 1})) == 4
