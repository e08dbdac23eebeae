"""What runs in Ray's processes: reading the item file, and encoding.

Both get and give Arrow tables with one row per shard.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.adapter import find_adapter
from recbole_llmemb.encode.item_stream import read_span
from recbole_llmemb.encode.prompts import item_prompt
from recbole_llmemb.encode.source import EncoderSource, find_encoder
from recbole_llmemb.records.items import open_items


@dataclass(frozen=True)
class SpanReader:
    """Spans of a catalogue to the texts of their shards, a shard at a time."""

    place: tuple  # What :func:`~recbole_llmemb.records.items.open_items` needs
    # instruction, value_max_chars: As for :func:`~recbole_llmemb.encode.prompts.item_prompt`.
    instruction: str
    value_max_chars: int | None

    def __call__(self, table: Any) -> Iterator[Any]:
        import pyarrow as pa

        for span in table.to_pylist():
            shard = span["shard"]
            try:
                file = open_items(*self.place, seen=True)
                for texts in read_span(file, self._prompt, span):
                    yield pa.table({"shard": [shard], "texts": [json.dumps(texts)], "error": [""]})
                    shard += 1
            except UserError as error:
                yield pa.table({"shard": [shard], "texts": ["[]"], "error": [str(error)]})

    def _prompt(self, attributes: dict[str, str]) -> str:
        return item_prompt(attributes, self.instruction, self.value_max_chars)


@dataclass(frozen=True)
class WorkerSettings:
    """What an encoder is made of, in words that other machines understand."""

    source: EncoderSource
    adapter_path: str | None
    adapter_fingerprint: str | None
    pooling: str | None
    dtype: str
    max_length: int | None
    normalize: bool
    batch_size: int
    trust_remote_code: bool
    device: str


class EncodeWorker:
    """Texts of shards to the bytes of shards; an actor that holds the encoder.

    Errors that a user can cause are results, as Ray would wrap them in a traceback.
    """

    def __init__(self, settings: WorkerSettings):
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one thread per worker
        self._settings, self._encoder = settings, None

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        rows = []
        for row in table.to_pylist():
            data, error = b"", row["error"]
            if not error:
                try:
                    data = self._encode(json.loads(row["texts"]))
                except UserError as caught:
                    error = str(caught)
            rows.append({"shard": row["shard"], "data": data, "error": error})
        return pa.Table.from_pylist(rows)

    def _encode(self, texts: list[str]) -> bytes:
        from recbole_llmemb.encode.shards import encode_shard, pack

        if self._encoder is None:
            self._encoder = self._load()
        vectors = encode_shard(
            texts, self._encoder.encode, self._encoder.lengths, self._settings.batch_size
        )
        return pack(vectors)

    def _load(self) -> Any:
        import torch

        from recbole_llmemb.encode.encoder import Encoder

        wanted = self._settings
        if wanted.device == "cpu":
            torch.set_num_threads(1)
        adapter = None
        if wanted.adapter_path:
            adapter = find_adapter(wanted.adapter_path)
            if adapter.fingerprint != wanted.adapter_fingerprint:
                raise UserError(f"The adapter {adapter.path} is another one {_here()}.")
        return Encoder(
            _same_source(wanted.source),
            pooling=wanted.pooling,
            dtype=wanted.dtype,
            device=wanted.device,
            max_length=wanted.max_length,
            normalize=wanted.normalize,
            batch_size=wanted.batch_size,
            trust_remote_code=wanted.trust_remote_code,
            adapter=adapter,
        )


def _same_source(source: EncoderSource) -> EncoderSource:
    """The encoder as it is found on this machine; it must be the very same."""
    if not source.is_directory:
        return replace(source, offline=False)  # another machine's local cache says nothing
    # The bundled one is wherever it is installed there; a directory is where it is here.
    found = find_encoder(source.location if os.path.isdir(source.location) else source.name)
    found = replace(found, name=source.name)
    if found.identity != source.identity:
        raise UserError(
            f"The encoder {source.name!r} {_here()} is another one than where the command runs; "
            "put the same files on every node."
        )
    return found


def _here() -> str:
    import socket

    return f"on the node {socket.gethostname()}"
