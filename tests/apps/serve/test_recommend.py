"""Recommendations are RecBole's own, for users, for histories and among candidates."""

import math
import os
import shutil

import numpy as np
import pytest
import torch
from recbole.quick_start import load_data_and_model
from recbole.utils.case_study import full_sort_topk
from serve_runs import saved  # noqa: F401

from recbole_llmemb import Recommender
from recbole_llmemb.apps.serve.item_index import ExcludedPairs, top_k_inner_products
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.run.restore import restore

MODELS = {
    "SASRec table": ("LLMEmbSASRec", {}),
    "SASRec id": ("LLMEmbSASRec", {"item_embedding": "id"}),
    "SASRec cosine": ("LLMEmbSASRec", {"item_similarity": "cosine", "loss_type": "CE"}),
    "SASRec residual": ("LLMEmbSASRec", {"item_embedding": "residual"}),
    "BERT4Rec, with a bias": ("LLMEmbBERT4Rec", {}),
    "GRU4Rec": ("LLMEmbGRU4Rec", {}),
    "Caser, padded, with users": ("LLMEmbCaser", {"train_mode": "prefix"}),
    "CORE, scores of its own": ("LLMEmbCORE", {"train_mode": "prefix", "loss_type": "CE"}),
    "TransRec, distances": ("LLMEmbTransRec", {}),
    "RecBole's SASRec": ("SASRec", {"loss_type": "CE"}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_lists_are_those_of_full_sort_topk(saved, kind):  # noqa: F811
    model_name, overrides = MODELS[kind]
    path = saved(model_name, **overrides)
    _, model, dataset, _, _, test = load_data_and_model(str(path))
    ids = test.dataset.inter_feat["user_id"].numpy()
    scores, items = full_sort_topk(ids, model, test, 7)
    users = [str(token) for token in dataset.field2id_token["user_id"][ids]]
    found = Recommender(path).recommend(users, topk=7, split="test", batch_size=9)
    torch.testing.assert_close(found.scores, scores, rtol=1e-4, atol=1e-5)
    # Equal scores have no order.
    apart = (scores[:, 1:] < scores[:, :-1] - 1e-4).all(1)
    assert apart.sum() > len(apart) // 2
    tokens = dataset.field2id_token["item_id"]
    for row in apart.nonzero().flatten().tolist():
        assert found.items[row] == [str(tokens[i]) for i in items[row].tolist()]


def test_a_history_counts_as_the_user_who_has_it(saved, tiny):  # noqa: F811
    recommender = Recommender(saved())
    users = ["u3", "u7", "u8"]  # u3's is longer than the model reads
    by_user = recommender.recommend(users, topk=5)
    histories = [tiny.sequences[user] for user in users]
    assert len(histories[0]) > recommender.config["MAX_ITEM_LIST_LENGTH"]
    by_history = recommender.recommend(histories=histories, names=users, topk=5)
    assert by_history.items == by_user.items and by_history.users == users
    notes = recommender.notes(recommender.people(histories=histories))
    assert any("1 of 3 histories are longer than the 10 items" in note for note in notes)
    last = recommender.recommend(histories=[histories[0][-10:]], topk=5)
    assert last.items[0] == by_user.items[0]


def test_what_evaluation_shows_is_what_came_before_the_target(saved, tiny):  # noqa: F811
    recommender = Recommender(saved())
    people = recommender.people(["u8"], split="valid")
    tokens = recommender.item_index.tokens
    assert tokens[people.seen("item_id")[1]].tolist() == tiny.sequences["u8"][:-2]
    with pytest.raises(UserError, match="'u0' has too few interactions for the test split"):
        recommender.people(["u0"], split="test")
    with pytest.raises(UserError, match="split is 'tset'; it must be one of all, valid, test"):
        recommender.people("all", split="tset")


def test_a_split_by_ratio_has_each_user_once(saved, tiny):  # noqa: F811
    ratios = {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "TO", "group_by": "user", "mode": "full"}
    path = saved(eval_args=ratios)
    recommender = Recommender(path)
    everybody = recommender.people("all", split="test")
    assert len(set(everybody.names)) == len(everybody.names) > 10
    rows = restore(path).splits[2].inter_feat["user_id"]
    assert len(rows) > len(everybody.names)
    for name in everybody.names[:5]:
        alone = recommender.people([name], split="test")
        length = int(alone.lengths[0])
        assert length == int(everybody.lengths[everybody.names.index(name)])
        ours = int((rows == alone.users[0]).sum())
        assert length == len(tiny.sequences[name]) - ours  # what came before the first target


def test_the_gpu_of_the_training_is_not_that_of_serving(saved, monkeypatch):  # noqa: F811
    path = saved()
    state = checkpoint.load(path)
    checkpoint.save(state | {"config": state["config"] | {"gpu_id": "3", "use_gpu": True}}, path)
    for visible in ("0,1", None):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        recommender = Recommender(path)
        assert recommender.config["device"].type == "cpu"
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_seen_items_are_left_out_only_where_asked(saved, tiny):  # noqa: F811
    recommender = Recommender(saved())
    everything = len(tiny.items)
    for candidates in (None, tiny.items[:30]):
        found = recommender.recommend(
            "all", topk=everything, exclude_seen=True, candidates=candidates, batch_size=16
        )
        allowed = set(candidates or tiny.items)
        for user, items in zip(found.users, found.items, strict=True):
            assert set(items) == allowed - set(tiny.sequences[user])
    several = [["i1", "i2"], ["i3"]]
    found = recommender.recommend(histories=(one for one in several), topk=2)
    assert found.items == recommender.recommend(histories=several, topk=2).items
    with_seen = recommender.recommend(["u3"], topk=np.int64(everything))
    assert set(with_seen.items[0]) == set(tiny.items)
    with pytest.raises(UserError) as refused:
        recommender.recommend(["u3"], exclude_seen="False")
    assert refused.value.key == "exclude_seen"


def test_candidates_keep_their_order_among_themselves(saved, tiny):  # noqa: F811
    recommender = Recommender(saved())
    whole = recommender.recommend("all", topk=len(tiny.items))
    some = tiny.items[::3]
    found = recommender.recommend("all", topk=4, candidates=some[::-1])
    for row, items in zip(whole.items, found.items, strict=True):
        assert items == [item for item in row if item in some][:4]
    with pytest.raises(UserError, match="no item 'i1x' .nearest: i1"):
        recommender.recommend("all", candidates=["i1x"])
    with pytest.raises(UserError, match="occur more than once: 'i1'"):
        recommender.recommend("all", candidates=["i1", "i1"])


def test_nobody_known_without_a_history_gets_popular_items(saved, tiny):  # noqa: F811
    recommender = Recommender(saved())
    found = recommender.recommend(histories=[[], ["i1"]], topk=3)
    assert found.popular.tolist() == [True, False]
    train = recommender.splits[0]
    counts = recommender.dataset.training_counts(train)[0]
    assert found.scores[0].tolist() == counts.sort(descending=True).values[:3].tolist()
    lists = [recommender.recommend(histories=[[]], topk=k).items[0] for k in range(1, 12)]
    assert all(list(one) == list(lists[-1][: len(one)]) for one in lists)  # though some are equal
    notes = recommender.notes(recommender.people(histories=[[], ["i1"]]))
    assert any("1 of 2 have no history: they get popular items" in note for note in notes)
    (_, items, popular), _ = found.rows()
    assert popular and items[0]["title"].startswith("the item number")


def test_unknown_tokens_are_named_with_the_nearest(saved):  # noqa: F811
    recommender = Recommender(saved())
    with pytest.raises(UserError, match="tiny knows no user 'U7' .nearest: u7") as refused:
        recommender.recommend(["U7"])
    assert "--history" in str(refused.value)
    with pytest.raises(UserError, match="knows no item 'I12' .nearest: i12"):
        recommender.recommend(histories=[["i1", "I12"]])
    people = recommender.people(histories=[["i1", "I12"]], skip_unknown=True)
    assert people.lengths.tolist() == [1]
    assert any("1 unknown items" in note for note in recommender.notes(people))
    for got, wrong in (("neither", {}), ("both", {"users": ["u1"], "histories": [["i1"]]})):
        with pytest.raises(UserError, match=got):
            recommender.recommend(**wrong)
    for wrong in (None, math.nan, True, 7.5, "", ("i1",), {"i1"}):
        for given in (
            {"histories": [["i1", wrong]]},
            {"users": ["u1", wrong]},
            {"users": ["u1"], "candidates": ["i1", wrong]},
        ):
            with pytest.raises(UserError, match="names none"):
                recommender.recommend(**given)
    for wrong in ("i1 i2", None, 5):
        with pytest.raises(UserError, match="A history is a list of item tokens"):
            recommender.recommend(histories=[["i1"], wrong])
    with pytest.raises(UserError, match="topk is 0"):
        recommender.recommend(["u1"], topk=0)


def test_strangers_get_the_mean_of_what_users_learn(saved):  # noqa: F811
    recommender = Recommender(saved("LLMEmbCaser", train_mode="prefix"))
    weight = recommender.model.user_embedding.weight
    torch.testing.assert_close(weight[0], weight[1:].mean(0))
    people = recommender.people(histories=[["i1", "i2"]])
    assert any("people it does not know get the mean" in n for n in recommender.notes(people))
    assert recommender.notes(recommender.people(["u3"])) == [
        "1 of 1 histories are longer than the 10 items that the model reads: the last ones are used"
    ]


def test_recommendations_as_a_table_of_pandas(saved):  # noqa: F811
    found = Recommender(saved()).recommend(["u3", "u7"], topk=3)
    frame = found.to_pandas()
    assert frame["user"].tolist() == ["u3"] * 3 + ["u7"] * 3
    assert frame["rank"].tolist() == [1, 2, 3] * 2
    assert [group["item"].tolist() for _, group in frame.groupby("user")] == found.items
    assert frame["score"].tolist() == pytest.approx(found.scores.flatten().tolist())
    assert not frame["new"].any() and not frame["popular"].any()
    assert "tensor" not in repr(found) and found.items[1][2] in repr(found)
    assert found.items[0][0] in found._repr_html_()


def test_a_model_that_somebody_has_put_into_training_is_evaluated(saved):  # noqa: F811
    recommender = Recommender(saved(hidden_dropout_prob=0.5, attn_dropout_prob=0.5))
    people = recommender.people(["u3", "u7"])
    for ask in (lambda: recommender.recommend(["u3", "u7"]).scores,
                lambda: recommender.user_vectors(people)):  # fmt: skip
        before = ask()
        recommender.model.train()
        assert torch.equal(ask(), before)


def test_tokens_move_no_cursor(saved):  # noqa: F811
    recommender = Recommender(saved())
    tokens = recommender.item_index.tokens
    recommender.item_index.tokens = np.array([f"{token}\x1b[2J\u2028" for token in tokens], object)
    shown = repr(recommender.recommend(["u3"], topk=3))
    assert "\x1b" not in shown and "\u2028" not in shown and shown.count("\\x1b[2J\\u2028") == 3


def test_titles_leave_room_on_a_narrow_terminal(saved, monkeypatch):  # noqa: F811
    recommender = Recommender(saved())
    recommender.item_index.titles = dict.fromkeys(recommender.item_index.tokens, "long " * 30)
    monkeypatch.setenv("COLUMNS", "80")
    lines = repr(recommender.recommend(["u3"], topk=3)).split("\n")
    assert max(map(len, lines)) <= 80 and sum("…" in line for line in lines) == 3


def test_of_an_item_that_stands_there_twice_the_first_title_counts(saved, tiny, tmp_path):  # noqa: F811
    """As in training, which warns of it."""
    checkpoint = saved()
    shutil.copytree(tiny.folder, tmp_path / "twice" / "tiny")
    file = tmp_path / "twice" / "tiny" / "tiny.item"
    head, first, *rest = file.read_text().splitlines()
    token, *others = first.split("\t")
    file.write_text("\n".join([head, first, *rest, "\t".join([token, *["other"] * len(others)])]))
    found = Recommender(checkpoint, data_path=tmp_path / "twice").item_index.titles
    assert found == Recommender(checkpoint).item_index.titles and "other" not in found[token]


def test_the_item_matrix_is_computed_once(saved, adaptations):  # noqa: F811
    recommender = Recommender(saved())
    adaptations.clear()
    for users in (["u3"], ["u7", "u8"]):
        recommender.recommend(users)
    assert sum(adaptations) <= recommender.dataset.item_num  # the layer's own, for histories


@pytest.mark.parametrize(("b", "n", "k"), [(1, 5, 5), (5, 40_000, 10), (130, 8193, 7), (5, 16, 3)])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_blockwise_search_finds_the_best(b, n, k, share):
    torch.manual_seed(n)
    queries, items = torch.randn(b, 6), torch.randn(n, 6)
    scores = queries @ items.t()
    taboo = torch.rand(b, n) < share
    wanted = scores.masked_fill(taboo, -torch.inf).topk(k).values
    forbidden = ExcludedPairs(*taboo.nonzero(as_tuple=True)) if share else None
    value, place = top_k_inner_products(queries, items, k, forbidden)
    torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)
    there = value > -torch.inf
    torch.testing.assert_close(scores.gather(1, place)[there], value[there], rtol=1e-4, atol=1e-5)
    assert not taboo.gather(1, place)[there].any()


def test_of_equal_scores_the_lower_position_comes_first():
    items = torch.randn(50, 4)
    items[[40, 7, 21]] = 3 * items[3]
    query = items[3:4]
    _, place = top_k_inner_products(query, items, 4)
    assert place[0, :3].tolist() == [7, 21, 40]
