"""Collecting and feeding evaluation rows: the same metrics as RecBole, sooner."""

import copy

import numpy as np
import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)
from recbole_llmemb.config.recbole_config import without_argv

from recbole.config import Config  # isort: skip
from recbole.data import create_dataset  # isort: skip
from recbole.data.dataloader import FullSortEvalDataLoader  # isort: skip
from recbole.data.dataloader.general_dataloader import NegSampleEvalDataLoader  # isort: skip
from recbole.data.interaction import Interaction  # isort: skip
from recbole.evaluator import Collector, Evaluator  # isort: skip
from recbole.model.sequential_recommender import BERT4Rec, GRU4Rec, SASRec  # isort: skip
from recbole.sampler import RepeatableSampler, Sampler  # isort: skip
from recbole.trainer import Trainer  # isort: skip
from recbole_llmemb.evaluation.loaders import (  # isort: skip
    CandidateEvalDataLoader,
    LengthSortedFullSortEvalDataLoader,
    candidate_eval_loader,
    draw_negatives,
)
from recbole_llmemb.evaluation.ranking import CandidateScores, GroupCollector  # isort: skip

N_USERS, N_ITEMS = 60, 40


def collect(collector, scores, candidates, interaction, n_items):
    """A batch ranked among candidates, the target in column 0."""
    found = CandidateScores(scores, candidates, n_items)
    collector.eval_batch_collect(found, interaction, None, None)


METRICS = ["Hit", "NDCG", "MRR", "Recall", "GAUC", "ItemCoverage", "GiniIndex"]


class CandidateSASRec(SASRec):
    """RecBole's SASRec with the method that candidate scoring needs."""

    def scores(self, interaction, candidates):
        states = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        return torch.einsum("bh,bch->bc", states, self.item_embedding(candidates))


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """Users with 4 to 30 interactions, a long-tailed catalog of 40 items."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    folder.mkdir()
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, N_ITEMS + 1)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(N_USERS):
        items = rng.choice(N_ITEMS, rng.integers(4, 31), p=popularity / popularity.sum())
        lines += [f"u{user}\ti{item}\t{when}" for when, item in enumerate(items)]
    lines += [f"u0\ti{item}\t{-1 - item}" for item in range(N_ITEMS)]  # every item occurs
    (folder / "tiny.inter").write_text("\n".join(lines) + "\n")
    return str(folder.parent)


def make_config(data_path, model="SASRec", **settings):
    defaults = {
        "data_path": data_path,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": "full",
        },
        "metrics": METRICS,
        "valid_metric": "NDCG@5",
        "topk": [3, 5],
        "metric_decimal_place": 8,
        "train_neg_sample_args": None,
        "MAX_ITEM_LIST_LENGTH": 20,
        "hidden_size": 8,
        "inner_size": 8,
        "embedding_size": 8,
        "n_heads": 1,
        "eval_batch_size": 16,
        "use_gpu": False,
        "gpu_id": "",
    }
    with without_argv():
        return Config(model=model, dataset="tiny", config_dict={**defaults, **settings})


def make_split(config):
    dataset = create_dataset(config)
    return dataset, dataset.build()


def make_model(model_class, config, dataset):
    torch.manual_seed(1)
    model = model_class(config, dataset).eval()
    with torch.no_grad():  # far enough from zero that no two scores tie
        model.item_embedding.weight.normal_()
    return model


def stock_evaluation(config, model, loader):
    """RecBole's trainer and collector, with its catalog metrics let through."""
    trainer = Trainer(config, model)
    collector = Collector(config)
    trainer.tot_item_num = loader._dataset.item_num
    full = isinstance(loader, FullSortEvalDataLoader)
    score = trainer._full_sort_batch_eval if full else trainer._neg_sample_batch_eval
    with torch.no_grad():
        for batch in loader:
            interaction, scores, positive_u, positive_i = score(batch)
            collector.eval_batch_collect(scores, interaction, positive_u, positive_i)
    collector.data_struct.set("data.num_items", loader._dataset.item_num)
    return Evaluator(config).evaluate(collector.data_struct), collector.data_struct


