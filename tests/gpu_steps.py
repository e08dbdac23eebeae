"""Steps that end in every way there is, for the tests of the benchmark's runner."""

import os
import time

import torch


def answers(bench):
    yield {"what": "one", "peak": 5.0, "teraflops": 1e-12}
    yield bench.row("two", lambda bench: {"share": bench.peak})
    yield bench.row("three", lambda bench: 1 / 0)
    yield bench.row("four", _too_large)


def _too_large(bench):
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
