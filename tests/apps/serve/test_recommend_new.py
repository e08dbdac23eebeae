"""Items that nobody has met: encoded as the table was, ranked with the rest, without training."""

import json

import pytest
import torch
from serve_runs import encoder, from_text, saved  # noqa: F401

from recbole_llmemb import Recommender
from recbole_llmemb.apps.serve.recommendations import rank_new_items
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.table import EmbeddingTable

HEADER = "item_id:token\ttitle:token_seq\tcategories:token_seq\n"


def copy_of(tiny, token, name):
    """The line of the item file, under another token."""
    lines = (tiny.folder / "tiny.item").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{token}\t"))
    return line.replace(token, name, 1) + "\n"


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("LLMEmbSASRec", {}),
        ("LLMEmbSASRec", {"item_similarity": "cosine", "loss_type": "CE"}),
        ("LLMEmbSASRec", {"llm_pca_dim": 12, "llm_whiten": 0.1}),
        ("LLMEmbSASRec", {"adapter": "whitening", "llm_whiten": 0.1}),
        ("LLMEmbSASRec", {"adapter": "mlp"}),
        ("LLMEmbGRU4Rec", {}),
        ("LLMEmbHGN", {"train_mode": "prefix"}),
        ("LLMEmbNPE", {"train_mode": "prefix"}),
    ],
)
def test_a_copy_of_an_items_text_ranks_next_to_it(from_text, tiny, tmp_path, model, overrides):  # noqa: F811
    recommender = Recommender(from_text(model, **overrides))
    file = tmp_path / "new.item"
    file.write_text(HEADER + copy_of(tiny, "i5", "copy5") + copy_of(tiny, "i9", "copy9"))
    before = recommender.recommend("all", topk=100)
    assert recommender.add_items(file) == ["copy5", "copy9"]
    found = recommender.recommend("all", topk=100)
    for old, row, scores in zip(before.items, found.items, found.scores, strict=True):
        assert [item for item in row if not item.startswith("copy")] == old
        for name in ("5", "9"):
            here, there = row.index(f"i{name}"), row.index(f"copy{name}")
            torch.testing.assert_close(scores[here], scores[there], rtol=1e-3, atol=1e-4)
            assert abs(here - there) == 1
    _, items, _ = next(found.rows())
    new = [item for item in items if item.get("new")]
    assert {item["item"] for item in new} == {"copy5", "copy9"}
    assert new[0]["title"].startswith("the item number")


@pytest.mark.parametrize("kind", ["item", "jsonl", "json", "csv", "parquet"])
def test_an_item_is_encoded_alike_whatever_the_file_and_the_command(
    from_text,  # noqa: F811
    tmp_path,
    kind,
):
    """By recommend --new_items, as by encode --items."""
    row = {"item_id": "می\u200cn", "title": "soap \u200d x", "categories": ["gel", "kind"], "a": 1}
    file = tmp_path / f"new.{kind}"
    if kind == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.Table.from_pylist([row]), file)
    elif kind.startswith("json"):
        file.write_text(json.dumps([row] if kind == "json" else row))
    else:
        line = [row["item_id"], row["title"], "gel, kind"]
        cells = [f'"{cell}"' for cell in line] if kind == "csv" else line
        header = HEADER.replace(":token_seq", "").replace(":token", "").replace("\t", ",")
        text = f"{header}{','.join(cells)}\n" if kind == "csv" else HEADER + "\t".join(cells)
        file.write_text(text)
    recommender = Recommender(from_text())
    assert recommender.add_items(file) == [row["item_id"]]
    recommender.add_items({**row, "item_id": "same"})  # one alone
    recommender.add_items(iter([{**row, "item_id": "other", "title": "soap x"}]))
    with pytest.raises(UserError, match="PAD"):
        recommender.add_items([{**row, "item_id": "[PAD]"}])
    with pytest.raises(UserError, match="to_dict") as caught:
        recommender.add_items(recommender.recommend("all").to_pandas())
    assert caught.value.key == "new_items"
    this, same, other = recommender.item_vectors[-3:]
    torch.testing.assert_close(this, same)
    assert not torch.allclose(this, other)


