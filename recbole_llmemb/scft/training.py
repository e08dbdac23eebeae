"""The training itself: the algorithm box of the paper's first stage, top to bottom."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from recbole_llmemb.core import random_state
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.encoder import quiet_loading
from recbole_llmemb.scft.options import ScftJob
from recbole_llmemb.scft.processes import Processes

try:
    import datasets
    from sentence_transformers import SentenceTransformerTrainingArguments

    from recbole_llmemb.scft.losses import CachedViewLoss, ViewLoss
    from recbole_llmemb.scft.model import add_lora, load_base
    from recbole_llmemb.scft.trainer import (
        HeldOut,
        Parts,
        ScftTrainer,
        describe,
        drop_halves,
        last_checkpoint,
        step_of,
    )
except ImportError as error:
    raise UserError(
        f"scft needs what is not installed ({error.name or error}): "
        "pip install 'recbole-llmemb[finetune]'."
    ) from error

# Texts that a CPU embeds at a time: enough to keep it busy, and little padding among them.
_CPU_PART = 16
_LOG_STEPS = 20


def train(
    job: ScftJob,
    processes: Processes,
    precision: str,
    work: Path,
    report: Callable[[str], None],
) -> tuple[Callable[[Path], None], dict]:
    """Fine-tune; continues from the last checkpoint in ``work``.

    Returns ``save`` : Writes peft's files into a directory.
    Returns ``facts`` : For the manifest: measures before and after, final temperature.
    """
    # A run that finds its adapter and one that trains it go on alike.
    with random_state.preserve(), _quiet():
        return _train(job, processes, precision, work, report)


@contextlib.contextmanager
def _quiet():
    """Without what transformers tells its developers."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            for name in ("transformers", "sentence_transformers", "accelerate"):
                warnings.filterwarnings("ignore", category=FutureWarning, module=name)
            yield
    finally:
        logging.set_verbosity(level)


def _train(job, processes, precision, work, report):
    ready, keys = job.prepare(), job.settings
    torch.manual_seed(keys.scft_seed)
    model = load_base(job, processes.device, precision)
    count = add_lora(
        model,
        keys.scft_lora_rank,
        keys.scft_lora_alpha,
        keys.scft_lora_dropout,
        keys.scft_lora_targets,
    )
    report(f"scft: LoRA of {count:,} parameters, {processes.device}, {precision}")

    held = [ready.held.pair(item, "held out") for item in range(len(ready.held.items))]
    evaluator = HeldOut(held, 2 * (keys.scft_mini_batch_size or 32)) if len(held) > 1 else None
    before = evaluator(model) if evaluator and processes.first else None
    if before:
        report(f"scft: before, {describe(before)}")

    trainer = make_trainer(job, processes, precision, work, report, model, evaluator)
    log_to_tensorboard(trainer, job, work)
    if processes.first:
        drop_halves(work)
    processes.wait()
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
            f"{processes.device}; set "
            "scft_mini_batch_size (16, say) or scft_gradient_checkpointing."
        ) from error
    model.eval()
    after = trainer.last_measured(keys.scft_steps)
    if after is None and evaluator and processes.first:
        after = evaluator(model)
    facts = {
        "before": before,
        "after": after,
        "final_temperature": trainer.loss.form.temperature.item(),
    }

    def save(folder: Path) -> None:
        config = model.transformers_model.peft_config["default"]
        source = job.text.settings.source
        config.base_model_name_or_path = source.location
        config.inference_mode = True
        config.revision = None if source.is_directory else source.revision
        with quiet_loading():
            model.transformers_model.save_pretrained(folder)

    return save, facts


def make_trainer(job, processes, precision, work, report, model, evaluator=None):
    """The trainer of a job, with its data and loss."""
    views, keys = job.prepare().train, job.settings
    items = datasets.Dataset.from_dict({"item": list(range(len(views.items)))})
    items.set_transform(views)
    form = CachedViewLoss if keys.scft_mini_batch_size else ViewLoss
    part = keys.scft_mini_batch_size or (_CPU_PART if processes.cpu else None)
    return ScftTrainer(
        views,
        report,
        model=model,
        args=_arguments(job, processes, precision, work, evaluator is not None),
        train_dataset=items,
        loss=form(model, keys.scft_loss, keys.scft_temperature),
        evaluator=evaluator,
        data_collator=Parts(model.preprocess, part),
    )


def _arguments(job, processes, precision, work, evaluate):
    keys = job.settings
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(work),
        max_steps=keys.scft_steps,
        per_device_train_batch_size=job.batch_per_process(processes.count),
        learning_rate=keys.scft_learning_rate,
        warmup_steps=keys.scft_warmup_steps,
        seed=keys.scft_seed,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        logging_steps=min(_LOG_STEPS, keys.scft_save_steps),
        logging_nan_inf_filter=False,  # it would wait for the GPU at every step, and hide NaN
        save_steps=keys.scft_save_steps,
        save_total_limit=2,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=keys.scft_save_steps,
        dataloader_drop_last=True,
        dataloader_pin_memory=not processes.cpu,
        ddp_find_unused_parameters=False,
        use_cpu=processes.cpu,
        disable_tqdm=True,
        report_to=[],
        log_level="error",
        log_level_replica="error",
    )
    if processes.count == 1 and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # no DataParallel: several GPUs are for torchrun
    return arguments


def log_to_tensorboard(trainer, job: ScftJob, work: Path) -> None:
    """Training curves, beside those of RecBole."""
    if not trainer.is_world_process_zero():
        return
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    name = f"scft-{work.name.strip('.').replace('.work-', '-')[:60]}"
    trainer.add_callback(TensorBoardCallback(SummaryWriter(os.path.join(job.log_dir, name))))
