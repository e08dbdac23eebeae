"""The training itself: the algorithm box of the paper's first stage, top to bottom."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import datasets
import torch
from sentence_transformers import SentenceTransformerTrainingArguments
from transformers.utils import logging

from recbole_llmemb.core.devices import preserve_random_state
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.encoder import quiet_loading
from recbole_llmemb.scft.losses import CachedViewLoss, ViewLoss
from recbole_llmemb.scft.model import add_lora, load_base
from recbole_llmemb.scft.trainer import (
    HeldOut,
    LengthSortedCollator,
    ScftTrainer,
    describe,
    last_checkpoint,
    remove_incomplete_checkpoints,
    step_of,
)

# Texts that a CPU embeds at a time: enough to keep it busy, and little padding among them.
_CPU_PART = 16
_LOG_STEPS = 20


def train(job, work: Path, report) -> tuple[Callable[[Path], None], dict]:
    """Fine-tune; continues from the last checkpoint in ``work``.

    Returns ``save`` : Writes peft's files into a directory.
    Returns ``facts`` : For the manifest: measures before and after, final temperature.
    """
    # A run that finds its adapter and one that trains it go on alike.
    told = logging.get_verbosity()
    try:
        with preserve_random_state(), quiet_loading():
            return _train(job, work, report)
    finally:
        logging.set_verbosity(told)


def _train(job, work, report):
    keys, processes, (_, held_out) = job.settings, job.processes, job.views
    torch.manual_seed(keys.scft_seed)
    model = load_base(job)
    count = add_lora(model, keys)
    report(f"scft: LoRA of {count:,} parameters, {processes.device}, {job.precision}")

    held = [held_out.pair(item, "held out") for item in range(len(held_out.items))]
    evaluator = HeldOut(held, 2 * (keys.scft_mini_batch_size or 32)) if len(held) > 1 else None
    before = evaluator(model) if evaluator and processes.is_main else None
    if before:
        report(f"scft: before, {describe(before)}")

    trainer = make_trainer(job, work, report, model, evaluator)
    if processes.is_main:
        log_to_tensorboard(trainer, job, work)
        remove_incomplete_checkpoints(work)
    processes.barrier()
    last = last_checkpoint(work)
    if last:
        report(f"scft: continues after step {step_of(last):,}")
    try:
        if last and step_of(last) >= keys.scft_steps:
            trainer._load_from_checkpoint(last)  # killed between the last step and the publication
        else:
            trainer.train(resume_from_checkpoint=last)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{keys.scft_batch_size} items at once do not fit into the memory of "
            f"{processes.device}; set scft_mini_batch_size (16, say) or "
            "scft_gradient_checkpointing."
        ) from error
    model.eval()
    after = trainer.last_measured(keys.scft_steps)
    if after is None and evaluator and processes.is_main:
        after = evaluator(model)
    temperature = trainer.loss.form.temperature.item()
    facts = {"before": before, "after": after, "final_temperature": temperature}

    def save(folder: Path) -> None:
        config, source = model.transformers_model.peft_config["default"], job.text.source
        config.base_model_name_or_path = source.location
        config.inference_mode = True
        config.revision = None if source.is_directory else source.revision
        with quiet_loading():
            model.transformers_model.save_pretrained(folder)

    return save, facts


def make_trainer(job, work, report, model, evaluator=None):
    """The trainer of a job, with its data and loss."""
    keys, (views, _) = job.settings, job.views
    items = datasets.Dataset.from_dict({"item": list(range(len(views.items)))})
    items.set_transform(views)
    form = CachedViewLoss if keys.scft_mini_batch_size else ViewLoss
    part = keys.scft_mini_batch_size or (_CPU_PART if job.processes.cpu else None)
    return ScftTrainer(
        views,
        report,
        model=model,
        args=_arguments(job, work, evaluator is not None),
        train_dataset=items,
        loss=form(model, keys.scft_loss, keys.scft_temperature),
        evaluator=evaluator,
        data_collator=LengthSortedCollator(model.preprocess, part),
    )


def _arguments(job, work, evaluate):
    keys, cpu = job.settings, job.processes.cpu
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work),
        max_steps=keys.scft_steps,
        per_device_train_batch_size=job.batch_per_process,
        learning_rate=keys.scft_learning_rate,
        warmup_steps=keys.scft_warmup_steps,
        seed=keys.scft_seed,
        bf16=job.precision == "bfloat16",
        fp16=job.precision == "float16",
        logging_steps=min(_LOG_STEPS, keys.scft_save_steps),
        logging_nan_inf_filter=False,  # it would wait for the GPU at every step, and hide NaN
        save_steps=keys.scft_save_steps,
        save_total_limit=2,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=keys.scft_save_steps,
        dataloader_drop_last=True,
        dataloader_pin_memory=not cpu,
        ddp_find_unused_parameters=False,
        use_cpu=cpu,
        disable_tqdm=True,
        report_to=[],
        log_level="error",
        log_level_replica="error",
    )
    if job.processes.count == 1 and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # no DataParallel: several GPUs are for torchrun
    return arguments


def log_to_tensorboard(trainer, job, work: Path) -> None:
    """Training curves, beside those of RecBole."""
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    name = f"scft-{work.name.strip('.').replace('.work-', '-')[:60]}"
    trainer.add_callback(TensorBoardCallback(SummaryWriter(os.path.join(job.log_dir, name))))
