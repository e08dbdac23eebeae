"""Fields of the items that backbones read, numbers among them."""

import pytest
from serve_runs import save

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.config.recbole_config import make_config  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.run.restore import load_data_and_model, restore  # isort: skip
from recbole_llmemb.run.stages import build, prepare_data, train_and_evaluate  # isort: skip


@pytest.fixture
def settings(tmp_path, tiny_settings):
    """Settings on a dataset whose items have a brand, a price and a vector."""
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"u{u}\ti{(u * 3 + t) % 12}\t{t}" for u in range(12) for t in range(5)]
    (folder / "tiny.inter").write_text("\n".join(lines))
    lines = ["item_id:token\tbrand:token\tprice:float\temb:float_seq"]
    lines += [f"i{i}\tb{i % 3}\t{i / 2}\t{i} 1 0.5" for i in range(12)]
    (folder / "tiny.item").write_text("\n".join(lines))

    def given(model, **overrides):
        columns = {"inter": ["user_id", "item_id", "timestamp"]}
        own = {"item_embedding": "id"} if model.startswith("LLMEmb") else {}
        own |= {"data_path": str(folder.parent), "load_col": columns, "embedding_size": 8}
        return tiny_settings(model, **own | {"num_layers": 1, "topk": [5]} | overrides) | {
            "valid_metric": "NDCG@5"
        }

    return given


@pytest.mark.parametrize("model", ["SASRecF", "GRU4RecF", "FDSA"])
@pytest.mark.parametrize("ours", ["LLMEmb", ""], ids=["ours", "recbole"])
def test_numbers_among_the_features_are_read(settings, model, ours):
    """Alone and beside others; the same as when numerical_features names them."""
    for chosen, floats, sequences in (
        (["brand", "price"], ["price"], []),
        (["price"], ["price"], []),
        ("price", ["price"], []),
        (["brand", "emb"], [], ["emb"]),
    ):
        overrides = settings(ours + model, selected_features=chosen)
        if sequences and model == "SASRecF":  # counts a vector per number, and makes one
            with pytest.raises(UserError, match="selected_features names emb, of type float_seq"):
                make_config(ours + model, "tiny", overrides=overrides)
            continue
        config = make_config(ours + model, "tiny", overrides=overrides)
        assert config["numerical_features"] == floats + sequences
        data = prepare_data(config)
        built, _ = build(config, data)
        layer = built.feature_embed_layer
        assert layer.float_field_names["item"] == floats
        assert layer.float_seq_field_names["item"] == sequences
        built.calculate_loss(next(iter(data.train))).backward()


@pytest.mark.parametrize("model", ["LLMEmbSASRecF", "SASRecF", "LLMEmbS3Rec", "S3Rec"])
def test_features_that_cannot_be_read_are_refused(settings, model):
    key = "item_attribute" if "S3" in model else "selected_features"
    bad = [(3, f"{key} is 3"), ([], rf"{key} .*\[\]|set {key} to"), ("nope", "no field 'nope'")]
    bad += [("price", "item_attribute names price, of type float")] if "S3" in model else []
    for chosen, message in bad:
        with pytest.raises(UserError, match=message):
            make_config(model, "tiny", overrides=settings(model, **{key: chosen}))


def test_features_of_a_teacher(settings):
    from recbole_llmemb.run.teacher import teacher_config

    overrides = settings("LLMEmbSASRec", align_teacher="FDSA", selected_features=["price"])
    teacher = teacher_config(make_config("LLMEmbSASRec", "tiny", overrides=overrides), 8)
    assert teacher["numerical_features"] == teacher["selected_features"] == ["price"]
    with pytest.raises(UserError, match="--selected_features .*LLMEmbSASRec .*align_teacher_conf"):
        make_config("LLMEmbSASRec", "tiny", overrides=overrides, strict=["selected_features"])


@pytest.mark.parametrize("model", ["LLMEmbSASRecF", "SASRecF", "LLMEmbS3Rec"])
def test_a_checkpoint_refuses_values_of_other_numbers(settings, tmp_path, model):
    """A model knows a brand by its number, which is its place in the order of the lines."""
    attribute = {"item_attribute": "brand"} if "S3" in model else {"selected_features": ["brand"]}
    config = make_config(model, "tiny", overrides=settings(model, **attribute))
    data = prepare_data(config)
    path = save((config, data, *build(config, data)), tmp_path / "model.pth")
    file = tmp_path / "data" / "tiny" / "tiny.item"
    head, *lines = file.read_text().splitlines()
    same = [f"{line}9" for line in lines]  # of a field that it does not read
    for order, fits in ((same, True), (lines[::-1], False), (lines, True)):
        file.write_text("\n".join([head, *order]))
        if fits:
            assert restore(path).model is not None
        else:
            for use in (restore, load_data_and_model, lambda p: restore(p, loaders=True)):
                with pytest.raises(UserError) as refused:
                    use(path)
                assert refused.value.key == "data_path" and str(path) in str(refused.value)


