"""``holdout_items``: nothing of a held-out item reaches training, and how it is ranked then."""

import json
import math
import random

import numpy as np
import pytest
import torch
import yaml
from conftest import write_tiny

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.run import stages  # isort: skip
from recbole_llmemb.cli.main import main  # isort: skip
from recbole_llmemb.config.recbole_config import make_config  # isort: skip
from recbole_llmemb.data.splits import histories  # isort: skip
from recbole_llmemb.core.errors import TableError  # isort: skip
from recbole_llmemb.evaluation.cold import cold_table, evaluate_cold, expected_metrics  # isort: skip
from recbole_llmemb.models.losses import Items  # isort: skip
from recbole_llmemb.table import EmbeddingTable  # isort: skip
from recbole_llmemb.run.teacher import ensure_teacher, read_item_embeddings  # isort: skip

HELD = {"holdout_items": 0.25}


def names(dataset, field, ids):
    return [str(token) for token in dataset.field2id_token[field][np.asarray(ids)]]


def without(sequence, held):
    return [item for item in sequence if item not in held]


# -- what is taken out --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sequence", "prefix"])
@pytest.mark.parametrize("model", ["LLMEmbSASRec", "LLMEmbBERT4Rec"])
def test_no_held_out_item_in_training(tiny, tiny_data, model, mode):
    _, data = tiny_data(model, train_mode=mode, train_neg_sample_args=None, loss_type="CE", **HELD)
    train = data.train._dataset
    held = set(train.held_out.tokens)
    assert len(held) == 15 and held < set(tiny.items)
    known = set(names(train, "item_id", range(1, train.item_num)))
    assert known == set(tiny.items) - held
    # All that training, validation and test can draw on: the sequences without these items.
    store = train.sorted_interactions.fields
    users = names(train, "user_id", store["user_id"])
    met: dict = {}
    for user, item in zip(users, names(train, "item_id", store["item_id"])):
        met.setdefault(user, []).append(item)
    expected = {user: without(items, held) for user, items in tiny.sequences.items()}
    assert met == {user: items for user, items in expected.items() if items}
    assert train.held_out.interactions == sum(
        item in held for items in tiny.sequences.values() for item in items
    )
    for loader in (data.train, data.valid, data.test):
        for batch in loader:
            batch = batch[0] if isinstance(batch, tuple) else batch
            for name in ("item_id", "item_id_list"):
                assert int(batch[name].max()) <= train.item_num  # its mask, at most


def test_negatives_are_never_held_out_items(tiny_data):
    _, data = tiny_data(loss_type="BCE", **HELD)
    train = data.train._dataset
    drawn = torch.cat([batch["neg_item_id"] for _ in range(20) for batch in data.train])
    assert int(drawn.min()) > 0 and int(drawn.max()) < train.item_num
    assert train.item_num - 1 == 45


def test_items_of_the_item_file_are_taken_out_too(tiny_data):
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]}
    _, data = tiny_data(load_col=columns, llm_missing="zero", **HELD)
    held = data.dataset.held_out.tokens
    assert data.dataset.item_num - 1 == 62 - len(held)
    assert not set(held) & set(data.dataset.field2id_token["item_id"])


@pytest.mark.parametrize("which", ["last", "all"])
def test_targets_and_their_histories(tiny, tiny_data, which):
    config, data = tiny_data(holdout_targets=which, **HELD)
    train = data.train._dataset
    held = train.held_out
    expected, dropped = [], 0
    for user, items in tiny.sequences.items():
        places = range(len(items)) if which == "all" else [len(items) - 1]
        for place in places:
            if items[place] in held.tokens:
                history = without(items[:place], held.tokens)
                dropped += not history
                expected += [(user, items[place], history[-10:])] if history else []
    batch = histories(held, train, slice(None))
    found = []
    for row in range(len(held)):
        length = int(batch["item_length"][row])
        ids = batch["item_id_list"][row]
        assert not ids[length:].any()
        found.append(
            (
                names(train, "user_id", [batch["user_id"][row]])[0],
                held.tokens[held.items[row]],
                names(train, "item_id", ids[:length]),
            )
        )
    assert sorted(found) == sorted(expected) and held.without_history == dropped
    assert len(found) > (3 if which == "last" else 25)


