# ruff: noqa: F811 (fixtures come by name)
"""LLM-SRec as a whole: what trains, what does not, what is saved, and what it equals."""

import shutil
import sys

import pytest
import torch
import yaml
from conftest import ROOT
from llmsrec_fixtures import cf_model, llms, llmsrec  # noqa: F401

from recbole_llmemb import Recommender
from recbole_llmemb.cli.main import main
from recbole_llmemb.config.recbole_config import config_from_plain, config_to_plain, preset_file
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.llmsrec.item_inputs import ITEM_PROMPT
from recbole_llmemb.models.llmsrec.layers import (
    contrastive_distillation,
    mse_distillation,
    uniformity_loss,
)
from recbole_llmemb.models.llmsrec.prompts import CANDIDATE_ITEMS, CANDIDATES, USER_END, USER_START
from recbole_llmemb.run.artifacts import provide
from recbole_llmemb.run.stages import build, run_file, train_and_evaluate


def built(config, data):
    """A model for data that was prepared for another configuration."""
    provide(config, data.train._dataset)
    return build(config, data)[0]


sys.path.insert(0, str(ROOT))
from benchmarks.llmsrec_reference import Reference  # noqa: E402

FORMS = [("table", "bert"), ("table", "llama"), ("text", "bert"), ("text", "llama")]


def first_batch(model, data):
    data.train.form = model.form
    return next(iter(data.train))


def rows_of(batch, model):
    """Histories, candidates and their CF states, as lists."""
    items, lengths = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
    histories = [row[:length].tolist() for row, length in zip(items, lengths)]
    candidates = batch[CANDIDATE_ITEMS][batch[CANDIDATES]].tolist()
    return histories, candidates, model.teacher.user_states(items, lengths)


