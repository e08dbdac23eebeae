"""Where a setting's value comes from, and which values are refused."""

import re

import numpy as np
import pytest
import yaml

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole.config import Config  # isort: skip
from recbole_llmemb.config import values as module  # isort: skip
from recbole_llmemb.config.recbole_config import config_from_plain, config_to_plain  # isort: skip
from recbole_llmemb.cli.run import parse  # isort: skip
from recbole_llmemb.config.known import keys_of_any_model  # isort: skip
from recbole_llmemb.config.recbole_config import defaults, make_config, properties_folder  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.run.schema import refuse_typed  # isort: skip


@pytest.fixture
def properties(tmp_path, monkeypatch):
    """A folder of defaults in which every level sets keys of its own name and those above."""
    order = ["overall", "model/LLMEmbSASRec", "dataset/tiny"]
    folder = tmp_path / "properties"
    original = yaml.safe_load((properties_folder() / "overall.yaml").read_text())
    model = yaml.safe_load((properties_folder() / "model/LLMEmbSASRec.yaml").read_text())
    for i, name in enumerate(order):
        values = {f"key{j}": name for j in range(i, 6)}
        base = {"overall": original, "model/LLMEmbSASRec": model}.get(name, {})
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({**base, **values}))
    monkeypatch.setattr(module, "properties_folder", lambda: folder)
    return folder


def test_precedence(properties, tmp_path, monkeypatch):
    """overall < model < dataset < files, later ones first < dictionary < command line."""
    files = []
    for i, name in ((3, "a"), (4, "b")):
        files.append(str(tmp_path / f"{name}.yaml"))
        values = {f"key{j}": name for j in range(i, 7)}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    given = {"key5": "dictionary", "key6": "dictionary"}
    expected = ["overall", "model/LLMEmbSASRec", "dataset/tiny", "a", "b", "dictionary"]
    config = make_config("LLMEmbSASRec", "tiny", files, given)
    assert [config[f"key{i}"] for i in range(6)] == expected
    monkeypatch.setattr("sys.argv", ["pytest", "--key6=typed"])
    assert make_config("LLMEmbSASRec", "tiny", files, given)["key6"] == "dictionary"
    config = Config("LLMEmbSASRec", "tiny", files, dict(given))  # RecBole's reads what was typed
    assert [config[f"key{i}"] for i in range(7)] == [*expected, "typed"]
    assert make_config("SASRec", "tiny", files, {"train_neg_sample_args": None})["key0"] is None


def test_defaults_that_are_shipped():
    folder = properties_folder()
    names = {file.stem for file in (folder / "model").glob("*.yaml")}
    assert names == {"LLMEmbSASRec", "LLMEmbGRU4Rec", "LLMEmbBERT4Rec", "LLMSRec"}
    for name in names:
        for dataset in ("tiny", "ml-100k", "Amazon_Beauty"):
            values = defaults(name, dataset)
            config = make_config(name, dataset)
            for key, value in values.items():
                if key == "train_mode":  # settled by what the backbone offers
                    assert config[key] in ("sequence", "prefix")
                elif key not in ("train_neg_sample_args", "load_col", "transform"):
                    assert config[key] == value, key
    assert make_config("LLMEmbSASRec", "Amazon_Beauty")["hidden_size"] == 128
    assert "movie_title" in make_config("LLMEmbSASRec", "ml-100k")["item_text_fields"]


def test_what_the_loss_and_the_mode_imply(tiny_config):
    from recbole.utils import InputType

    for loss_type, kind in (("CE", "POINTWISE"), ("BPR", "PAIRWISE"), ("BCE", "PAIRWISE")):
        config = tiny_config(loss_type=loss_type)
        assert config["MODEL_INPUT_TYPE"] == InputType[kind]
        drawn = config["train_neg_sample_args"]["distribution"]
        assert drawn == ("none" if loss_type == "CE" else "uniform")
    assert tiny_config("LLMEmbBERT4Rec")["transform"] is None
    assert tiny_config("LLMEmbBERT4Rec", train_mode="prefix")["transform"] == "mask_itemseq"


def test_times_are_loaded_for_any_dataset(tiny, tiny_table):
    """RecBole's default for a dataset that it does not know loads users and items only."""
    overrides = {"data_path": str(tiny.folder.parent), "TIME_FIELD": "rating"}
    config = make_config("LLMEmbSASRec", "tiny", overrides=overrides)
    assert config["load_col"] == {"inter": ["user_id", "item_id", "rating"]}


