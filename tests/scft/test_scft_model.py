"""Where LoRA goes, for each family."""

import pytest
import torch
from encode_models import make_model

pytest.importorskip("peft")

from recbole_llmemb.core.errors import UserError  # noqa: E402
from recbole_llmemb.encode.encoder import load_pipeline  # noqa: E402
from recbole_llmemb.encode.source import find_encoder  # noqa: E402
from recbole_llmemb.scft.settings import ScftSettings  # noqa: E402
from recbole_llmemb.scft.training import add_lora, find_targets  # noqa: E402

LLAMA = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
}  # fmt: skip
BERT = {
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
}  # fmt: skip
GPT2 = {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}


def lora(rank, alpha, dropout, targets=None):
    return ScftSettings(
        scft_lora_rank=rank,
        scft_lora_alpha=alpha,
        scft_lora_dropout=dropout,
        scft_lora_targets=targets,
    )


@pytest.fixture
def load(tmp_path):
    return lambda kind: load_pipeline(find_encoder(make_model(tmp_path / kind, kind)))


def adapted(model):
    return {
        name.removesuffix(".lora_A.default.weight")
        for name, parameter in model.transformers_model.named_parameters()
        if "lora_A" in name and parameter.requires_grad
    }


@pytest.mark.parametrize(
    ("kind", "layer", "names"),
    [
        ("bert", "encoder.layer.{}.", BERT),
        ("llama", "layers.{}.", LLAMA),
        ("qwen2", "layers.{}.", LLAMA),
        ("mistral", "layers.{}.", LLAMA),
        ("qwen3", "layers.{}.", LLAMA),
        ("gpt2", "h.{}.", GPT2),
    ],
)
def test_attention_and_mlp_of_every_layer(load, kind, layer, names):
    model = load(kind)
    count = add_lora(model, lora(3, 6, 0.1))
    assert adapted(model) == {layer.format(i) + name for i in (0, 1) for name in names}
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert count == sum(p.numel() for p in trained.values())
    assert model.encode(["red soap"]).shape == (1, 16)


def test_embedding_and_pooler_are_left_alone(load):
    model = load("bert")
    assert any("pooler" in name for name, _ in model.named_modules())
    add_lora(model, lora(2, 4, 0.0))
    assert not [name for name in adapted(model) if "pooler" in name or "embedding" in name]


def test_named_targets(load):
    model = load("llama")
    add_lora(
        model,
        ScftSettings(
            scft_lora_rank=2,
            scft_lora_alpha=4,
            scft_lora_dropout=0.0,
            scft_lora_targets=["q_proj", "mlp.up_proj"],
        ),
    )
    assert adapted(model) == {
        f"layers.{i}.{name}" for i in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")
    }


@pytest.mark.parametrize("name", ["query", "embed_tokens", "proj", "norm"])
def test_a_target_that_matches_nothing_is_refused(load, name):
    with pytest.raises(UserError, match=f"scft_lora_targets names '{name}'.*it has q_proj, k_proj"):
        add_lora(
            load("llama"),
            ScftSettings(
                scft_lora_rank=2,
                scft_lora_alpha=4,
                scft_lora_dropout=0.0,
                scft_lora_targets=["q_proj", name],
            ),
        )


def test_a_model_without_layers_is_refused():
    with pytest.raises(UserError, match="no linear layers that LoRA could adapt"):
        find_targets(torch.nn.Sequential(torch.nn.Embedding(3, 4)))


def test_adapters_of_half_precision_models_are_kept_in_full(tmp_path):
    source = find_encoder(make_model(tmp_path / "m", "llama"))
    model = load_pipeline(source, dtype=torch.bfloat16)
    add_lora(model, lora(2, 4, 0.0))
    types = {p.requires_grad: p.dtype for p in model.parameters()}
    assert types == {True: torch.float32, False: torch.bfloat16}


def test_routers_of_experts_are_left_alone():
    layer = {"gate": torch.nn.Linear(4, 2), "q_proj": torch.nn.Linear(4, 4)}
    pattern = find_targets(
        torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.ModuleDict(layer)])})
    )
    assert "q_proj" in pattern and "gate" not in pattern
