"""Items fine-tuned per second: ``recbole-llm scft``, and the same step written plainly.

    python -m benchmarks.scft_step [--repeats=5] [--steps=3] [--batch=64] [--data_path=DIR]

The plain side is Hugging Face's model with peft's LoRA and a loop: draw two views, tokenize each
list, two forward passes, mean pooling, the loss, clipping, AdamW, a linear schedule. Ours is the
trainer of the command with everything it does (callbacks, logging); evaluation and checkpoints
are off. Same weights, items per step, LoRA, loss and number type. Peft's layers are the same code
on both sides.
"""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks import timing

LIMIT = 1.0


def ours(job, work):
    """A function that trains as many steps as it is told."""
    import logging
    import warnings

    from recbole_llmemb.scft.training import add_lora, load_base, make_trainer

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", FutureWarning)  # transformers' to its developers
    torch.manual_seed(0)
    model = load_base(job)
    add_lora(model, job.settings)

    def steps(count):
        steps = {"scft_steps": count, "scft_save_steps": 10 * count}
        job.settings = job.settings.model_copy(update=steps)
        trainer = make_trainer(job, work, lambda line: None, model)
        trainer.args.save_strategy = "no"
        trainer.train()
        return count * job.batch_per_process

    return steps


def plain(job):
    """The same, from transformers and peft alone."""
    import random

    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

    from recbole_llmemb.encode.encoder import DTYPES
    from recbole_llmemb.scft.trainer import FORMS
    from recbole_llmemb.scft.training import find_targets

    device, precision = job.processes.device, job.precision
    location = job.text.source.location
    tokenizer = AutoTokenizer.from_pretrained(location)
    base = AutoModel.from_pretrained(location, dtype=DTYPES[precision])
    config = LoraConfig(
        r=job.settings.scft_lora_rank,
        lora_alpha=job.settings.scft_lora_alpha,
        lora_dropout=job.settings.scft_lora_dropout,
        target_modules=find_targets(base),
    )
    model = get_peft_model(base, config).to(device).train()
    loss = FORMS[job.settings.scft_loss](torch.nn.Parameter(torch.tensor(3.0))).to(device)
    trained = [p for p in (*model.parameters(), *loss.parameters()) if p.requires_grad]
    views = job.views[0]
    batch = job.batch_per_process

    def embed(texts):
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32"):
            states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        return (states * mask).sum(1).float() / mask.sum(1)

    def steps(count):
        optimizer = torch.optim.AdamW(trained, lr=job.settings.scft_learning_rate, weight_decay=0.0)
        schedule = get_linear_schedule_with_warmup(optimizer, 0, count)
        order = random.sample(range(len(views.items)), len(views.items))
        for step in range(count):
            items = [order[(step * batch + i) % len(order)] for i in range(batch)]
            pairs = [views.pair(item, step) for item in items]
            value = loss(embed([a for a, _ in pairs]), embed([b for _, b in pairs]))
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
        return count * batch

    return steps


def main(argv=None):
    parser = timing.options(__doc__, repeats=5)
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    parser.add_argument("--batch", type=int, default=64, help="items per step")
    parser.add_argument("--encoder", help="path or Hugging Face id (default: all-MiniLM-L6-v2)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--datasets", nargs="+", default=["ml-100k", "Amazon_Beauty"])
    chosen = timing.start(parser, argv)

    from recbole_llmemb.cli.encode import item_file_of
    from recbole_llmemb.config.recbole_config import defaults
    from recbole_llmemb.scft import job_from_config

    for dataset in chosen.datasets:
        folder = item_file_of(dataset, None if dataset == "ml-100k" else chosen.data_path).parent
        config = {
            **defaults("", dataset),
            "dataset": dataset,
            "data_path": str(folder),
            "llm_device": chosen.device,
            "scft_batch_size": chosen.batch,
        }
        if chosen.encoder:
            config["llm_encoder"] = chosen.encoder
        both = {
            "ours": ours(job_from_config(config), Path("work")),
            "plain": plain(job_from_config(config)),
        }
        sides = {name: lambda f=f: f(chosen.steps) for name, f in both.items()}
        seconds = timing.alternate(sides, chosen.repeats)
        print(f"\n{dataset}, {chosen.batch} items per step")
        for side, turns in seconds.items():
            each = timing.median(turns)
            print(f"  {side:<6} {1 / each:>9,.1f} items/s  {timing.spread(turns)}")
        ratio = timing.median(seconds["plain"]) / timing.median(seconds["ours"])
        timing.report(f"{dataset}, against plain", ratio, LIMIT)


if __name__ == "__main__":
    main()
