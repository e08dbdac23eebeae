"""Keys that have no effect, and what is said of them."""

import re

import pytest

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole.config import Config  # isort: skip
from recbole_llmemb.config.recbole_config import config_from_plain, config_to_plain  # isort: skip
from recbole_llmemb.config.recbole_config import without_argv  # isort: skip
from recbole_llmemb.config.recbole_config import make_config  # isort: skip
from recbole_llmemb.config.known import OLD, keys_of_any_model  # isort: skip
from recbole_llmemb.config.values import blamed, recbole_folder  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.models import registry  # isort: skip


def told_of(caplog, text=None, folder=None, model="LLMEmbSASRec", **given):
    """What building a ``Config`` says of the keys of a file or a dictionary, by first word."""
    caplog.clear()
    files = None
    if text is not None:
        files = [str(folder / "mine.yaml")]
        (folder / "mine.yaml").write_text(text)
    with without_argv():
        Config(model, "tiny", files, {"train_neg_sample_args": None, "loss_type": "CE"} | given)
    return {message.split()[0]: message for message in caplog.messages}


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_keys_that_nothing_reads_are_told(tmp_path, caplog, model, monkeypatch):
    """Misspelt and strange ones; not those of other models."""
    text = "llm_tabel: x\nalign_wieght: 1\nleraning_rate: 1\neval_arg: {}\nItem_id_field: x\n"
    text += "my_own_key: 3\nepochs: 2\nmlp_hidden_size: [8]\nnegative_items: 3\nitem_prompt: x\n"
    told = told_of(caplog, text, tmp_path, model)
    meant = {"llm_tabel": "llm_table", "align_wieght": "align_weight", "eval_arg": "eval_args",
             "leraning_rate": "learning_rate", "Item_id_field": "ITEM_ID_FIELD"}  # fmt: skip
    assert told.keys() == meant.keys() | {"my_own_key"}
    for key, near in meant.items():
        assert f"{near} is meant" in told[key]
    assert told_of(caplog, model=model, leraning_rate=1).keys() == {"leraning_rate"}
    told = told_of(caplog, "train:\n  weight_decay: 0.3\nnum_epochs: 9\n", tmp_path, model)
    assert told.keys() == {"train", "num_epochs"} and "weight_decay" in told["train"]
    told = told_of(
        caplog, "mode: uni9\norder: RO\n'': 1\nvalid_neg_sample_args: {}\n", tmp_path, model
    )
    assert "inside eval_args" in told["mode"] and "inside eval_args" in told["order"]
    assert "''" in told and "eval_args" in told["valid_neg_sample_args"]
    with pytest.raises(UserError) as refused:  # who would wait for others
        told_of(caplog, "local_rank: 0\nnproc: 2\n", tmp_path, model)
    assert refused.value.key == "local_rank"
    monkeypatch.setattr(registry, "own_parts", lambda config: ["mine.parts:MyMetric"])
    assert not told_of(caplog, model=model, my_own_key=3)
    assert not told_of(caplog, "offset: 3\n", tmp_path, model)


def test_what_recboles_code_reads_is_no_strange_key():
    """But what it finds out by itself, columns that it makes, its searches and its processes."""
    made = {"CROP_ITEM_SEQ", "CROP_ITEM_SEQ_LEN", "INVERSE_ITEM_SEQ", "MASK_INDEX", "NEG_ITEMS",
            "POS_ITEMS", "REORDER_ITEM_SEQ", "MODEL_INPUT_TYPE", "MODEL_TYPE", "device",
            "eval_type", "single_spec"}  # fmt: skip
    made |= {"choice", "loguniform", "quniform", "uniform"}
    made |= {"local_rank", "world_size", "nproc", "ip", "port", "offset"}
    reads = set()
    for file in recbole_folder().rglob("*.py"):
        text = file.read_text(encoding="utf-8", errors="replace")
        reads |= set(re.findall(r"config(?:_dict)?(?:\[|\.get\()\s*[\"'](\w+)[\"']", text))
    assert len(reads) > 300
    assert reads - keys_of_any_model() - set(OLD) == made


@pytest.mark.parametrize("key", ["preset", "protocol", "config_files", "result_json", "seeds"])
def test_options_of_the_command_are_no_settings(tmp_path, caplog, key):
    """In a file, in RecBole's ``config_dict``, in overrides: nothing would read them."""
    with pytest.raises(UserError) as refused:
        told_of(caplog, **{key: "id_only"})
    assert refused.value.key == key
    with pytest.raises(UserError) as refused:
        told_of(caplog, f"{key}: id_only\n", tmp_path)
    assert refused.value.key == key
    with pytest.raises(UserError) as refused:
        make_config("LLMEmbSASRec", "tiny", overrides={key: "id_only"})
    assert refused.value.key == key


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_keys_of_older_recboles_are_told(tmp_path, caplog, model):
    meant = {
        "eval_setting": "eval_args", "split_ratio": "eval_args", "group_by_user": "eval_args",
        "min_user_inter_num": "user_inter_num_interval", "lowest_val": "val_interval",
        "max_item_inter_num": "item_inter_num_interval", "real_time_process": "leave it out",
        "training_neg_sample_num": "train_neg_sample_args", "neg_sampling": "train_neg_sample_args",
    }  # fmt: skip
    told = told_of(caplog, "\n".join(f"{key}: 1" for key in meant), tmp_path, model)
    for key, today in meant.items():
        assert key in told and today in told[key]
    assert "neg_sampling" in told_of(caplog, model=model, neg_sampling=None)
    with pytest.raises(UserError, match="--eval_setting is a key of older .*eval_args"):
        make_config("LLMEmbSASRec", "tiny", overrides={"eval_setting": 1}, strict=["eval_setting"])


