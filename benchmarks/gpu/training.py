"""Training steps of LLMEmbSASRec and of RecBole's SASRec, and whether they wait for anything."""

from __future__ import annotations

import copy
from itertools import islice

import torch

from benchmarks import subjects
from benchmarks.gpu.bench import flops_of
from benchmarks.gpu.data import READ, tables_of, write_dataset
from benchmarks.gpu.waiting import per_step
from recbole_llmemb.config.recbole_config import preset_file
from recbole_llmemb.config.values import read_settings

HOST = "table on the host,"
KINDS = {
    "table": {"item_embedding": "table", "align_weight": 0},
    "longtail": read_settings(preset_file("longtail")),
    HOST: {
        "item_embedding": "table",
        "align_weight": 0,
        "llm_table_device": "cpu",
    },
    "id": {"item_embedding": "id"},
}
# Kind, width of the table, and whether in bfloat16. Without an adapter the width does not matter.
_SIDES = (
    ("table", 384, False),
    ("longtail", 384, False),
    ("recbole", 0, False),
    ("table", 4096, False),
    (HOST, 4096, False),
    ("table", 384, True),
)
_TOY_SIDES = (
    ("table", 16, False),
    ("longtail", 16, True),
    ("recbole", 0, False),
    (HOST, 16, False),
)


def subject(bench, items, width, hidden, loss, kind, half=False):
    """LLMEmbSASRec over random vectors, or RecBole's SASRec (``kind`` is ``recbole``)."""
    users, length = bench.size((4000, 52), (40, 12))
    name = f"items-{items}"
    write_dataset(bench.scratch, name, items, users, length)
    settings = {
        **subjects.SIZES,
        "hidden_size": hidden,
        "inner_size": 4 * hidden,
        **READ,
        "enable_amp": half,
        **bench.placed,
    }
    # The data takes longer to read than a step to measure.
    key = items, loss, kind == "recbole"
    if kind == "recbole":
        # It has no BCE of the authors' form; its BPR takes the same pairs of scores.
        settings["loss_type"] = "CE" if loss == "CE" else "BPR"
        made = subjects.stock(name, bench.scratch, bench.kept.get(key), **settings)
    else:
        settings |= KINDS[kind] | {"loss_type": loss, "train_batch_size": bench.size(128, 8)}
        if loss != "CE":
            settings.pop("popularity_adjustment", None)  # which is of CE
        # One that stays on the host comes from there.
        on_host = settings.get("llm_table_device") == "cpu"
        with tables_of(width, torch.device("cpu") if on_host else bench.device):
            made = subjects.ours(name, bench.scratch, bench.kept.get(key), **settings)
    bench.kept[key] = made.data
    if made.model.device.type != bench.device.type:
        raise RuntimeError(f"the model is on {made.model.device}")
    return made


def fresh(batches):
    """The same batches as a loader gives them: a trainer moves their columns."""
    for batch in batches:
        batch = copy.copy(batch)
        batch.interaction = dict(batch.interaction)
        yield batch


def measured(bench, *case):
    """Positions per second, peak memory and share of the peak of a subject's steps."""
    made = subject(bench, *case)
    batches = list(islice(made.data.train, bench.size(12, 2)))
    flops = flops_of(lambda: _step(made, batches[0]))
    memory = bench.memory(lambda: made.train(fresh(batches[:2])))
    fed = bench.rate(lambda: made.train_steps(len(batches)))
    rate = bench.rate(lambda: made.train(fresh(batches)))
    first = len(batches[0][made.config["ITEM_ID_FIELD"]])
    return {
        "positions/s": fed,
        "without loader": rate,
        "GiB": memory,
        "of peak": bench.share(flops * rate / first),
    }


def _step(made, batch):
    loss = made.model.calculate_loss(batch.to(made.model.device))
    (sum(loss) if isinstance(loss, tuple) else loss).backward()
    made.model.zero_grad()


def rows(bench):
    """Steps by catalog, loss, width and kind, each beside RecBole's."""
    for items in bench.size((12_000, 1_000_000), (60,)):
        for loss in ("CE", "BCE"):
            for hidden in bench.size((64, 256), (8,)):
                shape = f"{items:,} items, {loss}, hidden {hidden}"
                for kind, width, half in bench.size(_SIDES, _TOY_SIDES):
                    if kind == HOST and items > 100_000:
                        continue  # to draw so many vectors on the host takes minutes
                    name = "RecBole's SASRec" if kind == "recbole" else f"{kind} {width}"
                    name += ", enable_amp" if half else ""
                    case = items, width, hidden, loss, kind, half
                    yield bench.row(f"{shape}: {name}", measured, *case)


def waits(bench):
    """How often a step makes the host wait: zero is the goal."""
    cases = [
        (kind, loss, half)
        for kind in ("table", "longtail")
        for loss in ("CE", "BCE")
        for half in bench.size((False, True), (False,))
    ]
    items, hidden = bench.size((12_000, 64), (60, 8))
    for kind, loss, half in cases:
        case = items, bench.size(384, 16), hidden, loss, kind, half
        yield bench.row(f"{kind}, {loss}{', enable_amp' if half else ''}", waits_of, *case)


def waits_of(bench, *case):
    """Of a subject's steps, on batches that are there before."""
    made = subject(bench, *case)
    batches = list(islice(made.data.train, bench.size(13, 3)))
    few = min(bench.size(3, 1), len(batches) - 1)
    return per_step(
        bench.device, lambda count: made.train(fresh(batches[:count])), few, len(batches)
    )


def choices(bench):
    """torch.compile, CUDA graphs and the optimizer's form: with and without."""
    items, hidden = bench.size((12_000, 64), (60, 8))
    for loss in bench.size(("CE", "BCE"), ("CE",)):
        made = subject(bench, items, bench.size(384, 16), hidden, loss, "table")
        batches = list(islice(made.data.train, bench.size(12, 2)))
        yield bench.row(f"{loss}: as it is (fused Adam)", as_is, made, batches)
        for form in ("foreach", "loop"):
            yield bench.row(f"{loss}: Adam, {form}", with_adam, made, batches, form)
        yield bench.row(f"{loss}: CUDA graph of a step", graph, made, batches[0])
        yield bench.row(f"{loss}: torch.compile", compiled, made, batches)  # takes longest


def as_is(bench, made, batches):
    """Steps per second."""
    return {"steps/s": len(batches) / bench.seconds(lambda: made.train(fresh(batches)))}


def with_adam(bench, made, batches, form):
    """The optimizer in another form."""
    plain, parameters = made.trainer.optimizer, made.model.parameters()
    made.trainer.optimizer = torch.optim.Adam(parameters, lr=1e-3, foreach=form == "foreach")
    try:
        return as_is(bench, made, batches)
    finally:
        made.trainer.optimizer = plain


def compiled(bench, made, batches):
    """The backbone's pass compiled, for any length of the batch's histories."""
    if bench.toy:
        return {"failed": "left out at toy size, for it takes long"}
    made.model.forward = torch.compile(made.model.forward, dynamic=True)
    try:
        return as_is(bench, made, batches)
    finally:
        del made.model.forward


def graph(bench, made, batch):
    """One captured step replayed: what is left when the host does nothing."""
    if bench.device.type != "cuda":
        return {"failed": "there are none but on CUDA"}
    model, batch = made.model.train(), batch.to(made.model.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = model.calculate_loss(batch)
        (sum(loss) if isinstance(loss, tuple) else loss).backward()
        optimizer.step()

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    return {"steps/s": 1 / bench.seconds(captured.replay, least=10)}
