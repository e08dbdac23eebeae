"""What tells two runs apart, and how what they left behind is found."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from recbole_llmemb.config.recbole_config import config_from_plain, config_to_plain
from recbole_llmemb.run import stages
from recbole_llmemb.run.schema import Use, keys
from recbole_llmemb.run.teacher import ensure_teacher, teacher_config

ELSEWHERE = {"llm_device": "cpu", "llm_batch_size": 7, "eval_batch_size": 9, "scft_steps": 3,
             "show_progress": True, "save_users": True, "resume": False,
             "llm_cache_dir": "cache", "align_teacher_unchecked": True,
             "llm_table_device": "cpu"}  # fmt: skip


def earlier_name(config):
    """What the first release called a run's files, by its own list of keys."""
    gone = {
        "show_progress", "state", "gpu_id", "use_gpu", "worker", "checkpoint_dir", "llm_cache_dir",
        "log_wandb", "wandb_project", "llm_table_used", "llm_model_used", "teacher_used",
        "align_teacher_used", "trained_on", "align_teacher_unchecked", "config_files", "resume",
        "data_path", "save_users", "holdout_seed", "holdout_targets", "holdout_items",
        "shuffle_train", "llm_table_device", "train_targets", "adam_betas", "initialization",
        "item_lines", "llm_end_token", "softmax_negatives", "llm_whiten_ridge",
        "learning_rate_decay",
    }  # fmt: skip
    kept = {key: value for key, value in config_to_plain(config).items() if key not in gone}
    file = Path(config["data_path"]) / f"{config['dataset']}.inter"
    text = json.dumps(kept, sort_keys=True, default=str)
    text += hashlib.sha256(file.read_bytes()).hexdigest() + "2"
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{config['model']}-{config['dataset']}-{digest}"


@pytest.mark.parametrize("key", ELSEWHERE)
def test_where_and_how_fast_is_the_same_run(tiny_config, key):
    same = tiny_config(**{"llm_cache_dir": None, key: ELSEWHERE[key]})
    assert stages.run_key(same) == stages.run_key(tiny_config())


@pytest.mark.parametrize(
    "change",
    [{"seed": 7}, {"learning_rate": 0.1}, {"scft": True}, {"llm_table_dtype": "bfloat16"},
     {"llm_pca_dim": 8}, {"n_heads": 2}, {"somebodys_own": 1}, {"worker": 2}],
    ids=str,
)  # fmt: skip
def test_what_changes_numbers_is_another_run(tiny_config, change):
    assert stages.run_key(tiny_config(**change)) != stages.run_key(tiny_config())


@pytest.mark.parametrize("name", ["tiny/tiny.item", "tiny/tiny.emb", "start.pth"])
def test_another_file_of_the_same_name_is_another_run(tiny_config, tiny, tmp_path, name):
    shutil.copytree(tiny.folder, tmp_path / "tiny")
    given = {"data_path": str(tmp_path), "additional_feat_suffix": "emb",
             "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
             "pre_model_path": str(tmp_path / "start.pth")}  # fmt: skip
    for file in ("tiny/tiny.emb", "start.pth"):
        (tmp_path / file).touch()
    before = stages.run_key(tiny_config(**given))
    assert stages.run_key(tiny_config(**given)) == before
    with open(tmp_path / name, "a") as file:
        file.write("more")
    assert stages.run_key(tiny_config(**given)) != before


def test_what_a_key_was_called_before_is_read(tiny_config, caplog):
    """LLM-SRec's distill_weight was align_weight: the same run, under the same name."""
    new, old = (tiny_config("LLMSRec", **{key: 0.5}) for key in ("distill_weight", "align_weight"))
    assert "distill_weight" in caplog.text and old["distill_weight"] == new["distill_weight"] == 0.5
    assert stages.run_key(old) == stages.run_key(new) != stages.run_key(tiny_config("LLMSRec"))
    assert "align_weight" not in stages.settings(old)
    both = tiny_config("LLMSRec", align_weight=0.1, distill_weight=0.5)
    assert stages.run_key(both) == stages.run_key(new)
    caplog.clear()
    first = {k: v for k, v in config_to_plain(old).items() if k != "distill_weight"}
    assert config_from_plain(first)["distill_weight"] == 0.5  # as a checkpoint of before has it
    later = config_from_plain(config_to_plain(new) | {"align_weight": 0.1})
    assert later["distill_weight"] == 0.5 and "distill_weight" not in caplog.text


def test_fine_tuning_counts_where_there_is_some(tiny_config):
    found = {stages.run_key(tiny_config(scft=True, scft_steps=steps)) for steps in (3, 4)}
    assert len(found) == 2


def test_what_a_model_settles_is_no_other_run(tiny_config):
    """A table's number format, chosen for this machine when the model was built."""
    config = tiny_config()
    before = stages.run_key(config)
    for key in keys(Use.SETTLED):
        config[key] = {"llm_table_dtype": "float32"}.get(key, 8)
    assert stages.run_key(config) == before


@pytest.mark.parametrize("left", [".pth", ".resume.pth"])
def test_a_run_that_an_earlier_release_left_is_found(tiny_config, tmp_path, left):
    config = tiny_config(llm_batch_size=7)
    config["llm_table_dtype"] = "float32"
    config["checkpoint_dir"] = str(tmp_path)
    older = earlier_name(config)
    newer = stages.run_file(config).stem
    assert newer != older
    (tmp_path / f"{older}{left}").touch()
    assert stages.run_file(config).stem == older


@pytest.mark.parametrize("named", [earlier_name, lambda own: stages.run_file(own).stem])
def test_a_teacher_that_an_earlier_release_trained_is_found(tiny_config, tmp_path, named):
    """Called after its class, with a digest of the first release or one of today."""
    config = tiny_config(align_weight=0.1, llm_cache_dir=str(tmp_path))
    own = teacher_config(config, 8)
    path = tmp_path / "teachers" / f"{named(own)}.pth"
    assert path.name.startswith("LLMEmbSASRec-tiny-")
    path.parent.mkdir()
    path.touch()
    path.with_suffix(".done").touch()
    assert ensure_teacher(config, 8, report=lambda line: None) == path
