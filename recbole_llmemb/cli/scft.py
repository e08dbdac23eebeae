"""``recbole-llm scft``: fine-tune an encoder on a dataset's items (stage 1 of LLMEmb)."""

from __future__ import annotations

import argparse

_DESCRIPTION = """\
Fine-tune an encoder with LoRA so that the items of a dataset tell apart, into an adapter directory.

  recbole-llm scft --dataset=ml-100k --steps=300 --out=adapters/ml-100k
  recbole-llm scft --dataset=mine --data_path=data --encoder=Qwen/Qwen3-0.6B --out=adapters/mine
  torchrun --nproc_per_node=4 run_recbole_llm.py scft --dataset=mine --out=adapters/mine

Encode with it: recbole-llm encode --adapter=DIRECTORY, or --llm_adapter=DIRECTORY of any run.
An interrupted run continues at its last checkpoint when the same command is given again; an
adapter that is there already is found, not trained again.
"""

# Option → type and meaning; the configuration key is scft_<option>.
_TRAINING = {
    "loss": (str, "soft (the authors' code) or infonce (the paper's text)"),
    "temperature": (float, "where the learnt temperature starts"),
    "drop_ratio": (float, "share of an item's attributes that each view drops"),
    "steps": (int, "training steps"),
    "batch_size": (int, "items per step and process"),
    "mini_batch_size": (int, "views embedded at a time, for less memory (GradCache)"),
    "learning_rate": (float, "of AdamW"),
    "warmup_steps": (int, "steps over which it rises first"),
    "lora_rank": (int, "rank of the adapter"),
    "lora_alpha": (float, "scale of the adapter, over its rank"),
    "lora_dropout": (float, "dropout before the adapter"),
    "lora_targets": (str, "linear layers to adapt: a,b,c (default: attention and MLP)"),
    "precision": (str, "auto, float32, bfloat16 or float16"),
    "quantize": (int, "bits of the frozen weights, 4 or 8 (GPU, needs bitsandbytes)"),
    "holdout": (float, "share of items kept out of training to measure it"),
    "save_steps": (int, "steps between checkpoints and measurements"),
    "seed": (int, "of everything that is drawn"),
}
# Option → configuration key.
_TEXT = {
    "fields": "item_text_fields",
    "prompt": "item_prompt",
    "value_max_chars": "item_value_max_chars",
    "item_id_field": "ITEM_ID_FIELD",
    "field_separator": "field_separator",
    "encoding": "encoding",
    "encoder": "llm_encoder",
    "pooling": "llm_pooling",
    "max_length": "llm_max_length",
    "device": "llm_device",
}


def build_parser() -> argparse.ArgumentParser:
    """The options of ``recbole-llm scft``."""
    parser = argparse.ArgumentParser(
        prog="recbole-llm scft",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", required=True, help="adapter directory to make")
    parser.add_argument("--overwrite", action="store_true", help="replace an adapter that is there")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="continue an interrupted run of the same command, or begin again",
    )
    parser.add_argument(
        "--figure", metavar="FILE", help="draw the items' map before and after (.png, .pdf, .svg)"
    )

    text = parser.add_argument_group("item text")
    text.add_argument("--dataset", required=True, help="its items are learnt")
    text.add_argument("--data_path", help="folder that holds the dataset's folder")
    text.add_argument("--config_files", help="property files of a run, whose settings are the same")
    text.add_argument("--fields", help="attributes to use: a,b,c (default: all)")
    text.add_argument("--prompt", help="what stands before the attributes")
    text.add_argument("--value_max_chars", type=int, help="cut longer values (default: 100)")
    text.add_argument("--item_id_field", help="field of the item token (default: item_id)")
    text.add_argument("--field_separator", help="of the .item file (default: tab)")
    text.add_argument("--encoding", help="of the .item file (default: utf-8)")

    encoder = parser.add_argument_group("encoder")
    encoder.add_argument("--encoder", help="path or Hugging Face id (default: all-MiniLM-L6-v2)")
    encoder.add_argument("--pooling", choices=("mean", "last"), help="default: the encoder's own")
    encoder.add_argument("--max_length", type=int, help="cut longer texts, in tokens")
    encoder.add_argument("--device", help="auto, cpu or cuda (default: auto)")
    encoder.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run code that comes with the encoder; only where you have read it",
    )

    training = parser.add_argument_group("training", "defaults: the scft_… keys of a run")
    for name, (kind, meaning) in _TRAINING.items():
        training.add_argument(f"--{name}", f"--scft_{name}", type=kind, help=meaning)
    training.add_argument(
        "--gradient_checkpointing",
        "--scft_gradient_checkpointing",
        action="store_true",
        help="compute activations twice to save memory",
    )
    return parser


def main(argv: list[str]) -> int:
    """Run ``recbole-llm scft``; parameters and errors as of :mod:`recbole_llmemb.cli.encode`."""
    options = build_parser().parse_args(argv)
    from recbole_llmemb.cli.encode import item_file_of
    from recbole_llmemb.config.recbole_config import defaults, settings_of
    from recbole_llmemb.core.files import refuse_inputs
    from recbole_llmemb.scft import job_from_config, run_job

    # The same as `run` would do, unless told otherwise.
    given = {key: getattr(options, name) for name, key in _TEXT.items()}
    given |= {f"scft_{name}": getattr(options, name) for name in _TRAINING}
    typed = {key: value for key, value in given.items() if value is not None}
    if options.trust_remote_code:
        typed["llm_trust_remote_code"] = True
    if options.gradient_checkpointing:
        typed["scft_gradient_checkpointing"] = True
    folder = item_file_of(options.dataset, options.data_path).parent
    place = {"dataset": options.dataset, "data_path": str(folder)}
    files = settings_of(options.config_files)
    config = {**defaults("", options.dataset), **files, **typed, **place}
    if options.figure:
        from recbole_llmemb.scft.figure import check_figure

        check_figure(options.figure)

    job = job_from_config(config)
    refuse_inputs(options.figure, [job.text.item_file, job.text.encoder])
    result = run_job(job, options.out, overwrite=options.overwrite, resume=options.resume)
    if not job.processes().first:
        return 0
    before, after = result.manifest["before"], result.manifest["after"]
    if before:
        titles = f"{'other view found':>17} {'alignment':>10} {'uniformity':>11}"
        print(f"\n{'held-out items':<14} {titles}")
        for name, row in (("before", before), ("after", after)):
            print(
                f"{name:<14} {row['top1']:>17.1%} {row['alignment']:>10.4f} "
                f"{row['uniformity']:>11.3f}"
            )
    if options.figure:
        from recbole_llmemb.scft.figure import draw

        draw(job, result.path, options.figure)
        print(f"figure:  {options.figure}")
    print(f"adapter: {result.path}")
    return 0