def our_evaluation(config, model, loader):
    trainer = Trainer(config, model)
    collector = GroupCollector(config)
    n_items = trainer.tot_item_num = loader._dataset.item_num
    with torch.no_grad():
        for batch in loader:
            if isinstance(loader, CandidateEvalDataLoader):
                interaction, candidates, _, _ = batch
                scores = model.scores(interaction, candidates)
                collect(collector, scores, candidates, interaction, n_items)
            else:
                interaction, scores, positive_u, positive_i = trainer._full_sort_batch_eval(batch)
                collector.eval_batch_collect(scores, interaction, positive_u, positive_i)
    collector.data_struct.set("data.num_items", n_items)
    struct = collector.get_data_struct()
    return Evaluator(config).evaluate(struct), struct, collector.rows


def assert_same_metrics(ours, stock):
    assert list(ours) == list(stock)
    assert {k: float(v) for k, v in ours.items()} == pytest.approx(
        {k: float(v) for k, v in stock.items()}, abs=1e-6
    )


def batch_of(config, n_rows):
    return Interaction(
        {
            config["USER_ID_FIELD"]: torch.arange(1, n_rows + 1),
            config["ITEM_LIST_LENGTH_FIELD"]: torch.arange(n_rows) % 7 + 1,
        }
    )


def collect_random(collectors, config, targets_per_row):
    generator = torch.Generator().manual_seed(0)
    n_rows, expected = 12, []
    for _ in range(3):
        scores = torch.randn(n_rows, N_ITEMS, generator=generator)
        scores[:, 0] = -torch.inf
        # Round some rows so that targets share their score with other items.
        scores[::3, 1:] = (scores[::3, 1:] * 2).round()
        items = torch.stack(
            [torch.randperm(N_ITEMS - 1, generator=generator) + 1 for _ in range(n_rows)]
        )
        counts = torch.tensor(
            [targets_per_row[row % len(targets_per_row)] for row in range(n_rows)]
        )
        positive_u = torch.arange(n_rows).repeat_interleave(counts)
        positive_i = torch.cat([row[:count] for row, count in zip(items, counts.tolist())])
        expected.append((counts, items[:, 0]))
        for collector in collectors:
            collector.eval_batch_collect(
                scores.clone(), batch_of(config, n_rows), positive_u, positive_i
            )
    return torch.cat([c for c, _ in expected]), torch.cat([i for _, i in expected])


@pytest.mark.parametrize("targets_per_row", [[1], [1, 3, 2]])
def test_collects_what_recbole_collects(data_path, targets_per_row):
    config = make_config(data_path)
    stock, ours = Collector(config), GroupCollector(config)
    ours.data_struct.set("data.count_items", {1: 2})  # not a tensor: must pass through
    counts, items = collect_random([stock, ours], config, targets_per_row)
    struct = ours.get_data_struct()
    for key in ("rec.topk", "rec.items", "rec.meanrank"):
        assert struct.get(key).dtype == stock.data_struct.get(key).dtype
        assert torch.equal(struct.get(key), stock.data_struct.get(key)), key
    assert struct.get("data.count_items") == {1: 2}
    rows = ours.rows
    assert len(rows.user_id) == 36
    assert rows.user_id.tolist() == list(range(1, 13)) * 3
    assert rows.item_id.tolist() == torch.where(counts == 1, items, -1).tolist()


def test_collector_starts_anew_after_each_evaluation(data_path):
    config = make_config(data_path)
    ours = GroupCollector(config)
    for _ in range(2):
        collect_random([ours], config, [1])
        assert len(ours.get_data_struct().get("rec.topk")) == 36
        assert len(ours.rows.user_id) == 36