def test_bert4rec_gives_new_items_the_mean_bias_and_keeps_its_mask(from_text, tiny):  # noqa: F811
    recommender = Recommender(from_text("LLMEmbBERT4Rec"))
    before = recommender.recommend("all", topk=100)
    recommender.add_items([{"item_id": "new", "title": "the item number 5 of brand 5"}])
    bias = recommender.model.output_bias[1:].mean()
    torch.testing.assert_close(recommender.item_vectors[-1, -1], bias)
    after = recommender.recommend("all", topk=100)
    assert [[i for i in row if i != "new"] for row in after.items] == before.items


def test_a_history_may_have_new_items(from_text, tiny):  # noqa: F811
    for model in ("LLMEmbSASRec", "LLMEmbBERT4Rec"):
        recommender = Recommender(from_text(model))
        lines = [copy_of(tiny, "i5", "copy5").rstrip().split("\t")]
        names = ("item_id", "title", "categories")
        recommender.add_items([dict(zip(names, line, strict=True)) for line in lines])
        old, new = ["i1", "i5", "i2"], ["i1", "copy5", "i2"]
        found = recommender.recommend(histories=[old, new, ["i1", "i2"]], topk=6)
        torch.testing.assert_close(found.scores[0], found.scores[1], rtol=1e-3, atol=1e-4)
        assert not torch.allclose(found.scores[0], found.scores[2], atol=1e-3)
        unseen = recommender.recommend(histories=[new], topk=100, exclude_seen=True)
        assert "copy5" not in unseen.items[0] and "i5" in unseen.items[0]


def test_added_one_after_the_other_is_as_at_once(from_text):  # noqa: F811
    path = from_text()
    items = [{"item_id": f"n{i}", "title": f"soap number {i}"} for i in range(3)]
    at_once, in_turn = Recommender(path), Recommender(path)
    at_once.add_items(items)
    in_turn.add_items(items[:1])
    in_turn.add_items(items[1:])
    torch.testing.assert_close(at_once.item_vectors, in_turn.item_vectors, rtol=1e-4, atol=1e-5)
    histories = [["i1", "n2", "n0"]]
    one, other = (r.recommend(histories=histories, topk=9) for r in (at_once, in_turn))
    assert one.items == other.items


def test_the_report_counts_ranks(from_text, tiny):  # noqa: F811
    recommender = Recommender(from_text())
    with pytest.raises(UserError, match="There are no new items"):
        rank_new_items(recommender)
    recommender.add_items([{"item_id": "a", "title": "soap"}, {"item_id": "b", "title": "gel"}])
    found = rank_new_items(recommender, users=20, topk=5)
    assert found.ranks.shape == (20, 2) and found.n_items == len(tiny.items) + 2
    people = recommender.people("all")
    draw = torch.randperm(len(people), generator=torch.Generator().manual_seed(0))[:20].sort()
    names = [people.names[i] for i in draw.values.tolist()]
    lists = recommender.recommend(names, topk=found.n_items).items
    assert [row.index("a") + 1 for row in lists] == found.ranks[:, 0].tolist()
    shares = [sum("b" in row[:5] for row in lists) / 20]
    assert found.listed()[1].item() == pytest.approx(shares[0])
    text = str(found)
    assert "New items among 62, over 20 users" in text and "nearest known item" in text
    assert "by chance 8.06%" in text
    assert "(by chance 100.00%)" in str(rank_new_items(recommender, users=20, topk=100))


def test_ready_vectors_come_as_a_table(saved, tiny_table, tmp_path):  # noqa: F811
    recommender = Recommender(saved())
    table = EmbeddingTable.load(tiny_table)
    rows = [table.tokens.index(token) for token in ("i5", "x1")]
    EmbeddingTable(["like5", "other"], table.vectors[rows], {}).save(tmp_path / "new")
    recommender.add_items(tmp_path / "new")
    found = recommender.recommend("all", topk=100)
    assert all(abs(row.index("like5") - row.index("i5")) == 1 for row in found.items)