@pytest.mark.parametrize("form, kind", FORMS)
def test_training_reaches_what_shall_train_and_nothing_else(llmsrec, form, kind):
    config, data, model, trainer = llmsrec(kind, item_input=form)
    frozen = model.llm, model.teacher
    llm, cf = (checkpoint.fingerprint(one.model.state_dict()) for one in frozen)
    names = {name.split(".")[0] for name in model.state_dict()}
    assert names == {"form", "user_head", "item_head", "teacher_head"}
    batch = first_batch(model, data)
    sum(model.calculate_loss(batch)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    for frozen in (model.llm.model, model.teacher.model):
        assert not frozen.training
        assert not any(p.requires_grad or p.grad is not None for p in frozen.parameters())

    before = {name: value.clone() for name, value in model.state_dict().items()}
    outcome = train_and_evaluate(config, data, model, trainer)
    assert 0 <= outcome.test_result["ndcg@10"] <= 1
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert checkpoint.fingerprint(model.llm.model.state_dict()) == llm
    assert checkpoint.fingerprint(model.teacher.model.state_dict()) == cf
    assert outcome.parameters["frozen"] == model.frozen_parameters() > model.llm.parameters
    saved = checkpoint.load(outcome.checkpoint)["state_dict"]
    assert set(saved) == set(dict(model.named_parameters()))


@pytest.mark.parametrize("kind", ["bert", "llama", "qwen2"])
@pytest.mark.parametrize("dates", [False, True])
def test_text_form_is_the_paper_written_down(llmsrec, kind, dates):
    _, data, model, _ = llmsrec(kind, item_input="text", prompt_dates=dates)
    reference = Reference(model, model.form.titles)
    batch = first_batch(model, data)
    histories, candidates, states = rows_of(batch, model)
    days = None
    if dates:  # the times of tiny are seconds after midnight
        days = [["1970-01-01"] * len(history) for history in histories]
    expected = reference.loss(histories, candidates, states, days)
    found = sum(model.calculate_loss(batch))
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)
    parameters = list(model.parameters())
    ours, theirs = (torch.autograd.grad(loss, parameters) for loss in (found, expected))
    for one, other in zip(ours, theirs):
        assert torch.allclose(one, other, atol=1e-4), (one - other).abs().max()
    ids = list(range(1, model.n_items))
    assert torch.allclose(model.item_matrix()[1:], reference.catalog(ids, 50), atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_table_form_by_hand(llmsrec, kind):
    """Each user alone, slot by slot."""
    _, data, model, _ = llmsrec(kind)
    form, llm = model.form, model.llm
    batch = first_batch(model, data)
    histories, candidates, _ = rows_of(batch, model)
    found = model.user_vectors(batch)
    start, end = llm.tokenize([USER_START.rstrip(), USER_END])
    for history, vector in zip(histories, found):
        parts = [llm.embed(torch.tensor(llm.head + start))]
        for item in history[-4:]:
            parts.append(form.table_projection(form.table[item])[None])
            parts.append(form.history_projection(form.cf_items[item])[None])
        parts += [llm.embed(torch.tensor(end)), form.user_out[None]]
        place = sum(map(len, parts)) - 1
        parts.append(llm.embed(torch.tensor(llm.tail, dtype=torch.long)))
        states = llm.model(inputs_embeds=torch.cat(parts)[None]).last_hidden_state[0]
        assert torch.allclose(model.user_head(states[place]), vector, atol=1e-4)
    items = torch.tensor(candidates[0])
    rows = torch.cat([form.table[items], form.cf_items[items]], dim=1)
    assert torch.allclose(model.item_vectors(items), model.item_head(rows), atol=1e-5)
    assert torch.allclose(model.item_matrix()[items], model.item_head(rows), atol=1e-5)


@pytest.mark.parametrize("form", ["table", "text"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_padding_on_the_left_gives_the_same(llmsrec, form, kind):
    found = []
    for side in ("right", "left"):
        _, data, model, _ = llmsrec(kind, item_input=form, llm_padding_side=side)
        batch = first_batch(model, data)
        assert len(set(batch[model.ITEM_SEQ_LEN].clamp(max=4).tolist())) > 1
        found.append((model.user_vectors(batch), model.item_vectors(batch[CANDIDATE_ITEMS])))
    assert found[0][0].shape == (len(batch[model.ITEM_SEQ]), 12)
    for right, left in zip(*found):
        assert torch.allclose(right, left, atol=1e-4)


@pytest.mark.parametrize("form, kind", FORMS)
def test_a_user_alone_is_the_user_in_a_batch(llmsrec, form, kind):
    _, data, model, _ = llmsrec(kind, item_input=form)
    interaction = next(iter(data.test))[0]
    together = model.states(interaction)
    for row in (0, len(together) - 1):
        assert torch.allclose(model.states(interaction[row : row + 1])[0], together[row], atol=1e-4)


def test_encoders_are_padded_on_the_right_only(llmsrec):
    with pytest.raises(UserError, match="llm_padding_side"):
        llmsrec("bert", llm_padding_side="left")


@pytest.mark.parametrize(("form", "parts"), [("table", 1), ("text", 1), ("table", 3)])
def test_resumed_training_ends_where_the_whole_one_does(llmsrec, form, parts, monkeypatch):
    settings = {"item_input": form, "epochs": 3, "stopping_step": 10, "epoch_parts": parts}
    config, data, model, trainer = llmsrec("llama", **settings)
    train_and_evaluate(config, data, model, trainer)
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    rates = trainer.optimizer.param_groups[0]["lr"]
    assert rates == pytest.approx(0.003 * 0.95**2)

    config, data, _, trainer = llmsrec("llama", checkpoint_dir="other", **settings)
    real = trainer._train_epoch

    def interrupted(loader, epoch, *args, **kwargs):
        if epoch == 2:
            raise KeyboardInterrupt
        return real(loader, epoch, *args, **kwargs)

    monkeypatch.setattr(trainer, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(config, data, trainer.model, trainer)
    config, data, model, trainer = llmsrec("llama", checkpoint_dir="other", **settings)
    said = []
    train_and_evaluate(config, data, model, trainer, report=said.append)
    assert "continuing from epoch 2" in said[0]
    for name, value in model.state_dict().items():
        assert torch.allclose(value, whole[name], atol=1e-6), name


@pytest.mark.parametrize("changed", ["llm_table", "llm_model", "align_teacher"])
def test_training_does_not_go_on_over_something_else(llmsrec, tmp_path, changed, monkeypatch):
    """What is read may change between interruption and continuation, its path staying the same."""
    from safetensors.torch import load_file, save_file

    from recbole_llmemb.table import EmbeddingTable

    config, *_ = llmsrec("llama")
    moved = tmp_path / "moved"
    if changed == "align_teacher":
        shutil.copy(config[changed], moved)
    else:
        shutil.copytree(config[changed], moved)
    settings = {changed: str(moved), "epochs": 3, "checkpoint_dir": str(tmp_path / "saved")}
    config, data, model, trainer = llmsrec("llama", **settings)
    monkeypatch.setattr(trainer, "evaluate_per_row", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # between training and test
        train_and_evaluate(config, data, model, trainer)
    (whole,) = (tmp_path / "saved").glob("*.resume.pth")

    if changed == "llm_table":
        table = EmbeddingTable.load(moved)
        shutil.rmtree(moved)
        EmbeddingTable(table.tokens, table.vectors + 1, {}).save(moved)
    elif changed == "llm_model":
        weights = load_file(moved / "model.safetensors")
        name = next(iter(weights))
        save_file(
            weights | {name: weights[name] + 1}, moved / "model.safetensors", {"format": "pt"}
        )
    else:
        other = checkpoint.load(moved)
        other["state_dict"]["item_embedding.weight"] += 1
        checkpoint.save(other, moved)
    config, data, model, trainer = llmsrec("llama", **settings)
    begun, own, said = whole.read_bytes(), whole.with_name(whole.name.replace(".resume", "")), []
    with pytest.raises(UserError, match=rf"{whole} is of a training with another .*{changed}"):
        train_and_evaluate(config, data, model, trainer, file=own)
    found = train_and_evaluate(config, data, model, trainer, report=said.append)  # begins anew
    assert found.epochs == 3 and found.checkpoint != str(own) and whole.read_bytes() == begun
    assert any(str(own) in line and changed[-5:] in line for line in said)


def test_titles_that_are_missing(llmsrec, tiny):
    """As the authors have them, or as ours; long ones whole, where nothing is cut."""
    file = tiny.folder / "tiny.item"
    as_it_was = file.read_text()
    head, first, second, *rest = as_it_was.splitlines()
    column = [name.split(":")[0] for name in head.split("\t")].index("title")
    changed = []
    for line, title in ((first, ""), (second, "red " * 40)):
        values = line.split("\t")
        values[column] = title
        changed.append("\t".join(values))
    file.write_text("\n".join([head, *changed, *rest]) + "\n")
    own = {"item_input": "text", "item_value_max_chars": 0}
    try:
        for named in ({}, {"missing_title": "No Title"}):
            _, data, model, _ = llmsrec("llama", **own, **named)
            ids = data.dataset.token2id(data.dataset.iid_field, [first.split("\t")[0]])
            assert model.form.titles[ids[0]] == named.get("missing_title", "No title")
            assert max(map(len, model.form.titles)) >= 4 * 40 - 1
    finally:
        file.write_text(as_it_was)


def test_titles_that_the_llm_cannot_read(llmsrec, tiny):
    file = tiny.folder / "tiny.item"
    as_it_was = file.read_text()
    head, first, *rest = as_it_was.splitlines()
    column = [name.split(":")[0] for name in head.split("\t")].index("title")
    values = first.split("\t")
    values[column] = "red " * 600
    file.write_text("\n".join([head, "\t".join(values), *rest]) + "\n")
    own = {"item_input": "text", "item_value_max_chars": 0}
    try:
        for kind in ("bert", "llama"):
            with pytest.raises(UserError, match="1 of .* items have titles too long .* 512 tokens"):
                llmsrec(kind, **own)
        llmsrec("bert", **own | {"item_value_max_chars": 100})
    finally:
        file.write_text(as_it_was)


def test_a_cf_model_is_found_from_another_folder(llmsrec, cf_model, tmp_path, monkeypatch):
    shutil.copy(cf_model, tmp_path / "cf.pth")
    monkeypatch.chdir(tmp_path)
    config, data, model, trainer = llmsrec("llama", align_teacher="./cf.pth", epochs=1)
    plain = config_to_plain(config)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = built(config_from_plain(plain), data)
    assert torch.equal(again.teacher.item_embeddings, model.teacher.item_embeddings)
    (tmp_path / "cf.pth").unlink()
    monkeypatch.setattr("recbole_llmemb.run.artifacts.ensure_teacher", None)
    for named in ("./cf.pth", "SASRec"):
        with pytest.raises(UserError, match="cf.pth .* is gone"):
            built(config_from_plain(plain | {"align_teacher": named}), data)


def test_a_cf_model_of_other_interactions_is_refused(llmsrec, cf_model, tmp_path):
    state = checkpoint.load(cf_model)
    state["config"]["trained_on"]["interactions"] += "0"
    checkpoint.save(state, tmp_path / "cf.pth")
    with pytest.raises(UserError, match="other training interactions.*align_teacher_unchecked"):
        llmsrec("llama", align_teacher="./cf.pth")
    llmsrec("llama", align_teacher="./cf.pth", align_teacher_unchecked=True)


@pytest.mark.parametrize("trust", [True, False])
def test_an_llm_whose_code_is_run_is_another(llmsrec, trust):
    given = {"epochs": 1, "llm_trust_remote_code": trust}
    config, data, model, trainer = llmsrec("llama", **given)
    path = train_and_evaluate(config, data, model, trainer).checkpoint
    assert Recommender(path, trust_remote_code=True).recommend(["u3"])  # it may trust other things
    if trust:
        with pytest.raises(UserError, match="--trust_remote_code"):
            Recommender(path)
    else:
        assert Recommender(path).recommend(["u3"])


def test_titles_that_change_are_another_training(llmsrec, tiny, tmp_path, monkeypatch, capsys):
    """Prompts of the text form read them: neither a training nor a use goes on over others."""
    shutil.copytree(tiny.folder, tmp_path / "data" / "tiny")
    given = {"data_path": str(tmp_path / "data"), "item_input": "text", "epochs": 2}
    config, data, model, trainer = llmsrec("llama", **given)
    own = run_file(config)
    train_and_evaluate(config, data, model, trainer, file=own)
    items = tmp_path / "data" / "tiny" / "tiny.item"
    lines = items.read_text().splitlines()
    field = [column.partition(":")[0] for column in lines[0].split("\t")].index("title")
    parts = lines[1].split("\t")
    parts[field] = f"another {parts[field]}"
    items.write_text("\n".join([lines[0], "\t".join(parts), *lines[2:]]) + "\n")
    config, data, model, trainer = llmsrec("llama", **given)
    assert run_file(config) != own
    with pytest.raises(UserError, match="item_title_field"):  # a training that was not ended
        trainer.resume_checkpoint(own)
    for command in (["order-test"], ["recommend", "--users=u3"]):
        assert main([*command, f"--checkpoint={own}"]) == 2
        assert "item_title_field" in capsys.readouterr().err
    items.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")  # the order is nothing
    assert run_file(llmsrec("llama", **given)[0]) == own


def test_a_checkpoint_refuses_another_llm_table_or_cf_model(llmsrec, tmp_path, llms, cf_model):
    from recbole_llmemb.table import EmbeddingTable

    config, data, model, trainer = llmsrec("llama", epochs=1)
    path = train_and_evaluate(config, data, model, trainer).checkpoint
    state = checkpoint.load(path)
    assert sum(value.numel() for value in state["state_dict"].values()) == sum(
        p.numel() for p in model.parameters()
    )

    def rebuilt(**changes):
        config = config_from_plain(state["config"] | changes)
        return built(config, data)

    again = rebuilt()
    again.load_state_dict(state["state_dict"])
    interaction = next(iter(data.test))[0]
    assert torch.allclose(
        again.eval().full_sort_predict(interaction), model.eval().full_sort_predict(interaction)
    )
    with pytest.raises(UserError, match="not the LLM this model was trained with"):
        rebuilt(llm_model=str(llms["qwen2"]))
    table = EmbeddingTable.load(config["llm_table"])
    EmbeddingTable(table.tokens, table.vectors + 1, {}).save(tmp_path / "another")
    with pytest.raises(UserError, match="not the table this model was trained over"):
        rebuilt(llm_table=str(tmp_path / "another"))
    other = checkpoint.load(cf_model)
    other["state_dict"]["item_embedding.weight"] += 1
    checkpoint.save(other, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not the one this model was trained with"):
        rebuilt(align_teacher=str(tmp_path / "other.pth"))


def test_items_of_the_cf_model_are_found_by_token(llmsrec, cf_model, tmp_path):
    state = checkpoint.load(cf_model)
    tokens, rows = state["item_tokens"], state["state_dict"]["item_embedding.weight"]
    order = [0, *(1 + torch.randperm(len(tokens) - 1)).tolist()]
    state["item_tokens"] = [tokens[i] for i in order]
    state["state_dict"]["item_embedding.weight"] = rows[order]
    checkpoint.save(state, tmp_path / "turned.pth")
    found = []
    for path in (cf_model, tmp_path / "turned.pth"):
        _, data, model, _ = llmsrec("llama", align_teacher=str(path))
        batch = next(iter(data.test))[0]
        states = model.teacher.user_states(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
        found.append((model.teacher.item_embeddings, states))
    for one, other in zip(*found):
        assert torch.allclose(one, other, atol=1e-6)
    assert (rows[order] != rows).any()


def test_the_cf_model_reads_the_last_items(llmsrec):
    _, data, model, _ = llmsrec("llama")
    teacher = model.teacher
    items = torch.randint(1, model.n_items, (3, 14))
    whole = teacher.user_states(items, torch.tensor([14, 14, 14]))
    assert torch.allclose(whole, teacher.user_states(items[:, 4:], torch.tensor([10] * 3)))
    shorter = teacher.user_states(items[:, 5:], torch.tensor([9] * 3))
    assert not torch.allclose(whole, shorter)


@pytest.mark.parametrize("name", ["NextItNet", "SHAN", "BERT4Rec"])
def test_cf_models_of_recbole(llmsrec, tiny_settings, name):
    from recbole_llmemb.config.recbole_config import make_config
    from recbole_llmemb.run.stages import prepare_data

    own = {"kernel_size": 2, "block_num": 1, "dilations": [1]}
    own |= {"short_item_length": 2, "mask_ratio": 0.2, "ft_ratio": 0.5, "transform": None}
    if name == "BERT4Rec":
        own |= {"transform": "mask_itemseq", "loss_type": "CE"}
    config = make_config(name, "tiny", overrides=tiny_settings(name, **own, epochs=1))
    data = prepare_data(config)
    _, trainer = build(config, data)
    trainer.saved_model_file = "stock.pth"
    trainer._save_checkpoint(0, verbose=False)
    if name == "NextItNet":
        _, data, model, _ = llmsrec("llama", align_teacher="./stock.pth")
        batch = next(iter(data.test))[0]
        states = model.teacher.user_states(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
        assert states.shape == (len(batch), model.teacher.item_embeddings.shape[1])
    else:
        with pytest.raises(UserError, match=f"{name} does not turn a history"):
            llmsrec("llama", align_teacher="./stock.pth")


def test_a_checkpoint_finds_its_cf_model_again(llmsrec, cf_model, monkeypatch):
    """Also where training it today would give another: by the file it was read from."""
    config, data, model, trainer = llmsrec("llama", epochs=1)
    state = checkpoint.load(train_and_evaluate(config, data, model, trainer).checkpoint)
    monkeypatch.setattr("recbole_llmemb.run.artifacts.ensure_teacher", None)
    config = config_from_plain(state["config"] | {"align_teacher": "SASRec"})
    again = built(config, data)
    assert torch.equal(again.teacher.item_embeddings, model.teacher.item_embeddings)


def saved_for_backward(work):
    """Bytes of activations that autograd keeps, weights left out, and the loss that it is of."""
    kept = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter) and tensor.is_floating_point():
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = work()
    return sum(kept.values()), loss


def test_what_no_trained_slot_reaches_is_not_kept(llmsrec):
    _, data, model, _ = llmsrec("llama", item_input="text")
    batch = first_batch(model, data)
    prompts = batch[ITEM_PROMPT]
    model.form.prefixes.layers(torch.tensor([0]))
    ids = batch[CANDIDATE_ITEMS]
    ours, states = saved_for_backward(lambda: model.form.item_states(ids, prompts))
    assert states.requires_grad
    whole = Reference(model, model.form.titles)
    straightforward, _ = saved_for_backward(lambda: whole.items(ids.tolist()))
    assert ours < 0.7 * straightforward
    # Nothing at all is kept of what stands before the slots, nor while evaluating.
    prefixes, _ = saved_for_backward(lambda: model.form.prefixes._read(torch.arange(9)))
    begun, _ = saved_for_backward(lambda: model.llm.keys_values(torch.ones(3, 5).long()))
    evaluated, _ = saved_for_backward(lambda: model.item_matrix())
    assert prefixes == begun == evaluated == 0
    # A trained LLM would keep more: the inputs of its layers, for the slopes of their weights.
    model.llm.model.requires_grad_(True)
    trained, _ = saved_for_backward(lambda: model.form.item_states(ids, prompts))
    model.llm.model.requires_grad_(False)
    assert ours < trained


@pytest.mark.parametrize("form", ["table", "text"])
def test_bfloat16_on_a_cpu(llmsrec, form):
    """Another attention in training, the same numbers."""
    _, data, model, _ = llmsrec("bert", item_input=form, llm_model_dtype="bfloat16")
    batch = first_batch(model, data)
    trained = model.user_vectors(batch)
    assert trained.requires_grad and model.llm.model.config._attn_implementation == "eager"
    with torch.no_grad():
        ranked = model.user_vectors(batch)
    assert model.llm.model.config._attn_implementation == "sdpa"
    assert trained.dtype == torch.float32
    assert torch.allclose(trained, ranked, atol=0.1 * float(ranked.std()))


def test_no_shared_beginnings_without_a_prefix_cache(llmsrec):
    _, data, model, _ = llmsrec("llama", item_input="text", prefix_cache=0)
    assert model.form.shared_prefix_tokens == []
    _, _, other, _ = llmsrec("llama", item_input="text")
    assert len(other.form.shared_prefix_tokens) > 5
    batch = next(iter(data.test))[0]
    other.load_state_dict(model.state_dict())
    assert torch.allclose(model.user_vectors(batch), other.user_vectors(batch), atol=1e-4)


@pytest.mark.parametrize("form, kind", FORMS)
def test_items_are_read_once_per_evaluation(llmsrec, form, kind, monkeypatch):
    _, data, model, trainer = llmsrec(kind, item_input=form)
    calls = []
    real = model.form.encode_catalog
    monkeypatch.setattr(model.form, "encode_catalog", lambda *a: calls.append(1) or real(*a))
    first = trainer.evaluate(data.valid, load_best_model=False)
    trainer.evaluate(data.test, load_best_model=False)
    assert len(data.valid) > 1 and len(calls) == 1
    trainer._train_epoch(data.train, 0)
    assert trainer.evaluate(data.valid, load_best_model=False) != first
    assert len(calls) == 2
    fresh = model.item_matrix().clone()
    model._catalog.forget()
    assert torch.equal(model.item_matrix(), fresh)


@pytest.mark.parametrize("mode", ["full", "uni20"])
def test_rankings(llmsrec, mode):
    evaluation = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    config, data, model, trainer = llmsrec("llama", eval_args=evaluation | {"mode": mode})
    result = trainer.evaluate(data.test, load_best_model=False)
    assert 0 <= result["hit@5"] <= result["hit@10"] <= 1
    interaction = next(iter(data.test))[0]
    scores = model.eval().full_sort_predict(interaction)
    candidates = torch.randint(1, model.n_items, (len(scores), 5))
    found = model.scores(interaction, candidates)
    assert torch.allclose(found, scores.gather(1, candidates), atol=1e-5)


@pytest.mark.parametrize(
    "settings, parts",
    [
        ({}, 3),
        ({"distill_weight": 0.5, "uniformity_weight": 0.25}, 3),
        ({"distill_weight": 0.0}, 2),
        ({"uniformity_weight": 0.0}, 2),
        ({"distill_weight": 0.0, "uniformity_weight": 0.0}, 1),
        ({"distill_loss": "contrastive", "in_batch_negatives": True, "negative_items": 7}, 3),
    ],
)
def test_ablations(llmsrec, settings, parts):
    _, data, model, trainer = llmsrec("llama", **settings)
    batch = first_batch(model, data)
    assert batch[CANDIDATES].shape[1] == settings.get("negative_items", 3) + 1
    losses = list(model.loss_terms(batch).values())
    assert len(losses) == parts and all(torch.isfinite(loss) for loss in losses)
    users = model.user_vectors(batch)
    state = model.teacher.user_states(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
    teachers, expected = model.teacher_head(state), []
    if settings.get("distill_weight", 1.0):
        if "distill_loss" in settings:
            part = contrastive_distillation(users, teachers, 0.1)
        else:
            part = mse_distillation(users, teachers)
        expected.append(settings.get("distill_weight", 1.0) * part)
    if settings.get("uniformity_weight", 1.0):
        both = uniformity_loss(users) + uniformity_loss(teachers)
        expected.append(settings.get("uniformity_weight", 1.0) * both)
    assert [x.item() for x in losses[1:]] == pytest.approx([x.item() for x in expected], abs=1e-5)


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"item_input": "both"}, "item_input is 'both'"),
        ({"loss_type": "BPR"}, "loss_type is 'BPR'"),
        ({"history_items": 0}, "history_items is 0"),
        ({"align_teacher": ""}, "align_teacher is empty"),
        ({"llm_quantize": "8bit"}, "llm_quantize is set"),
        ({"learning_rate_decay": 0}, "learning_rate_decay is 0"),
        ({"item_input": "text", "item_title_field": "nothing"}, "has no field 'nothing'"),
        ({"history_items": 300}, "history_items is 300, which takes"),
        ({"llm_batch_size": 0}, "llm_batch_size is 0"),
        ({"item_value_max_chars": -3}, "item_value_max_chars is -3"),
        ({"item_value_max_chars": "x"}, "item_value_max_chars is 'x'"),
        ({"llm_model": 5}, "llm_model is 5"),
        ({"item_title_field": 5}, "item_title_field is 5"),
        ({"align_teacher": 5}, "align_teacher is 5"),
        ({"align_teacher": "."}, "align_teacher . does not exist"),
        ({"align_teacher": "DIN"}, "DIN reads a field 'label', which the data does not have"),
    ],
)
def test_settings_that_cannot_work(llmsrec, setting, message):
    with pytest.raises(UserError, match=message) as error:
        llmsrec("llama", **setting)
    assert "\n" not in str(error.value)


def test_the_authors_settings_train(llmsrec):
    """Their CF model's last epoch counts, whatever a validation would say; parts are epochs."""
    values = yaml.safe_load(preset_file("authors", "LLMSRec").read_text(encoding="utf-8"))
    small = {"epochs": 3, "hidden_size": 8, "head_hidden_size": 24, "representation_size": 12}
    small |= {"epoch_parts": 2, "MAX_ITEM_LIST_LENGTH": 10}
    small["align_teacher_config"] = values["align_teacher_config"] | {
        "epochs": 2, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 10,
    }  # fmt: skip
    config, data, model, trainer = llmsrec("llama", **values | small)
    state = checkpoint.load(config["teacher_used"]["path"])
    assert state["epoch"] == 1 and not state["best_valid_result"]
    assert state["config"]["loss_type"] == "BCE" and state["config"]["adam_betas"] == [0.9, 0.98]
    result = train_and_evaluate(config, data, model, trainer)
    assert result.epochs == 3 and result.test_result["hit@10"] >= 0
    assert trainer.optimizer.param_groups[0]["betas"] == (0.9, 0.98)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.0001 * 0.95**2)
