"""sentence-transformers' trainer: its batches of views, contrastive losses over them (LLMEmb,
SCFT), its measures, and a training that survives being killed and stops on NaN.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.losses.gradcache import CachedLossMixin
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.util import all_gather_with_grad
from sentence_transformers.util.distributed import get_world_size
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import atomic_file, damaged_file, file_digests, seal, sync, unseal
from recbole_llmemb.core.terminal import progress_bar
from recbole_llmemb.models.losses import AlignmentLoss, InfoNCE
from recbole_llmemb.scft.views import Views

_STATE = "trained.safetensors"
_COMPLETE, _JOB = "whole", "the job's key"


#: ``soft`` is the authors' code, the form that RAT aligns with too.
FORMS = {"soft": AlignmentLoss, "infonce": InfoNCE}


class ViewLoss(nn.Module):
    """A contrastive loss with a learned temperature, as sentence-transformers' trainer wants it.

    In training on several processes every view is compared with those of all of them: the
    gradient is that of one process with the whole batch.

    ``model``: gives un-normalized embeddings.
    ``temperature``: where τ starts; 3 in the authors' code.
    """

    def __init__(self, model, form: str = "soft", temperature: float = 3.0):
        super().__init__()
        self.model = model
        self.form = FORMS[form](nn.Parameter(torch.tensor(float(temperature))))

    def forward(self, features, order):
        """Loss of a batch.

        ``features``: tokens of all the views, in parts.
        ``order`` (2B,): where each view is among the parts laid end to end: first all items' one
        view, then all items' other.
        """
        parts = [self.model(part)["sentence_embedding"] for part in features]
        return self.compare(torch.cat(parts), order)

    def compare(self, vectors, order):
        """Loss of the embeddings ``(2B, D)`` of a batch's views; see :meth:`forward`."""
        # Sums over thousands of dimensions want more than half precision.
        with torch.autocast(vectors.device.type, enabled=False):
            x, y = vectors.float()[order].chunk(2)
            if get_world_size() > 1:
                x, y = all_gather_with_grad(x), all_gather_with_grad(y)
            return self.form(x, y)


class CachedViewLoss(CachedLossMixin, ViewLoss):
    """The same loss and gradients with the memory of one part of the batch at a time (GradCache).

    Parts are embedded without keeping activations, the loss gives the gradients of the
    embeddings, and then each part is embedded again to carry its own back. Costs a second forward
    pass.
    """

    mini_batch_size = 1 << 40  # the collator has cut the batch already: a part is a mini-batch

    def forward(self, features, order):
        """See :meth:`ViewLoss.forward`."""
        loss = self.forward_cached(features, order)
        if not torch.is_grad_enabled():
            return loss
        # Adds nothing but τ's gradient, so that whatever scales the loss scales it too.
        share = self.form.temperature * self._temperature_gradient
        return loss + (share - share.detach())

    def calculate_loss(self, reps, labels=None, *, with_backward=False):
        """Loss of embedded parts; with ``with_backward``, their gradients too."""
        leaves = [part for column in reps for part in column]
        loss = self.compare(torch.cat(leaves), labels)
        if not with_backward:
            return loss
        *gradients, own = torch.autograd.grad(loss, [*leaves, self.form.temperature])
        for leaf, gradient in zip(leaves, gradients):
            leaf.grad = gradient
        self._temperature_gradient = own
        return loss.detach()


class ShuffledBatches(DefaultBatchSampler):
    """Every item once an epoch, in an order that depends on seed and epoch alone.

    The trainer's own sampler draws from one generator on and on, so that a training resumed in
    its third epoch would begin with the order of the first.
    """

    views: Views

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.views.epoch)
        order = torch.randperm(len(self.sampler), generator=generator).tolist()
        for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
            yield order[start : start + self.batch_size]