def test_the_sample_is_that_of_its_own_seed(tiny_data):
    def drawn(**settings):
        return tiny_data(**settings)[1].dataset.held_out.tokens

    first = drawn(seed=1, **HELD)
    assert drawn(seed=2, **HELD) == first and drawn(holdout_seed=7, **HELD) != first
    assert len(drawn(holdout_items=0.05)) == 3
    _, data = tiny_data()
    assert data.dataset.held_out is None and data.dataset.item_num == 61


def test_without_held_out_items_nothing_about_them_is_in_the_key(tiny_config):
    key = stages.run_key(tiny_config())
    assert stages.run_key(tiny_config(holdout_seed=7, holdout_targets="all")) == key
    keys = {stages.run_key(tiny_config(holdout_seed=seed, **HELD)) for seed in (7, 8)}
    assert len(keys) == 2 and key not in keys


def test_the_teacher_has_not_met_them_either(tiny_data):
    config, data = tiny_data(align_weight=0.01, **HELD)
    held = set(data.dataset.held_out.tokens)
    tokens, _ = read_item_embeddings(ensure_teacher(config, 8, report=lambda line: None))
    assert len(tokens) == 45 and not held & set(tokens)


# -- how they are ranked ------------------------------------------------------------------


def test_metrics_by_hand():
    # Ranks 1; 3; and one of 1 to 4 by chance, among 5.
    found = expected_metrics(
        torch.tensor([0, 2, 0]), torch.tensor([1, 1, 4]), 5, ["hit", "ndcg", "mrr"], [2, 5]
    )
    assert found["hit@2"] == pytest.approx((1 + 0 + 2 / 4) / 3)
    assert found["ndcg@2"] == pytest.approx((1 + 0 + (1 + 1 / math.log2(3)) / 4) / 3)
    assert found["mrr@2"] == pytest.approx((1 + 0 + (1 + 1 / 2) / 4) / 3)
    # Below them: 4 of 4; 2 of 4; 1 of 4 and, of the 3 alike, half.
    assert found["auc"] == pytest.approx((4 / 4 + 2 / 4 + (1 + 1.5) / 4) / 3)
    assert found["hit@5"] is None  # every candidate is in the list
    nothing = expected_metrics(torch.zeros(0), torch.zeros(0), 5, ["hit"], [2])
    assert nothing == {"hit@2": None, "auc": None}


@pytest.mark.parametrize(
    "settings",
    [
        {"item_embedding": "residual", "llm_pca_dim": 12},
        {"item_similarity": "cosine", "adapter": "mlp"},
        {"adapter": "whitening", "llm_freeze": True},
        {"model": "LLMEmbHGN", "train_mode": None},
    ],
    ids=str,
)
def test_against_a_plain_loop(tiny_run, tiny_table, settings):
    """The same ranks from new items' embeddings by ``embed`` and one score at a time."""
    settings = {"model": "LLMEmbSASRec", "loss_type": "CE", "holdout_targets": "all"} | settings
    config, data, model, trainer = tiny_run(**settings, **HELD)
    trainer._train_epoch(data.train, 0)
    found = evaluate_cold(config, data, model)
    train = data.train._dataset
    held, table = train.held_out, EmbeddingTable.load(tiny_table)
    vectors = table.vectors[[table.tokens.index(token) for token in held.tokens]]
    hits, aucs, among_cold = [], [], []
    with torch.no_grad():
        cold = model.output_items.embed(vectors)
        for row in range(len(held)):
            batch = histories(held, train, slice(row, row + 1))
            warm = model.full_sort_predict(batch)[0, 1:].tolist()
            sides = model.item_scores.project(model.states(batch), cold)
            new = (sides[0] @ sides[1].t())[0].tolist()
            own = new.pop(held.items[row])
            rank = 1 + sum(score > own for score in warm + new)
            hits.append(rank <= 10)
            aucs.append(sum(score < own for score in warm + new) / (len(warm) + len(new)))
            among_cold.append(1 + sum(score > own for score in new) <= 5)
    everywhere, alone = found["all_items"], found["cold_items"]
    assert (everywhere["candidates"], alone["candidates"]) == (60, 15)
    assert everywhere["model"]["hit@10"] == pytest.approx(sum(hits) / len(hits))
    assert everywhere["model"]["auc"] == pytest.approx(sum(aucs) / len(aucs), abs=1e-6)
    assert alone["model"]["hit@5"] == pytest.approx(sum(among_cold) / len(among_cold))
    assert found["targets"] == len(held) > 25