def test_recboles_trainer_runs_with_the_collector(data_path):
    # RecBole's own collector fails on these metrics: it calls .cpu() on a number.
    config = make_config(data_path, metrics=["Hit", "ItemCoverage", "AveragePopularity"])
    dataset, (train, valid, _) = make_split(config)
    trainer = Trainer(config, make_model(SASRec, config, dataset))
    trainer.eval_collector = GroupCollector(config)
    loader = FullSortEvalDataLoader(config, valid, None)
    trainer.eval_collector.data_collect(FullSortEvalDataLoader(config, train, None))
    result = trainer.evaluate(loader, load_best_model=False)
    assert result["itemcoverage@5"] > 0 and result["averagepopularity@5"] > 0


@pytest.mark.parametrize("model_class", [SASRec, GRU4Rec, BERT4Rec])
def test_length_sorting_changes_no_metric(data_path, model_class):
    config = make_config(data_path, model=model_class.__name__)
    dataset, (_, _, test) = make_split(config)
    model = make_model(model_class, config, dataset)
    stock, stock_struct = stock_evaluation(
        config, model, FullSortEvalDataLoader(config, test, None)
    )
    loader = LengthSortedFullSortEvalDataLoader(config, test, None)
    ours, struct, rows = our_evaluation(config, model, loader)
    assert_same_metrics(ours, stock)

    # Row by row: line i belongs to the user and target that rows say, the longest history first.
    stock_topk = dict(zip(test.inter_feat["user_id"].tolist(), stock_struct.get("rec.topk")))
    targets = dict(zip(test.inter_feat["user_id"].tolist(), test.inter_feat["item_id"].tolist()))
    lengths = dict(
        zip(test.inter_feat["user_id"].tolist(), test.inter_feat["item_length"].tolist())
    )
    users = rows.user_id.tolist()
    assert users != test.inter_feat["user_id"].tolist() and sorted(users) == sorted(targets)
    assert rows.item_id.tolist() == [targets[user] for user in users]
    assert [lengths[user] for user in users] == sorted(lengths.values(), reverse=True)
    assert torch.equal(struct.get("rec.topk"), torch.stack([stock_topk[user] for user in users]))


def test_batches_are_cut_to_their_longest_history(data_path):
    config = make_config(data_path)
    _, (_, _, test) = make_split(config)
    before = copy.deepcopy(test.inter_feat["item_id_list"])
    loader = LengthSortedFullSortEvalDataLoader(config, test, None)
    widths = []
    for batch, history, positive_u, positive_i in loader:
        width = int(batch["item_length"].max())
        assert history is None
        assert batch["item_id_list"].shape == (len(batch), width)
        assert batch["timestamp_list"].shape == (len(batch), width)
        assert ((batch["item_id_list"] > 0).sum(1) == batch["item_length"]).all()
        assert positive_u.tolist() == list(range(len(batch)))
        assert torch.equal(positive_i, batch["item_id"])
        widths.append(width)
    assert widths[0] == 20 and widths[-1] < 20
    assert torch.equal(test.inter_feat["item_id_list"], before)


def sampler_for(dataset, phase="test", distribution="uniform"):
    return RepeatableSampler(["train", "valid", "test"], dataset, distribution).set_phase(phase)


class SameNegatives:
    """Hands RecBole's loader the negatives that were drawn for each user."""

    phase = "test"

    def __init__(self, loader):
        users = loader._dataset.inter_feat["user_id"].tolist()
        self.by_user = dict(zip(users, loader.negatives.long()))

    def sample_by_user_ids(self, user_ids, item_ids, num):
        assert len(user_ids) == 1
        return self.by_user[int(user_ids[0])]


