"""A checkpoint whose files, device or machine are not what they were."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from llmsrec_fixtures import cf_model, llms, llmsrec  # noqa: F401
from serve_runs import save, saved  # noqa: F401

from recbole_llmemb.cli.main import main
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.run.artifacts import teacher_model
from recbole_llmemb.run.restore import load_data_and_model, restore
from recbole_llmemb.run.teacher import read_item_embeddings
from recbole_llmemb.table import EmbeddingTable


def test_a_copy_of_the_table_is_taken_though_the_first_has_changed(saved, tiny_table, tmp_path):  # noqa: F811
    own, copied = (shutil.copytree(tiny_table, tmp_path / name) for name in ("own", "copied"))
    path = saved(llm_table=str(own))
    before = restore(path).model.item_embedding.weight.detach()
    for no_table in (own / "tokens.txt", tmp_path):  # though the first is still there
        with pytest.raises(TableError):
            restore(path, llm_table=no_table)
    table = EmbeddingTable.load(own)
    EmbeddingTable(table.tokens, table.vectors * 2, {}).save(own, overwrite=True)
    with pytest.raises(UserError) as caught:
        restore(path)
    assert "fingerprint" in str(caught.value)
    assert torch.equal(restore(path, llm_table=copied).model.item_embedding.weight, before)


def test_recboles_own_know_which_item_is_which(saved, tiny, tmp_path, caplog):  # noqa: F811
    """RecBole numbers items as they come in the file, and its checkpoints do not say how."""
    shutil.copytree(tiny.folder, tmp_path / "data" / "tiny")
    file = tmp_path / "data" / "tiny" / "tiny.inter"
    header, *lines = file.read_text().splitlines()
    path = saved("SASRec", data_path=str(file.parent.parent))
    tokens, rows = read_item_embeddings(path)
    state = checkpoint.load(path)
    assert state["item_tokens"][1:] == tokens and len(state["user_tokens"]) > 30
    older, oldest = tmp_path / "older.pth", tmp_path / "oldest.pth"
    state["item_tokens"] = state["user_tokens"] = None
    checkpoint.save(state, older)
    assert read_item_embeddings(older)[0] == tokens and restore(older)
    state["config"]["trained_on"] = None
    checkpoint.save(state, oldest)
    file.write_text("\n".join([header, *lines[::-1]]) + "\n")  # the same interactions
    again = read_item_embeddings(path)
    assert again[0] == tokens and torch.equal(again[1], rows)
    for one, key in ((path, "data_path"), (older, "data_path")):
        with pytest.raises(UserError) as refused:
            restore(one)
        assert refused.value.key == key and str(one) in str(refused.value)
    for read in (read_item_embeddings, lambda one: teacher_model(checkpoint.load(one), one)):
        with pytest.raises(UserError) as refused:
            read(older)
        assert refused.value.key == "align_teacher" and str(older) in str(refused.value)
    restore(oldest)  # of RecBole without this package: nothing is known
    assert any(str(oldest) in message for message in caplog.messages)


@pytest.mark.parametrize("kind", [torch.complex64, torch.int64])
def test_weights_that_are_other_kinds_of_numbers_are_refused(saved, kind):  # noqa: F811
    path = saved()
    state = checkpoint.load(path)
    name = next(n for n, one in state["state_dict"].items() if one.dim() == 2)
    state["state_dict"][name] = state["state_dict"][name].to(kind)
    checkpoint.save(state, path)
    with pytest.raises(UserError) as refused:
        restore(path)
    assert name in str(refused.value) and refused.value.where == str(path)


def test_a_table_is_known_by_its_columns_too(saved, tiny_table, tmp_path):  # noqa: F811
    """``llm_pca_dim`` makes a copy, which may be made again from a copy of the whole."""
    own = shutil.copytree(tiny_table, tmp_path / "own")
    path = saved(llm_table=str(own), llm_pca_dim=6)
    before = restore(path).model.item_embedding.weight.detach()
    moved = shutil.move(own, tmp_path / "moved")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(UserError) as caught:
        restore(path)
    assert caught.value.key == "llm_table"
    again = restore(path, llm_table=moved).model.item_embedding.weight
    torch.testing.assert_close(again, before)


@pytest.mark.parametrize("command", [["recommend", "--users=u3"], ["order-test", "--shuffles=0"]])
def test_the_whole_table_or_its_reduced_copy(saved, tiny_table, tmp_path, capsys, command):  # noqa: F811
    """Either is taken where a model was trained over fewer columns; any other is refused."""
    own = shutil.copytree(tiny_table, tmp_path / "own")
    path = saved(llm_table=str(own), llm_pca_dim=6)
    reduced = shutil.move(restore(path).config["llm_table_used"]["path"], tmp_path / "reduced")
    whole, told = shutil.move(own, tmp_path / "whole"), []
    for table in (whole, reduced):
        assert main([*command, f"--checkpoint={path}", f"--llm_table={table}"]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    other = EmbeddingTable.load(whole)
    EmbeddingTable(other.tokens, other.vectors + 1, {}).save(tmp_path / "other")
    assert main([*command, f"--checkpoint={path}", f"--llm_table={tmp_path / 'other'}"]) == 2


def test_a_table_named_from_another_folder(saved, tiny_table, tmp_path, monkeypatch):  # noqa: F811
    shutil.copytree(tiny_table, "own")
    path = saved(llm_table="own")
    before = restore(path).model.item_embedding.weight.detach()
    monkeypatch.chdir(folder_of_another(tmp_path, tiny_table))
    assert torch.equal(restore(path).model.item_embedding.weight, before)


def folder_of_another(tmp_path, tiny_table):
    """A folder in which another table has the same name."""
    folder = tmp_path / "elsewhere"
    table = EmbeddingTable.load(tiny_table)
    EmbeddingTable(table.tokens, table.vectors + 1, {}).save(folder / "own")
    return folder


@pytest.mark.parametrize("command", ["recommend", "export"])
def test_llmsrec_of_another_machine(command, llmsrec, llms, cf_model, tmp_path, capsys):  # noqa: F811
    """Its LLM and its CF model lie elsewhere; others in their place are refused."""
    llm = shutil.copytree(llms["llama"], tmp_path / "llm")
    teacher = shutil.copy(cf_model, tmp_path / "cf.pth")
    path = save(llmsrec(align_teacher=str(teacher), llm_model=str(llm)), tmp_path / "srec.pth")
    options = {"recommend": ["--users=u3"], "export": ["--what=items", "--out=out"]}[command]
    argv = [command, f"--checkpoint={path}", *options]
    llm, teacher = shutil.move(llm, tmp_path / "l"), shutil.move(teacher, tmp_path / "c.pth")
    assert main(argv) == 2
    assert "--align_teacher" in capsys.readouterr().err
    assert main([*argv, f"--align_teacher={teacher}", f"--llm_model={llms['qwen2']}"]) == 2
    assert "is not the LLM" in capsys.readouterr().err
    assert main([*argv, f"--align_teacher={teacher}", f"--llm_model={llm}"]) == 0


@pytest.mark.parametrize("option", ["llm_table", "align_teacher"])
def test_what_a_model_has_not_is_not_taken(saved, tiny_table, tmp_path, option):  # noqa: F811
    path = saved(item_embedding="id")
    with pytest.raises(UserError) as caught:
        restore(path, **{option: tiny_table if option == "llm_table" else path})
    assert caught.value.key == option


@pytest.mark.parametrize("device", ["cuda:99", "cpu,cpu", "meta", "gpu"])
def test_a_device_that_cannot_be_used_is_named_as_it_was_asked_for(saved, device):  # noqa: F811
    with pytest.raises(UserError) as caught:
        restore(saved(), device=device)
    assert caught.value.key == "device" and repr(device) in str(caught.value)
    assert "llm_device" not in str(caught.value) and "\n" not in str(caught.value)


def test_random_numbers_go_on_as_if_nothing_was(saved):  # noqa: F811
    path = saved()
    torch.manual_seed(3), np.random.seed(3)
    wanted = torch.rand(2).tolist(), np.random.rand()
    for loaders in (False, True):
        torch.manual_seed(3), np.random.seed(3)
        restore(path, loaders=loaders)
        assert (torch.rand(2).tolist(), np.random.rand()) == wanted


def test_changed_settings(saved):  # noqa: F811
    path = saved()
    changes = {"topk": [3], "valid_metric": "NDCG@3", "user_sample": None}
    assert restore(path, changes=changes).config["topk"] == [3]
    restored = restore(path, loaders=True)
    assert restored.data.test._dataset is restored.splits[2] and not restored.model.training
    again = restore(path, loaders=True, model=restored.model)
    assert again.model is restored.model and Path(again.path) == Path(os.fspath(path))


def test_what_is_learned_per_user_stays_with_the_user(saved, tiny, tmp_path, caplog):  # noqa: F811
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    head, *rows = (tiny.folder / "tiny.inter").read_text().splitlines()
    first = [f"all\t{item}\t{time}\t1" for time, item in enumerate(tiny.items)]
    for place in tiny.folder.glob("*.item"):
        shutil.copy(place, folder)

    def write(lines):
        (folder / "tiny.inter").write_text("\n".join([head, *first, *lines]) + "\n")

    write(rows)
    path = saved("LLMEmbHGN", data_path=str(folder.parent), embedding_size=8)
    other = saved("LLMEmbSASRec", data_path=str(folder.parent))
    assert "user_tokens" not in checkpoint.load(other)
    restore(path)
    assert not caplog.messages
    for lines in (rows[::-1], [*rows, "new\ti1\t1\t1"]):
        write(lines)
        for made in (restore, load_data_and_model):
            with pytest.raises(UserError) as caught:
                made(path)
            assert caught.value.key == "data_path" and "users" in str(caught.value)
    restore(other)
    assert not [one for one in caplog.messages if "users" in one]
    write(rows)
    state = checkpoint.load(path)  # as an earlier version wrote it
    del state["user_tokens"]
    checkpoint.save(state, path)
    restore(path)
    assert "users" in caplog.text
