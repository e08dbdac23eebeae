"""Files whose columns are not called as RecBole's defaults."""

import pytest

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole.quick_start import run_recbole  # isort: skip
from recbole_llmemb.config.recbole_config import make_config  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.run.stages import prepare_data  # isort: skip

KEYS = {"USER_ID_FIELD": "uid", "ITEM_ID_FIELD": "iid", "TIME_FIELD": "when"}


@pytest.fixture
def settings(tmp_path, monkeypatch, tiny_settings):
    """Settings on a dataset with columns of other names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["program"])
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    lines = ["uid:token\tiid:token\twhen:float"]
    lines += [f"u{u}\ti{(u * 3 + t) % 12}\t{t}" for u in range(12) for t in range(5)]
    (folder / "tiny.inter").write_text("\n".join(lines))
    lines = ["iid:token\ttitle:token_seq", *(f"i{i}\tthing {i}" for i in range(12))]
    (folder / "tiny.item").write_text("\n".join(lines))

    def given(model, **overrides):
        own = {"item_embedding": "id"} if model.startswith("LLMEmb") else {}
        own |= {"data_path": str(folder.parent), "load_col": None, "topk": [5], "epochs": 1}
        return tiny_settings(model, **own | {"valid_metric": "NDCG@5"} | overrides)

    return given


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_columns_that_are_not_there_are_named(settings, model):
    for count in range(3):
        given = dict(list(KEYS.items())[:count])
        default = {
            "inter": ["user_id", "item_id"]
        }  # RecBole's, for a dataset that it does not know
        for columns in (None, default):
            overrides = settings(model, load_col=columns, **given)
            with pytest.raises(UserError) as caught:
                prepare_data(make_config(model, "tiny", overrides=overrides))
            message = str(caught.value)
            assert "tiny.inter: it has the columns uid, iid, when" in message
            assert [key for key in KEYS if f"{key}" in message] == list(KEYS)[count:]
    data = prepare_data(make_config(model, "tiny", overrides=settings(model, **KEYS)))
    assert data.dataset.user_num == 13 and data.dataset.item_num == 13


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
@pytest.mark.parametrize(
    ("column", "overrides", "key"),
    [
        ("iid_list:token_seq", {}, "LIST_SUFFIX"),
        ("item_length:float", {}, "ITEM_LIST_LENGTH_FIELD"),
        ("item_length:token", {}, "ITEM_LIST_LENGTH_FIELD"),
        ("free:token", {"ITEM_LIST_LENGTH_FIELD": "iid"}, "ITEM_LIST_LENGTH_FIELD"),
        ("free:token", {"ITEM_LIST_LENGTH_FIELD": "when_list"}, "ITEM_LIST_LENGTH_FIELD"),
        ("uid:token", {}, None),  # which belongs into .inter
    ],
)
def test_columns_called_as_what_is_made_are_refused(
    settings, tmp_path, model, column, overrides, key
):
    lines = [f"iid:token\t{column}", *(f"i{i}\t{i % 3 + 1}" for i in range(12))]
    (tmp_path / "data" / "tiny" / "tiny.item").write_text("\n".join(lines))
    with pytest.raises(UserError) as refused:
        prepare_data(make_config(model, "tiny", overrides=settings(model, **KEYS, **overrides)))
    assert refused.value.key == key
    assert column.partition(":")[0] in str(refused.value) or overrides


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec", "BPR"])
def test_columns_are_named_by_recboles_entry_points(settings, model):
    given = settings(model, USER_ID_FIELD="uid")
    if model == "BPR":
        del given["train_neg_sample_args"]
    with pytest.raises(UserError, match="but no item_id.*set ITEM_ID_FIELD") as caught:
        run_recbole(model=model, dataset="tiny", config_dict=given)
    assert ("TIME_FIELD" in str(caught.value)) == (model != "BPR")  # which has no use for times


def test_an_item_file_with_another_column(settings, tmp_path):
    file = tmp_path / "data" / "tiny" / "tiny.item"
    file.write_text("item_id:token\ttitle:token_seq\ni0\tsome thing\n")
    with pytest.raises(UserError, match="tiny.item: it has the columns item_id, title, but no iid"):
        prepare_data(make_config("SASRec", "tiny", overrides=settings("SASRec", **KEYS)))


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec", "BPR"])
@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("uid:float\tiid:token\twhen:float", "uid is of type float.*write uid:token"),
        ("uid:token\tiid:token_seq\twhen:float", "iid is of type token_seq.*write iid:token"),
        ("uid:token\tiid:token\twhen:float\twhen:float", "two columns 'when'"),
    ],
)
def test_columns_that_are_no_tokens_or_there_twice(settings, tmp_path, model, head, told):
    lines = [f"{u}\t{(u * 3 + t) % 12}\t{t}" for u in range(12) for t in range(5)]
    (tmp_path / "data/tiny/tiny.inter").write_text("\n".join([head, *lines]))
    given = settings(model, **KEYS)
    if model == "BPR":
        del given["train_neg_sample_args"]
    with pytest.raises(UserError, match=f"tiny.inter.*{told}"):
        run_recbole(model=model, dataset="tiny", config_dict=given)


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_a_column_without_any_value_is_named(settings, tmp_path, model):
    lines = [f"u{u}\ti{(u * 3 + t) % 12}\t" for u in range(12) for t in range(5)]
    (tmp_path / "data/tiny/tiny.inter").write_text(
        "\n".join(["uid:token\tiid:token\twhen:float", *lines])
    )
    with pytest.raises(UserError, match="tiny.inter: no line has uid, iid and when"):
        prepare_data(make_config(model, "tiny", overrides=settings(model, **KEYS)))


@pytest.mark.parametrize("field", ["iid", "title", "nowhere"])
def test_numerical_features_that_are_no_numbers(settings, field):
    given = settings("SASRec", numerical_features=[field], **KEYS)
    with pytest.raises(UserError) as caught:
        prepare_data(make_config("SASRec", "tiny", overrides=given))
    assert caught.value.key == "numerical_features" and field in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"threshold": {"when": 10**400}},
        {"additional_feat_suffix": "x" * 400},
        {"contrast": -(10**400)},
        {"preload_weight": {"iid": "\t"}},
        {"additional_feat_suffix": " "},
        {"clip_grad_norm": {"max_norm": 5.0, "norm_type": 1e100}},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_no_file_and_no_number_can_be(settings, given):
    with pytest.raises(UserError) as caught:
        make_config("SASRec", "tiny", overrides=settings("SASRec", **given, **KEYS))
    assert caught.value.key in given


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "BPR"])
def test_filters_that_leave_nothing_are_named(settings, model):
    given = settings(model, user_inter_num_interval="[99,inf)", **KEYS)
    if model == "BPR":
        del given["train_neg_sample_args"]
    with pytest.raises(UserError, match="user_inter_num_interval"):
        prepare_data(make_config(model, "tiny", overrides=given))


def test_a_filter_by_a_field_that_is_not_read(settings):
    given = settings("LLMEmbSASRec", val_interval={"ratin": "[3,inf)"}, **KEYS)
    with pytest.raises(UserError, match="'ratin'.*load_col") as caught:
        prepare_data(make_config("LLMEmbSASRec", "tiny", overrides=given))
    assert caught.value.key == "val_interval"


def test_an_order_by_times_that_are_not_read(settings):
    given = settings("BPR", load_col={"inter": ["uid", "iid"]}, **KEYS)
    given["eval_args"] = {**given["eval_args"], "order": "TO"}
    with pytest.raises(UserError, match="TIME_FIELD and load_col"):
        prepare_data(make_config("BPR", "tiny", overrides=given))


def test_labels_that_are_not_there(settings):
    args = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "labeled"}
    given = settings("BPR", eval_args=args, **KEYS)
    del given["train_neg_sample_args"]
    with pytest.raises(UserError) as caught:
        prepare_data(make_config("BPR", "tiny", overrides=given))
    assert caught.value.key == "eval_args"


def test_an_empty_text_is_told_of_none(settings):
    given = settings("SASRec", clip_grad_norm="", **KEYS)
    with pytest.raises(UserError, match="or None") as caught:
        make_config("SASRec", "tiny", overrides=given)
    assert caught.value.key == "clip_grad_norm"
