"""Prefix batches without their padding: the same rows, the same loss, the same gradients."""

import random

import numpy as np
import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.data.windows import length_buckets  # isort: skip
from recbole_llmemb.data.loaders import MASKED, LengthSortedBatch, masked_items  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.models.llmemb.parts import BitDropout  # isort: skip

NEGATIVES = {"distribution": "uniform", "sample_num": 1}
LOUD = {"train_mode": "prefix", "train_batch_size": 64, "MAX_ITEM_LIST_LENGTH": 30}


def loud(model):
    """Weights large enough for every difference to show; the same ones each time."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model.train()


def rows_of(batch):
    """What a batch holds, row by row, in an order of its own, padded to one width."""
    lists = torch.nn.functional.pad(batch["item_id_list"], (0, 30 - batch["item_id_list"].shape[1]))
    columns = [batch[name].unsqueeze(1) for name in ("user_id", "item_length", "item_id")]
    return sorted(torch.cat([*columns, lists], 1).tolist())


RATES = {"mask_ratio": 0.4, "ft_ratio": 0.2}


@pytest.mark.parametrize("kind", ["id", "table"])
@pytest.mark.parametrize("loss_type", ["CE", "BPR", "BCE"])
@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "BERT4Rec"])
def test_trimmed_steps_are_the_full_ones(tiny_run, monkeypatch, name, loss_type, kind):
    settings = {"loss_type": loss_type, "item_embedding": kind}
    compare_steps(tiny_run, monkeypatch, name, settings)


@pytest.mark.parametrize(
    "settings", [{"item_similarity": "cosine"}, {"popularity_adjustment": 0.5}], ids=str
)
def test_trimmed_steps_with_scores_of_our_own(tiny_run, monkeypatch, settings):
    compare_steps(tiny_run, monkeypatch, "BERT4Rec", {"loss_type": "CE"} | settings)


def compare_steps(tiny_run, monkeypatch, name, settings):
    monkeypatch.setattr(length_buckets, "__defaults__", (3,))  # several in so small a batch
    settings = LOUD | {"train_neg_sample_args": NEGATIVES} | settings
    if name == "BERT4Rec":
        settings |= RATES
    _, data, model, _ = tiny_run(f"LLMEmb{name}", **settings)
    _, trimmed_data, trimmed, trainer = tiny_run(f"LLMEmb{name}", prefix_trim=True, **settings)
    for one in (model, trimmed):
        loud(one)
    assert len(data.train) == len(trimmed_data.train) > 1
    widths = []
    for seed, index in enumerate(torch.arange(len(data.train._dataset)).split(64)):
        batches = []
        for loader in (data.train, trimmed_data.train):
            np.random.seed(seed)
            random.seed(seed)
            batches.append(loader.collate_fn(index.tolist()))
        batch, cut = batches
        assert rows_of(batch) == rows_of(cut)
        cut = trainer._to_device(cut)
        assert isinstance(cut, LengthSortedBatch) and len(cut.chunks) > 2
        assert (cut.targets is not None) is (name == "BERT4Rec")
        widths += [width for _, _, width in cut.chunks]
        found, expected = trimmed.calculate_loss(cut), model.calculate_loss(batch)
        assert torch.allclose(found, expected, rtol=1e-5)
        pairs = zip(model.named_parameters(), trimmed.parameters())
        pairs = [(key, p, q) for (key, p), q in pairs if p.requires_grad]
        expected = torch.autograd.grad(expected, [p for _, p, _ in pairs], allow_unused=True)
        found = torch.autograd.grad(found, [q for _, _, q in pairs], allow_unused=True)
        for (key, _, _), one, other in zip(pairs, found, expected):
            if other is None or not other.any():  # no position beyond the batch's longest history
                assert one is None or not one.any(), key
            else:
                assert torch.allclose(one, other, rtol=1e-3, atol=1e-6), key
    assert min(widths) == 2 or 1 in widths
    assert max(widths) > 20


def test_chunks():
    """Every row in one of them, none with more than a third of padding, and not too many."""
    lengths = torch.randint(1, 51, (2000,), generator=torch.Generator().manual_seed(0))
    lengths = (lengths**2 // 50).clamp(min=1).sort().values
    chunks = length_buckets(lengths)
    assert [begin for begin, _, _ in chunks] == [0, *[end for _, end, _ in chunks[:-1]]]
    assert chunks[-1][1] == 2000 and 5 <= len(chunks) <= 15
    for begin, end, width in chunks:
        inside = lengths[begin:end]
        assert width == inside.max() and end - begin >= 64
        assert width <= inside.min() + max(1, inside.min() // 3) or end - begin < 200
    read = sum((end - begin) * width for begin, end, width in chunks)
    assert read < 1.2 * lengths.sum() < 0.5 * 50 * 2000
    assert length_buckets(torch.tensor([4])) == [(0, 1, 4)]
    assert length_buckets(torch.tensor([1, 50, 50])) == [(0, 3, 50)]
    assert length_buckets(torch.tensor([1, 2, 5, 50]), 1) == [(0, 2, 2), (2, 3, 5), (3, 4, 50)]


def test_a_model_trained_trimmed(tiny_run):
    """Whole epochs learn, dropout is the quick one, and the default stays RecBole's."""
    settings = LOUD | {"hidden_dropout_prob": 0.2, "learning_rate": 0.02, "llm_whiten": 0}
    _, data, model, trainer = tiny_run(prefix_trim=True, **settings)
    assert any(isinstance(module, BitDropout) for module in model.modules())
    losses = [trainer._train_epoch(data.train, epoch) for epoch in range(6)]
    assert losses[-1] < 0.97 * losses[0]
    _, data, model, _ = tiny_run(**settings)
    assert not any(isinstance(module, BitDropout) for module in model.modules())
    assert not isinstance(next(iter(data.train)), LengthSortedBatch)