@pytest.mark.parametrize("excluded", [True, "keep_target"])
def test_without_what_users_have_met(tmp_path, tiny_run, tiny_table, excluded):
    """Among the other items, held-out ones that were met before included, one target at a time."""
    often = write_tiny(tmp_path / "often", n_items=25, seed=5)
    config, data, model, _ = tiny_run(
        data_path=str(often.folder.parent),
        exclude_history=excluded, holdout_targets="all", eval_batch_size=7,
        MAX_ITEM_LIST_LENGTH=3, topk=[1, 2], valid_metric="NDCG@1", holdout_items=0.5,
    )  # fmt: skip
    found = evaluate_cold(config, data, model)
    train = data.train._dataset
    held, table = train.held_out, EmbeddingTable.load(tiny_table)
    vectors = table.vectors[[table.tokens.index(token) for token in held.tokens]]
    counts = dict(zip(train.field2id_token["item_id"], train.training_counts(train)[0].tolist()))
    warm_names = names(train, "item_id", range(1, train.item_num))
    last, missed = {}, 0
    expected: dict = {"all_items": [], "cold_items": []}
    with torch.no_grad():
        cold = model.output_items.embed(vectors)
        for row, user in enumerate(held.users):
            target = held.tokens[held.items[row]]
            batch = histories(held, train, slice(row, row + 1))
            score = dict(zip(warm_names, model.full_sort_predict(batch)[0, 1:].tolist()))
            sides = model.item_scores.project(model.states(batch), cold)
            score |= dict(zip(held.tokens, (sides[0] @ sides[1].t())[0].tolist()))
            sequence = often.sequences[user]
            place = sequence.index(target, last.get((user, target), -1) + 1)
            while not without(sequence[:place], held.tokens):  # a target without a history
                place = sequence.index(target, place + 1)
            last[user, target] = place
            history = set(sequence[:place])
            miss = target in history and excluded is True
            missed += target in history
            for name in expected:
                others = held.tokens if name == "cold_items" else [*warm_names, *held.tokens]
                others = set(others) - history - {target}
                above = {
                    "model": sum(score[item] > score[target] for item in others),
                    "popularity": sum(counts.get(item, 0) > 0 for item in others),
                }
                equal = sum(counts.get(item, 0) == 0 for item in others)
                expected[name].append(
                    (
                        len(others), 0 if miss else (above["model"] < 2),
                        0 if miss else 1 - above["model"] / len(others),
                        0 if miss else 2 / (len(others) + 1), 0 if miss else 0.5,
                        0 if miss else 1 - (above["popularity"] + equal / 2) / len(others),
                    )
                )  # fmt: skip
    assert missed > 3 and min(row[0] for row in expected["cold_items"]) < len(held.tokens) - 2
    for name, rows in expected.items():
        _, hit, auc, chance, half, popular = np.mean(rows, axis=0)
        block = found[name]
        assert block["model"]["hit@2"] == pytest.approx(hit, abs=1e-6)
        assert block["model"]["auc"] == pytest.approx(auc, abs=1e-6)
        assert block["random"]["hit@2"] == pytest.approx(chance, abs=1e-6)
        assert block["random"]["auc"] == pytest.approx(half, abs=1e-6)
        assert block["popularity"]["auc"] == pytest.approx(popular, abs=1e-6)
    assert "among all 25 items, history removed" in cold_table(found)


def test_random_and_popularity(tiny_run):
    config, data, model, _ = tiny_run(**HELD)
    train = data.train._dataset
    never = 15 + int((train.training_counts(train)[0][1:] == 0).sum())
    found = evaluate_cold(config, data, model)
    assert never > 15  # some of the others are only met as validation and test targets
    for name, n in (("all_items", 60), ("cold_items", 15)):
        rank = found[name]["random"]
        assert rank["hit@5"] == pytest.approx(5 / n) and rank["auc"] == pytest.approx(0.5)
        gains = sum(1 / math.log2(r + 1) for r in range(1, 6))
        assert rank["ndcg@5"] == pytest.approx(gains / n)
    popular = found["all_items"]["popularity"]
    assert popular["hit@10"] == 0 and popular["auc"] == pytest.approx((never - 1) / 2 / 59)
    assert found["cold_items"]["popularity"] == found["cold_items"]["random"]
    shown = cold_table(found)
    assert f"15 held-out items, {found['targets']} targets" in shown
    assert "among all 60 items" in shown and "among the 15 held-out items" in shown


