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
