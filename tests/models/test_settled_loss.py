"""RecBole's idiom: no negatives and no loss_type mean cross-entropy."""

import pytest
import yaml

from recbole_llmemb.config.recbole_config import make_config, preset_file, properties_folder
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.run.stages import build, prepare_data, train_and_evaluate

NO_NEGATIVES = [None, "None", {"distribution": None}, {"distribution": "none"}]


@pytest.mark.parametrize("args", NO_NEGATIVES, ids=str)
@pytest.mark.parametrize("model", ["LLMEmbSASRec", "LLMEmbBERT4Rec", "LLMEmbCaser"])
def test_no_negatives_and_no_loss_mean_cross_entropy(tmp_path, caplog, model, args):
    """As in most configurations of RecBole, whose default is CE."""
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"train_neg_sample_args": args}).replace("'None'", "None"))
    given = {"train_neg_sample_args": args, "loss_type": None}
    for settings in ({"config_files": [str(file)]}, {"overrides": given}):
        config = make_config(model, "tiny", **settings)
        assert config["loss_type"] == "CE"
        assert config["train_neg_sample_args"]["distribution"] == "none"
        assert any("loss_type is CE" in message for message in caplog.messages)
        caplog.clear()
    for loss in ("BCE", "BPR"):
        with pytest.raises(UserError, match=f"loss_type {loss} compares"):
            make_config(model, "tiny", [str(file)], {"loss_type": loss})


def test_a_loss_that_is_there_stays(caplog):
    preset = str(preset_file("whitened_cosine"))
    none = {"train_neg_sample_args": None}
    assert make_config("LLMEmbSASRec", "tiny", [preset], none)["loss_type"] == "CE"
    assert make_config("LLMSRec", "tiny", overrides=none)["loss_type"] == "CE"
    assert make_config("LLMEmbSASRec", "ml-100k", overrides=none)["loss_type"] == "CE"
    assert make_config("LLMEmbSASRec", "tiny")["loss_type"] == "BCE"
    assert not caplog.messages
    with pytest.raises(UserError, match="LLMEmbTransRec compares .*BPR and BCE"):
        make_config("LLMEmbTransRec", "tiny", overrides=none)
    paper = str(properties_folder() / "protocol" / "paper.yaml")
    with pytest.raises(UserError, match="loss_type BCE"):
        make_config("LLMEmbSASRec", "tiny", [paper], none)


def test_a_teacher_without_negatives_learns_by_cross_entropy(tiny_config):
    from recbole_llmemb.run.teacher import teacher_config

    config = tiny_config(train_neg_sample_args=None)
    assert teacher_config(config, 8)["loss_type"] == "CE"
    own = {"align_teacher_config": {"train_neg_sample_args": None}}
    assert teacher_config(tiny_config(loss_type="BPR", **own), 8)["loss_type"] == "CE"
    own = {"align_teacher_config": {"train_neg_sample_args": {"sample_num": 2}}}
    assert teacher_config(tiny_config(loss_type="BPR", **own), 8)["loss_type"] == "BPR"


def test_the_word_none_of_a_yaml_file_is_none_for_recboles_models_too(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train_neg_sample_args: None\n")
    config = make_config("SASRec", "tiny", [str(file)])
    assert config["loss_type"] == "CE"
    assert config["train_neg_sample_args"]["distribution"] == "none"


@pytest.mark.parametrize("model", ["TransRec", "BPR", "LightGCN"])
def test_recboles_models_that_need_negatives_say_so(model, tiny_config):
    config = tiny_config(model, train_neg_sample_args=None)
    data = prepare_data(config)
    with pytest.raises(UserError, match=f"{model} .*sampled negatives.*train_neg_sample_args"):
        train_and_evaluate(config, data, *build(config, data))


def test_recboles_pairwise_models_without_negatives_do(tiny_config):
    """Their loss is over all items."""
    config = tiny_config("MultiVAE", train_neg_sample_args=None, epochs=1)
    data = prepare_data(config)
    assert train_and_evaluate(config, data, *build(config, data)).epochs == 1
