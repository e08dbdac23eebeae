"""Vectors of new texts, made exactly as a table's were."""

from __future__ import annotations

import torch
from tqdm import tqdm

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.adapter import find_adapter
from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.prompts import item_prompts
from recbole_llmemb.encode.source import find_encoder
from recbole_llmemb.table.format import read_manifest


def encode_like(table: str, attributes: list, config) -> torch.Tensor:
    """Vectors of new items by a table's own encoder, prompt and fields, ``(m, D)``.

    ``table``: table directory; its manifest says how.
    ``attributes``: of each item, name to text.
    ``config``: for device, batch size and ``llm_trust_remote_code``.
    """
    manifest = read_manifest(table)
    if not manifest.get("encoder") or "prompt" not in manifest:
        raise UserError(
            f"The table {table} was imported, so how its vectors were made is not known; give the "
            "new items' vectors, made in the same way, as a table directory (recbole-llm encode "
            "--import)."
        )
    source = find_encoder(manifest["encoder"], _revision(manifest["revision"]))
    if source.revision != manifest["revision"]:
        raise UserError(
            f"The encoder {manifest['encoder']!r} of the table {table} is not what it was "
            f"({source.revision}, then {manifest['revision']}); put that one back."
        )
    fields = list(manifest.get("fields") or [])
    if not any(field in one for one in attributes for field in fields):
        raise UserError(
            f"The new items have none of the fields that the table's text is made of "
            f"({', '.join(fields)}); name them so."
        )
    chosen = [{f: one[f] for f in fields if f in one} for one in attributes]
    texts = item_prompts(chosen, manifest["prompt"], manifest.get("value_max_chars"))
    pooling = manifest.get("pooling")
    encoder = Encoder(
        source,
        pooling=pooling if pooling in ("mean", "last") else None,
        dtype=manifest.get("encoder_dtype") or "float32",
        device=config["device"],
        max_length=manifest.get("max_length"),
        normalize=bool(manifest.get("normalize")),
        batch_size=config["llm_batch_size"] or 32,
        trust_remote_code=bool(config["llm_trust_remote_code"]),
        adapter=_adapter(manifest),
    )
    try:
        return _in_parts(texts, encoder).float()
    finally:
        encoder.close()


def _in_parts(texts, encoder):
    """Encode with progress, longest first, so that batches waste little padding."""
    sizes = encoder.lengths(texts)
    order = sorted(range(len(texts)), key=lambda i: -sizes[i])
    parts = []
    with tqdm(total=len(texts), desc="encode", unit="text", disable=None) as progress:
        for begin in range(0, len(order), encoder.batch_size):
            block = order[begin : begin + encoder.batch_size]
            parts.append(encoder.encode([texts[i] for i in block]))
            progress.update(len(block))
    found = torch.cat(parts)
    vectors = torch.empty_like(found)
    vectors[torch.tensor(order)] = found
    return vectors


def _revision(revision):
    """A commit of the hub; a directory's files are looked at where they are."""
    return None if str(revision).startswith("files:") else revision


def _adapter(manifest):
    used = manifest.get("adapter")
    if not used:
        return None
    found = find_adapter(used["path"])
    if found.fingerprint != used["fingerprint"]:
        raise UserError(
            f"The adapter {used['path']} is not the one that the table was encoded with "
            f"(fingerprint {found.fingerprint}, not {used['fingerprint']}); put that one back."
        )
    return found
