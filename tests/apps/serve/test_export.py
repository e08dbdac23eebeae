"""Exports agree with the model, read by the libraries that others read them with."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import DatasetCard
from safetensors.torch import load_file
from serve_runs import encoder, from_text, saved  # noqa: F401

from recbole_llmemb import Recommender
from recbole_llmemb.apps.serve import hub
from recbole_llmemb.apps.serve.export import export, reference_scores
from recbole_llmemb.cli.main import main
from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.table import EmbeddingTable


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("LLMEmbSASRec", {}),
        ("LLMEmbSASRec", {"item_embedding": "id"}),
        ("LLMEmbSASRec", {"item_similarity": "cosine", "loss_type": "CE"}),
        ("LLMEmbBERT4Rec", {}),
        ("LLMEmbGRU4Rec", {}),
        ("LLMEmbCaser", {"train_mode": "prefix"}),
    ],
)
def test_the_user_encoder_and_the_vectors_give_the_models_scores(saved, tmp_path, model, overrides):  # noqa: F811
    recommender = Recommender(saved(model, **overrides))
    told = []
    out = export(recommender, tmp_path / "out", ["items", "users", "encoder"], report=told.append)
    facts = json.loads((out / "export.json").read_text())
    gaps = [value for name, value in facts["checks"].items() if "difference" in name]
    assert len(gaps) == 3 and max(gaps) < 1e-4
    assert sum("largest difference" in line for line in told) == 3

    items, users = (load_file(out / f"{n}.safetensors")["vectors"] for n in ("items", "users"))
    assert lines(out / "items.txt") == recommender.item_index.tokens[1:].tolist()
    people = recommender.people("all")
    assert lines(out / "users.txt") == people.names
    own = reference_scores(recommender, people)
    torch.testing.assert_close(users @ items.t(), own, rtol=1e-4, atol=1e-4)

    program = torch.export.load(out / "user_encoder.pt2").module()
    batch = people.batch(recommender.dataset, recommender.config, narrow=False)
    columns = [batch["item_id_list"], batch["item_length"]]
    columns += [batch["user_id"]] if len(facts["encoder_inputs"]) == 3 else []
    torch.testing.assert_close(program(*columns), users, rtol=1e-4, atol=1e-4)
    if "up to" in facts["encoder_inputs"][0]:  # short histories need no padding
        short = (batch["item_length"] <= 4).nonzero().flatten()[:1]
        given = [columns[0][short, :4], columns[1][short]]
        torch.testing.assert_close(program(*given), users[short], rtol=1e-4, atol=1e-4)
    else:
        assert model != "LLMEmbSASRec"


def test_parquet_and_index_hold_the_same_items(saved, tmp_path):  # noqa: F811
    import faiss
    import pyarrow.parquet as parquet

    recommender = Recommender(saved())
    out = export(recommender, tmp_path / "out", ["items", "users", "index"], form="parquet",
                 report=lambda line: None)  # fmt: skip
    rows = parquet.read_table(out / "items.parquet").to_pydict()
    assert rows["item"] == recommender.item_index.tokens[1:].tolist()
    vectors = torch.tensor(rows["vectors"])
    torch.testing.assert_close(vectors, recommender.item_vectors[1:])
    found = recommender.recommend(["u3", "u7"], topk=5)
    queries = recommender.user_vectors(recommender.people(["u3", "u7"]))
    scores, places = faiss.read_index(str(out / "items.faiss")).search(queries.numpy(), 5)
    torch.testing.assert_close(torch.from_numpy(scores), found.scores, rtol=1e-4, atol=1e-5)
    tokens = lines(out / "items.txt")
    assert [[tokens[i] for i in row] for row in places] == found.items
    facts = json.loads((out / "export.json").read_text())
    assert facts["checks"]["share of the best 10 that the index finds"] == 1.0


def test_new_items_are_exported_with_the_rest(from_text, tmp_path):  # noqa: F811
    for model in ("LLMEmbSASRec", "LLMEmbBERT4Rec"):
        recommender = Recommender(from_text(model))
        recommender.add_items([{"item_id": "new", "title": "soap"}])
        out = export(recommender, tmp_path / model, ["items", "encoder"], report=lambda line: None)
        assert lines(out / "items.txt")[-1] == "new"
        items = load_file(out / "items.safetensors")["vectors"]
        torch.testing.assert_close(items, recommender.item_vectors[1:])
        program = torch.export.load(out / "user_encoder.pt2").module()
        width = recommender.config["MAX_ITEM_LIST_LENGTH"]
        ids = torch.zeros(1, width, dtype=torch.long)
        ids[0, :2] = torch.tensor([len(items), 3])
        token = recommender.item_index.tokens[3]
        wanted = recommender.user_vectors(recommender.people(histories=[["new", token]]))
        torch.testing.assert_close(program(ids, torch.tensor([2])), wanted, rtol=1e-4, atol=1e-4)


def test_a_table_is_a_dataset_of_the_hub_and_a_table_again(from_text, tmp_path):  # noqa: F811
    from datasets import load_dataset

    recommender = Recommender(from_text())
    out = export(recommender, tmp_path / "out", ["table"], report=lambda line: None) / "table"
    table = EmbeddingTable.load(recommender.config["llm_table_used"]["path"])
    again = EmbeddingTable.load(out)
    assert again.fingerprint == table.fingerprint
    data = DatasetCard.load(out / "README.md").data.to_dict()
    assert data["configs"][0]["data_files"] == "items.parquet"
    assert "recommender-systems" in data["tags"] and data["size_categories"] == ["n<1K"]
    rows = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "hf"))
    assert rows["item"][:] == table.tokens
    torch.testing.assert_close(torch.tensor(rows["vectors"][:]), table.vectors)
    text = (out / "README.md").read_text()
    assert "The item has the following attributes" in text and "title, categories" in text


def test_a_card_says_what_a_table_says_as_text(from_text, tmp_path):  # noqa: F811
    recommender = Recommender(from_text())
    evil = "e`\n---\nlicense: mit\n---\n<script>alert(1)</script>"
    place = Path(recommender.config["llm_table_used"]["path"])
    table = EmbeddingTable.load(place)
    table.manifest.update(encoder=evil, prompt=evil, fields=[evil])
    shutil.rmtree(place)
    table.save(place)
    out = export(recommender, tmp_path / "out", ["table"], report=lambda line: None) / "table"
    text, _, listing = (out / "README.md").read_text().partition("```json")
    assert "license" not in DatasetCard.load(out / "README.md").data.to_dict()
    assert text.count("\n---\n") == 1 and "`\n---" not in text
    assert text.count("<script>") == text.count("`e' --- license: mit --- <script>") == 1


@pytest.mark.parametrize("name", ["a/b/c", "me/x y", "https://huggingface.co/me/x", "../x", "me/"])
def test_a_name_that_the_hub_cannot_have_is_refused_at_once(tmp_path, capsys, name):
    given = [f"--out={tmp_path / 'out'}", "--what=table", f"--push={name}"]
    assert main(["export", "--checkpoint=nowhere.pth", *given]) == 2
    assert "--push" in capsys.readouterr().err


def test_a_table_is_pushed_as_a_dataset(saved, tmp_path, monkeypatch):  # noqa: F811
    import huggingface_hub

    calls = []

    class Hub:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo, **options):
            calls.append(("create", repo, options["repo_type"], options["private"]))

        def upload_folder(self, repo_id, repo_type, folder_path):
            if repo_id == "me/refused":
                raise ConnectionError("no network.")
            names = sorted(path.name for path in (tmp_path / "out" / "table").iterdir())
            calls.append(("upload", repo_id, repo_type, names))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    path = saved()
    status = main(["export", f"--checkpoint={path}", f"--out={tmp_path / 'out'}", "--what=table",
                   "--push=me/table"])  # fmt: skip
    assert status == 0
    files = ["README.md", "embeddings.safetensors", "items.parquet", "items.txt", "manifest.json"]
    made = ("create", "me/table", "dataset", True)
    assert calls == [made, ("upload", "me/table", "dataset", files)]
    with pytest.raises(UserError, match="me/refused cannot be written .*no network"):
        hub.push_table(tmp_path / "out" / "table", "me/refused")
    with pytest.raises(TableError, match="has no dataset card"):
        (tmp_path / "out" / "table" / "README.md").unlink()
        hub.push_table(tmp_path / "out" / "table", "me/table")


def test_everything_that_a_model_has_is_exported(saved, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "out"
    arguments = ["export", f"--checkpoint={saved(item_embedding='id')}", f"--out={out}"]
    assert main([*arguments, "--what=all"]) == 0
    told = capsys.readouterr()
    assert "left out: table" in told.err and "largest difference" in told.out
    names = {"export.json", "items.txt", "items.safetensors", "users.txt", "users.safetensors",
             "items.faiss", "user_encoder.pt2"}  # fmt: skip
    assert {path.name for path in out.iterdir()} == names
    assert main(arguments) == 2
    assert "already holds an export" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--what=items"]) == 0
    less = {"export.json", "items.txt", "items.safetensors"}
    assert {path.name for path in out.iterdir()} == less
    again = [*arguments, "--what=items"]
    assert main(again) == 0  # as a command that was killed in its last moment is given again
    (out / "items.txt").write_text("mine, by now\n")
    assert main(again) == 2 and (out / "items.txt").read_text() == "mine, by now\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--what=soap"], "--what is 'soap'"),
        (["--format=csv"], "--format is 'csv'"),
        (["--push=me/table"], "--push uploads the table"),
        (["--public"], "--public is for --push"),
        (["--what=table", "--push="], "--push is empty"),
        (["--what=items", "--index=HNSW8"], "--index is for the index"),
        (["--what=index", "--index=Soap"], "FAISS makes no index 'Soap'"),
        (["--what=index", "--index=HNSW99999999"], "a number is too large"),
        (["--what=table"], "come from no table"),
        (["--new_items=gone.item"], "have learned IDs"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_sentence(saved, tmp_path, capsys, options, message):  # noqa: F811
    path = saved(item_embedding="id")
    assert main(["export", f"--checkpoint={path}", f"--out={tmp_path / 'out'}", *options]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_models_with_scores_of_their_own_have_no_vectors(saved, tmp_path, capsys):  # noqa: F811
    path = saved("LLMEmbTransRec")
    assert main(["export", f"--checkpoint={path}", f"--out={tmp_path / 'out'}"]) == 2
    assert "are no products" in capsys.readouterr().err


def test_something_else_in_the_way_is_never_replaced(saved, tmp_path, capsys):  # noqa: F811
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    arguments = ["export", f"--checkpoint={saved()}", f"--out={tmp_path / 'out'}", "--overwrite"]
    assert main(arguments) == 2
    assert "holds something else than an export" in capsys.readouterr().err
    assert (tmp_path / "out" / "letter.txt").read_text() == "dear"


def test_a_linked_folder_in_the_way_of_an_export_is_not_replaced(saved, tmp_path, capsys):  # noqa: F811
    """Where an export has a folder of its own, a link of somebody's is not followed, nor lost."""
    out, path = tmp_path / "out", saved()
    arguments = ["export", f"--checkpoint={path}", f"--out={out}", "--overwrite"]
    assert main([*arguments, "--what=items"]) == 0
    (tmp_path / "mine").mkdir()
    (out / "table").symlink_to(tmp_path / "mine")
    assert main([*arguments, "--what=table"]) == 2
    assert str(out / "table") in capsys.readouterr().err
    assert (out / "table").is_symlink() and not any((tmp_path / "mine").iterdir())
    assert main(["export", f"--checkpoint={path}", "--out="]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["LLMEmbHGN", "LLMEmbFEARec", "LLMEmbNPE"])
