"""What the measurements share: the device, a clock that waits for it, and guards."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.results import NO_TIME

GIB = 2**30


@dataclass
class Bench:
    """Where a step measures, how large, and until when.

    Attributes
    ----------
    device : torch.device
    toy : bool
        Whether everything is as small as it can be: to see that it runs.
    until : float
        When its share of the time is over, by ``perf_counter``.
    scratch : Path
        A folder of all steps.
    peak : float or None
        Measured rate of bfloat16 products, in operations per second.
    kept : dict
        What the rows of a step share.
    found : dict
        Rows that an earlier run has measured, by what they are of.
    """

    device: torch.device
    toy: bool
    until: float
    scratch: Path
    peak: float | None = None
    kept: dict = field(default_factory=dict)
    found: dict = field(default_factory=dict)

    @property
    def turn(self) -> float:
        """Seconds that one measurement takes."""
        return 0.0 if self.toy else 0.5

    def size(self, real, toy):
        """The number that counts here."""
        return toy if self.toy else real

    @property
    def placed(self) -> dict:
        """RecBole's settings for the device."""
        on_gpu = self.device.type == "cuda"
        return {"use_gpu": on_gpu, "gpu_id": "0" if on_gpu else ""}

    def wait(self) -> None:
        """Until the device has done all it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable, least: int = 1) -> float:
        """Seconds per call, after one call that does not count, over about a second."""
        work()
        self.wait()
        began, calls = perf_counter(), 0
        while True:
            work()
            calls += 1
            if calls >= least and perf_counter() - began >= self.turn:
                break
        self.wait()
        return (perf_counter() - began) / calls

    def rate(self, work: Callable) -> float:
        """As :meth:`seconds` for work that returns how much it did: units per second."""
        done = []
        seconds = self.seconds(lambda: done.append(work()))
        return sum(done[1:]) / (seconds * (len(done) - 1))

    def memory(self, work: Callable) -> float | None:
        """The most GiB that were allocated on the device during a call."""
        if self.device.type != "cuda":
            work()
            return None
        torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return torch.cuda.max_memory_allocated() / GIB

    def share(self, flops_per_second: float) -> float | None:
        """A rate as a share of the card's peak."""
        return None if self.peak is None else flops_per_second / self.peak

    def row(self, what: str, measure: Callable[..., dict], *given) -> dict:
        """A line of the results: what ``measure(self, *given)`` found, or why it found nothing."""
        if what in self.found:
            return self.found[what]
        if perf_counter() > self.until:
            return {"what": what, "failed": NO_TIME}
        try:
            return {"what": what, **measure(self, *given)}
        except torch.OutOfMemoryError:
            return {"what": what, "failed": "out of memory"}
        except Exception as error:  # whatever it is, the others are to be measured
            reason = " ".join(str(error).split())[:200]
            return {"what": what, "failed": f"{type(error).__name__}: {reason}"}
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


def flops_of(work: Callable) -> int:
    """Operations of the matrix products of a call, those of its gradients included."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
