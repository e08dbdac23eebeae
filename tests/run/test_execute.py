"""A run by ``execute``: what it reports, returns and refuses."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import yaml

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.run.execute import execute, execute_seeds
from recbole_llmemb.run.per_user import read_users
from recbole_llmemb.run.restore import restore
from recbole_llmemb.run.result import RunResult
from recbole_llmemb.table import EmbeddingTable


@pytest.fixture
def typed(tiny_settings, tmp_path):
    """What is typed for a run on ``tiny``, whose settings are in a file."""

    def make(model="LLMEmbSASRec", **overrides):
        settings = tiny_settings(model, epochs=1, **overrides)
        settings.pop("gpu_id")
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
        return {"model": model, "dataset": "tiny", "config_files": "settings.yaml"}

    return make


def test_everything_is_reported_and_nothing_printed(typed, tmp_path, capsys):
    lines = []
    result = execute({**typed(holdout_items=0.1), "result_json": "r.json"}, report=lines.append)
    assert capsys.readouterr().out == ""
    told = "\n".join(lines)
    for part in ("prepare: done in", "test, all", "held out", "checkpoint: ", "results:    r.json"):
        assert part in told
    assert lines[-1].startswith("total:")
    assert result == json.loads((tmp_path / "r.json").read_text())
    assert "checkpoint" not in execute(typed(), report=lines.append)


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is there")
def test_users_are_counted_as_their_lists_are(typed):
    """A ratio split has several targets of a user: of sampled items, one list; of all, one each."""
    counts = {}
    for mode in ("uni5", "full"):
        split = {"split": {"RS": [0.4, 0.4, 0.2]}, "order": "TO", "group_by": "user", "mode": mode}
        lines = []
        result = execute(typed(eval_args=split), report=lines.append)
        (row,) = (r.split() for line in lines for r in line.splitlines() if "validation, all" in r)
        counts[mode] = int(row[2])
        groups = result["valid_groups"]
        if mode == "uni5":
            assert counts[mode] == groups["short_users"]["users"] + groups["long_users"]["users"]
    assert counts["uni5"] < counts["full"]


def test_a_library_that_is_absent_is_told_before_any_work(typed):
    with pytest.raises(UserError) as caught:
        execute({**typed("SASRec"), "log_wandb": True}, silent)
    assert caught.value.key == "log_wandb" and "pip install wandb" in str(caught.value)


def silent(line):
    """No report."""


def test_runs_of_other_settings_get_files_of_their_own(typed, tmp_path):
    asked = {**typed(align_weight=0.0), "result_json": "runs/"}
    execute(asked, silent)
    file = tmp_path / "runs/LLMEmbSASRec-tiny.json"
    first = file.read_bytes()
    execute({**asked, "learning_rate": 0.01}, silent)
    assert file.read_bytes() == first and len(list(file.parent.glob("*.json"))) == 2
    execute({**asked, "preset": "id_only", "seed": 5}, silent)
    assert (file.parent / "LLMEmbSASRec-tiny-id_only-5.json").is_file()
    execute({**asked, "llm_batch_size": 3}, silent)  # which changes no number: the same run
    assert len(list(file.parent.glob("*.json"))) == 3
    file.write_text('{"mine": 1}')
    execute(asked, silent)
    assert json.loads(file.read_text()) == {"mine": 1}
    assert len(list(file.parent.glob("*.json"))) == 4


def test_runs_of_other_settings_at_once_get_files_of_their_own(typed, tmp_path):
    """Also if the second has taken the name while the first was training."""
    asked = {**typed(align_weight=0.0, save_users=True), "result_json": "runs/"}

    def during(line):
        if line.startswith("train: LLMEmbSASRec"):
            execute({**asked, "learning_rate": 0.01}, silent)

    execute(asked, during)
    found = [RunResult.read(file) for file in (tmp_path / "runs").glob("*.json")]
    assert sorted(result.config["learning_rate"] for result in found) == [0.001, 0.01]
    for result in found:
        assert result.users_file.stem.removesuffix(".users") == result.file.stem
        assert restore(result.file).config["learning_rate"] == result.config["learning_rate"]
        read_users(result.users_file)


@pytest.mark.parametrize("other", [{"seed": 5}, {"learning_rate": 0.01}])
def test_a_checkpoint_in_the_place_of_anothers_is_refused(typed, tmp_path, other):
    asked = {**typed("LLMEmbGRU4Rec", align_weight=0.0), "result_json": "runs/"}
    for more in ({}, other):
        execute({**asked, **more}, silent)
    files = [RunResult.read(file) for file in (tmp_path / "runs").glob("*.json")]
    one, two = (restore(result.file).path for result in files)
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    for result, checkpoint in zip(files, (one, two), strict=True):
        with pytest.raises(UserError) as caught:
            restore(result.file)
        assert caught.value.where == str(checkpoint) and str(result.file) in str(caught.value)
        restore(checkpoint)  # by itself it is what it says


def test_a_run_over_another_table_in_the_same_place_spares_the_first(typed, tiny_table, tmp_path):
    """Its checkpoint, to which its result file points, and in a folder that file."""
    asked, told = {**typed(align_weight=0.0), "result_json": "runs/"}, []
    first = execute(asked, told.append)
    kept = restore(tmp_path / "runs/LLMEmbSASRec-tiny.json").path
    table, before = EmbeddingTable.load(tiny_table), contents(tmp_path)
    EmbeddingTable(table.tokens, table.vectors.flip(0)).save(tiny_table, overwrite=True)
    second = execute(asked, told.append)
    assert contents(tmp_path).items() >= before.items()
    assert second["table"] != first["table"] and second["checkpoint"] != first["checkpoint"]
    assert any("another llm_table" in line and kept.name in line for line in told)
    assert len(contents(tmp_path)) == 4
    assert execute(asked, silent)["checkpoint"] == second["checkpoint"]
    table.save(tiny_table, overwrite=True)
    assert execute(asked, silent)["checkpoint"] == first["checkpoint"]
    assert len(contents(tmp_path)) == 4


def contents(folder):
    """Checkpoints and results, by name."""
    files = [*folder.rglob("LLMEmb*.pth"), *folder.glob("runs/*.json")]
    return {file: file.read_bytes() for file in files}


def test_a_folder_of_checkpoints_that_no_folder_can_be_called(typed):
    with pytest.raises(UserError) as caught:
        execute({**typed(), "checkpoint_dir": "x" * 300, "result_json": "runs/"}, silent)
    assert caught.value.key == "checkpoint_dir"


def test_a_file_of_settings_whose_name_has_a_blank(typed, tmp_path):
    asked = typed()
    file = (tmp_path / asked["config_files"]).rename(tmp_path / "my settings.yaml")
    assert execute({**asked, "config_files": [file]}, silent)["epochs"] == 1


def test_a_result_file_stands_for_its_checkpoint(typed, tmp_path):
    execute({**typed(align_weight=0.0), "result_json": "runs/"}, silent)
    file = tmp_path / "runs/LLMEmbSASRec-tiny.json"
    assert restore(file).path.samefile(RunResult.read(file).checkpoint)
    bare = json.loads(file.read_text())
    del bare["checkpoint"], bare["sha256"]
    file.write_text(json.dumps(bare))
    with pytest.raises(UserError) as caught:
        restore(file)
    assert caught.value.where == str(file)


def test_a_model_of_recboles_that_cannot_be_built_names_what_was_set(typed):
    given = typed("SASRec", train_neg_sample_args=None, hidden_act="nix")
    with pytest.raises(UserError, match="hidden_act"):
        execute(given, report=str)


def test_runs_of_two_threads_are_those_of_one(typed):
    given = typed()
    alone, lines = execute(given, report=str)["test_result"], []
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda at: execute(given, lines.append), range(2)))
    assert [one["test_result"] for one in both] == [alone, alone]
    assert lines[len(lines) // 2 - 1].startswith("total:")  # one after the other


def test_curves_that_cannot_be_written_stop_nothing(typed, tmp_path):
    def tell(line):
        if line.startswith("train:"):
            shutil.rmtree(tmp_path / "log_tensorboard")

    assert execute(typed(), tell)["test_result"]


def test_results_tell_targets_and_items(typed):
    def tested(**overrides):
        return execute(typed(**overrides), report=str)["tested"]

    usual = tested()
    assert usual == tested(hidden_dropout_prob=0.3, MAX_ITEM_LIST_LENGTH=4)
    stock = execute(
        {**typed("SASRec", train_neg_sample_args=None), "model": "SASRec"}, report=str
    )["tested"]  # fmt: skip
    assert stock["targets"] == usual["targets"]
    by_rating = tested(TIME_FIELD="rating")["targets"]  # other items of the same users
    assert by_rating != usual["targets"]
    assert by_rating.split("-")[0] == usual["targets"].split("-")[0]
    fewer = tested(item_inter_num_interval="[4,inf)")
    assert fewer["items"] != usual["items"] and fewer["targets"] != usual["targets"]
    assert tested(holdout_items=0.1)["items"] != usual["items"]
    assert tested(TIME_FIELD="rating")["training"] != usual["training"]


def test_a_run_for_each_seed(typed, tmp_path):
    lines = []
    found = execute_seeds(
        {**typed(align_weight=0.0), "result_json": "r.json"}, [3, 4], lines.append
    )
    assert [result["seed"] for result in found] == [3, 4]
    assert [json.loads((tmp_path / f"r-{n}.json").read_text()) for n in (3, 4)] == found
    values = [result["test_result"]["ndcg@10"] for result in found]
    row = next(line for line in lines[-1].split("\n") if line.startswith("test "))
    assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" in row
    assert len(execute_seeds(typed(align_weight=0.0), [3], lines.append)) == 1
    assert "± 0.0000" in lines[-1]


def test_results_as_a_table_of_pandas(typed):
    result = execute(typed(align_weight=0.0), silent)
    frame = result.to_pandas()
    assert list(frame.index[:2]) == ["validation", "test"] and frame.columns[0] == "users"
    for name, group in result["groups"].items():
        assert frame.loc[name].dropna().to_dict() == {
            key.lower(): value for key, value in group.items() if value is not None
        }
    assert frame.loc["test", "ndcg@10"] == result["test_result"]["ndcg@10"]
    assert frame.loc["test", "users"] == sum(frame.loc[["short_users", "long_users"], "users"])
    assert f"{result['test_result']['ndcg@10']:.4f}" in result._repr_html_()


def test_the_papers_run_names_presets_that_rank_better(typed):
    lines = []
    execute(typed(align_weight=0.1, align_teacher_config={"epochs": 1}), lines.append)
    assert any("--preset=" in line for line in lines)
    lines.clear()
    execute(typed(align_weight=0.0), lines.append)
    assert not any("--preset=" in line for line in lines)


@pytest.mark.parametrize("key", ["save_users", "holdout_items"])
@pytest.mark.parametrize("where", ["typed", "file"])
def test_what_recboles_own_models_would_pass_over(typed, key, where):
    value = {"save_users": True, "holdout_items": 0.1}[key]
    asked = typed("SASRec", **({key: value} if where == "file" else {}))
    asked |= {key: value} if where == "typed" else {}
    with pytest.raises(UserError) as caught:
        execute({**asked, "result_json": "r.json"}, report=lambda line: None)
    assert caught.value.key == key and "SASRec" in str(caught.value)


def test_the_older_place(tmp_path):
    with pytest.warns(DeprecationWarning, match="run.execute"):
        from recbole_llmemb.cli.run import execute as older
    assert older is execute


def test_a_result_file_stands_for_its_checkpoint_as_a_teacher(typed, tmp_path):
    ids = {"item_embedding": "id", "align_weight": 0.0}
    for seed in (3, 4):
        execute({**typed(**ids, seed=seed), "result_json": f"{seed}.json"}, silent)
    first, other = (RunResult.read(f"{seed}.json").checkpoint for seed in (3, 4))
    aligned = {"align_weight": 0.1, "align_teacher": "3.json"}
    execute({**typed(**aligned), "result_json": "aligned.json"}, silent)
    config = restore(tmp_path / "aligned.json").config
    assert config["align_teacher_used"]["path"] == str(first.absolute())
    shutil.copy(other, first)
    with pytest.raises(UserError) as error:
        execute(typed(**aligned), silent)
    assert error.value.where == str(first) and "seed" in str(error.value)
