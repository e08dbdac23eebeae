"""Ways to split that RecBole does not have, and data that leave nobody to evaluate."""

import math

import pytest
import yaml

from recbole_llmemb.cli.main import main
from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.run.stages import prepare_data


def eval_args(split):
    return {"split": split, "order": "TO", "group_by": "user", "mode": "full"}


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec", "BPR"])
@pytest.mark.parametrize(
    "split",
    [
        {"RS": [0.8, 0.2]},
        {"RS": [0.7, 0.1, 0.1, 0.1]},
        {"RS": [0.0, 0.5, 0.5]},
        {"RS": [0.8, -0.1, 0.3]},
        {"RS": [0.8, math.nan, 0.1]},
        {"RS": ["a", "b", "c"]},
        {"RS": 0.8},
        {"TS": [0.8, 0.2]},
        {"LS": "leave_two"},
        {"XS": [8, 1, 1]},
        {"RS": [8, 1, 1], "LS": "valid_only"},
        "RS",
        [0.8, 0.1, 0.1],
    ],
    ids=str,
)
def test_splits_that_are_none_are_refused_by_name(model, split):
    with pytest.raises(UserError, match=r"eval_args\.split is "):
        more = {"train_neg_sample_args": None} if model == "SASRec" else {}
        make_config(model, "ml-100k", overrides={"eval_args": eval_args(split), **more})


@pytest.mark.parametrize("split", [{"RS": [8, 1, 1]}, {"RS": [0.9, 0.1, 0.1]}], ids=str)
def test_shares_need_not_add_up_to_one(tiny_data, split):
    _, data = tiny_data(eval_args=eval_args(split))
    assert all(len(part._dataset) for part in (data.train, data.valid, data.test))


def write(folder, name, *lengths):
    """A dataset of users who have so many interactions."""
    (folder / name).mkdir(parents=True)
    rows = [f"u{u}\ti{(u + n) % 9}\t{n}" for u, length in enumerate(lengths) for n in range(length)]
    text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows])
    (folder / name / f"{name}.inter").write_text(text + "\n")
    return {
        "data_path": str(folder), "topk": [3], "valid_metric": "NDCG@3", "epochs": 1,
        "show_progress": False, "use_gpu": False, "hidden_size": 8, "inner_size": 8,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lengths", "split", "said"),
    [
        ([2] * 20, {"LS": "valid_and_test"}, "nobody to evaluate"),
        ([2] * 20, {"RS": [0.9, 0.05, 0.05]}, "nobody to evaluate"),
        ([5] * 20, {"RS": [1, 0, 0]}, "nobody to evaluate"),
    ],
    ids=str,
)
@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_nobody_to_evaluate_is_one_sentence(tmp_path, capsys, model, lengths, split, said):
    settings = write(tmp_path / "data", "few", *lengths)
    more = {"item_embedding": "id", "align_weight": 0}
    more = more if model != "SASRec" else {"train_neg_sample_args": None, "load_col": None}
    settings |= {"eval_args": eval_args(split), **more}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(settings))
    status = main([f"--model={model}", "--dataset=few", f"--config_files={tmp_path}/s.yaml"])
    err = capsys.readouterr().err
    assert status == 2 and said in err and "few" in err and "eval_args" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("each", "split"),
    [(1, {"LS": "valid_and_test"}), (1, {"TS": [8, 1, 1]}), (2, {"TS": [0.1, 0.1, 0.8]})],
    ids=str,
)
@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_nothing_to_train_on_is_one_sentence(tmp_path, model, each, split):
    settings = write(tmp_path / "data", "few", *[each] * 20)
    more = {"item_embedding": "id", "align_weight": 0}
    more = more if model != "SASRec" else {"train_neg_sample_args": None, "load_col": None}
    settings |= {"eval_args": eval_args(split), **more}
    with pytest.raises(UserError, match="nothing to train on in dataset few .*eval_args"):
        prepare_data(make_config(model, "few", overrides=settings))


def test_recboles_entry_point_says_the_same(tmp_path):
    from recbole.quick_start import run_recbole

    settings = write(tmp_path / "data", "few", *[2] * 20)
    settings |= {"item_embedding": "id", "align_weight": 0}
    with pytest.raises(UserError, match="nobody to evaluate"):
        run_recbole("LLMEmbSASRec", "few", config_dict={**settings, "load_col": None})
    with pytest.raises(UserError, match=r"eval_args\.split is "):
        halves = {"eval_args": eval_args({"RS": [0.8, 0.2]})}
        run_recbole("LLMEmbSASRec", "few", config_dict=settings | halves)


def test_a_loss_that_is_no_number_is_one_sentence(tmp_path, capsys):
    settings = write(tmp_path / "data", "few", *[5] * 20)
    settings |= {"train_neg_sample_args": None, "load_col": None, "learning_rate": 1e30}
    settings |= {"epochs": 3, "checkpoint_dir": str(tmp_path)}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(settings))
    status = main(["--model=SASRec", "--dataset=few", f"--config_files={tmp_path}/s.yaml"])
    assert status == 2 and "learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("1: 2", "a key 1,"),
        ("on: 2", "a key True,"),
        ("benchmark_filename: []", "benchmark_filename is []"),
        ("benchmark_filename: [train, valid, test]", "names few.train.inter, which is not in"),
        ("eval_args: {split: {LS: valid_only}}", "eval_args.order is 'RO'"),
    ],
)
def test_files_of_settings_that_say_too_little(tmp_path, capsys, model, lines, told):
    settings = write(tmp_path / "data", "few", *[5] * 20)
    more = {"item_embedding": "id", "align_weight": 0}
    settings |= more if model != "SASRec" else {"train_neg_sample_args": None, "load_col": None}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(settings) + lines + "\n")
    status = main([f"--model={model}", "--dataset=few", f"--config_files={tmp_path}/s.yaml"])
    assert status == 2 and told in capsys.readouterr().err
