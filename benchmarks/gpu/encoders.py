"""Encoding with an encoder and a decoder of random weights, and SCFT of the decoder."""

from __future__ import annotations

import torch

from benchmarks.encoding import tokens_read
from benchmarks.gpu.data import make_model, titles_of
from recbole_llmemb.encode.encoder import Encoder, load_pipeline
from recbole_llmemb.encode.source import find_encoder

_TAU = 3.0


def rows(bench):
    """Tokens per second, padding not counted, of both orders of the texts."""
    for kind in ("encoder", "decoder"):
        cases = {
            f"{kind}, batches of {batch}, {order}": (batch, order)
            for batch in bench.size((32, 128), (4,))
            for order in ("length-sorted", "file order")
        }
        weights = f"{kind}: weights made and loaded"
        if not bench.found.keys() >= cases.keys():
            bench.found.pop(weights, None)  # the others need them again
        yield bench.row(weights, made, bench.scratch / kind, kind)
        for name, case in cases.items():
            yield bench.row(name, encoded, *case)


def made(bench, folder, kind):
    """The model's size."""
    make_model(folder, kind, bench.size(kind, "toy"), bench.device)
    bench.kept["encoder"] = None  # the one before
    encoder = Encoder(find_encoder(folder), dtype="bfloat16", device=bench.device)
    bench.kept["encoder"] = encoder
    return {"million parameters": sum(p.numel() for p in encoder.model.parameters()) / 1e6}


def encoded(bench, batch, order):
    """A catalog of texts of 5 to 150 words, in batches sorted by length or as they come."""
    texts = titles_of(bench.size(2048, 12), *bench.size((5, 150), (2, 9)))
    encoder = bench.kept["encoder"]
    encoder.batch_size = batch
    lengths = encoder.lengths(texts)
    # Those that multiply: looking up a token is no product.
    weights = {n: p.numel() for n, p in encoder.model.named_parameters() if "embed" not in n}

    best = order == "length-sorted"
    if best:
        longest_first = sorted(range(len(texts)), key=lambda i: -lengths[i])
        texts = [texts[i] for i in longest_first]

    def encode():
        for start in range(0, len(texts), batch):
            encoder.encode(texts[start : start + batch])
        return sum(lengths)

    rate = bench.rate(encode)
    read = tokens_read(sorted(lengths, reverse=True) if best else lengths, batch)
    return {
        "tokens/s": rate,
        "texts/s": rate * len(texts) / sum(lengths),
        "of peak": bench.share(2 * sum(weights.values()) * rate),
        "padding": read / sum(lengths) - 1,
    }


def scft(bench):
    """Items per second of SCFT's step on the decoder, in the forms that save memory."""
    folder = make_model(
        bench.scratch / "decoder", "decoder", bench.size("decoder", "toy"), bench.device
    )
    for checkpoints in (False, True):
        for part in (None, bench.size(16, 2)):
            name = ["plain", "gradient checkpointing"][checkpoints]
            name += f", GradCache in parts of {part}" if part else ""
            yield bench.row(name, tuned, folder, checkpoints, part)


def tuned(bench, folder, checkpoints, part):
    """LoRA's step as the trainer of ``recbole-llm scft`` makes it, without that trainer."""
    # Imported here: what they need of sentence-transformers may be too old.
    from recbole_llmemb.scft.settings import ScftSettings
    from recbole_llmemb.scft.trainer import CachedViewLoss, LengthSortedCollator, ViewLoss
    from recbole_llmemb.scft.training import add_lora

    model = load_pipeline(find_encoder(folder), dtype=torch.bfloat16, device=str(bench.device))
    if checkpoints:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    add_lora(model, ScftSettings(scft_lora_rank=8, scft_lora_alpha=32, scft_lora_dropout=0.1))
    model.train()
    loss = (CachedViewLoss if part else ViewLoss)(model, "soft", _TAU).to(bench.device)
    trained = [p for p in loss.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    items = bench.size(64, 4)
    texts = titles_of(2 * items, *bench.size((20, 60), (2, 5)))
    views = [{"view_a": a, "view_b": b} for a, b in zip(texts[:items], texts[items:])]
    collate = LengthSortedCollator(model.preprocess, part)

    def step():
        batch = collate(views)
        moved = {k: v.to(bench.device) for k, v in batch.items() if torch.is_tensor(v)}
        count = len({name.partition("_")[0] for name in moved} - {"label"})
        features = [
            {k.partition("_")[2]: v for k, v in moved.items() if k.startswith(f"part{number}_")}
            for number in range(count)
        ]
        optimizer.zero_grad()
        with torch.autocast(bench.device.type, torch.bfloat16):
            value = loss(features, moved["label"])
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return items

    memory = bench.memory(step)
    return {"items/s": bench.rate(step), "GiB": memory}