def test_columns_that_are_all_misspelled_are_told(settings):
    overrides = settings("LLMEmbSASRec", load_col={"inter": ["uid", "iid"]})
    with pytest.raises(UserError) as refused:
        prepare_data(make_config("LLMEmbSASRec", "tiny", overrides=overrides))
    assert refused.value.key == "load_col" and "user_id" in str(refused.value)


def test_single_columns_that_are_misspelled_are_told(settings, caplog):
    columns = {"inter": ["user_id", "item_id", "timestamp", "ratings"], "item": ["item_id", "brnd"]}
    for chosen, told in ((columns, ["ratings", "brnd"]), ({"inter": columns["inter"][:3]}, [])):
        caplog.clear()
        overrides = settings("LLMEmbSASRec", load_col=chosen)
        prepare_data(make_config("LLMEmbSASRec", "tiny", overrides=overrides))
        warnings = [message for message in caplog.messages if "load_col" in message]
        assert len(warnings) == len(told) and all(map(str.__contains__, warnings, told))


def test_intervals_are_of_numbers_and_lists_of_tokens(settings):
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "brand", "emb"]}
    for interval in ({"brand": "[1,5]"}, {"item_id": "[1,5]"}, {"timestamp": [1, 2]},
                     {"brand": [["b1"]]}, {"emb": "[1,5]"}):  # fmt: skip
        overrides = settings("LLMEmbSASRec", load_col=columns, val_interval=interval)
        with pytest.raises(UserError) as refused:
            prepare_data(make_config("LLMEmbSASRec", "tiny", overrides=overrides))
        assert refused.value.key == "val_interval" and min(interval) in str(refused.value)


def test_values_to_keep_that_no_line_has_are_told(settings, caplog):
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "brand"]}
    overrides = settings("LLMEmbSASRec", load_col=columns)
    known = prepare_data(make_config("LLMEmbSASRec", "tiny", overrides=overrides)).parts[1]
    brands = sorted({*known.field2id_token["brand"]} - {"[PAD]"})
    for absent in ([], ["acme+"]):
        caplog.clear()
        overrides["val_interval"] = {"brand": brands + absent}
        prepare_data(make_config("LLMEmbSASRec", "tiny", overrides=overrides))
        warnings = [message for message in caplog.messages if "val_interval names" in message]
        assert len(warnings) == len(absent) and all(map(str.__contains__, warnings, absent))


def test_columns_to_leave_out_beside_columns_to_read(settings):
    columns = ["user_id", "item_id", "timestamp"]
    overrides = settings("LLMEmbSASRec", load_col={"inter": columns}, unload_col={"item": ["x"]})
    prepare_data(make_config("LLMEmbSASRec", "tiny", overrides=overrides))
    overrides["unload_col"] = {"inter": ["rating"]}
    with pytest.raises(UserError) as refused:
        prepare_data(make_config("LLMEmbSASRec", "tiny", overrides=overrides))
    assert refused.value.key == "unload_col" and "load_col: null" in str(refused.value)


def test_models_that_read_a_knowledge_graph(tmp_path):
    """Whose loaders of training batches are not of the kind that the others are."""
    folder = tmp_path / "kg"
    folder.mkdir()
    rows = [f"u{u}\ti{(u * 3 + t * 5) % 20}\t{t}" for u in range(12) for t in range(6)]
    links = [f"i{i}\te{i}" for i in range(20)]
    graph = [f"e{i}\tr{i % 3}\te{(7 * i + 3) % 25}" for i in range(20)]
    heads = {"inter": "user_id:token\titem_id:token\ttimestamp:float",
             "link": "item_id:token\tentity_id:token",
             "kg": "head_id:token\trelation_id:token\ttail_id:token"}  # fmt: skip
    for (kind, head), lines in zip(heads.items(), (rows, links, graph)):
        (folder / f"kg.{kind}").write_text("\n".join([head, *lines]) + "\n")
    given = {"data_path": str(tmp_path), "load_col": None, "epochs": 1, "show_progress": False}
    given |= {"checkpoint_dir": str(tmp_path), "use_gpu": False, "gpu_id": ""}
    given |= {"metrics": ["NDCG", "ItemCoverage"], "topk": [5], "valid_metric": "NDCG@5"}
    config = make_config("CKE", "kg", overrides=given)
    data = prepare_data(config)
    found = train_and_evaluate(config, data, *build(config, data)).test_result
    assert 0 < found["itemcoverage@5"] <= 1