def test_masked_items_of_a_batch_by_hand():
    """Two rows of one item and one of three; in the last one the first and the third are masked."""
    columns = {
        "item_length": torch.tensor([1, 1, 3]),
        "MASK_INDEX": torch.tensor([[0, 0], [0, 0], [0, 2]]),
        "Pos_item_id": torch.tensor([[0, 0], [0, 5], [7, 9]]),
        "Neg_item_id": torch.tensor([[0, 0], [0, 6], [8, 4]]),
    }
    chunks = [(0, 2, 1), (2, 3, 3)]
    found, targets = masked_items(columns, chunks, "item_id")
    assert [found[name].tolist() for name in MASKED] == [[4, 1, 2], [9, 5, 7], [4, 6, 8]]
    assert targets == 1
    batch = LengthSortedBatch(columns | found, chunks, targets).to("meta")
    assert isinstance(batch, LengthSortedBatch) and batch.targets == 1 and batch.chunks == chunks
    assert all(batch[name].device.type == "meta" for name in MASKED)


def test_refused_where_padding_counts(tiny_run):
    with pytest.raises(UserError, match="prefix_trim is True, but LLMEmbCaser"):
        tiny_run("LLMEmbCaser", prefix_trim=True, train_mode="prefix")
    with pytest.raises(UserError, match="prefix_trim is 1; it must be True or False"):
        tiny_run(prefix_trim=1)


@pytest.mark.parametrize("trim", [False, True])
def test_the_popularity_adjustment_is_on_masked_items(tiny_run, trim):
    """Cross-entropy of each masked item, its logits shifted, written down one by one."""
    settings = LOUD | RATES | {"loss_type": "CE", "popularity_adjustment": 0.7}
    _, data, model, trainer = tiny_run("LLMEmbBERT4Rec", prefix_trim=trim, **settings)
    loud(model).eval()
    batch = trainer._to_device(next(iter(data.train)))
    found = model.calculate_loss(batch)
    states, items = model.forward(batch["Mask_item_id_list"]), model.items().vectors
    losses = []
    for row, (positions, targets) in enumerate(zip(batch["MASK_INDEX"], batch["Pos_item_id"])):
        for position, target in zip(positions.tolist(), targets.tolist()):
            if target:
                logits = items @ states[row, position] + model.output_bias + model.log_popularity
                losses.append(logits[1:].logsumexp(0) - logits[target])
    assert len(losses) > 20
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("name", ["LLMEmbSASRec", "LLMEmbBERT4Rec"])
def test_whole_batches_go_to_a_gpu(tiny_run, name, trim, monkeypatch):
    """From pinned memory, which there is none of here; the GPU is PyTorch's device ``meta``."""
    _, data, _, trainer = tiny_run(name, train_mode="prefix", prefix_trim=trim)
    batch = next(iter(data.train))
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    moved = lambda self, device, **_: torch.empty_like(self, device="meta")  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "to", moved)
    trainer.device = torch.device("cuda")
    there = trainer._to_device(batch)
    assert len(pinned) == len(there.interaction)
    assert {each.device.type for each in there.interaction.values()} == {"meta"}
    assert (getattr(there, "targets", None) is not None) == (trim and "BERT" in name)