BAD = [
    ({"sequence_stride": 11}, "sequence_stride is 11, but MAX_ITEM_LIST_LENGTH is 10"),
    ({"adam_betas": [0.5, 0.9], "learner": "sgd"}, "adam_betas is .*, but learner is 'sgd'"),
    ({"train_neg_sample_args": {"dynamic": True}}, "dynamic needs scores"),
    (
        {"train_neg_sample_args": None, "loss_type": "BCE"},
        "loss_type BCE compares targets with sampled negatives",
    ),
    ({"train_neg_sample_args": {"sample_num": 0}}, "sample_num of at least 1"),
    ({"train_neg_sample_args": {"distribution": "zipf"}}, "'zipf'}; it must be .*'uniform'"),
    ({"n_heads": 3}, "n_heads is 3, but hidden_size is 8"),
    ({"valid_metric": "NDCG@7"}, "valid_metric is 'NDCG@7', .*one of Hit@5, Hit@10, NDCG@5"),
    ({"valid_metric": "NDCG"}, "valid_metric is 'NDCG'"),
    ({"metrics": ["Fame"]}, "no metric named 'Fame'"),
    ({"topk": [0], "valid_metric": "NDCG@5"}, r"topk is \[0\]"),
    ({"transform": "shuffle"}, "transform is 'shuffle'; it must be one of 'mask_itemseq'"),
    ({"repeatable": False}, "repeatable"),
    ({"eval_args": {"mode": "some"}}, "mode is 'some'; it must be full, or uniNNN"),
    ({"eval_args": {"mode": {"valid": "full", "test": "uni0"}}}, "mode is 'uni0'"),
    ({"eval_args": {"mode": None}}, "eval_args.mode is None"),
    ({"eval_args": {"mode": "pop-3"}}, "mode is 'pop-3'"),
    ({"clip_grad_norm": {"foo": 1}}, "clip_grad_norm is {'foo': 1}; .*max_norm"),
    ({"clip_grad_norm": {"max_norm": "a"}}, "clip_grad_norm is {'max_norm': 'a'}"),
    ({"clip_grad_norm": {"max_norm": -1}}, "clip_grad_norm is {'max_norm': -1}"),
    ({"clip_grad_norm": {"max_norm": 1, "norm_type": "l2"}}, "clip_grad_norm is .*'l2'"),
    ({"train_neg_sample_args": {"alpha": -1}}, "'alpha': -1.*alpha .from 0"),
    ({"eval_args": {"order": "to"}}, "eval_args is .*'TO'"),
    ({"eval_args": {"mod": "uni9"}}, "eval_args.mod has no effect"),
    ({"eval_args": {"mode": {"tset": "full"}}}, "eval_args.mode is"),
    ({"learner": "adamm"}, "learner is 'adamm'; .*adamw"),
    ({"worker": 1000}, "worker is 1000"),
    ({"encoding": "hex"}, "encoding is 'hex'"),
    ({"threshold": {"rating": "4"}}, "threshold is"),
    ({"discretization": {"rating": {"method": "XX"}}}, "discretization is"),
    ({"unload_col": {"inter": "rating"}}, "unload_col is"),
    ({"numerical_features": None}, "numerical_features is empty"),
    ({"require_pow": "x"}, "require_pow is 'x'; it must be True or False"),
    ({"require_pow": 0}, "require_pow is 0"),
    ({"align_teacher_config": {"\ud800": 1}}, "align_teacher_config is"),
    ({"POSITION_FIELD": 3}, "POSITION_FIELD is 3; it must be text"),
    ({"load_col": {"inter": "user_id"}}, "load_col is .*user_id.*; it must be"),
    ({"val_interval": {"rating": "3"}}, "val_interval is .*intervals"),
    ({"user_inter_num_interval": "[5"}, r"user_inter_num_interval is '\[5'; .*an interval"),
    ({"topk": []}, r"topk is \[\]; it must be a list"),
    ({"topk": [5.5]}, r"topk is \[5.5\]; it must be .*whole numbers"),
    ({"metrics": []}, r"metrics is \[\]"),
    (
        {"train_neg_sample_args": {"distribution": "popularity", "sample_num": 1, "alpha": "x"}},
        "'alpha': 'x'.*alpha .from 0",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=lambda value: str(value)[:40])
def test_refused(tiny_config, change, message):
    with pytest.raises(UserError) as caught:
        tiny_config(**change)
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text and text.endswith(".")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": "mask_itemseq"}, "mask_ratio is empty, but transform is 'mask_itemseq'"),
        ({"transform": "crop_itemseq"}, "eta is empty, but transform is 'crop_itemseq'"),
        ({"transform": "crop_itemseq", "crop_eta": 0.2}, "eta is empty"),
        ({"transform": "crop_itemseq", "eta": 1.5}, "eta is 1.5, .*between 0 and 1"),
        ({"transform": "reorder_itemseq"}, "beta is empty, but transform is 'reorder_itemseq'"),
        ({"transform": "reorder_itemseq", "beta": "half"}, "beta is 'half'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_changes_of_histories_need_their_share(change, message):
    with pytest.raises(UserError, match=message):
        make_config("SASRec", "tiny", (), change)


def test_a_change_of_histories_that_nobody_has_defined(monkeypatch):
    from recbole.data.transform import UserDefinedTransform

    model, given = "LLMEmbSASRec", {"transform": "user_defined"}
    with pytest.raises(UserError) as caught:
        make_config(model, "tiny", (), given)
    assert caught.value.key == "transform"
    monkeypatch.setattr(UserDefinedTransform, "__call__", lambda self, dataset, batch: batch)
    assert make_config(model, "tiny", (), given | {"train_mode": "prefix"})["transform"]


@pytest.mark.parametrize("mode", ["sequence", "prefix"])
@pytest.mark.parametrize("change", ["mask_itemseq", "inverse_itemseq"])
def test_changes_of_histories_that_our_models_do_not_read_are_told(
    tiny_config, caplog, mode, change
):
    config = tiny_config(transform=change, train_mode=mode)
    kept = mode == "prefix" and change == "inverse_itemseq"
    assert config["transform"] == (change if kept else None)
    assert any("transform" in message for message in caplog.messages)
    caplog.clear()
    config = tiny_config("LLMEmbBERT4Rec", transform="mask_itemseq", train_mode=mode)
    assert config["transform"] == ("mask_itemseq" if mode == "prefix" else None)
    assert not any("transform" in message for message in caplog.messages)


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_users_items_and_times_have_columns_of_their_own(model):
    labels = ("item_id", "user_id", "timestamp", "item_length", "item_id_list")
    for given in ({"USER_ID_FIELD": "item_id"}, {"TIME_FIELD": "user_id"},
                  *({"LABEL_FIELD": name} for name in labels)):  # fmt: skip
        overrides = {**given, "train_neg_sample_args": None, "loss_type": "CE"}
        with pytest.raises(UserError) as refused:
            make_config(model, "tiny", overrides=overrides)
        assert next(iter(given)) in str(refused.value)


def test_stock_models_are_checked_too(tiny_config):
    for change in ({"epochs": "x"}, {"valid_metric": "NDCG@7"}, {"n_heads": 3}):
        with pytest.raises(UserError, match=next(iter(change))):
            tiny_config("SASRec", **change)
    assert tiny_config("SASRec", metrics="GAUC", valid_metric="GAUC")["metrics"] == ["GAUC"]


def test_names_of_data_sets_are_no_keys():
    """RecBole keeps where to fetch them beside its settings."""
    known = keys_of_any_model()
    assert {"epochs", "ITEM_ID_FIELD", "n_heads"} <= known and not {"food", "anime"} & known
    with pytest.raises(UserError, match="--foo is not a configuration key; see") as caught:
        refuse_typed({"foo": 1}, "LLMEmbSASRec")
    assert caught.value.key == "foo"


def test_unknown_keys(tmp_path):
    for key, hint in (
        ("learning_rat", "did you mean --learning_rate"),
        ("llm_tabel", "did you mean --llm_table"),
        ("zzzzzz", "see the configuration reference"),
    ):
        with pytest.raises(UserError, match=f"--{key} is not a configuration key.*{hint}"):
            make_config("LLMEmbSASRec", "tiny", overrides={key: 1}, strict=[key])
        assert make_config("LLMEmbSASRec", "tiny", overrides={key: 1})[key] == 1
    for wrong in (["epochs=1"], "epochs=1", {1: 2}):
        with pytest.raises(UserError, match="give a dictionary"):
            make_config("LLMEmbSASRec", "tiny", overrides=wrong)
    known = ["learning_rate", "llm_table", "n_heads", "eval_args", "MAX_ITEM_LIST_LENGTH", "seed"]
    values = {key: make_config("LLMEmbSASRec", "tiny")[key] for key in known}
    make_config("LLMEmbSASRec", "tiny", overrides=values, strict=known)
    with pytest.raises(UserError, match="config file .*none.yaml does not exist"):
        make_config("LLMEmbSASRec", "tiny", [str(tmp_path / "none.yaml")])
    (tmp_path / "bad.yaml").write_text("a: [1,\nb: {")
    with pytest.raises(UserError, match="not valid yaml") as caught:
        make_config("LLMEmbSASRec", "tiny", [str(tmp_path / "bad.yaml")])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="LLMEmbNone"):
        make_config("LLMEmbNone", "tiny")


def test_intervals_that_recbole_reads(tiny_config):
    for text in ("[5,inf)", "(3,6];[9, 12)", "[-1.5,1e3]", "[0, inf)"):
        assert tiny_config(user_inter_num_interval=text)["user_inter_num_interval"] == text
    assert tiny_config(val_interval={"rating": "[3,inf)"})["val_interval"]


def test_names_and_paths_stay_text():
    found = parse(["--llm_table=2024", "--checkpoint_dir=2026_11_21", "--epochs=3", "--state=None"])
    assert found == {
        "llm_table": "2024",
        "checkpoint_dir": "2026_11_21",
        "epochs": 3,
        "state": None,
    }
    config = make_config("LLMEmbSASRec", "tiny", overrides=found | {"state": "INFO"})
    assert config["checkpoint_dir"] == "2026_11_21" and config["llm_table"] == "2024"
    named = {"dataset_save_path": "2026-11-21", "wandb_project": "1-2", "pre_model_path": "1/2"}
    config = make_config("SASRec", "2026-11-21", overrides=dict(named, train_neg_sample_args=None))
    assert config["dataset"] == "2026-11-21"
    assert {key: config[key] for key in named} == named


def test_numbers_of_numpy_and_one_file_by_its_name(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("epochs: 4\n")
    numbers = {
        "hidden_size": np.int64(8),
        "align_weight": np.float32(0.5),
        "resume": np.bool_(False),
    }
    given = {"topk": (10, 3), "benchmark_filename": "a, b,c"}  # as --topk=10,3 is read
    config = make_config("LLMEmbSASRec", "tiny", overrides=given)
    assert config["topk"] == [10, 3] and config["benchmark_filename"] == ["a", "b", "c"]
    for text in ("[a,b, c]", "['a', b,\"c\"]"):  # as in yaml, without quotes
        config = make_config("LLMEmbSASRec", "tiny", overrides={"benchmark_filename": text})
        assert config["benchmark_filename"] == ["a", "b", "c"]
    config = make_config("LLMEmbSASRec", "tiny", overrides={"topk": np.array([10, 4])})
    assert config["topk"] == [10, 4]
    for files in (file, str(file), [file]):
        config = make_config("LLMEmbSASRec", "tiny", files, overrides=numbers)
        assert config["epochs"] == 4
        for key, value in numbers.items():
            assert config[key] == value and type(config[key]) in (int, float, bool)


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_a_copy_of_ml_100k_is_read_where_it_is_said_to_be(tmp_path, model):
    """RecBole takes its own, whatever data_path says."""
    own = tmp_path / "ml-100k"
    own.mkdir()
    (own / "ml-100k.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    ours = {"train_neg_sample_args": None} if model == "SASRec" else {}
    config = make_config(model, "ml-100k", overrides={"data_path": str(tmp_path), **ours})
    assert config["data_path"] == str(own)
    again = config_from_plain(config_to_plain(config))
    assert again["data_path"] == str(own)
    for folder in ({}, {"data_path": "nowhere"}):
        config = make_config(model, "ml-100k", overrides=folder | ours)
        assert "recbole" in config["data_path"]


def test_command_line_values():
    found = parse(
        ["--a=1", "--b", "0.5", "--c=text", "--d=[1, 'x']", "--e=None", "--f=false", "--g=a=b"]
        + ["--h=", "--i={'k': 3}", "--a=1", "--j=1e-3", "--k=-1", "--l", "-1"]
    )
    assert found == {
        "a": 1, "b": 0.5, "c": "text", "d": [1, "x"], "e": None, "f": False, "g": "a=b",
        "h": "", "i": {"k": 3}, "j": 0.001, "k": -1, "l": -1,
    }  # fmt: skip
    for argv, message in (
        (["x"], "'x' is not of the form --key=value"),
        (["--a"], "--a has no value"),
        (["--a", "--b=1"], "--a has no value"),
        (["--a=1", "--a=2"], "--a is given twice, as 1 and as 2"),
    ):
        with pytest.raises(UserError, match=message):
            parse(argv)


def test_recboles_cross_entropy_needs_no_word_of_negatives():
    """RecBole's defaults for these models contradict each other; what somebody says is as ever."""
    assert make_config("SASRec", "ml-100k")["train_neg_sample_args"]["distribution"] == "none"
    drawn = {"loss_type": "BPR"}
    assert make_config("SASRec", "ml-100k", (), drawn)["train_neg_sample_args"]["sample_num"] == 1
    with pytest.raises(UserError, match="train_neg_sample_args"):
        make_config("SASRec", "ml-100k", (), {"train_neg_sample_args": {"sample_num": 1}})


@pytest.mark.parametrize(("metric", "bigger"), [("NDCG@10", True), ("AveragePopularity@10", False)])
def test_a_direction_that_the_metric_does_not_have_is_told(tiny_config, caplog, metric, bigger):
    measured = {"metrics": ["NDCG", "AveragePopularity"], "topk": [10], "valid_metric": metric}
    for given in (bigger, not bigger):
        caplog.clear()
        config = tiny_config(valid_metric_bigger=given, **measured)
        assert config["valid_metric_bigger"] is bigger
        told = [message for message in caplog.messages if "valid_metric_bigger" in message]
        assert len(told) == (given is not bigger)