class LengthSortedCollator:
    """Collates rows of two views into parts of texts of similar length.

    Little is padded so, and a part is what GradCache embeds at a time.

    ``preprocess``: texts to tokens, padded on the right; a SentenceTransformer's.
    ``size``: texts of a part; by default all are one part.
    """

    valid_label_columns = ("label",)

    def __init__(self, preprocess, size: int | None):
        self._preprocess, self._size = preprocess, size

    def __call__(self, rows: list[dict[str, str]]) -> dict[str, object]:
        """Tokens under ``part<i>_…``, and as ``label`` where each view went."""
        texts = [row["view_a"] for row in rows] + [row["view_b"] for row in rows]
        tokens = self._preprocess(texts)
        width = tokens["attention_mask"].shape[1]
        lengths = tokens["attention_mask"].sum(1)
        order = torch.argsort(lengths, descending=True, stable=True)
        batch: dict[str, object] = {"label": torch.argsort(order)}
        for number, members in enumerate(order.split(self._size or len(texts))):
            longest = int(lengths[members[0]])
            for key, value in tokens.items():
                if torch.is_tensor(value):
                    value = value[members]
                    if value.dim() > 1 and value.shape[1] == width:
                        value = value[:, :longest]
                batch[f"part{number}_{key}"] = value
        return batch


