"""The collaborative teacher: trained once, kept, matched by item token, and aligned with."""

import random
import shutil

import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.core import checkpoint  # isort: skip
from recbole_llmemb.run import teacher  # isort: skip
from recbole_llmemb.data.loaders import ALIGN_ITEMS  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.run.teacher import ensure_teacher, read_item_embeddings, teacher_config  # isort: skip

UNCHECKED = {"align_teacher_unchecked": True}  # of a checkpoint that says nothing of its data
MODELS = ["LLMEmbSASRec", "LLMEmbGRU4Rec", "LLMEmbBERT4Rec"]


@pytest.fixture
def teachers(tmp_path):
    """The files in the cache's folder of teachers, by suffix."""

    def found(suffix):
        return sorted((tmp_path / "cache" / "teachers").glob(f"*{suffix}"))

    return found


def given(path, tokens, size=8, **more):
    """A checkpoint with item embeddings that say whose they are."""
    tokens = list(tokens)
    rows = torch.stack([vector_of(token, size) for token in tokens])
    weight = torch.cat([torch.zeros(1, size), rows, torch.ones(1, size)])  # and a mask's row
    state = {"state_dict": {"item_embedding.weight": weight}, "item_tokens": ["[PAD]", *tokens]}
    checkpoint.save(state | more, path)
    return str(path)


def vector_of(token, size=8):
    return torch.full((size,), float(token[1:])) + torch.arange(size) / 100


def test_trained_once_then_kept(tiny_config, teachers, monkeypatch):
    config, lines = tiny_config(align_weight=0.01, epochs=3), []
    path = ensure_teacher(config, 8, lines.append)
    assert teachers(".pth") == [path] and teachers(".done") == [path.with_suffix(".done")]
    assert path.name.startswith("teacher-SASRec-tiny-") and "teacher: training SASRec" in lines[0]
    assert all(line.startswith(("teacher: ", "train: ")) or "LLMEmb" not in line for line in lines)
    tokens, vectors = read_item_embeddings(path)
    assert vectors.shape == (60, 8) and vectors.std() > 0 and len(set(tokens)) == 60
    monkeypatch.setattr("recbole_llmemb.run.stages.train_in_isolation", None)
    lines.clear()
    assert ensure_teacher(tiny_config(align_weight=0.5, epochs=3), 8, lines.append) == path
    assert len(lines) == 1 and "already trained" in lines[0]


