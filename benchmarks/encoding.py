"""Items encoded per second: ours, plain SentenceTransformer.encode, and batches of four.

    python -m benchmarks.encoding [--repeats=5] [--items=1500] [--data_path=DIR]

All sides have the same model, loaded before, and the same prompts; the vectors must agree to
1e-5. ``plain`` encodes all prompts in file order, equal ones too, in one call with the library's
own batch size. ``four`` is the setting of the LLMEmb authors' scripts: a loop over file order,
four texts at a time, padded to the longest of the four, mean pooling. Ours encodes each
different text once, sorted by length over all of them, and keeps finished shards on disk.

Tokens that each side has the model read, padding included, are printed beside: where the model
reads as many tokens a second in batches of four as in large ones, as on one core of a CPU, their
ratio and the cost of each call are all that can be gained.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import timing

LIMITS = {"plain": 1.0, "four": 3.0}


def tokens_read(lengths, batch):
    """Tokens of texts of these lengths, padded to the longest of each ``batch`` in turn."""
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return sum(len(each) * max(each) for each in batches)


def catalog_of(texts):
    """Items with these texts."""
    from recbole_llmemb.encode.shards import Catalog

    unique = list(dict.fromkeys(texts))
    number_of = {text: number for number, text in enumerate(unique)}
    text_of = np.array([number_of[text] for text in texts])
    tokens = [str(number) for number in range(len(texts))]
    return Catalog(tokens, [], unique, text_of, np.empty((0, 16)), "", 0)


def compare(chosen, texts, pool):
    """Measure the three sides on one list of prompts."""
    from recbole_llmemb.encode.shards import assemble, encode_resumably, plan_by_length

    encoder = pool.encoder
    model = encoder.model
    kept = {}

    def ours():
        catalog = catalog_of(texts)
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            plan = plan_by_length(catalog.texts, encoder.lengths, work, "key", 1024)
            encode_resumably(plan, catalog, pool)
            kept["ours"] = assemble(plan, catalog.text_of).clone()
        return len(texts)

    def plain():
        kept["plain"] = model.encode(texts, convert_to_tensor=True, show_progress_bar=False).cpu()
        return len(texts)

    def four():
        parts = []
        with torch.no_grad():
            for start in range(0, len(texts), 4):
                tokens = model.preprocess(texts[start : start + 4])
                tokens = {k: v.to(model.device) for k, v in tokens.items() if torch.is_tensor(v)}
                states = model.transformers_model(**tokens).last_hidden_state
                mask = tokens["attention_mask"].unsqueeze(-1)
                mean = (states * mask).sum(1) / mask.sum(1)
                parts.append(torch.nn.functional.normalize(mean, dim=1).cpu())
        kept["four"] = torch.cat(parts)
        return len(texts)

    if model.device.type == "cuda":
        model.encode(texts[:256])  # kernels are chosen at first use
    seconds = timing.alternate({"ours": ours, "plain": plain, "four": four}, chosen.repeats)
    print(f"\n{chosen.dataset}: {len(texts):,} prompts, {len(set(texts)):,} different")
    lengths = encoder.lengths(texts)
    unique = sorted(encoder.lengths(list(dict.fromkeys(texts))), reverse=True)
    tokens = {
        "ours": tokens_read(unique, encoder.batch_size),
        "plain": tokens_read(sorted(lengths, reverse=True), 32),
        "four": tokens_read(lengths, 4),
    }
    for side, turns in seconds.items():
        far = (kept[side] - kept["ours"]).abs().max().item()
        each = timing.median(turns)
        print(
            f"  {side:<6} {1 / each:>9,.1f} items/s  {timing.spread(turns)}  "
            f"{tokens[side]:,} tokens, {tokens[side] / len(texts) / each:,.0f}/s  "
            f"largest difference {far:.0e}"
        )
        if far > 1e-5:
            print(f"  FAIL  {side}: other vectors than ours")
    for side, limit in LIMITS.items():
        ratio = timing.median(seconds[side]) / timing.median(seconds["ours"])
        timing.report(f"{chosen.dataset}, against {side}", ratio, limit)


def main(argv=None):
    parser = timing.options(__doc__, repeats=5)
    parser.add_argument("--items", type=int, help="take the first of them only")
    parser.add_argument("--encoder", help="path or Hugging Face id (default: all-MiniLM-L6-v2)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--datasets", nargs="+", default=["ml-100k", "Amazon_Beauty"])
    chosen = timing.start(parser, argv)

    from recbole_llmemb.cli.encode import item_file_of
    from recbole_llmemb.config.recbole_config import defaults
    from recbole_llmemb.encode.job import EncodeJob
    from recbole_llmemb.encode.pools import LocalPool
    from recbole_llmemb.encode.settings import EncodeSettings
    from recbole_llmemb.encode.source import find_encoder

    pool = LocalPool({"source": find_encoder(chosen.encoder), "device": chosen.device})
    for dataset in chosen.datasets:
        known = defaults("", dataset)
        folder = None if dataset == "ml-100k" else chosen.data_path
        job = EncodeJob(item_file=item_file_of(dataset, folder), settings=EncodeSettings.of(known))
        chosen.dataset = dataset
        items = job.items
        prompts = [items.texts[number] for number in items.text_of[: chosen.items].tolist()]
        compare(chosen, prompts, pool)


if __name__ == "__main__":
    main()
