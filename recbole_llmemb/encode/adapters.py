"""Adapters for encoders (``llm_adapter``), and how one gets into an encoder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.files import content_of, hash_file, refuse_damaged, refuse_endless, unseal
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
            told = f"The adapter {self.path} was trained for the encoder"
            other = f"{self.manifest.get('encoder')!r} ({trained}), not for {source.name!r}"
            advice = f"{source.advice(trained, 'llm_encoder')}, or set llm_adapter to another"
            raise UserError(f"{told} {other} ({source.identity}); {advice}.", key="llm_adapter")
        known = self.manifest.get("pooling")
        if pooling and pooling != (known or pooling):
            told = f"The adapter {self.path} was trained with {known} pooling, but llm_pooling is"
            advice = f"leave llm_pooling empty, or set it to {known}"
            raise UserError(f"{told} {pooling!r}; {advice}.", key="llm_pooling")


def find_adapter(path: str | os.PathLike) -> LoraAdapter:
    """Look at an adapter directory, without loading it."""
    path = Path(path).expanduser()
    where: dict[str, Any] = {"key": "llm_adapter", "where": path}
    for file in (_CONFIG, WEIGHTS):
        if not (path / file).is_file():
            told = f"There is no adapter at {path} (llm_adapter): {file} is missing"
            advice = "give the directory that `recbole-llm scft` or peft wrote, with safetensors"
            raise UserError(f"{told}; {advice}.", **where)
    damaged = {MANIFEST: ""} if os.path.lexists(path / MANIFEST) else {}
    manifest = read_manifest(path) or {"digests": damaged}
    with explained(f"{path} is damaged: {WEIGHTS} is cut short.", SafetensorError, **where):
        safe_open(str(path / WEIGHTS), "np")
    digests = manifest.pop("digests", {})
    refuse_damaged(path, digests, "copy or train the adapter again (llm_adapter)", "llm_adapter")
    sentence = f"The adapter {path} cannot be read: {{reason}}."
    with explained(sentence, OSError, ValueError, AttributeError, RecursionError, **where):
        refuse_endless(path)
        settings = json.loads(content_of(path / _CONFIG))
        facts = {key: value for key, value in settings.items() if key not in _PLACES}
        digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=10)
        hash_file(path / WEIGHTS, digest)
    if settings.get("megatron_config"):  # an older peft imports whatever it names
        told = f"The adapter {path} names code to be imported (megatron_config in {_CONFIG})"
        raise UserError(f"{told}, which is not done; give one without (llm_adapter).", **where)
    return LoraAdapter(path, digest.hexdigest(), manifest)


def read_manifest(path: str | os.PathLike) -> dict[str, Any] | None:
    """What an adapter's ``scft.json`` holds, None where there is none that is whole."""
    try:
        manifest = unseal(content_of(Path(path) / MANIFEST))
    except (OSError, ValueError, RecursionError):
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
        told = f"The adapter {path} does not fit the encoder {name!r}: they differ in {len(odd)}"
        advice = "give the adapter of this encoder"
        raise UserError(f"{told} weights, {odd[0][0]!r} for one; {advice}.", key="llm_adapter")
    if next(model.parameters()).dtype == torch.float32:  # rounding would eat small changes
        for module in model.modules():
            if isinstance(module, tuners.BaseTunerLayer):
                module.merge()


def _shapes(weights: Mapping[str, Any]) -> set[tuple[str, tuple[int, ...]]]:
    return {(key.removeprefix("base_model.model."), tuple(w.shape)) for key, w in weights.items()}