def test_a_damaged_teacher_is_named_and_trained_again(tiny_config):
    config, lines = tiny_config(align_weight=0.01, epochs=1), []
    path = ensure_teacher(config, 8, lines.append)
    before = read_item_embeddings(path)[1]
    content = bytearray(path.read_bytes())
    content[content.index(b"\x3f", len(content) // 2)] ^= 1
    for damaged in (bytes(content), bytes(content[: len(content) // 2])):
        path.write_bytes(damaged)
        lines.clear()
        assert ensure_teacher(config, 8, lines.append) == path
        assert any("warning" in line and str(path) in line for line in lines)
        assert torch.equal(read_item_embeddings(path)[1], before)


def test_another_teacher_under_its_name_is_not_taken_for_it(tiny_config):
    """A copy that somebody has renamed, with and without what says that it is whole."""
    config, other = (tiny_config(align_weight=0.01, epochs=e) for e in (1, 2))
    path, others = (ensure_teacher(one, 8, [].append) for one in (config, other))
    before = read_item_embeddings(path)[1]
    for suffixes in ((".pth",), (".pth", ".done")):
        for suffix in suffixes:
            shutil.copy(others.with_suffix(suffix), path.with_suffix(suffix))
        lines = []
        assert ensure_teacher(config, 8, lines.append) == path
        assert any("warning" in line and str(path) in line for line in lines)
        assert torch.equal(read_item_embeddings(path)[1], before)
    path.with_suffix(".done").write_text("")  # as an earlier version has left it
    ensure_teacher(config, 8, lines.append)
    assert "already trained" in lines[-1]


def test_teacher_has_ids_and_the_runs_training(tiny_config):
    config = tiny_config(
        align_weight=0.01, epochs=3, loss_type="BPR", train_batch_size=7, seed=5,
        align_teacher_config={"learning_rate": 0.03},
    )  # fmt: skip
    own = teacher.teacher_config(config, 8)
    assert own["model"] == "LLMEmbSASRec" and own["item_embedding"] == "id"
    assert own["align_weight"] == 0 and own["hidden_size"] == 8
    assert (own["epochs"], own["loss_type"], own["train_batch_size"]) == (3, "BPR", 7)
    assert own["learning_rate"] == 0.03
    assert own["seed"] == 2020  # whatever the run's: runs that differ in it share a teacher
    assert own["eval_args"] == config["eval_args"] and own["data_path"] == config["data_path"]


def test_another_teacher_for_another_training(tiny_config, teachers):
    quiet = {"align_weight": 0.01, "epochs": 1}
    report = [].append
    first = ensure_teacher(tiny_config(**quiet), 8, report)
    assert ensure_teacher(tiny_config(**quiet, seed=7), 8, report) == first
    assert ensure_teacher(tiny_config(**quiet, hidden_dropout_prob=0.1), 8, report) == first
    others = [
        ensure_teacher(tiny_config(**quiet), 4, report),
        ensure_teacher(tiny_config(**quiet, MAX_ITEM_LIST_LENGTH=5), 8, report),
        ensure_teacher(tiny_config(**quiet, align_teacher="GRU4Rec"), 8, report),
        ensure_teacher(tiny_config(**quiet, align_teacher="BERT4Rec"), 8, report),
        ensure_teacher(tiny_config(**quiet, learning_rate=0.1), 8, report),
    ]
    assert len({first, *others}) == len(teachers(".done")) == 6


def test_a_teacher_that_wants_files_that_are_not_there_is_named(tiny_config, teachers):
    with pytest.raises(UserError, match="KSR") as caught:
        ensure_teacher(tiny_config(align_weight=0.01, align_teacher="KSR"), 8, [].append)
    assert caught.value.key == "align_teacher"


def test_a_teacher_of_recboles_own(tiny_config, teachers):
    path = ensure_teacher(tiny_config(align_weight=0.01, align_teacher="NARM"), 8, [].append)
    assert teachers(".pth") == [path] and path.name.startswith("teacher-NARM-tiny-")
    tokens, vectors = read_item_embeddings(path)
    assert vectors.shape == (60, 8) and len(tokens) == 60 and "[PAD]" not in tokens


def test_cut_short_is_not_taken_for_trained(tiny_config, teachers, monkeypatch):
    """Killed after two of four epochs: the file of the best epoch is there already."""
    from recbole_llmemb.training import LLMEmbTrainer

    config = tiny_config(align_weight=0.01, epochs=4)
    epoch_of = LLMEmbTrainer._train_epoch

    def killed(self, data, epoch, *args, **kwargs):
        if epoch == 2:
            raise KeyboardInterrupt
        return epoch_of(self, data, epoch, *args, **kwargs)

    monkeypatch.setattr(LLMEmbTrainer, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        ensure_teacher(config, 8, [].append)
    assert teachers(".pth") and not teachers(".done")
    monkeypatch.setattr(LLMEmbTrainer, "_train_epoch", epoch_of)
    lines = []
    path = ensure_teacher(config, 8, lines.append)
    assert "training" in lines[0] and any("continuing from epoch 2" in line for line in lines)
    resumed = read_item_embeddings(path)[1]
    for file in teachers(""):
        file.unlink()
    assert ensure_teacher(config, 8, [].append) == path
    assert torch.equal(resumed, read_item_embeddings(path)[1])


def test_training_a_teacher_changes_nothing_else(tiny_run):
    """A run that has to train its teacher ends as one that finds it."""
    results = []
    for _ in range(2):
        _, data, model, trainer = tiny_run(align_weight=0.01, hidden_dropout_prob=0.2)
        trainer.fit(data.train, data.valid)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


@pytest.mark.parametrize("name", MODELS)
def test_given_checkpoint_is_matched_by_token(tiny_run, tiny, tmp_path, name):
    tokens = [*tiny.items, "i999"]  # one the dataset does not have
    random.Random(4).shuffle(tokens)
    path = given(tmp_path / "teacher.pth", tokens)
    _, data, model, _ = tiny_run(name, align_weight=0.01, align_teacher=path, **UNCHECKED)
    ids = data.dataset.field2id_token["item_id"]
    assert model.teacher.shape == (61, 8) and not model.teacher[0].any()
    for token, row in zip(ids[1:], model.teacher[1:]):
        assert torch.equal(row, vector_of(token)), token
    assert not model.teacher.requires_grad and "teacher" not in model.state_dict()


def test_refusals(tiny_run, tiny, tmp_path):
    def refused(match, **settings):
        with pytest.raises(UserError, match=match) as caught:
            tiny_run(align_weight=0.01, **UNCHECKED, **settings)
        assert "\n" not in str(caught.value)

    wide = given(tmp_path / "wide.pth", tiny.items, size=12)
    refused("wide.pth has items of size 12, the model of 8", align_teacher=wide)
    refused("align_teacher .*none.pth does not exist", align_teacher=str(tmp_path / "none.pth"))
    few = given(tmp_path / "few.pth", tiny.items[2:])
    refused(f"2 of the dataset's 60 items.*{tiny.items[0]}", align_teacher=few)
    (tmp_path / "text.pth").write_text("no checkpoint")
    refused("text.pth' cannot be read", align_teacher=str(tmp_path / "text.pth"))
    checkpoint.save({"state_dict": {"other": torch.ones(1)}}, tmp_path / "other.pth")
    refused("has no item_embedding.weight", align_teacher=str(tmp_path / "other.pth"))
    refused("align_teacher 'SASRecc' cannot be trained: .*SASRecc", align_teacher="SASRecc")
    (tmp_path / "results").mkdir()  # a name, and a folder of it is there
    refused("'results' cannot be trained: .*no checkpoint .*pth", align_teacher="results")
    refused("align_teacher is empty", align_teacher=None)
    refused("align_teacher 'FPMC' cannot be trained: .*loss_type", align_teacher="FPMC")
    refused("SASRec' cannot be trained: .*learning_rate", align_teacher_config={"leraning_rate": 1})


def test_a_trained_teacher_learns_from_what_the_run_does(tiny_config):
    """Neither from its test items, nor from those that are held out."""
    split = {"split": {"LS": "test_only"}, "order": "TO", "group_by": "user", "mode": "full"}
    for other in ({"holdout_items": None}, {"eval_args": split}, {"val_interval": {"x": "[1,2]"}}):
        given = {"holdout_items": 0.1, "align_teacher": "SASRec", "align_teacher_config": other}
        with pytest.raises(UserError) as refused:
            teacher_config(tiny_config(**given), 8)
        assert refused.value.key == "align_teacher_config" and next(iter(other)) in str(
            refused.value
        )
        teacher_config(tiny_config(**given, align_teacher_unchecked=True), 8)
    for key in ("data_path", "dataset", "model"):  # another data's, or of no effect
        given = {"align_teacher": "SASRec", "align_teacher_config": {key: "other"}}
        with pytest.raises(UserError) as refused:
            teacher_config(tiny_config(**given), 8)
        assert refused.value.key == "align_teacher_config" and key in str(refused.value)


@pytest.mark.parametrize("mode", ["sequence", "prefix"])
@pytest.mark.parametrize("name", MODELS)
def test_term_in_the_loss(tiny_run, tiny, tmp_path, name, mode):
    """align_weight times the loss over the batch's distinct targets, and its gradient."""
    path = given(tmp_path / "teacher.pth", tiny.items)
    runs = {
        weight: tiny_run(
            name,
            align_weight=weight,
            align_teacher=path,
            train_mode=mode,
            align_temperature=0.02 if weight else 2.0,
            **UNCHECKED,
        )
        for weight in (0.0, 0.3)
    }
    (_, _, plain, _), (_, data, model, _) = runs.values()
    model.load_state_dict(plain.state_dict())
    model.teacher.div_(100)
    batch = next(iter(data.train))
    loss, term = model.calculate_loss(batch)
    assert torch.allclose(loss, plain.calculate_loss(batch), rtol=1e-6)
    field = ALIGN_ITEMS if mode == "sequence" else "item_id"
    items = sorted(set(batch[field].tolist()))
    if "BERT4Rec" in name and mode == "prefix":  # the masked items, which its loss predicts
        items = sorted(set(batch[model.POS_ITEMS].flatten().tolist()) - {0})
    if mode == "sequence":
        assert items == sorted(set(batch["item_id"].tolist()))
    rows = model.item_embedding.weight[items]
    expected = 0.3 * model.alignment(model.teacher[items], rows)
    assert model.alignment.temperature == 0.02
    assert torch.allclose(term, expected, rtol=1e-4)
    weight = model.item_embedding.adapter.up.weight
    (found,) = torch.autograd.grad(term, weight, retain_graph=True)
    assert torch.allclose(found, torch.autograd.grad(expected, weight)[0], rtol=1e-3, atol=1e-6)
    assert found.abs().sum() > 0


def test_no_teacher_without_weight_or_table(tiny_run, teachers):
    for settings in ({"align_weight": 0}, {"align_weight": 0.01, "item_embedding": "id"}):
        _, data, model, _ = tiny_run(**settings)
        assert not hasattr(model, "teacher")
        assert isinstance(model.calculate_loss(next(iter(data.train))), torch.Tensor)
    assert not teachers("")


def test_both_parts_of_the_loss_are_reported(tiny_run, tiny, tmp_path):
    path = given(tmp_path / "teacher.pth", tiny.items)
    _, data, _, trainer = tiny_run(align_weight=0.01, align_teacher=path, **UNCHECKED)
    losses = trainer._train_epoch(data.train, 0)
    assert len(losses) == 2 and all(isinstance(loss, float) for loss in losses)


# -- whose targets a teacher has seen ------------------------------------------------------


def trained(config):
    """The checkpoint of a run, small and short."""
    from recbole_llmemb.run.stages import train_in_isolation

    return train_in_isolation(config, [].append).checkpoint


OTHER_SPLITS = [
    ({"eval_args": {"split": {"LS": "test_only"}, "order": "TO", "group_by": "user",
                    "mode": "full"}}, "eval_args.split"),
    ({"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user",
                    "mode": "full"}}, "eval_args.split"),
    ({"user_inter_num_interval": "[5,inf)"}, "user_inter_num_interval"),
    ({"val_interval": {"rating": "[3,inf)"}}, "val_interval"),
    ({"holdout_items": 0.2}, "holdout_items"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("other", "named", "stock"),
    [(*case, False) for case in OTHER_SPLITS] + [(*case, True) for case in OTHER_SPLITS[:4]],
)
def test_a_teacher_of_another_split_is_refused(tiny_config, tiny_run, other, named, stock):
    name, own = ("GRU4Rec", {}) if stock else ("LLMEmbSASRec", {"item_embedding": "id"})
    path = trained(tiny_config(name, epochs=1, **own, **other))
    asked = {"align_weight": 0.01, "align_teacher": path}
    with pytest.raises(UserError, match=f"{named}.*align_teacher_unchecked") as caught:
        tiny_run(**asked)
    assert "\n" not in str(caught.value)
    # A checkpoint of before, that knows no digest, is told by its configuration.
    state = checkpoint.load(path)
    assert state["config"].pop("trained_on")["interactions"].startswith("sequences-")
    checkpoint.save(state, path)
    with pytest.raises(UserError, match=named):
        tiny_run(**asked)
    if name == "GRU4Rec" and "holdout_items" not in other and "val_interval" not in other:
        tiny_run(**asked, **UNCHECKED)


@pytest.mark.parametrize("name", ["LLMEmbSASRec", "LLMEmbBERT4Rec", "GRU4Rec", "NARM"])
def test_a_teacher_of_the_same_split_passes(tiny_config, tiny_run, name):
    """Whatever its mode and the length of its histories."""
    own = {"MAX_ITEM_LIST_LENGTH": 4}
    if name.startswith("LLMEmb"):
        own |= {"item_embedding": "id", "train_mode": "prefix"}
    path = trained(tiny_config(name, epochs=1, **own))
    config, _, model, _ = tiny_run(align_weight=0.01, align_teacher=path)
    assert model.teacher.any() and config["trained_on"] == checkpoint.load(path)["config"][
        "trained_on"
    ]  # fmt: skip


def test_a_teacher_of_other_data_is_refused(tiny_config, tiny_run, tiny, tmp_path):
    """One line of the file differs, and nothing in the configuration."""
    text = (tiny.folder / "tiny.inter").read_text().splitlines()
    data = tmp_path / "data" / "tiny"
    data.mkdir(parents=True)
    first = next(i for i, line in enumerate(text) if line.startswith("u7\t"))
    cells = text[first].split("\t")
    changed = [*text]
    changed[first] = "\t".join([cells[0], cells[1], "77", cells[3]])
    (data / "tiny.inter").write_text("\n".join(changed) + "\n")
    path = trained(tiny_config(item_embedding="id", epochs=1, data_path=str(data.parent)))
    with pytest.raises(UserError, match="another tiny.inter"):
        tiny_run(align_weight=0.01, align_teacher=path)
    # The same lines in another order are the same interactions, where no times are equal.
    (data / "tiny.inter").write_text("\n".join(text) + "\n\n")
    path = trained(tiny_config(item_embedding="id", epochs=1, data_path=str(data.parent)))
    tiny_run(align_weight=0.01, align_teacher=path)


def test_a_cached_teacher_knows_what_items_are_like(tiny_config, tiny, tmp_path):
    from recbole_llmemb.run.stages import run_key

    data = tmp_path / "data" / "tiny"
    data.mkdir(parents=True)
    for kind in ("inter", "item"):
        (data / f"tiny.{kind}").write_text((tiny.folder / f"tiny.{kind}").read_text())
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    reads = {**columns, "item": ["item_id", "categories"]}

    def keys():
        own = {"data_path": str(data.parent), "item_embedding": "id"}
        ours = [tiny_config(load_col=given, **own) for given in (columns, reads)]
        asks = {"align_weight": 0.1, "align_teacher": "SASRecF", "item_embedding": "table"}
        asks |= {"load_col": reads, "align_teacher_config": {"selected_features": ["categories"]}}
        teachers = teacher.teacher_config(tiny_config(**{**own, **asks}), 8)
        return [run_key(config) for config in (*ours, teachers)]

    before = keys()
    with open(data / "tiny.item", "a") as file:
        file.write("i99\tnew\tgreen\n")
    after = keys()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]
