"""``align_items``: each positive item of a batch once, or every position (the authors' code)."""

import pytest
import torch

from recbole_llmemb import checkpoint


@pytest.mark.parametrize("mode", ["sequence", "prefix"])
def test_positions_align_every_position(tiny_run, tiny, tmp_path, mode):
    path = tmp_path / "teacher.pth"
    weight = torch.randn(len(tiny.items) + 1, 8, generator=torch.Generator().manual_seed(3)) / 10
    state = {"item_embedding.weight": weight}
    checkpoint.save({"state_dict": state, "item_tokens": ["[PAD]", *tiny.items]}, path)
    _, data, model, _ = tiny_run(
        align_weight=1.0,
        align_teacher=str(path),
        align_items="positions",
        train_mode=mode,
        train_batch_size=64,
    )
    batch = next(iter(data.train))
    targets = batch["item_id"]
    assert len(targets) > len(set(targets.tolist()))  # or both settings would be the same
    _, term = model.calculate_loss(batch)
    rows = model.item_embedding.weight
    every = model.alignment(model.teacher[targets], rows[targets])
    distinct = torch.unique(targets)
    once = model.alignment(model.teacher[distinct], rows[distinct])
    torch.testing.assert_close(term, every)
    assert not torch.isclose(term, once)
