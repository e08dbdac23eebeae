"""What to encode, with what and by whom.

Nothing here loads a model or imports PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from recbole_llmemb.core.checked import Checked, option
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.adapter import Adapter, find_adapter
from recbole_llmemb.encode.settings import EncodeSettings
from recbole_llmemb.encode.source import EncoderSource, find_encoder
from recbole_llmemb.encode.texts import (
    DEFAULT_INSTRUCTION,
    DEFAULT_MAX_CHARS,
    Catalog,
    item_prompt,
    read_catalog,
)
from recbole_llmemb.records.items import open_items

DEFAULT_BATCH_SIZE: int = EncodeSettings.model_fields["llm_batch_size"].default


class EncodeJob(Checked):
    """What to encode and how. See the configuration reference for the meaning of each field.

    Everything but ``batch_size``, ``device``, ``shard_size`` and ``trust_remote_code`` decides
    the vectors and is part of :attr:`key`.
    """

    item_file: Path | str
    encoder: str | None = None
    revision: str | None = None  # A commit of the hub; by default the newest
    fields: Sequence[str] | str | None = None
    prompt: str | None = None
    value_max_chars: int | None = Field(default=DEFAULT_MAX_CHARS, ge=0)
    id_field: str = "item_id"
    field_separator: str = Field(default="\t", min_length=1)
    encoding: str = "utf-8"
    pooling: Literal["mean", "last"] | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    max_length: int | None = Field(default=None, ge=1)
    normalize: bool = False
    trust_remote_code: bool = False
    adapter: str | Path | None = None
    pca_dim: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=DEFAULT_BATCH_SIZE, ge=1)
    device: Any = None
    shard_size: int = Field(default=1024, ge=1)
    _catalog: Catalog | None = PrivateAttr(None)
    _settings: EncoderSettings | None = PrivateAttr(None)

    def prepare(self, spool: Path | None = None) -> Catalog:
        """Read the items (once; later calls are free).

        ``spool``: keep no texts in memory, but on this folder's disk.
        """
        if self._catalog is None or bool(self._catalog.attributes) != (spool is None):
            place = self.item_file, self.fields, self.id_field, self.field_separator, self.encoding
            self._catalog = read_catalog(open_items(*place), self._prompt, spool)
        return self._catalog

    @property
    def items(self) -> Catalog:
        """The items as they were read, held if they were not."""
        return self._catalog or self.prepare()

    def _prompt(self, attributes: Mapping[str, str]) -> str:
        return item_prompt(attributes, self.instruction, self.value_max_chars)

    @property
    def instruction(self) -> str:
        """What stands before the attributes."""
        return DEFAULT_INSTRUCTION if self.prompt is None else self.prompt

    @property
    def settings(self) -> EncoderSettings:
        """The encoder, found but not loaded (once)."""
        if self._settings is None:
            source = find_encoder(self.encoder, self.revision)
            pooling, max_length, adapter = self.pooling, self.max_length, None
            if self.adapter:  # what it was trained with, unless told otherwise
                adapter = find_adapter(self.adapter)
                adapter.check(source.identity, source.name, pooling)
                pooling = pooling or adapter.manifest.get("pooling")
                max_length = max_length or adapter.manifest.get("max_length")
            self._settings = EncoderSettings(
                source, adapter, pooling, self.dtype, max_length, self.normalize,
                self.batch_size, self.device, self.trust_remote_code,
            )  # fmt: skip
        return self._settings

    @property
    def key(self) -> str:
        """Hash of all the vectors depend on; two jobs with one key give one table."""
        made = self.settings
        facts = {
            "texts": self.items.texts_hash,
            "encoder": made.source.identity,
            "pooling": made.pooling or made.source.own_pooling(),
            "dtype": self.dtype,
            "max_length": made.max_length,
            "normalize": self.normalize,
            "pca_dim": self.pca_dim,
        }
        if made.adapter:  # without one, as before there were any
            facts["adapter"] = made.adapter.fingerprint
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=10).hexdigest()


@dataclass(frozen=True)
class EncoderSettings:
    """What :class:`~recbole_llmemb.encode.encoder.Encoder` is made of."""

    source: EncoderSource
    adapter: Adapter | None = None
    pooling: str | None = None
    dtype: str = "float32"
    max_length: int | None = None
    normalize: bool = False
    batch_size: int = DEFAULT_BATCH_SIZE
    device: Any = None
    trust_remote_code: bool = False

    def elsewhere(self, device: str) -> EncoderSettings:
        """In words that other machines understand."""
        source, adapter = self.source, self.adapter
        if source.is_directory:
            place = str(Path(source.location).expanduser().absolute())
            source = replace(source, location=place)
        if adapter:
            adapter = replace(adapter, path=adapter.path.absolute())
        return replace(self, source=source, adapter=adapter, device=device)

    def on_this_node(self) -> EncoderSettings:
        """The encoder and the adapter as they are found here; they must be the very same."""
        adapter, here = self.adapter, f"on the node {socket.gethostname()}"
        if adapter and find_adapter(adapter.path).fingerprint != adapter.fingerprint:
            raise UserError(f"The adapter {adapter.path} is another one {here}.")
        if not self.source.is_directory:
            # Another machine's local cache says nothing.
            return replace(self, source=replace(self.source, offline=False))
        # The bundled one is wherever it is installed here; a directory is where it is there.
        location, name = self.source.location, self.source.name
        found = replace(find_encoder(location if Path(location).is_dir() else name), name=name)
        if found.identity != self.source.identity:
            raise UserError(
                f"The encoder {name!r} {here} is another one than where the command runs; put the "
                "same files on every node."
            )
        return replace(self, source=found)


_RAY = "on a cluster"


class Workers(Checked):
    """Who encodes with Ray."""

    number: int | None = option(
        None, "encoders, at most (default: as many as fit)", ge=1, name="num_workers", group=_RAY
    )
    gpus: float | None = option(
        None, "may be a fraction (default: 1 if there are GPUs)", ge=0, name="gpus_per_worker",
        group=_RAY,
    )  # fmt: skip

    @field_validator("gpus", mode="after")
    @classmethod
    def _whole_or_part(cls, gpus: float | None) -> float | None:
        if gpus and gpus > 1 and gpus != int(gpus):
            raise UserError(
                f"--gpus_per_worker is {gpus}; it must be a whole number or between 0 and 1.",
                key="gpus",
            )
        return gpus

    def check(self, device: Any) -> None:
        """Refuse devices, which are Ray's to give."""
        if device not in (None, "", "auto", "cpu"):
            raise UserError(
                f"--device is {device!r}, but with --ray it is --gpus_per_worker that says what "
                "each worker gets; leave --device out.",
                key="device",
            )
        if device == "cpu" and self.gpus:
            raise UserError(
                f"--device is cpu, but --gpus_per_worker is {self.gpus}; choose one.", key="device"
            )

    def fit(self, nodes: list[dict[str, float]], device: Any) -> Workers:
        """These workers with every number filled in.

        ``nodes``: resources of each node.
        """
        gpus = self.gpus
        if gpus is None:
            has_any = any(node.get("GPU", 0) >= 1 for node in nodes)
            gpus = 1 if has_any and device != "cpu" else 0
        room = sum(_fitting(node, gpus) for node in nodes)
        if not room:
            what = f"{gpus:g} GPUs and a CPU" if gpus else "a CPU"
            raise UserError(
                f"No node of the Ray cluster has {what} for a worker; ask for less "
                "(--gpus_per_worker) or add a node."
            )
        return Workers(number=min(self.number or room, room), gpus=gpus)


def _fitting(node: dict[str, float], gpus: float) -> int:
    room = int(node.get("CPU", 0))
    if not gpus:
        return room
    # A worker does not get half of one GPU and half of another.
    each = int(node.get("GPU", 0)) * int(1 / gpus) if gpus < 1 else int(node.get("GPU", 0) / gpus)
    return min(room, each)