def measures(x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Measures of two views' embeddings, both (n, D), of any length.

    Returns ``top1``: share of views nearest, by cosine, to the same item's other view, both ways (a
    tie counts). ``alignment``: mean squared distance of an item's views, and ``uniformity``: log of
    the mean over pairs of items of exp(−2·distance²), both on the unit sphere (Wang & Isola, 2020);
    lower is better.
    """
    x, y = F.normalize(x.float(), dim=1), F.normalize(y.float(), dim=1)
    near = x @ y.t()
    own = near.diagonal() + 1e-6
    found = (own >= near.amax(1)).float().mean() + (own >= near.amax(0)).float().mean()
    spread, other = (torch.pdist(v).square().mul(-2).exp().mean() for v in (x, y))
    return {
        "top1": (found / 2).item(),
        "alignment": (x - y).square().sum(1).mean().item(),
        "uniformity": ((spread + other) / 2).log().item(),
    }


class HeldOut(BaseEvaluator):
    """Measures of a fixed pair of views per held-out item.

    ``pairs`` (str, str): two prompts per item.
    """

    def __init__(self, pairs: Sequence[Sequence[str]], batch_size: int):
        super().__init__()
        self.texts = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
        self.batch_size = batch_size

    def __call__(self, model, output_path=None, epoch=-1, steps=-1) -> dict[str, float]:
        """See :func:`measures`."""
        training = model.training
        vectors = model.encode(
            self.texts,
            batch_size=self.batch_size,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        model.train(training)
        return measures(*vectors.chunk(2))


class ScftTrainer(SentenceTransformerTrainer):
    """Trains what requires gradients and keeps only that in its checkpoints.

    ``views``: the transform of ``train_dataset``, which is told the epoch.
    """

    def __init__(self, views, report: Callable[[str], None], **kwargs):
        self.views = views
        super().__init__(**kwargs)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Watch(self, report))

    def add_model_card_callback(self, default_args_dict):
        """None: what is published has a manifest instead."""

    def get_batch_sampler(self, dataset, batch_size, drop_last, seed=0, **kwargs):
        """See :class:`ShuffledBatches`."""
        batches = ShuffledBatches(dataset, batch_size, drop_last, seed=seed)
        batches.views = self.views
        return batches

    def trained(self) -> dict[str, torch.Tensor]:
        """What is trained, by name: the adapter and the temperature."""
        model = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        return {**model, "temperature": self.loss.form.temperature}  # type: ignore[attr-defined]

    def _save(self, output_dir=None, state_dict=None):
        trained = {name: value.detach().contiguous() for name, value in self.trained().items()}
        if not all(bool(value.isfinite().all()) for value in trained.values()):
            raise self.diverged()
        os.makedirs(output_dir, exist_ok=True)
        save_file(trained, os.path.join(output_dir, _STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        kept = load_file(os.path.join(resume_from_checkpoint, _STATE))
        with torch.no_grad():
            for name, value in self.trained().items():
                value.copy_(kept[name])

    def diverged(self) -> UserError:
        """What to say when the loss or the adapter is no number any more."""
        last = last_checkpoint(self.args.output_dir)
        kept = f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
        return UserError(
            f"SCFT diverged: at step {self.state.global_step} the loss is not a number; lower "
            f"scft_learning_rate, or set scft_precision to float32 or bfloat16 ({kept})."
        )


class _Watch(TrainerCallback):
    """Progress, the epoch, NaN, and a mark on checkpoints that are whole."""

    def __init__(self, trainer: ScftTrainer, report: Callable[[str], None]):
        self._trainer, self._report = trainer, report
        self._loss = float("nan")

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._trainer.views.epoch = int((state.epoch or 0) + 1e-6)

    def on_train_begin(self, args, state, control, **kwargs):
        total, done, hidden = state.max_steps, state.global_step, not state.is_local_process_zero
        self._bar = progress_bar(
            total=total, initial=done, desc="scft", unit="step", disable=hidden
        )

    def on_step_end(self, args, state, control, **kwargs):
        self._bar.update(1)
        control.should_log |= control.should_save  # a loss that is NaN by now is not saved

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self._loss = logs["loss"]
            if not math.isfinite(self._loss):
                self._bar.close()
                raise self._trainer.diverged()
            self._bar.set_postfix(loss=f"{self._loss:.3f}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if metrics and state.is_world_process_zero:
            found = {name.removeprefix("eval_"): value for name, value in metrics.items()}
            step, loss = state.global_step, self._loss
            self._bar.clear()
            self._report(f"scft: step {step:,}, loss {loss:.3f}, {describe(found)}")

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            for file in folder.iterdir():
                sync(file)
            digests = file_digests(folder, sorted(os.listdir(folder)))
            with atomic_file(folder / _COMPLETE) as fresh:
                fresh.write_text(seal(digests | {_JOB: _job_of(folder)}), encoding="utf-8")

    def on_train_end(self, args, state, control, **kwargs):
        self._bar.close()


def describe(found: dict[str, float]) -> str:
    """Measures of held-out items in words."""
    return (
        f"held-out items: other view found {found['top1']:.1%}, alignment "
        f"{found['alignment']:.4f}, uniformity {found['uniformity']:.3f}"
    )


def last_checkpoint(folder) -> str | None:
    """The last checkpoint that was written to its end."""
    whole = [mark.parent for mark in Path(folder).glob(f"checkpoint-*/{_COMPLETE}")]
    return str(max(whole, key=step_of)) if whole else None


def remove_unusable_checkpoints(folder, report: Callable[[str], None]) -> None:
    """Remove checkpoints that were not written to their end, or are damaged.

    They would count as the newest.
    """
    for path in Path(folder).glob("checkpoint-*"):
        mark = path / _COMPLETE
        damaged: Path | None = mark
        if mark.is_file():
            try:  # earlier versions left an empty mark, or named no job
                digests = unseal(mark.read_bytes() or b"{}")
                own = digests.pop(_JOB, _job_of(path)) == _job_of(path)
                damaged = damaged_file(path, digests) if own else mark
            except (OSError, ValueError, AttributeError):
                damaged = mark
            if damaged:
                told = "is damaged, or another job's, so this checkpoint is not used"
                report(f"scft: {damaged} {told}")
        if damaged:
            shutil.rmtree(path, ignore_errors=True)


def _job_of(checkpoint) -> str:
    """The key of the job in whose folder of work a checkpoint lies."""
    return Path(checkpoint).absolute().parent.name.rpartition(".work-")[2]


def step_of(checkpoint) -> int:
    """After which step a checkpoint was written."""
    return int(str(checkpoint).rpartition("-")[2])
