# ruff: noqa: F811 (fixtures come by name)
"""No training step makes the host wait for the GPU, so that one queues up behind the other."""

import pytest
import torch
from gpu_devices import device, no_waits, placed  # noqa: F401
from llmsrec_fixtures import cf_model, llms, llmsrec  # noqa: F401

from recbole_llmemb.config.recbole_config import preset_file
from recbole_llmemb.config.values import read_settings

DROPOUT = {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2, "clip_grad_norm": {"max_norm": 1}}
KINDS = {
    "table": {"item_embedding": "table"},
    "longtail": read_settings(preset_file("longtail")),
    "residual, cosine": read_settings(preset_file("residual_cosine")),
    "table, half precision": {"enable_amp": True},
    "table on the host": {"llm_table_device": "cpu"},
    "two negatives": {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 2}},
}


def steps(trainer, batches):
    """The inside of an epoch of the trainer, without the look at the losses after it."""

    class Done(Exception):
        pass

    class Batches:
        sampler = None

        def __iter__(self):
            yield from batches
            raise Done

    with pytest.raises(Done):
        trainer._train_epoch(Batches(), 0)


@pytest.mark.parametrize("loss", ["BCE", "CE", "BPR"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_sasrec_waits_for_nothing(tiny_run, device, placed, kind, loss):
    settings = KINDS[kind] | DROPOUT | placed | {"loss_type": loss}
    if loss != "CE":
        settings.pop("popularity_adjustment", None)
    _, data, _, trainer = tiny_run("LLMEmbSASRec", **settings)
    batches = list(data.train)[:2]
    steps(trainer, batches[:1])  # states of the optimizer are made
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with no_waits(device):
        steps(trainer, batches[1:])
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters()))


@pytest.mark.parametrize("form", ["table", "text"])
def test_a_step_of_llmsrec_waits_for_nothing(llmsrec, device, placed, form, monkeypatch):
    # Transformers may look into masks, but not while it believes that somebody traces it.
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: False, raising=False)
    _, data, model, trainer = llmsrec("llama", item_input=form, prefix_cache=1, **placed)
    data.train.form = model.form
    batches = list(data.train)[:2]
    steps(trainer, batches[:1])  # what is kept of the prompts is computed
    # A CPU looks for the longest history, and the longest beginning: it has nothing to wait for.
    with no_waits(device, ["aten._local_scalar_dense.default"] * (1 + (form == "text"))):
        steps(trainer, batches[1:])


WAITING = {
    "a value": lambda numbers: numbers.sum().item(),
    "places": lambda numbers: numbers.nonzero(),
    "a mask": lambda numbers: numbers[numbers > 1],
    "a choice": lambda numbers: 1 if numbers.sum() > 1 else 0,
    "numbers of the host": lambda numbers: torch.tensor([1.0]).to(numbers.device),
}


@pytest.mark.parametrize("kind", WAITING)
def test_what_waits_is_seen(device, kind):
    numbers = torch.arange(4.0, device=device)
    with no_waits(device):
        numbers.mul(2).index_select(0, numbers.long()).sum()
    with pytest.raises((AssertionError, RuntimeError)), no_waits(device):
        WAITING[kind](numbers)
