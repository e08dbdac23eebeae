"""Prefix batches without their padding: the same rows, the same loss, the same gradients."""

import numpy as np
import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.data.prefixes import SortedPrefixes, chunks_of  # isort: skip
from recbole_llmemb.errors import UserError  # isort: skip
from recbole_llmemb.model.quicken import BitDropout  # isort: skip

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


@pytest.mark.parametrize("kind", ["id", "table"])
@pytest.mark.parametrize("loss_type", ["CE", "BPR", "BCE"])
@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec"])
def test_trimmed_steps_are_the_full_ones(tiny_run, monkeypatch, name, loss_type, kind):
    monkeypatch.setattr(chunks_of, "__defaults__", (3,))  # several in so small a batch
    settings = LOUD | {"loss_type": loss_type, "train_neg_sample_args": NEGATIVES}
    settings["item_embedding"] = kind
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
            batches.append(loader.collate_fn(index.tolist()))
        batch, cut = batches
        assert rows_of(batch) == rows_of(cut)
        cut = trainer._to_device(cut)
        assert isinstance(cut, SortedPrefixes) and len(cut.chunks) > 2
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
    chunks = chunks_of(lengths)
    assert [begin for begin, _, _ in chunks] == [0, *[end for _, end, _ in chunks[:-1]]]
    assert chunks[-1][1] == 2000 and 5 <= len(chunks) <= 15
    for begin, end, width in chunks:
        inside = lengths[begin:end]
        assert width == inside.max() and end - begin >= 64
        assert width <= inside.min() + max(1, inside.min() // 3) or end - begin < 200
    read = sum((end - begin) * width for begin, end, width in chunks)
    assert read < 1.2 * lengths.sum() < 0.5 * 50 * 2000
    assert chunks_of(torch.tensor([4])) == [(0, 1, 4)]
    assert chunks_of(torch.tensor([1, 50, 50])) == [(0, 3, 50)]
    assert chunks_of(torch.tensor([1, 2, 5, 50]), 1) == [(0, 2, 2), (2, 3, 5), (3, 4, 50)]


def test_a_model_trained_trimmed(tiny_run):
    """Whole epochs learn, dropout is the quick one, and the default stays RecBole's."""
    settings = LOUD | {"hidden_dropout_prob": 0.2, "learning_rate": 0.02, "llm_whiten": 0}
    _, data, model, trainer = tiny_run(prefix_trim=True, **settings)
    assert any(isinstance(module, BitDropout) for module in model.modules())
    losses = [trainer._train_epoch(data.train, epoch) for epoch in range(6)]
    assert losses[-1] < 0.97 * losses[0]
    _, data, model, _ = tiny_run(**settings)
    assert not any(isinstance(module, BitDropout) for module in model.modules())
    assert not isinstance(next(iter(data.train)), SortedPrefixes)


def test_refused_where_rows_are_masked(tiny_run):
    with pytest.raises(UserError, match="prefix_trim is on, but LLMEmbBERT4Rec .* set prefix_trim"):
        tiny_run("LLMEmbBERT4Rec", prefix_trim=True, train_mode="prefix")
    with pytest.raises(UserError, match="prefix_trim is 1; it must be True or False"):
        tiny_run(prefix_trim=1)
