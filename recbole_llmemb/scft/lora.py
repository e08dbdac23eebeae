"""Low-rank adapters on an encoder: where they go, and putting them there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from recbole_llmemb.core.errors import UserError, name_some

# The last number in a module's name, a layer's or an expert's, and what follows it:
# encoder.layer.3.attention.self.query, layers.3.self_attn.q_proj, h.3.mlp.c_fc.
_IN_LAYER = re.compile(r"(?:.*\.)?\d+\.(?P<rest>[A-Za-z].*)")
# A mixture of experts chooses its experts with it; it is no projection of the MLP.
_ROUTERS = {"gate", "router", "shared_expert_gate"}


def find_targets(model: nn.Module) -> str:
    """A pattern for the attention and MLP projections of every layer.

    These are the linear maps inside the numbered layers, under whatever names the architecture
    has for them (BERT: query, key, value, dense; Llama, Qwen, Mistral: q_proj … down_proj). The
    embedding, a pooler and a head lie outside.

    ``model``: of transformers.
    """
    found = (_IN_LAYER.fullmatch(name) for name, module in model.named_modules() if _is_map(module))
    rests = dict.fromkeys(name["rest"] for name in found if name)
    rests = [rest for rest in rests if rest.rpartition(".")[2] not in _ROUTERS]
    if not rests:
        raise UserError(
            f"The encoder ({type(model).__name__}) has no linear layers that LoRA could adapt; "
            "name some with scft_lora_targets, or choose another encoder."
        )
    return rf"(?:.*\.)?\d+\.(?:{'|'.join(map(re.escape, rests))})"


def check_targets(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Names of linear layers given by the user, as peft takes them (a name or its end)."""
    maps = [name for name, module in model.named_modules() if _is_map(module)]
    absent = [n for n in names if not any(m == n or m.endswith(f".{n}") for m in maps)]
    if absent:
        offered = dict.fromkeys(name.rpartition(".")[2] for name in maps)
        raise UserError(
            f"scft_lora_targets names {name_some(absent)}, which matches no linear layer of the "
            f"encoder; it has {', '.join(offered)}."
        )
    return list(names)


def add_lora(
    model: Any, rank: int, alpha: float, dropout: float, targets: Sequence[str] | None = None
) -> int:
    """Put fresh adapters into a SentenceTransformer and freeze the rest.

    ``rank, alpha, dropout``: of LoRA.
    ``targets``: names of linear layers; by default those of :func:`find_targets`.
    Returns how many parameters are trained.
    """
    from peft import LoraConfig

    inner = model.transformers_model
    model.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=check_targets(inner, targets) if targets else find_targets(inner),
            task_type="FEATURE_EXTRACTION",
        )
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:  # a step of Adam is lost in half precision
        parameter.data = parameter.data.to(torch.float32)
    return sum(parameter.numel() for parameter in trained)


def _is_map(module: nn.Module) -> bool:
    # Conv1D is GPT-2's linear layer; bitsandbytes' are subclasses of nn.Linear.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
