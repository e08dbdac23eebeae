"""Low-rank adapters for an encoder, in peft's directories (``llm_adapter``)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.files import hash_file
from recbole_llmemb.core.imports import optional
from recbole_llmemb.encode.source import EncoderSource

#: What ``recbole-llm scft`` adds to peft's files: for which encoder, pooling and prompt.
MANIFEST = "scft.json"
WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
# Where the base model was, which says nothing about the adapter.
_PLACES = ("base_model_name_or_path", "revision")


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter directory."""

    path: Path
    fingerprint: str  # Hash of its weights and settings; equal for copies
    manifest: Mapping[str, Any]  # What ``scft.json`` holds; empty for an adapter from elsewhere

    def check(self, source: EncoderSource, pooling: str | None) -> None:
        """Refuse an encoder or a pooling that the adapter was not trained with."""
        trained = self.manifest.get("encoder_identity")
        if trained not in (None, source.identity):
            raise UserError(
                f"The adapter {self.path} was trained for the encoder "
                f"{self.manifest.get('encoder')!r} ({trained}), not for {source.name!r} "
                f"({source.identity}); set llm_encoder to that one, or llm_adapter to another.",
                key="llm_adapter",
            )
        known = self.manifest.get("pooling")
        if pooling and pooling != (known or pooling):
            raise UserError(
                f"The adapter {self.path} was trained with {known} pooling, but llm_pooling is "
                f"{pooling!r}; leave llm_pooling empty, or set it to {known}.",
                key="llm_pooling",
            )


def find_adapter(path: str | os.PathLike) -> LoraAdapter:
    """Look at an adapter directory, without loading it."""
    path = Path(path).expanduser()
    where: dict[str, Any] = {"key": "llm_adapter", "where": path}
    for file in (_CONFIG, WEIGHTS):
        if not (path / file).is_file():
            raise UserError(
                f"There is no adapter at {path} (llm_adapter): {file} is missing; give the "
                "directory that `recbole-llm scft` or peft wrote, with safetensors for weights.",
                **where,
            )
    sentence = f"The adapter {path} cannot be read: {{reason}}."
    with explained(sentence, OSError, ValueError, AttributeError, **where):
        settings = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
        facts = {key: value for key, value in settings.items() if key not in _PLACES}
        digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=10)
        hash_file(path / WEIGHTS, digest)
    if settings.get("megatron_config"):  # an older peft imports whatever it names
        raise UserError(
            f"The adapter {path} names code to be imported (megatron_config in {_CONFIG}), which "
            "is not done; give an adapter without (llm_adapter).",
            **where,
        )
    return LoraAdapter(path, digest.hexdigest(), read_manifest(path) or {})


def read_manifest(path: str | os.PathLike) -> dict[str, Any] | None:
    """What an adapter's ``scft.json`` holds, None where there is none."""
    try:
        manifest = json.loads((Path(path) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def load_adapter(model: Any, path: Path, name: str) -> None:
    """Put an adapter into a SentenceTransformer, merged into its weights where that is exact."""
    tuners = optional("peft.tuners.tuners_utils", "finetune", "llm_adapter")
    import torch
    from safetensors.torch import load_file

    sentence = f"The adapter {path} cannot be loaded into the encoder {name!r} ({{reason}})."
    # peft's, transformers' and safetensors' own
    with explained(sentence, Exception, key="llm_adapter", where=path):
        model.load_adapter(str(path))
        wanted = _shapes(load_file(path / WEIGHTS))
    odd = sorted(wanted ^ _shapes(model.get_adapter_state_dict("default")))
    if odd:
        raise UserError(
            f"The adapter {path} does not fit the encoder {name!r}: they differ in {len(odd)} "
            f"weights, {odd[0][0]!r} for one; give the adapter of this encoder.",
            key="llm_adapter",
        )
    if next(model.parameters()).dtype == torch.float32:  # rounding would eat small changes
        for module in model.modules():
            if isinstance(module, tuners.BaseTunerLayer):
                module.merge()


def _shapes(weights: Mapping[str, Any]) -> set[tuple[str, tuple[int, ...]]]:
    return {(key.removeprefix("base_model.model."), tuple(w.shape)) for key, w in weights.items()}
