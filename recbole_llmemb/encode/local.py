"""Encoding in this process, on the devices of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.shards import encode_in_shards

if TYPE_CHECKING:
    from recbole_llmemb.encode.job import EncodeJob, Prepared


def encode_locally(
    job: EncodeJob, ready: Prepared, work: Path, report: Callable[[str], None]
) -> tuple[torch.Tensor, int]:
    """Encode the texts of a job.

    ``ready``: of the job, with its texts.
    ``work``: directory of the shards.
    Returns ``vectors`` : (n, D), one row per item.
    Returns ``encoded`` : Texts that were not found in shards.
    """
    unique = list(dict.fromkeys(ready.texts))
    token_of = dict(zip(ready.texts, ready.items.tokens, strict=True))
    encoder = _LazyEncoder(job, ready)
    try:
        vectors, encoded = encode_in_shards(
            unique,
            encoder,
            work=work,
            key=job.key,
            shard_size=job.shard_size,
            # One batch, as the library would sort a call's texts again by another length; with
            # several devices, some batches for each.
            step=job.batch_size * (4 if "," in str(job.device) else 1),
            describe=lambda i: f"of item {token_of[unique[i]]!r}",
            lengths=encoder.lengths,
        )
    finally:
        encoder.close()
    row_of = {text: row for row, text in enumerate(unique)}
    return vectors[[row_of[text] for text in ready.texts]], encoded


class _LazyEncoder:
    """An encoder that is loaded at its first text: a job whose shards are all there needs none."""

    def __init__(self, job: EncodeJob, ready: Prepared):
        self._job, self._ready, self._encoder = job, ready, None

    def __call__(self, texts: Sequence[str]):
        return self._loaded().encode(texts)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return self._loaded().lengths(texts)

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            job, ready = self._job, self._ready
            self._encoder = Encoder(
                ready.source,
                pooling=ready.pooling,
                dtype=job.dtype,
                device=job.device,
                max_length=ready.max_length,
                normalize=job.normalize,
                batch_size=job.batch_size,
                trust_remote_code=job.trust_remote_code,
                adapter=ready.adapter,
            )
        return self._encoder

    def close(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
