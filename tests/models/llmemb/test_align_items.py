"""``align_items``: each positive item of a batch once, or every position (the authors' code)."""

import pytest
import torch

from recbole_llmemb.core import checkpoint


@pytest.mark.parametrize("settings", [
    {"train_mode": "sequence"},
    {"train_mode": "prefix"},
    {"train_mode": "prefix", "prefix_trim": True},
], ids=str)  # fmt: skip
def test_positions_align_every_position(tiny_run, tiny, tmp_path, settings):
    path = tmp_path / "teacher.pth"
    weight = torch.randn(len(tiny.items) + 1, 8, generator=torch.Generator().manual_seed(3)) / 10
    state = {"item_embedding.weight": weight}
    checkpoint.save({"state_dict": state, "item_tokens": ["[PAD]", *tiny.items]}, path)
    own = {
        "align_weight": 1.0,
        "align_teacher": str(path),
        "align_teacher_unchecked": True,
        "train_batch_size": 64,
        **settings,
    }
    for kind in ("positions", "distinct"):
        _, data, model, _ = tiny_run(align_items=kind, **own)
        batch = next(iter(data.train))
        targets = batch["item_id"]
        assert len(targets) > len(set(targets.tolist()))  # or both settings would be the same
        rows = model.item_embedding.weight
        every = model.alignment(model.teacher[targets], rows[targets])
        distinct = torch.unique(targets)
        once = model.alignment(model.teacher[distinct], rows[distinct])
        if kind == "distinct":  # found beside the step, not in it
            assert torch.equal(batch["align_items"], distinct)
        _, term = model.calculate_loss(batch)
        torch.testing.assert_close(term, every if kind == "positions" else once)
        assert not torch.isclose(every, once)


@pytest.mark.parametrize("kind", ["positions", "distinct"])
@pytest.mark.parametrize("loss_type", ["CE", "BCE"])
@pytest.mark.parametrize("trim", [False, True])
def test_bert4rec_aligns_the_masked_items_of_prefixes(
    tiny_run, tmp_path, tiny, trim, loss_type, kind
):
    """Those that its loss predicts, and not the item after each prefix, which it does not see."""
    path = tmp_path / "teacher.pth"
    weight = torch.randn(len(tiny.items) + 1, 8, generator=torch.Generator().manual_seed(3))
    state = {"item_embedding.weight": weight}
    checkpoint.save({"state_dict": state, "item_tokens": ["[PAD]", *tiny.items]}, path)
    _, data, model, _ = tiny_run(
        "LLMEmbBERT4Rec", train_mode="prefix", prefix_trim=trim, loss_type=loss_type,
        align_items=kind, align_weight=2.0, align_teacher=str(path), align_teacher_unchecked=True,
    )  # fmt: skip
    batch = next(iter(data.train))
    rows = zip(batch["Pos_item_id"].tolist(), batch["MASK_INDEX"].tolist())
    masked = [
        item
        for items, places in rows
        for item, place in zip(items, places)
        if item and (place or loss_type == "BCE")  # RecBole's loss leaves out what begins a row
    ]
    items = sorted(masked if kind == "positions" else set(masked))
    assert items != sorted(set(batch["item_id"].tolist()))
    x, y = model.teacher[items].double(), model.item_embedding.weight[items].double()
    target = (((x @ x.t() + y @ y.t()) / 2) * 2).softmax(1)
    logits = x @ y.t() / 2
    found = -(target * logits.log_softmax(1)).sum() - (target.t() * logits.t().log_softmax(1)).sum()
    terms = model.loss_terms(batch)
    expected = (2 * found / (2 * len(items))).float()
    torch.testing.assert_close(terms["alignment"], expected, rtol=1e-4, atol=1e-5)
