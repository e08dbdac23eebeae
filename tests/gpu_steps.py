"""Steps that end in every way there is, for the tests of the benchmark's runner."""

import os
import time

import torch


def answers(bench):
    yield {"what": "one", "peak": 5.0, "teraflops": 1e-12}
    yield bench.row("two", _called, "two", lambda: {"share": bench.peak})
    yield bench.row("three", _called, "three", lambda: 1 / 0)
    yield bench.row("four", _called, "four", _too_large)


def one(bench):
    yield bench.row("five", _called, "five", dict)


def _called(bench, name, measure):
    with open(bench.scratch / "calls", "a") as calls:
        calls.write(f"{name}\n")
    return measure()


def _too_large():
    raise torch.OutOfMemoryError("CUDA out of memory")


def fails(bench):
    yield {"what": "before it fails"}
    raise KeyError("gone")


def hangs(bench):
    yield {"what": "before it hangs"}
    time.sleep(600)


def dies(bench):
    yield {"what": "before it dies"}
    os._exit(9)
