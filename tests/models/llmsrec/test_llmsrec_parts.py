# ruff: noqa: F811 (fixtures come by name)
"""Losses of LLM-SRec against naive ones; its batches; shuffled histories; samples of users."""

import math

import pytest
import torch
from llmsrec_fixtures import cf_model, llms, llmsrec  # noqa: F401
from torch import nn

from recbole_llmemb.data.histories import (
    POSITION,
    sampled_users,
    shuffled_order,
    with_sampled_users,
    with_shuffled_histories,
)
from recbole_llmemb.models.llmsrec.item_inputs import USER_PROMPT
from recbole_llmemb.models.llmsrec.layers import (
    contrastive_distillation,
    mse_distillation,
    retrieval_loss,
    slot_projection,
    standardized,
    uniformity_loss,
)
from recbole_llmemb.models.llmsrec.prompts import CANDIDATE_ITEMS, CANDIDATES, PAD


@pytest.fixture
def vectors():
    torch.manual_seed(1)
    return torch.randn(5, 6), torch.randn(5, 4, 6), torch.randn(5, 6)


def unit(row):
    return row / math.sqrt(sum(value * value for value in row.tolist()))


def softmax_loss(scores, right):
    return -math.log(math.exp(scores[right]) / sum(math.exp(score) for score in scores))


def test_retrieval(vectors):
    users, candidates, _ = vectors
    naive = [
        softmax_loss([float(users[u] @ item) for item in candidates[u]], 0)
        for u in range(len(users))
    ]
    assert retrieval_loss(users, candidates).item() == pytest.approx(sum(naive) / 5, abs=1e-5)


def test_retrieval_among_the_batch(vectors):
    users, candidates, _ = vectors
    ids = torch.tensor([7, 8, 7, 9, 10])
    naive = []
    for u in range(5):
        others = [candidates[v, 0] for v in range(5) if ids[v] != ids[u]]
        scores = [float(users[u] @ item) for item in [*candidates[u], *others]]
        naive.append(softmax_loss(scores, 0))
    found = retrieval_loss(users, candidates, ids)
    assert found.item() == pytest.approx(sum(naive) / 5, abs=1e-5)


def test_distillation(vectors):
    users, _, teachers = vectors
    pairs = [(unit(a) - unit(b)).tolist() for a, b in zip(users, teachers)]
    naive = sum(value**2 for row in pairs for value in row) / 30
    assert mse_distillation(users, teachers).item() == pytest.approx(naive, abs=1e-6)
    naive = sum(
        softmax_loss([float(unit(users[u]) @ unit(t)) / 0.5 for t in teachers], u) for u in range(5)
    )
    found = contrastive_distillation(users, teachers, 0.5)
    assert found.item() == pytest.approx(naive / 5, abs=1e-5)


def test_uniformity(vectors):
    users = vectors[0]
    pairs = [(a, b) for a in range(5) for b in range(a)]
    naive = [
        math.exp(-2 * float((unit(users[a]) - unit(users[b])).square().sum())) for a, b in pairs
    ]
    users.requires_grad_()
    found = uniformity_loss(users)
    assert found.item() == pytest.approx(sum(naive) / len(pairs), abs=1e-6)
    found.backward()
    assert torch.isfinite(users.grad).all()
    assert uniformity_loss(users[:1]).item() == 0


def test_slots_begin_as_large_as_tokens():
    torch.manual_seed(0)
    rows = standardized(torch.randn(500, 8) * 7 + 3)
    assert rows[0].abs().max() == 0
    assert rows[1:].mean().abs() < 1e-5 and rows[1:].std().item() == pytest.approx(1, abs=0.01)
    out = slot_projection(8, 64, spread=0.02)(rows[1:])
    assert out.std().item() == pytest.approx(0.02, rel=0.2)


def test_the_networks_are_the_papers(llmsrec):
    _, _, model, _ = llmsrec("llama")
    plain = [nn.Linear, nn.LayerNorm, nn.LeakyReLU, nn.Linear]
    networks = [model.user_head, model.item_head, model.form.history_projection]
    assert all([type(layer) for layer in network] == plain for network in networks)
    assert [type(layer) for layer in model.teacher_head] == [*plain[:2], nn.GELU, plain[3]]
    assert model.user_head[0].out_features == 24 and model.user_head[3].out_features == 12


