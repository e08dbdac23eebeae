"""What a search does before it starts: its plan, its options, what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tune_settings import RATES, plan_of

from recbole_llmemb.apps.tune import SearchOptions
from recbole_llmemb.apps.tune.plan import Metric, make_plan
from recbole_llmemb.apps.tune.searching import Storage
from recbole_llmemb.apps.tune.space import read_space
from recbole_llmemb.cli.tune import _space, read_arguments
from recbole_llmemb.config.values import properties_folder
from recbole_llmemb.core.errors import UserError


def test_the_metric_is_what_early_stopping_watches(tiny_settings):
    plan, config = plan_of(tiny_settings, metric="Hit@5")
    assert plan.metric == Metric("hit@5", None, "max")
    assert plan.settings["valid_metric"] == "Hit@5" == config["valid_metric"]
    plan, config = plan_of(tiny_settings)
    assert plan.metric.name == "ndcg@10" and config["valid_metric"] == "NDCG@10"


def test_a_metric_of_a_group_leaves_early_stopping_alone(tiny_settings):
    plan, _ = plan_of(tiny_settings, metric="tail_items ndcg@10")
    assert plan.metric == Metric("tail_items ndcg@10", "tail_items", "max")
    assert plan.settings["valid_metric"] == "NDCG@10"


def test_where_less_is_better_the_search_minimizes(tiny_settings):
    settings = tiny_settings("LLMEmbSASRec", metrics=["NDCG", "GiniIndex"])
    plan, _ = make_plan("LLMEmbSASRec", "tiny", (), settings, read_space(RATES), "giniindex@10")
    assert plan.metric.mode == "min"
    # Whatever early stopping watches meanwhile.
    asked = "tail_items averagepopularity@10", "tail_items ndcg@10"
    watched = {"metrics": ["NDCG", "AveragePopularity"], "valid_metric": "NDCG@10"}
    for watched["valid_metric"] in ("NDCG@10", "AveragePopularity@10"):
        settings = tiny_settings("LLMEmbSASRec", **watched)
        plans = [make_plan("LLMEmbSASRec", "tiny", (), settings, None, one)[0] for one in asked]
        assert [plan.metric.mode for plan in plans] == ["min", "max"]


def test_the_cache_is_one_folder_for_all_trials(tiny_settings, tmp_path, monkeypatch):
    """Trials run in folders of their own; a cache that is not there yet is meant as well."""
    settings = tiny_settings("LLMEmbSASRec", llm_cache_dir="my_cache")
    plan, _ = make_plan("LLMEmbSASRec", "tiny", (), settings)
    assert plan.settings["llm_cache_dir"] == str(tmp_path / "my_cache")
    monkeypatch.setenv("RECBOLE_LLMEMB_CACHE", "another")
    settings["llm_cache_dir"] = None
    plan, _ = make_plan("LLMEmbSASRec", "tiny", (), settings)
    assert plan.settings["llm_cache_dir"] == str(tmp_path / "another")


@pytest.mark.parametrize(
    ("metric", "model", "message"),
    [
        ("recall@10", "LLMEmbSASRec", "'recall@10'; it must be one of hit@5"),
        ("ndcg@7", "LLMEmbSASRec", "'ndcg@7'; it must be one of"),
        ("rare_items ndcg@10", "LLMEmbSASRec", "group 'rare_items'; it must be one of tail_items"),
        ("tail_items ndcg@10", "SASRec", "RecBole's SASRec has no groups"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused(tiny_settings, metric, model, message):
    with pytest.raises(UserError, match=message):
        plan_of(tiny_settings, model=model, metric=metric)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning_rat": {"choice": [1]}}, "learning_rat is no configuration key of LLMEmbSASRec; "
         "did you mean learning_rate"),
        ({"hidden_size": {"choice": [8]}}, "hidden_size is both set and searched"),
        ({"dataset": {"choice": ["a"]}}, "dataset cannot be searched"),
        ({"checkpoint_dir": {"choice": ["a"]}}, "checkpoint_dir cannot be searched"),
        ({"holdout_items": {"choice": [0.1]}}, "holdout_items cannot be searched"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_searched_is_named(tiny_settings, space, message):
    with pytest.raises(UserError, match=message):
        plan_of(tiny_settings, space)


def test_how_scores_are_rounded_cannot_be_searched(tiny_settings):
    def settings(model):
        return {key: v for key, v in tiny_settings(model).items() if key != "metric_decimal_place"}

    with pytest.raises(UserError, match="metric_decimal_place cannot be searched"):
        plan_of(settings, {"metric_decimal_place": {"choice": [1, 4]}})


def test_trials_share_one_teacher_whatever_they_search(tiny_settings, tiny_config):
    """A teacher learns with the settings of its run: these stay those of the search."""
    from recbole_llmemb.config.recbole_config import make_config
    from recbole_llmemb.run.stages import run_key
    from recbole_llmemb.run.teacher import teacher_config

    settings = tiny_settings("LLMEmbSASRec", align_weight=0.1, learning_rate=0.005)
    del settings["learning_rate"]
    plan, config = make_plan("LLMEmbSASRec", "tiny", (), settings, read_space(RATES))
    assert plan.fixed_teacher_settings == {"epochs": 2, "learning_rate": 0.001}
    keys = set()
    for chosen in ({"learning_rate": 0.001}, {"learning_rate": 0.01}):
        one = make_config("LLMEmbSASRec", "tiny", overrides=plan.values(chosen))
        keys.add(run_key(teacher_config(one, 8)))
    keys.add(run_key(teacher_config(config, 8)))
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_samples", 0),
        ("max_concurrent", 1.5),
        ("gpus_per_trial", -1),
        ("scheduler", "hyperband"),
        ("search", "grid"),
        ("grace_epochs", 0),
        ("grace_epochs", "abc"),
        ("resume", "no"),
    ],
)
def test_wrong_options_are_named(option, value):
    with pytest.raises(UserError) as refused:
        SearchOptions(**{option: value})
    assert refused.value.key == option and str(value) in str(refused.value)


def test_options_of_a_search_are_told_from_keys_of_the_configuration():
    options, settings = read_arguments(
        ["--model=LLMEmbSASRec", "--space", "a.yaml", "--scheduler=none", "--name=2026", "--resume",
         "--gpus_per_trial=0.5", "--epochs", "5", "--seed=1", "--num_samples=3"]
    )  # fmt: skip
    assert options == {
        "model": "LLMEmbSASRec", "space": "a.yaml", "scheduler": "none", "name": "2026",
        "resume": True, "gpus_per_trial": 0.5, "num_samples": 3,
    }  # fmt: skip
    assert settings == {"epochs": 5, "seed": 1}


def test_a_space_of_ours_goes_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(_space("llmemb")).samefile(properties_folder() / "tune/llmemb.yaml")
    assert _space("gone.yaml") == "gone.yaml"  # which the search refuses
    Path("llmemb").write_text("n_layers: [1, 2]")  # a file of somebody's comes first
    assert _space("llmemb") == "llmemb"
    with pytest.raises(UserError) as refused:
        _space("llmenb")
    assert refused.value.key == "space"


@pytest.mark.parametrize(
    ("argument", "key"),
    [("--result_json=r.json", "result_json"), ("--num_samples=no", "num_samples"),
     ("--search=grid", "search")],
)  # fmt: skip
def test_what_a_search_does_not_do_is_refused(argument, key):
    with pytest.raises(UserError) as refused:
        read_arguments(["--model=LLMEmbSASRec", "--space=a.yaml", argument])
    assert refused.value.key == key


def test_trials_that_no_node_has_room_for_are_refused():
    """Ray would wait for such a node without end."""
    pytest.importorskip("ray.tune")
    from recbole_llmemb.apps.tune.searching import _require_room

    nodes = [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}]
    for fits in ((8, 0), (2, 1), (1, 0.5)):
        _require_room(nodes, *fits)
    for cpus, gpus in ((9, 0), (4, 1), (1, 2)):
        with pytest.raises(UserError, match=f"{cpus} CPUs and {gpus} GPUs, .* 2 CPUs and 1 G"):
            _require_room(nodes, cpus, gpus)


def test_a_search_over_changed_data_is_not_continued(tiny, tiny_settings, tmp_path):
    pytest.importorskip("ray.tune")
    from recbole_llmemb.apps.tune import search

    folder = tmp_path / "data" / "tiny"
    shutil.copytree(tiny.folder, folder)
    settings = tiny_settings("LLMEmbSASRec", data_path=str(folder.parent))
    for key in ("embedding_size", "num_layers", "dropout_prob"):
        settings.pop(key, None)
    begun = {"model": "LLMEmbSASRec", "space": read_space(RATES).plain()}
    Storage(str(tmp_path / "tune"), "one").write(begun | {"data": "another"})
    options = {"storage": tmp_path / "tune", "name": "one", "resume": True}
    settings.pop("learning_rate", None)
    with pytest.raises(UserError, match="begun with other data"):
        search("LLMEmbSASRec", "tiny", RATES, **options, **settings)
    Storage(str(tmp_path / "tune"), "two").write(begun | {"table": "another"})
    with pytest.raises(UserError, match="begun with other table"):
        search("LLMEmbSASRec", "tiny", RATES, **options | {"name": "two"}, **settings)
    Storage(str(tmp_path / "tune"), "three").write(begun | {"settings": {"mine": 3}})
    with pytest.raises(UserError, match="begun with other .*mine") as refused:
        search("LLMEmbSASRec", "tiny", RATES, **options | {"name": "three"}, **settings)
    assert refused.value.key == "name" and "settings" not in str(refused.value)


def test_a_search_that_cannot_go_on_is_told_to_begin(tiny, tiny_settings, tmp_path, monkeypatch):
    """As behind a wrong --name."""
    from recbole_llmemb.apps.tune import search, searching

    def stop(*_):
        raise UserError("far enough")

    monkeypatch.setattr(searching, "prepare", stop)
    settings, lines = tiny_settings("LLMEmbSASRec", data_path=str(tiny.folder.parent)), []
    settings.pop("learning_rate", None)
    options = {"storage": tmp_path / "tune", "name": "one", "report": lines.append}
    for resume in (False, True):
        with pytest.raises(UserError, match="far enough"):
            search("LLMEmbSASRec", "tiny", RATES, resume=resume, **options, **settings)
        assert any(str(tmp_path / "tune") in line for line in lines) == resume