def test_new_items_that_are_none_are_refused(from_text, tmp_path):  # noqa: F811
    recommender = Recommender(from_text())
    with pytest.raises(UserError, match="known already \\('i5'\\)"):
        recommender.add_items([{"item_id": "i5", "title": "soap"}])
    assert recommender.item_index.titles["i5"] != "soap"
    with pytest.raises(UserError, match="'a' occur more than once|more than once: 'a'"):
        recommender.add_items([{"item_id": "a", "title": "x"}, {"item_id": "a", "title": "y"}])
    for wrong in (["z"], {"a": 1}, 2.5, "a\nb", True):
        with pytest.raises(UserError) as caught:
            recommender.add_items([{"item_id": wrong, "title": "x"}])
        assert caught.value.key == "new_items"
    with pytest.raises(UserError, match="there is no item"):
        recommender.add_items([])
    file = tmp_path / "new.jsonl"
    file.write_text('{"item_id": "a", "title": "soap"}\n\n{"title": "gel"}\n')
    with pytest.raises(UserError, match="new.jsonl, line 3.*item_id"):
        recommender.add_items(file)
    file.write_text('{"item_id": "a", "title": "soap"}\n{"item_id": \n')
    with pytest.raises(UserError, match="new.jsonl, line 2: not JSON"):
        recommender.add_items(file)
    with pytest.raises(UserError, match="none of the fields .*title, categories"):
        recommender.add_items([{"item_id": "a", "name": "soap"}])
    file.write_text(json.dumps({"item_id": 7, "title": ["red", "soap"], "categories": None}))
    assert recommender.add_items(file) == ["7"]
    assert recommender.item_index.titles["7"] == "red, soap"
    with pytest.raises(UserError, match="known already"):
        recommender.add_items(file)
    mixed = [{"item_id": "i5", "title": "soap"}, {"item_id": "b", "title": "gel"}]
    before = recommender.recommend(["u3"], topk=100).items[0]
    mixed += [{"item_id": "c"}, {"item_id": "d", "name": "soap"}]  # of which nothing is said
    assert recommender.add_items(mixed) == ["b"] and recommender.known_again == 1
    assert recommender.without_text == 2
    assert [
        item for item in recommender.recommend(["u3"], topk=101).items[0] if item != "b"
    ] == before


def test_models_without_text_refuse_new_items(saved):  # noqa: F811
    recommender = Recommender(saved(item_embedding="id"))
    with pytest.raises(UserError, match="have learned IDs"):
        recommender.add_items([{"item_id": "a", "title": "soap"}])


@pytest.mark.parametrize("adapter", ["none", "whitening"])
def test_beside_a_trained_table_new_items_lie_beside_those_of_like_text(from_text, tiny, adapter):  # noqa: F811
    more = {"adapter": adapter, "align_weight": 0, "llm_whiten": 0.3}
    frozen = Recommender(from_text(**more))  # whose rows are still those it began with
    start = torch.nn.functional.normalize(frozen.item_vectors[1:], dim=1)
    own = start[frozen.item_index.number["i5"] - 1]
    near = (start @ own).topk(20)
    shares = torch.softmax(near.values / 0.1, dim=0)
    assert not frozen.method.new_item_note()
    trained = Recommender(from_text(**more, llm_freeze=False))
    names = ("item_id", "title", "categories")
    line = copy_of(tiny, "i5", "copy5").rstrip().split("\t")
    trained.add_items([dict(zip(names, line, strict=True))])
    assert "was trained" in trained.method.new_item_note()
    old, new = (trained.item_index.number[token] for token in ("i5", "copy5"))
    mean = shares @ trained.item_vectors[near.indices + 1]
    wanted = (mean + mean.norm() * own) / 2
    torch.testing.assert_close(trained.item_vectors[new], wanted, rtol=1e-2, atol=2e-3)
    assert not torch.allclose(trained.item_vectors[old], wanted, atol=0.05)  # what it has alone
    in_histories = trained.model.item_embedding(torch.tensor([new]))[0]
    torch.testing.assert_close(in_histories, wanted, rtol=1e-2, atol=2e-3)


def test_scores_of_its_own_and_imported_tables_refuse_new_items(saved):  # noqa: F811
    recommender = Recommender(saved("LLMEmbCORE", train_mode="prefix", loss_type="CE"))
    with pytest.raises(UserError, match="are no products"):
        recommender.add_items([{"item_id": "a", "title": "soap"}])
    recommender = Recommender(saved())
    with pytest.raises(UserError, match="was imported, so how its vectors were made"):
        recommender.add_items([{"item_id": "a", "title": "soap"}])


def test_another_encoder_at_the_same_place_is_refused(from_text, encoder, tmp_path):  # noqa: F811
    from shutil import copytree

    from encode_models import make_model

    own = tmp_path / "own"
    copytree(encoder, own)
    recommender = Recommender(from_text(llm_encoder=str(own)))
    make_model(own, "qwen2", seed=5)
    with pytest.raises(UserError, match="is not what it was"):
        recommender.add_items([{"item_id": "a", "title": "soap"}])