@pytest.mark.parametrize("form", ["table", "text"])
def test_networks_that_start_by_xavier(llmsrec, form):
    """Every matrix, of variance 2 / (rows + columns); the learned tokens are as they were."""
    _, _, own, _ = llmsrec("llama", item_input=form)
    _, _, model, _ = llmsrec("llama", item_input=form, initialization="xavier")
    before, spreads = dict(own.named_parameters()), []
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == (weight.dim() == 1), name
        if weight.dim() > 1:
            spreads.append((weight.var() * sum(weight.shape) / 2).item())
    assert len(spreads) >= 8 and 0.85 < sum(spreads) / len(spreads) < 1.15


def batches(data, model):
    data.train.form = model.form
    return list(data.train)


@pytest.mark.parametrize("kind", ["one", "last", "every"])
def test_what_makes_an_epoch(llmsrec, kind):
    _, data, model, _ = llmsrec("llama", train_targets=kind)
    rows = data.train.rows
    users, positions = rows[data.train.uid_field], rows[POSITION]
    found = [data.train.pairs() for _ in range(3)]
    trained = set(users.tolist())
    if kind == "every":
        assert sorted(found[0].tolist()) == list(range(len(users)))
        return
    for pairs in found:
        assert sorted(users[pairs].tolist()) == sorted(trained)
    latest = {
        u: max(p for v, p in zip(users.tolist(), positions.tolist()) if u == v) for u in trained
    }
    are_last = [all(latest[int(users[r])] == int(positions[r]) for r in pairs) for pairs in found]
    assert are_last == ([True] * 3 if kind == "last" else [False] * 3)
    assert (found[0].tolist() == found[1].tolist()) is (kind == "last")


def test_there_are_no_more_parts_of_an_epoch_than_batches(llmsrec):
    _, data, _, _ = llmsrec("llama", epoch_parts=99, train_batch_size=16)
    taught = []
    for data.train.epoch in range(2):
        taught += [int(user) for batch in data.train for user in batch[data.train.uid_field]]
    users = set(data.train.rows[data.train.uid_field].tolist())
    assert len(users) // 16 == 2 and sorted(taught) == sorted(users)


@pytest.mark.parametrize("kind", ["one", "last", "every"])
def test_parts_of_an_epoch(llmsrec, kind):
    """Four of them are one pass: each user (or pair) once, in batches of the same size."""
    _, data, model, _ = llmsrec("llama", train_targets=kind, epoch_parts=4, train_batch_size=3)
    passes, data.train.form = [], model.form
    for epoch in range(8):
        data.train.epoch = epoch
        plan = data.train.plan()
        assert len(data.train) == len(plan) > 0
        found = [batch[data.train.uid_field].tolist() for batch in data.train]
        if epoch % 4 == 0:
            passes.append([])
        passes[-1].append([user for batch in found for user in batch])
    rows = data.train.rows[data.train.uid_field].tolist()
    expected = sorted(rows if kind == "every" else set(rows))
    for parts in passes:
        assert sorted(user for part in parts for user in part) == expected
        assert max(map(len, parts)) - min(map(len, parts)) <= 3
    assert passes[0] != passes[1]


def test_the_cf_model_as_it_is(llmsrec):
    """Not standardized, and dropping out while it is distilled, and then only."""
    _, data, model, _ = llmsrec("llama", cf_standardize=False, cf_dropout=True)
    assert torch.equal(model.form.cf_items, model.teacher.item_embeddings)
    for layer in model.teacher.model.modules():
        if hasattr(layer, "p"):
            layer.p = 0.5
    batch = batches(data, model)[0]
    history = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
    still = [model.teacher.user_states(*history) for _ in range(2)]
    assert torch.equal(*still)
    seen = []
    model.teacher_head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for _ in range(2):
        model.calculate_loss(batch)
    assert not torch.equal(*seen) and not torch.equal(seen[0], still[0])
    assert not any(p.requires_grad for p in model.teacher.model.parameters())
    assert torch.equal(model.teacher.user_states(*history), still[0])


@pytest.mark.parametrize("form", ["table", "text"])
def test_a_batch(llmsrec, form):
    _, data, model, _ = llmsrec("llama", item_input=form, train_batch_size=6)
    known = {}
    train = data.train.rows
    for user, item in zip(
        train[data.train.uid_field].tolist(), train[data.train.iid_field].tolist()
    ):
        known.setdefault(user, set()).add(item)
    lengths = []
    for batch in batches(data, model):
        items = batch[CANDIDATE_ITEMS]
        assert items.tolist() == sorted(set(items.tolist())) and items.min() > 0
        candidates = items[batch[CANDIDATES]]
        assert candidates[:, 0].tolist() == batch[data.train.iid_field].tolist()
        for user, drawn in zip(batch[data.train.uid_field].tolist(), candidates[:, 1:].tolist()):
            assert not known[user] & set(drawn)
        lists, sizes = batch[data.train.list_field], batch[data.train.length_field]
        alone = model.form.user_prompts(lists, sizes, batch[data.train.time_list])
        assert torch.equal(batch[USER_PROMPT], alone)
        lengths += [(alone != PAD).sum(1).float()]
    # Prompts of a batch are of about one length: within batches they vary less than between.
    within = torch.stack([size.var(correction=0) for size in lengths]).mean()
    assert within < torch.cat(lengths).var(correction=0) / 2


