"""A small dataset and small encoders for the tests of fine-tuning."""

import random

from encode_models import make_model, write_dataset

KINDS = ["soap", "gel", "one", "two"]
COLORS = ["red", "blue", "movie", "beauty"]


def item_file(count=40, seed=0):
    """Items with three attributes of few words, most of them different."""
    draw = random.Random(seed)
    lines = ["item_id:token\ttitle:token_seq\tbrand:token\tclass:token_seq"]
    for i in range(count):
        title = " ".join(draw.choices(KINDS + COLORS, k=3))
        lines.append(f"i{i}\t{title}\t{draw.choice(KINDS)}\t{draw.choice(COLORS)}")
    return "\n".join(lines) + "\n"


def settings(folder, kind="bert", **changes):
    """A configuration that trains on it in a second."""
    path = write_dataset(folder, text=item_file())
    encoder = folder / f"encoder-{kind}"
    if not encoder.exists():
        make_model(encoder, kind, pad=kind == "bert")
    return {
        "dataset": "tiny",
        "data_path": str(path.parent),
        "llm_encoder": str(encoder),
        "llm_cache_dir": str(folder / "cache"),
        "llm_device": "cpu",
        "scft": True,
        "scft_steps": 6,
        "scft_save_steps": 2,
        "scft_batch_size": 8,
        "scft_holdout": 0.2,
        **changes,
    }