@pytest.mark.parametrize("digits", [1 + 2e-7, 1 - 2e-7])
def test_last_digits_tell_no_items_apart(tiny_run, digits):
    """Items of one text are alike, though rows of another batch are computed otherwise."""
    config, data, model, _ = tiny_run(**HELD)
    known = torch.arange(8.0).expand(model.items().vectors.shape)
    model.items = lambda: Items(known)
    model.unseen = lambda *_: Items(known[:15] * digits)
    found = evaluate_cold(config, data, model)["all_items"]
    assert found["model"] == pytest.approx(found["random"])


def test_beside_a_trained_table_new_items_lie_beside_those_that_began_next_to_them(tiny_run):
    """Whitened by the statistics of the items that training had; each mean computed by itself."""
    config, data, model, trainer = tiny_run(
        adapter="whitening", llm_whiten=0.3, llm_freeze=False, llm_pca_dim=8, loss_type="CE",
        **HELD,
    )  # fmt: skip
    before = model.item_embedding.weight.detach().clone()
    trainer._train_epoch(data.train, 0)
    assert not torch.equal(model.item_embedding.weight, before)
    train = data.train._dataset
    rows, bias = model.unseen(config, train, train.held_out.tokens)
    assert rows.shape == (15, 8) and bias is None
    # A known item among the new ones begins where that item began.
    known = names(train, "item_id", range(1, train.item_num))
    found = model.unseen(config, train, known).vectors
    learned = model.item_embedding.weight.detach()
    for item in range(1, train.item_num):
        cosines = torch.cosine_similarity(before[item], before[1:], dim=1)
        nearest = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:20]
        shares = [math.exp(cosines[i] / 0.1) for i in nearest]
        mean = sum(share * learned[i + 1] for share, i in zip(shares, nearest)) / sum(shares)
        wanted = (mean + mean.norm() * before[item] / before[item].norm()) / 2
        assert nearest[0] == item - 1
        assert torch.allclose(found[item - 1], wanted, atol=2e-3), item


def test_bert4rec_gives_new_items_the_mean_bias(tiny_run):
    config, data, model, trainer = tiny_run("LLMEmbBERT4Rec", loss_type="CE", **HELD)
    trainer._train_epoch(data.train, 0)
    train = data.train._dataset
    _, bias = model.unseen(config, train, train.held_out.tokens)
    learned = model.output_bias[1:46].mean()
    assert learned.abs() > 0 and torch.allclose(bias, learned.expand(15))
    assert evaluate_cold(config, data, model)["all_items"]["model"]["auc"] > 0


# -- where the text tells -----------------------------------------------------------------

GROUPS, EACH = 6, 20


@pytest.fixture(scope="module")
def telling(tmp_path_factory):
    """A dataset in which people stay within a group of items, and the text names the group."""
    draw = random.Random(3)
    folder = tmp_path_factory.mktemp("data") / "telling"
    folder.mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(240):
        group = user % GROUPS
        for time, item in enumerate(draw.sample(range(EACH), 10)):
            lines.append(f"u{user}\ti{group}_{item}\t{time}")
    (folder / "telling.inter").write_text("\n".join(lines) + "\n")
    tokens = [f"i{group}_{item}" for group in range(GROUPS) for item in range(EACH)]
    means = torch.randn(GROUPS, 16, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(len(tokens), 16, generator=torch.Generator().manual_seed(2))
    EmbeddingTable(tokens, means.repeat_interleave(EACH, 0) + 0.3 * noise, {}).save(folder / "t")
    return folder


def cold_of(telling, settings, **overrides):
    values = settings("LLMEmbSASRec", llm_table=str(telling / "t"), data_path=str(telling.parent))
    values |= {"load_col": None, "epochs": 8, "learning_rate": 0.02, "holdout_items": 0.2}
    values |= {"loss_type": "CE", "eval_step": 0, "holdout_targets": "all"} | overrides
    config = make_config("LLMEmbSASRec", "telling", overrides=values)
    data = stages.prepare_data(config)
    model, trainer = stages.build(config, data)
    stages.train_and_evaluate(config, data, model, trainer, report=lambda line: None)
    return evaluate_cold(config, data, model)


def test_text_ranks_what_nobody_has_met(telling, tiny_settings):
    found = cold_of(telling, tiny_settings)
    for name in ("all_items", "cold_items"):
        ranks = found[name]
        # By group alone: a sixth of the items are left, so AUC is 1 - 1/12.
        assert ranks["model"]["auc"] > 0.85
        assert ranks["model"]["hit@5"] > 2 * ranks["random"]["hit@5"]
        assert ranks["model"]["ndcg@10"] > ranks["popularity"]["ndcg@10"]


def test_ids_know_nothing_of_them(telling, tiny_settings):
    ranks = cold_of(telling, tiny_settings, item_embedding="id")["cold_items"]
    assert abs(ranks["model"]["auc"] - 0.5) < 0.1
    assert ranks["model"]["hit@5"] < 1.5 * ranks["random"]["hit@5"]


# -- the command --------------------------------------------------------------------------


@pytest.fixture
def command(tiny_settings, tmp_path, capsys):
    """Run the command on ``tiny``: exit status, output and errors."""

    def run(*more, model="LLMEmbSASRec", **overrides):
        settings = tiny_settings(model, **overrides)
        settings.pop("gpu_id")
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(settings))
        status = main([f"--model={model}", "--dataset=tiny", "--config_files=s.yaml", *more])
        return status, *capsys.readouterr()

    return run