def test_orders_are_of_the_row_and_not_of_its_batch():
    keys, lengths = torch.arange(50), torch.tensor([5, 3, 8, 1, 8] * 10)
    order = shuffled_order(keys, lengths, 8, seed=3)
    for row, length in zip(order.tolist(), lengths.tolist()):
        assert sorted(row[:length]) == list(range(length)) and row[length:] == list(
            range(length, 8)
        )
    assert torch.equal(shuffled_order(keys[7:9], lengths[7:9], 8, seed=3), order[7:9])
    assert not torch.equal(shuffled_order(keys, lengths, 8, seed=4), order)
    first = order[lengths == 8][:, 0]
    assert len(set(first.tolist())) > 4  # every item may come first
    partly = shuffled_order(keys, lengths, 8, seed=3, last=2)
    for row, length in zip(partly.tolist(), lengths.tolist()):
        kept = max(0, length - 2)
        assert row[:kept] == list(range(kept)) and sorted(row[kept:length]) == list(
            range(kept, length)
        )


@pytest.mark.parametrize("name", ["LLMSRec", "GRU4Rec"])
def test_histories_keep_their_items_and_times(llmsrec, tiny_run, name):
    data = llmsrec("llama")[1] if name == "LLMSRec" else tiny_run("GRU4Rec")[1]
    plain, shuffled = data.test._dataset, with_shuffled_histories(data.test._dataset, seed=1)
    rows = range(len(plain))
    one, other = plain[list(rows)], shuffled[list(rows)]
    field = plain.item_id_list_field
    assert not torch.equal(one[field], other[field])
    assert torch.equal(one[field].sort(1).values, other[field].sort(1).values)
    for row, length in enumerate(one[plain.item_list_length_field].tolist()):
        assert (other[field][row] > 0).tolist() == [True] * length + [False] * (10 - length)
    for name in ("timestamp_list", "item_id", "user_id", "item_length"):
        assert torch.equal(one[name], other[name]), name


def test_training_on_shuffled_histories(llmsrec, monkeypatch):
    _, data, model, _ = llmsrec("llama")
    _, shuffled, _, _ = llmsrec("llama", shuffle_train=True)
    lists, index = data.train.list_field, range(len(data.train.rows))
    one, other = (d.train.collate(list(index)) for d in (data, shuffled))
    assert not torch.equal(one[lists], other[lists])
    lengths = one[data.train.length_field]
    for a, b, length in zip(one[lists].tolist(), other[lists].tolist(), lengths.tolist()):
        kept = max(0, length - 4)  # what the LLM is not shown stays
        assert a[:kept] == b[:kept] and sorted(a[kept:length]) == sorted(b[kept:length])
    assert torch.equal(one[data.train.iid_field], other[data.train.iid_field])
    rows = [d.test._dataset[list(range(5))][lists] for d in (data, shuffled)]
    assert torch.equal(*rows)  # evaluation is on the true order
    read, real = [], model.teacher.user_states
    spied = lambda items, *a, **k: read.append(items) or real(items, *a, **k)  # noqa: E731
    monkeypatch.setattr(model.teacher, "user_states", spied)
    model.calculate_loss(other)
    assert torch.equal(read[0], other[lists])  # what the CF model's state is of, too


def test_the_same_sample_everywhere(llmsrec):
    _, data, model, trainer = llmsrec("llama", user_sample=9)
    dataset = data.train._dataset
    chosen = set(sampled_users(dataset, 9).nonzero()[0].tolist())
    assert len(chosen) == 9
    found = {int(u) for batch in batches(data, model) for u in batch[dataset.uid_field]}
    assert found <= chosen and len(found) > 4
    for loader in (data.valid, data.test):
        assert set(loader._dataset.inter_feat[dataset.uid_field].tolist()) <= chosen
    again = with_sampled_users(llmsrec("llama")[1].test._dataset, 9)
    assert again.inter_feat["user_id"].tolist() == data.test._dataset.inter_feat["user_id"].tolist()
    trainer.evaluate(data.valid, load_best_model=False)