def test_the_user_encoder_holds_no_table_and_no_data(saved, model):  # noqa: F811
    """Neither that of a second layer of items, which makes scores, nor what training looks up."""
    settings = {"embedding_size": 8, "n_layers": 2} if model == "LLMEmbFEARec" else {}
    recommender = Recommender(saved(model, train_mode="prefix", **settings))
    table = recommender.model.item_embedding.table.shape
    program = recommender.method.user_encoder()
    held = [*program.named_parameters(), *program.named_buffers()]
    assert held and not [name for name, tensor in held if tensor.shape == table]
    assert getattr(program.model, "dataset", None) is None
    assert recommender.model.output_items.weight.shape[0] > 60  # the model itself has all it had


@pytest.mark.parametrize("what", ["index", "encoder"])
def test_a_full_disk_ends_an_export_in_a_sentence(saved, tmp_path, monkeypatch, capsys, what):  # noqa: F811
    """Written by libraries it would end in their words, or end the process."""
    checkpoint = saved("LLMEmbSASRec")

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    words = [f"--checkpoint={checkpoint}", f"--what={what}", f"--out={tmp_path / 'out'}"]
    assert main(["export", *words]) == 2
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err


def test_an_encoder_that_differs_is_not_kept(saved, tmp_path, monkeypatch):  # noqa: F811
    from recbole_llmemb.models.llmemb import item_side

    forward = item_side.UserEncoder.forward
    monkeypatch.setattr(
        item_side.UserEncoder, "forward", lambda self, a, b: 1.1 * forward(self, a, b)
    )
    with pytest.raises(UserError, match="differs from it by"):
        export(Recommender(saved()), tmp_path / "out", ["encoder"], report=lambda line: None)
    assert not (tmp_path / "out").exists()