def test_run(command, tmp_path):
    status, out, err = command("--holdout_items=0.25", "--result_json=r.json")
    assert (status, err) == (0, "")
    block = json.loads((tmp_path / "r.json").read_text())["cold_items"]
    assert block["items"] == 15 and block["holdout_seed"] == 2020
    assert "prepare: 15 items held out with their" in out and "15 held-out items" in out
    shown = f"{block['all_items']['model']['auc']:.4f}"
    assert any("this model" in line and line.endswith(shown) for line in out.splitlines())
    _, again, _ = command("--holdout_items=0.25")
    assert shown in again
    _, out, _ = command("--result_json=r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert "held-out" not in out and "cold_items" not in result


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--holdout_items=1.5", "must be a share of the items"),
        ("--holdout_items=True", "must be a share of the items"),
        ("--holdout_items=0.01", "less than one of the 60 items of dataset tiny"),
        ("--holdout_seed=-1", "holdout_seed is -1"),
        ("--holdout_targets=first", "must be one of 'last', 'all'"),
    ],
)
def test_refused(command, option, words):
    more = [] if "items" in option else ["--holdout_items=0.25"]
    status, _, err = command(option, *more)
    assert status == 2 and words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"model": "LLMEmbCORE", "loss_type": "CE"},
            "scores of LLMEmbCORE are no products",
        ),
        ({"align_weight": 0.01, "align_teacher": "saved/x.pth"}, "may know the items"),
        ({"align_weight": 0.01, "align_teacher": "my-teacher"}, "may know the items"),
        ({"align_weight": 0.01, "align_teacher": "NARM"}, "holds no items out"),
        ({"model": "LLMEmbS3Rec", "pre_model_path": "weights"}, "may know the items"),
    ],
    ids=str,
)
def test_what_could_not_be_fair_is_refused(command, settings, words):
    status, _, err = command("--holdout_items=0.25", **settings)
    assert status == 2 and words in err


def test_embeddings_that_are_changed_before_they_score(tiny_run, tiny_table):
    """NPE rectifies those of its items, and so those that it has never met."""
    config, data, model, _ = tiny_run("LLMEmbNPE", embedding_size=8, **HELD)
    train, table = data.train._dataset, EmbeddingTable.load(tiny_table)
    tokens = train.held_out.tokens
    found = model.unseen(config, train, tokens).vectors
    vectors = table.vectors[[table.tokens.index(token) for token in tokens]]
    with torch.no_grad():
        expected = model.item_embedding.embed(vectors).clamp(min=0)
    assert torch.allclose(found, expected, atol=1e-5) and (found == 0).any()
    assert evaluate_cold(config, data, model)["targets"] > 0


def test_held_out_items_without_text(tiny_run, tiny, tmp_path):
    _, data, _, _ = tiny_run(**HELD)
    first, *others = data.dataset.held_out.tokens
    tokens = [token for token in tiny.items if token != first]
    vectors = torch.randn(len(tokens), 16, generator=torch.Generator().manual_seed(5))
    EmbeddingTable(tokens, vectors, {}).save(tmp_path / "less")
    less = {"llm_table": str(tmp_path / "less")}
    config, data, model, _ = tiny_run(**HELD, **less)
    with pytest.raises(TableError, match="1 of the dataset's 15 items have no embedding"):
        evaluate_cold(config, data, model)
    config, data, model, _ = tiny_run(llm_missing="mean", **HELD, **less)
    assert evaluate_cold(config, data, model)["targets"] > 0
