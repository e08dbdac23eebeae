"""The training itself, from the encoder that is loaded with adapters in it to its last step."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
from sentence_transformers import SentenceTransformerTrainingArguments
from torch import nn
from transformers.utils import logging

from recbole_llmemb.core.devices import preserve_random_state
from recbole_llmemb.core.errors import UserError, name_some, reason_of, storage_error
from recbole_llmemb.encode.encoder import (
    DTYPES,
    load_pipeline,
    quantization,
    quiet_loading,
    working,
)
from recbole_llmemb.scft.settings import ScftSettings
from recbole_llmemb.scft.trainer import (
    CachedViewLoss,
    HeldOut,
    LengthSortedCollator,
    ScftTrainer,
    ViewLoss,
    describe,
    last_checkpoint,
    remove_unusable_checkpoints,
    step_of,
)

# The last number in a module's name, a layer's or an expert's, and what follows it:
# encoder.layer.3.attention.self.query, layers.3.self_attn.q_proj, h.3.mlp.c_fc.
_IN_LAYER = re.compile(r"(?:.*\.)?\d+\.(?P<rest>[A-Za-z].*)")
# A mixture of experts chooses its experts with it; it is no projection of the MLP.
_ROUTERS = {"gate", "router", "shared_expert_gate"}
# Texts that a CPU embeds at a time: enough to keep it busy, and little padding among them.
_CPU_PART = 16
_LOG_STEPS = 20


def load_base(job):
    """The encoder to adapt, frozen weights in its precision, ending in un-normalized pooling."""
    text, keys, device = job.text.settings, job.settings, job.processes.device
    options, dtype = {}, DTYPES[job.precision]
    if keys.scft_quantize:
        kind = keys.scft_quantize, "scft_quantize", dtype, device
        options = quantization(*kind, bnb_4bit_quant_type="nf4")
    model = load_pipeline(
        job.text.source,
        pooling=text.llm_pooling,
        dtype=dtype,
        device=str(device),
        max_length=text.llm_max_length,
        end_token=text.llm_end_token,
        **options,
    )
    # X and Y are as long as pooling makes them (LLMEmb, SCFT); encoding normalizes again
    # where the encoder's own pipeline does.
    for name, module in list(model.named_children()):
        if type(module).__name__ == "Normalize":
            delattr(model, name)
    if keys.scft_quantize:
        peft.prepare_model_for_kbit_training(
            model.transformers_model, use_gradient_checkpointing=False
        )
    if keys.scft_gradient_checkpointing:
        # Not the re-entrant kind, which wants inputs that need gradients: the embedding is frozen.
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def find_targets(model: nn.Module) -> str:
    """A pattern for the attention and MLP projections of every layer.

    These are the linear maps inside the numbered layers, under whatever names the architecture
    has for them (BERT: query, key, value, dense; Llama, Qwen, Mistral: q_proj … down_proj). The
    embedding, a pooler and a head lie outside.
    """
    found = (_IN_LAYER.fullmatch(name) for name, module in model.named_modules() if _is_map(module))
    named = dict.fromkeys(name["rest"] for name in found if name)
    rests = [rest for rest in named if rest.rpartition(".")[2] not in _ROUTERS]
    if not rests:
        told = f"The encoder ({type(model).__name__}) has no linear layers that LoRA could adapt"
        raise UserError(f"{told}; name some with scft_lora_targets, or take another encoder.")
    return rf"(?:.*\.)?\d+\.(?:{'|'.join(map(re.escape, rests))})"


def check_targets(model: nn.Module, names: list[str]) -> list[str]:
    """Names of linear layers given by the user, as peft takes them (a name or its end)."""
    maps = [name for name, module in model.named_modules() if _is_map(module)]
    absent = [n for n in names if not any(m == n or m.endswith(f".{n}") for m in maps)]
    if absent:
        offered = dict.fromkeys(name.rpartition(".")[2] for name in maps)
        told = f"scft_lora_targets names {name_some(absent)}, no linear layer of the encoder"
        raise UserError(f"{told}; it has {', '.join(offered)}.", key="scft_lora_targets")
    return names


def add_lora(model: Any, keys: ScftSettings) -> int:
    """Put fresh adapters into a SentenceTransformer and freeze the rest.

    Returns how many parameters are trained.
    """
    inner, names = model.transformers_model, keys.scft_lora_targets
    model.add_adapter(
        peft.LoraConfig(
            r=keys.scft_lora_rank,
            lora_alpha=keys.scft_lora_alpha,  # type: ignore[arg-type]  # divides by the rank
            lora_dropout=keys.scft_lora_dropout,
            target_modules=check_targets(inner, names) if names else find_targets(inner),
            task_type="FEATURE_EXTRACTION",
        )
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:  # a step of Adam is lost in half precision
        parameter.data = parameter.data.to(torch.float32)
    return sum(parameter.numel() for parameter in trained)


def _is_map(module: nn.Module) -> bool:
    # Conv1D is GPT-2's linear layer; bitsandbytes' are subclasses of nn.Linear.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


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


def refuse_equal(model, views) -> None:
    """Refuse texts that are cut before they differ, which would teach nothing."""
    longest = model.max_seq_length
    if not longest or longest > 1 << 20:  # as tokenizers say that there is no limit
        return
    texts = [views.pair(item)[0] for item in range(min(len(views.items), 256))]
    cut = model.tokenizer(texts, truncation=True, max_length=longest, verbose=False)["input_ids"]
    if len(texts) > 1 and len(set(map(tuple, cut))) == 1:
        told = f"llm_max_length is {longest}, to which all texts are equal"
        raise UserError(f"{told}; take more tokens, or a shorter prompt.", key="llm_max_length")


def _train(job, work, report):
    keys, processes, (_, held_out) = job.settings, job.processes, job.views
    torch.manual_seed(keys.scft_seed)
    model = load_base(job)
    count = add_lora(model, keys)
    report(f"scft: LoRA of {count:,} parameters, {processes.device}, {job.precision}")
    with working(job.text.source.name):
        refuse_equal(model, job.views[0])
        model.encode(job.views[0].pair(0)[0], show_progress_bar=False)

    held = [held_out.pair(item, "held out") for item in range(len(held_out.items))]
    evaluator = HeldOut(held, 2 * (keys.scft_mini_batch_size or 32)) if len(held) > 1 else None
    before = evaluator(model) if evaluator and processes.is_main else None
    if before:
        report(f"scft: before, {describe(before)}")

    trainer = make_trainer(job, work, report, model, evaluator)
    if processes.is_main:
        log_to_tensorboard(trainer, job, work)
        remove_unusable_checkpoints(work, report)
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
        told = f"{keys.scft_batch_size} items at once do not fit into {processes.device}'s memory"
        advice = "set scft_mini_batch_size (16, say) or scft_gradient_checkpointing"
        raise UserError(f"{told}; {advice}.") from error
    except Exception as error:
        if (full := storage_error(error)) is None:
            raise
        advice = "make room there and give the command again"
        raise UserError(f"{work}: {reason_of(full)}; {advice}.", where=work) from error
    model.eval()
    after = evaluator(model) if evaluator and processes.is_main else None
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