@pytest.mark.parametrize(
    ("mode", "topk"),
    [
        ("uni100", [3, 5]),  # 100 draws from 39 items: most are drawn repeatedly
        ("pop20", [3, 10]),
        ("uni5", [3, 10]),  # fewer candidates than places in the list
        ("uni12", [3, 10]),  # repeated draws leave some rows too few candidates
    ],
)
@pytest.mark.parametrize("metrics", [METRICS, ["Hit", "NDCG", "MRR", "GAUC"]])
def test_sampled_negatives_give_recboles_metrics(data_path, mode, topk, metrics):
    eval_args = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": mode}
    config = make_config(data_path, eval_args=eval_args, topk=topk, metrics=metrics)
    dataset, (_, _, test) = make_split(config)
    model = make_model(CandidateSASRec, config, dataset)
    distribution = {"uni": "uniform", "pop": "popularity"}[mode[:3]]
    loader = candidate_eval_loader(config, test, sampler_for(dataset, distribution=distribution))
    assert type(loader) is CandidateEvalDataLoader
    ours, struct, rows = our_evaluation(config, model, loader)
    stock_loader = NegSampleEvalDataLoader(config, copy.deepcopy(test), SameNegatives(loader))
    stock, stock_struct = stock_evaluation(config, model, stock_loader)
    # Lists with fewer candidates than places are filled with arbitrary items.
    if any(len(set(row.tolist())) + 1 < max(topk) for row in loader.negatives):
        arbitrary = ("itemcoverage", "giniindex")
        for result in (ours, stock):
            for key in [key for key in result if key.startswith(arbitrary)]:
                assert np.isfinite(result.pop(key))
    assert_same_metrics(ours, stock)
    # RecBole visits users in order of their ids.
    assert torch.equal(struct.get("rec.topk")[rows.user_id.argsort()], stock_struct.get("rec.topk"))


def test_candidate_matrix_and_direct_collection_agree(data_path):
    config = make_config(data_path)
    dataset, (_, _, test) = make_split(config)
    config["test_neg_sample_args"] = {"distribution": "uniform", "sample_num": 30}
    model = make_model(CandidateSASRec, config, dataset)
    direct, matrix = GroupCollector(config), GroupCollector(config)
    for batch in CandidateEvalDataLoader(config, test, sampler_for(dataset)):
        interaction, candidates, positive_u, positive_i = batch
        assert torch.equal(candidates[:, 0], positive_i)
        with torch.no_grad():
            scores = model.scores(interaction, candidates)
            full = scores.new_full((len(scores), dataset.item_num), -torch.inf)
            full.scatter_(1, candidates, scores)
            scores = full.gather(1, candidates)
        assert (
            (full > -torch.inf).sum(1) == torch.tensor([len(set(c)) for c in candidates.tolist()])
        ).all()
        matrix.eval_batch_collect(full, interaction, positive_u, positive_i)
        collect(direct, scores, candidates, interaction, dataset.item_num)
    direct_struct, matrix_struct = direct.get_data_struct(), matrix.get_data_struct()
    for key in ("rec.topk", "rec.items", "rec.meanrank"):
        assert torch.equal(direct_struct.get(key), matrix_struct.get(key)), key
    assert torch.equal(direct.rows.user_id, matrix.rows.user_id)
    assert torch.equal(direct.rows.item_id, matrix.rows.item_id)


def test_equal_scores_do_not_favour_the_target(data_path):
    """A model that cannot tell items apart must not look perfect."""
    config = make_config(data_path, metrics=["Hit"], topk=[1])
    collector = GroupCollector(config)
    generator = torch.Generator().manual_seed(0)
    candidates = torch.stack(
        [torch.randperm(999, generator=generator)[:21] + 1 for _ in range(400)]
    )
    collect(collector, torch.zeros(400, 21), candidates, batch_of(config, 400), 1000)
    assert Evaluator(config).evaluate(collector.get_data_struct())["hit@1"] < 0.15  # 1/21


def test_target_without_a_score_ranks_last(data_path):
    config = make_config(data_path, metrics=["GAUC"])
    collector = GroupCollector(config)
    scores = torch.randn(4, N_ITEMS)
    scores[:, 0] = -torch.inf
    scores[:, 7] = torch.nan
    collector.eval_batch_collect(scores, batch_of(config, 4), torch.arange(4), torch.full((4,), 7))
    assert (collector.get_data_struct().get("rec.meanrank")[:, 0] >= N_ITEMS - 2).all()


def test_target_among_its_own_negatives_counts_once(data_path):
    config = make_config(data_path, metrics=["Hit", "Precision"], topk=[3])
    collector = GroupCollector(config)
    candidates = torch.tensor([[5, 5, 7], [6, 9, 6]])
    scores = torch.tensor([[0.5, 0.5, 0.1], [0.3, 0.2, 0.3]])
    collect(collector, scores, candidates, batch_of(config, 2), 10)
    assert collector.get_data_struct().get("rec.topk").tolist() == [[1, 0, 0, 1], [1, 0, 0, 1]]


