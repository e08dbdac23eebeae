# ruff: noqa: F811 (fixtures come by name)
"""Encoders and LLMs on a GPU: encoding, SCFT, LLM-SRec; the same tests hold on a CPU."""

import copy

import pytest
import torch
from encode_models import WORDS, make_model
from gpu_devices import device, placed  # noqa: F401
from llmsrec_fixtures import cf_model, llms, llmsrec  # noqa: F401

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.encoder import Encoder, load_pipeline
from recbole_llmemb.encode.source import find_encoder
from recbole_llmemb.models.losses import AlignmentLoss

TEXTS = [" ".join(WORDS.split()[i : i + 1 + i % 5]) for i in range(12)]


def states_of(folder, texts):
    """Mean of the states of a model's last layer, one text at a time."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = (kind.from_pretrained(folder) for kind in (AutoTokenizer, AutoModel))
    model.eval()
    with torch.no_grad():
        rows = [model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0] for t in texts]
    return torch.stack([row.mean(0) for row in rows])


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_encoding(tmp_path, device, kind):
    folder = make_model(tmp_path / kind, kind)
    expected = states_of(folder, TEXTS)
    found = Encoder(find_encoder(folder), device=device, batch_size=5).encode(TEXTS)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    half = Encoder(find_encoder(folder), device=device, dtype="bfloat16").encode(TEXTS)
    assert half.dtype == torch.bfloat16
    assert torch.cosine_similarity(half.float(), expected).min() > 0.99


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("way", ["plain", "GradCache", "checkpoints"])
def test_scft(tmp_path, device, way, half):
    """Loss and gradients of LoRA's matrices, against the plain form on a CPU."""
    pytest.importorskip("peft")
    pytest.importorskip("sentence_transformers.base.losses.gradcache")
    from recbole_llmemb.scft.settings import ScftSettings
    from recbole_llmemb.scft.trainer import CachedViewLoss, LengthSortedCollator, ViewLoss
    from recbole_llmemb.scft.training import add_lora

    torch.manual_seed(1)
    source = find_encoder(make_model(tmp_path / "llama", "llama"))
    model = load_pipeline(source)
    add_lora(model, ScftSettings(scft_lora_rank=2, scft_lora_alpha=4, scft_lora_dropout=0.0))
    with torch.no_grad():  # LoRA's second matrix begins at zero, and so would gradients
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.2)
    plain = copy.deepcopy(model)
    one, other = (plain.encode(t, convert_to_tensor=True) for t in (TEXTS[:6], TEXTS[6:]))
    rows = [{"view_a": a, "view_b": b} for a, b in zip(TEXTS[:6], TEXTS[6:])]
    expected = AlignmentLoss(3.0)(one, other).item()

    model.to(device).train()
    if way == "checkpoints":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    loss = (CachedViewLoss if way == "GradCache" else ViewLoss)(model, "soft", 3.0).to(device)
    batch = LengthSortedCollator(model.preprocess, 4 if way == "GradCache" else None)(rows)
    batch = {name: v.to(device) if torch.is_tensor(v) else v for name, v in batch.items()}
    parts = sorted({name.partition("_")[0] for name in batch} - {"label"})
    features = [
        {k.partition("_")[2]: v for k, v in batch.items() if k.startswith(f"{part}_")}
        for part in parts
    ]
    assert len(features) == (3 if way == "GradCache" else 1)
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        value = loss(features, batch["label"])
        value.backward()
    assert value.item() == pytest.approx(expected, rel=0.05 if half else 1e-4)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 7
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())
    if half:
        return
    # The slope along the gradient is its squared length.
    step, square = 1e-3, sum(p.grad.square().sum() for p in trained.values())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name in trained:
                parameter.sub_(trained[name].grad.cpu() * step / square.cpu().sqrt())
    one, other = (plain.encode(t, convert_to_tensor=True) for t in (TEXTS[:6], TEXTS[6:]))
    fallen = expected - AlignmentLoss(3.0)(one, other).item()
    assert fallen == pytest.approx(step * square.sqrt().item(), rel=0.05)


@pytest.mark.parametrize("form", ["table", "text"])
def test_llmsrec(llmsrec, placed, form):
    """A step's losses, and the vectors of all items, are those of a CPU."""
    here = {"use_gpu": False, "gpu_id": "", "llm_model_dtype": "float32"}
    _, data, expected, _ = llmsrec("llama", item_input=form, **here)
    _, _, model, trainer = llmsrec("llama", item_input=form, **here | placed)
    model.load_state_dict(expected.state_dict())
    data.train.form = expected.form
    for batch in list(data.train)[:2]:
        losses = expected.calculate_loss(batch)
        found = model.calculate_loss(trainer._to_device(copy.deepcopy(batch)))
        assert [part.device.type for part in found] == [model.device.type] * 3
        assert [p.item() for p in found] == pytest.approx([p.item() for p in losses], rel=1e-4)
    items = model.eval().item_matrix()
    torch.testing.assert_close(items.cpu(), expected.eval().item_matrix(), rtol=1e-3, atol=1e-4)


def test_a_table_that_does_not_fit_is_refused(llmsrec, monkeypatch):
    """Before it is moved; see the same test of the other models."""

    def refused(*facts):
        raise UserError(" ".join(map(str, facts)))

    monkeypatch.setattr("recbole_llmemb.models.llmsrec.model.refuse_too_large", refused)
    with pytest.raises(UserError, match="61 16 torch.float32 cpu"):
        llmsrec("llama", item_input="table")
