"""The encoder that is adapted: loaded, frozen, with low-rank adapters in it."""

from __future__ import annotations

import re
from typing import Any

import peft
import torch
from torch import nn

from recbole_llmemb.core.errors import UserError, name_some
from recbole_llmemb.encode.encoder import DTYPES, load_pipeline
from recbole_llmemb.scft.settings import ScftSettings

# The last number in a module's name, a layer's or an expert's, and what follows it:
# encoder.layer.3.attention.self.query, layers.3.self_attn.q_proj, h.3.mlp.c_fc.
_IN_LAYER = re.compile(r"(?:.*\.)?\d+\.(?P<rest>[A-Za-z].*)")
# A mixture of experts chooses its experts with it; it is no projection of the MLP.
_ROUTERS = {"gate", "router", "shared_expert_gate"}


def load_base(job):
    """The encoder to adapt, frozen weights in its precision, ending in un-normalized pooling."""
    text, keys, device = job.text.settings, job.settings, job.processes.device
    options: dict[str, Any] = {}
    if keys.scft_quantize:
        options = {
            "quantization_config": _quantization(keys.scft_quantize, device, job.precision),
            "device_map": {"": device},
        }
    model = load_pipeline(
        job.text.source,
        pooling=text.llm_pooling,
        dtype=DTYPES[job.precision],
        device=str(device),
        max_length=text.llm_max_length,
        trust_remote_code=text.llm_trust_remote_code,
        **options,
    )
    # X and Y are as long as pooling makes them (LLMEmb, SCFT); encoding normalizes again
    # where the encoder's own pipeline does.
    for name, module in list(model.named_children()):
        if type(module).__name__ == "Normalize":
            delattr(model, name)
    if keys.scft_quantize:
        peft.prepare_model_for_kbit_training(
            model.transformers_model, use_gradient_checkpointing=False
        )
    if keys.scft_gradient_checkpointing:
        # Not the re-entrant kind, which wants inputs that need gradients: the embedding is frozen.
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _quantization(bits: int, device: torch.device, precision: str):
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available() or device.type == "cpu":
        raise UserError(
            f"scft_quantize is {bits}, which needs a GPU and bitsandbytes; pip install "
            "bitsandbytes there, or leave it empty."
        )
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPES[precision]
    )


def find_targets(model: nn.Module) -> str:
    """A pattern for the attention and MLP projections of every layer.

    These are the linear maps inside the numbered layers, under whatever names the architecture
    has for them (BERT: query, key, value, dense; Llama, Qwen, Mistral: q_proj … down_proj). The
    embedding, a pooler and a head lie outside.

    ``model``: of transformers.
    """
    found = (_IN_LAYER.fullmatch(name) for name, module in model.named_modules() if _is_map(module))
    named = dict.fromkeys(name["rest"] for name in found if name)
    rests = [rest for rest in named if rest.rpartition(".")[2] not in _ROUTERS]
    if not rests:
        raise UserError(
            f"The encoder ({type(model).__name__}) has no linear layers that LoRA could adapt; "
            "name some with scft_lora_targets, or choose another encoder."
        )
    return rf"(?:.*\.)?\d+\.(?:{'|'.join(map(re.escape, rests))})"


def check_targets(model: nn.Module, names: list[str]) -> list[str]:
    """Names of linear layers given by the user, as peft takes them (a name or its end)."""
    maps = [name for name, module in model.named_modules() if _is_map(module)]
    absent = [n for n in names if not any(m == n or m.endswith(f".{n}") for m in maps)]
    if absent:
        offered = dict.fromkeys(name.rpartition(".")[2] for name in maps)
        raise UserError(
            f"scft_lora_targets names {name_some(absent)}, which matches no linear layer of the "
            f"encoder; it has {', '.join(offered)}."
        )
    return names


def add_lora(model: Any, keys: ScftSettings) -> int:
    """Put fresh adapters into a SentenceTransformer and freeze the rest.

    Returns how many parameters are trained.
    """
    inner, names = model.transformers_model, keys.scft_lora_targets
    model.add_adapter(
        peft.LoraConfig(
            r=keys.scft_lora_rank,
            lora_alpha=keys.scft_lora_alpha,  # type: ignore[arg-type]  # divides by the rank
            lora_dropout=keys.scft_lora_dropout,
            target_modules=check_targets(inner, names) if names else find_targets(inner),
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