def test_stock_batches_of_candidates_keep_their_users(data_path):
    """RecBole's loader gives one line per candidate; rows must still be users."""
    eval_args = {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "mode": "uni10"}
    config = make_config(data_path, eval_args=eval_args, metrics=["Hit"])
    dataset, (_, _, test) = make_split(config)
    loader = candidate_eval_loader(config, test, sampler_for(dataset))
    assert type(loader) is NegSampleEvalDataLoader  # several targets per user
    model = make_model(SASRec, config, dataset)
    trainer = Trainer(config, model)
    trainer.tot_item_num = dataset.item_num
    collector = GroupCollector(config)
    with torch.no_grad():
        for batch in loader:
            interaction, scores, positive_u, positive_i = trainer._neg_sample_batch_eval(batch)
            collector.eval_batch_collect(scores, interaction, positive_u, positive_i)
    collector.get_data_struct()
    users = test.inter_feat["user_id"]
    targets = {u: test.inter_feat["item_id"][users == u].tolist() for u in set(users.tolist())}
    assert collector.rows.user_id.tolist() == sorted(targets)
    assert collector.rows.item_id.tolist() == [
        targets[u][0] if len(targets[u]) == 1 else -1 for u in sorted(targets)
    ]


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
@pytest.mark.parametrize("repeatable", [True, False])
def test_draws_are_recboles(data_path, distribution, repeatable):
    config = make_config(data_path)
    dataset, splits = make_split(config)
    test = splits[2]
    users, items = (test.inter_feat[field].numpy() for field in ("user_id", "item_id"))
    if repeatable:
        sampler = sampler_for(dataset, distribution=distribution)
        forbidden = [{item} for item in items]
    else:
        # One user has seen every item here, who then cannot have negatives.
        keep = users != users[0]
        for split in splits:
            split.inter_feat = split.inter_feat[
                (split.inter_feat["user_id"] != int(users[0])).nonzero().squeeze(1)
            ]
        users, items = users[keep], items[keep]
        sampler = Sampler(["train", "valid", "test"], list(splits), distribution).set_phase("test")
        forbidden = [sampler.used_ids[user] for user in users]
    np.random.seed(7)
    stock = sampler.sample_by_user_ids(users, items, 15).view(15, -1).T.numpy()
    np.random.seed(99)
    state = np.random.get_state()[1].copy()
    ours = draw_negatives(sampler, users, items, 15, seed=7)
    assert (np.random.get_state()[1] == state).all()
    assert (ours == stock).all()
    assert ours.min() >= 1 and ours.max() < dataset.item_num
    assert all(not forbidden[row] & set(ours[row].tolist()) for row in range(len(users)))


def test_candidates_are_drawn_once_from_the_seed_and_phase(data_path):
    eval_args = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni10"}
    config = make_config(data_path, eval_args=eval_args, seed=5)
    dataset, (_, valid, test) = make_split(config)

    def loader(split=test, phase="test"):
        return CandidateEvalDataLoader(config, split, sampler_for(dataset, phase))

    first, second = loader(), loader()
    batches = [candidates for _, candidates, _, _ in first]
    again = [candidates for _, candidates, _, _ in first]
    assert all(torch.equal(a, b) for a, b in zip(batches, again))
    assert torch.equal(first.negatives, second.negatives)
    # Not merely other where a draw hit the target.
    assert (first.negatives == loader(valid, "valid").negatives).float().mean() < 0.2
    config["seed"] = 6
    assert not torch.equal(first.negatives, loader().negatives)
    # Each row's negatives follow it through the length order.
    by_user = dict(zip(test.inter_feat["user_id"].tolist(), first.negatives.tolist()))
    for interaction, candidates, _, _ in first:
        assert candidates[:, 1:].tolist() == [by_user[u] for u in interaction["user_id"].tolist()]