ODD = {
    "twice": "epochs: 1\nepochs: 2\n",
    "twice inside": "eval_args: {mode: full, mode: uni5}\n",
    "tag": "epochs: !!python/object/apply:os.getcwd []\n",
    "recursion": "x: &a [*a]\n",
    "depth": "x: " + "[" * 5000 + "]" * 5000,
    "bomb": "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in zip("abcdef", "bcdefg")),
    "documents": "epochs: 1\n---\nepochs: 2\n",
    "half": 'wandb_project: "\\ud800"\n',
    "nul": 'wandb_project: "\\0"\n',
    "list": "[1]\n",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_yaml_that_means_something_else_than_it_looks_like_is_refused(tmp_path, name):
    file = tmp_path / "odd.yaml"
    file.write_text(ODD[name])
    with pytest.raises(UserError, match=r"odd\.yaml"):
        make_config("LLMEmbSASRec", "tiny", [str(file)])
    file.write_text("a: &a {epochs: 1}\nb: *a\n<<: *a\n")
    assert make_config("LLMEmbSASRec", "tiny", [str(file)])["epochs"] == 1


@pytest.mark.parametrize(
    "given",
    [
        {"eval_args": {"splt": {"LS": "valid_and_test"}, "order": "TO"}},
        {"eval_args": {"topk": [5]}},
        {"loss_type": "BPR", "train_neg_sample_args": {"uniform": 2}},
        {"MODEL_TYPE": 1e20},  # which RecBole finds out from the model
    ],
)
def test_parts_of_keys_that_nothing_reads_are_refused(caplog, given):
    with pytest.raises(UserError) as caught:
        told_of(caplog, **given)
    assert caught.value.key in given


def test_a_list_of_endings_of_names():
    for right in ([], ["emb"], "emb"):
        given = {"additional_feat_suffix": right}
        assert make_config("SASRec", "tiny", overrides=given | {"train_neg_sample_args": None})
    for wrong in (["a/b"], "", "a b", [""], 5):
        with pytest.raises(UserError) as caught:
            make_config("LLMEmbSASRec", "tiny", overrides={"additional_feat_suffix": wrong})
        assert caught.value.key == "additional_feat_suffix"


@pytest.mark.parametrize("model", ["LLMEmbBERT4Rec", "BERT4Rec"])
@pytest.mark.parametrize("key", ["ft_ratio", "mask_ratio"])
def test_numbers_that_one_model_cannot_do_without(model, key):
    assert make_config("LLMEmbSASRec", "tiny", overrides={key: None})[key] is None
    with pytest.raises(UserError) as caught:
        make_config(model, "tiny", overrides={key: None})
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        ("SASRec", "layer_norm_eps", -1),
        ("BPR", "train_neg_sample_args", {"distribution": "uniform", "sample_num": 0}),
    ],
)
def test_numbers_that_recboles_own_models_cannot_do_with(model, key, value):
    with pytest.raises(UserError) as caught:
        make_config(model, "tiny", overrides={key: value})
    assert caught.value.key == key


def test_a_model_that_fails_says_what_was_set():
    given = {"hidden_act": "nix", "epochs": 3, "data_path": "here", "n_layers": 2}
    assert blamed(make_config("SASRec", "tiny", overrides=given)) == "; look at hidden_act."
    assert blamed(make_config("SASRec", "tiny")) == "."


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("preset: id_only", "preset"),
        ("protocol: paper", "protocol"),
        ("seeds: [1, 2]", "seeds"),
        ("result_json: a.json", "result_json"),
        ("config_files: b.yaml", "config_files"),
        ("eval_args.mode: uni10", "eval_args"),
    ],
)
def test_options_of_the_command_line_are_no_keys_of_files(tmp_path, caplog, line, key):
    with pytest.raises(UserError) as refused:
        told_of(caplog, line, tmp_path)
    assert refused.value.key == key


def test_a_restored_configuration_tells_nothing_again(caplog):
    plain = config_to_plain(make_config("LLMEmbSASRec", "tiny", overrides={"eval_setting": 1}))
    caplog.clear()
    assert config_from_plain(plain)["eval_setting"] == 1
    assert not caplog.messages
