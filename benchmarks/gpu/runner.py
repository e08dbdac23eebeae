"""Steps one after the other, each in a process of its own and with its share of the time."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from time import perf_counter

from benchmarks.gpu.results import NO_TIME, Results, text

_START_METHOD = "forkserver"
_SPOILT = "failed: an import has touched the card"
# Seconds in which a process may start: at most one has to import everything.
_START = 30
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Step:
    """A kind of measurement.

    Attributes
    ----------
    name, title : str
        In the results file, and in the documentation.
    share : float
        Of the time, against those of the other steps.
    function : str
        ``module:name``, a generator of lines that is given a ``Bench``; empty for the tests.
    """

    name: str
    title: str
    share: float
    function: str = ""


#: Most telling first.
STEPS = (
    Step("tests", "Tests that need a GPU", 18),
    Step("peak", "What the card does at most", 2, "benchmarks.gpu.peak:rows"),
    Step("training", "Training steps", 34, "benchmarks.gpu.training:rows"),
    Step("waits", "Waits for the card in a training step", 6, "benchmarks.gpu.training:waits"),
    Step("ranking", "Full ranking", 8, "benchmarks.gpu.ranking:rows"),
    Step("encoding", "Encoding", 10, "benchmarks.gpu.encoders:rows"),
    Step("llmsrec", "LLM-SRec", 8, "benchmarks.gpu.llmsrec:rows"),
    Step("scft", "SCFT", 6, "benchmarks.gpu.encoders:scft"),
    Step("choices", "With and without", 8, "benchmarks.gpu.training:choices"),
)


def run(steps, device: str, minutes: float, scratch: Path, results: Results) -> bool:
    """Run the steps that are not complete; whether all of them came to their end.

    Each has its share of what is left when it begins. It is ended when it has taken twice that,
    and some seconds to start in, or when the time of all is over.
    """
    end = perf_counter() + 60 * minutes
    # Else the question whether there is a card spoils the card for the copies of who asks.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    context = multiprocessing.get_context(_START_METHOD)
    if _START_METHOD == "forkserver":
        # What takes long to import is imported once, by a process that never touches the card.
        context.set_forkserver_preload(["benchmarks.gpu.preload"])
        forkserver.ensure_running()
    whole = True
    steps = [step for step in steps if not results.complete(step.name)]
    for number, step in enumerate(steps):
        began = perf_counter()
        left = end - began
        share = left * step.share / sum(other.share for other in steps[number:])
        if device == "cpu":  # nothing is measured, and everything is to be run
            share = left
        print(f"\n{step.title}", flush=True)
        if left <= 0:
            status = f"not measured: {NO_TIME}"
        elif step.function:
            status = measure(context, step, device, share, end, scratch, results)
            if status == _SPOILT:
                context = multiprocessing.get_context("spawn")
                status = measure(context, step, device, share, end, scratch, results)
        else:
            status = tests(step, device, min(end, began + 2 * share + _START), scratch, results)
        whole &= status == "done"
        results.end(step.name, status, perf_counter() - began)
        print(f"  ({status}, {perf_counter() - began:.0f} s)", flush=True)
    return whole


def tell(step, row, results) -> None:
    """Keep a line and print it."""
    results.add(step.name, row)
    cells = (f"{name} {text(name, v)}" for name, v in row.items() if name not in ("what", "peak"))
    print(f"  {row['what']}: {', '.join(cells)}", flush=True)


def measure(context, step, device, share, end, scratch, results) -> str:
    """Run a step's generator in a process, keeping what it sends; how it ended."""
    receiver, sender = context.Pipe(duplex=False)
    known = results.value("peak"), results.measured(step.name)
    given = step.function, device, share, scratch, known, sender
    process = context.Process(target=_measure, args=given, daemon=True)
    process.start()
    sender.close()
    limit = min(end, perf_counter() + 2 * share + _START)
    status = None
    try:
        while status is None:
            if not receiver.poll(max(0.0, limit - perf_counter())):
                status = "cut off: its time was over"
            else:
                kind, what = receiver.recv()
                if kind == "row":
                    tell(step, what, results)
                else:
                    status = what
    except EOFError:
        process.join()
        status = f"ended by itself, with status {process.exitcode}"
    if process.is_alive():
        process.join(5 if status == "done" else 0)
        process.kill()
    process.join()
    return status


def _measure(function, device, share, scratch, known, sender):
    """In the step's process: send each line, and how it ended."""
    os.chdir(scratch)
    import torch

    from benchmarks import timing
    from benchmarks.gpu.bench import Bench

    timing.quiet()
    warnings.simplefilter("ignore")

    module, _, name = function.partition(":")
    if device == "cuda":
        if torch.cuda._is_in_bad_fork():
            sender.send(("end", _SPOILT))
            return
        # Once counted, the card stays there, also when RecBole hides it for a run on the CPU.
        torch.cuda.init()
        torch.cuda.device_count()
    until = perf_counter() + share
    peak, found = known
    bench = Bench(torch.device(device), device == "cpu", until, scratch, peak, found=found)
    try:
        for row in getattr(importlib.import_module(module), name)(bench):
            sender.send(("row", row))
        sender.send(("end", "done"))
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(str(error).split())[:200]
        sender.send(("end", f"failed: {type(error).__name__}: {reason}"))


def tests(step, device, limit, scratch, results) -> str:
    """Run ``pytest -m gpu``; on a CPU all of them are skipped."""
    files = sorted(map(str, (ROOT / "tests" / "gpu").glob("test_gpu_*.py")))
    files = files[-1:] if device == "cpu" else files
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    command += ["--tb=short", "-rfE", *files]
    log = scratch / "tests.log"
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        try:
            process.wait(max(1.0, limit - perf_counter()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    results.found["steps"][step.name]["rows"].clear()  # those that failed may have been mended
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "")
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    tell(step, {"what": "pytest -m gpu", "outcome": last.strip("= ")}, results)
    for line in failed:
        kind, _, what = line.partition(" ")
        tell(step, {"what": what.partition(" - ")[0], "outcome": kind.lower()}, results)
    if process.returncode == 0:
        return "done"
    print("\n".join(lines[-200:]))
    return "cut off: its time was over" if process.returncode < 0 else "some failed"
