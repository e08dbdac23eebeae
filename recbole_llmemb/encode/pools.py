"""Who turns the texts of shards into vectors: this process, or the workers of a Ray.

A pool has ``running(missing, of)``, a context that gives the stream for a progress bar (None for
the usual one), and ``encode(shards, tell)``: pairs of a shard's number and texts to pairs of its
number and vectors, in any order; ``tell`` is told how many texts are done.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import load, save

from recbole_llmemb.core.cluster import connected, require_ray
from recbole_llmemb.core.errors import UserError, reason_of
from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.options import EncoderSettings, Workers

_QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
# What Ray has to say, beside the shards.
LOG = "ray.log"
# Workers that may die over one shard before it is given up.
_MOST_DEATHS = 5

Shards = Iterable[tuple[int, list[str]]]
Tell = Callable[[int], object]


class LocalPool:
    """An encoder on the devices of this machine. Loaded at its first text: a job whose shards are
    all there needs none."""

    def __init__(self, settings: EncoderSettings):
        self._settings = settings
        self._encoder: Encoder | None = None

    @property
    def encoder(self) -> Encoder:
        """The encoder, loaded."""
        if self._encoder is None:
            self._encoder = Encoder(**vars(self._settings))
        return self._encoder

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return self.encoder.lengths(texts)

    def running(self, missing: int, of: int) -> contextlib.AbstractContextManager[None]:
        """See the module."""
        return contextlib.nullcontext()

    def encode(self, shards: Shards, tell: Tell) -> Iterator[tuple[int, torch.Tensor]]:
        """See the module."""
        # One batch a call, as the library would sort a call's texts again by another length; with
        # several devices, some batches for each.
        step = self._settings.batch_size * (4 if "," in str(self._settings.device) else 1)
        for number, texts in shards:
            yield number, in_steps(self.encoder.encode, texts, step, tell)

    def close(self) -> None:
        """Let go of the encoder."""
        if self._encoder is not None:
            self._encoder.close()


def in_steps(encode: Callable, texts: Sequence[str], step: int, tell: Tell) -> torch.Tensor:
    """Vectors of texts, ``step`` at a time."""
    parts = []
    for start in range(0, len(texts), step):
        parts.append(encode(texts[start : start + step]))
        tell(len(parts[-1]))
    return torch.cat(parts)


def longest_first(
    encoder: Any, texts: Sequence[str], step: int, tell: Tell = lambda count: None
) -> torch.Tensor:
    """Vectors of texts, encoded longest first and given back in their own order."""
    sizes = encoder.lengths(texts)
    order = sorted(range(len(texts)), key=lambda i: (-sizes[i], texts[i]))
    found = in_steps(encoder.encode, [texts[i] for i in order], step, tell)
    vectors = torch.empty_like(found)
    vectors[torch.tensor(order)] = found
    return vectors


class EncodeWorker:
    """An actor that holds an encoder. Only it needs the encoder's files, and nothing else.

    Errors that a user can cause are results, as Ray would wrap them in a traceback.
    """

    def __init__(self, settings: EncoderSettings):
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one thread per worker
        self._settings, self._encoder = settings, None

    def ready(self) -> None:
        """Is over when the actor has found a place."""

    def encode(self, texts: list[str]) -> tuple[bytes, str]:
        """Vectors as bytes, or why there are none."""
        try:
            if self._encoder is None:
                self._encoder = self._load()
            vectors = longest_first(self._encoder, texts, self._settings.batch_size)
        except UserError as error:
            return b"", str(error)
        return save({"vectors": vectors}), ""

    def _load(self) -> Any:
        if self._settings.device == "cpu":
            torch.set_num_threads(1)
        return Encoder(**vars(self._settings.on_this_node()))


class RayPool:
    """Workers on the nodes of a Ray, each with an encoder and a CPU.

    ``work``: folder for what Ray says.
    ``report``: told in a line who encodes.
    """

    def __init__(
        self, settings: EncoderSettings, workers: Workers, work: Path, report: Callable[[str], None]
    ):
        self._settings, self._workers = settings, workers
        self._work, self._report = work, report

    @contextlib.contextmanager
    def running(self, missing: int, of: int) -> Iterator[TextIO]:
        """See the module."""
        device = self._settings.device
        self._ray = ray = require_ray("encode --ray", "ray", "ray", _QUIET)
        with _aside(self._work / LOG) as terminal, connected(ray, cpus=self._workers.number):
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self._fitted = fitted = self._workers.fit(nodes, device)
            gpus = f", {fitted.gpus:g} GPUs each" if fitted.gpus else ""
            if (fitted.number or 0) < (self._workers.number or 0):
                self._report(
                    f"ray: no room for more than {fitted.number} of {self._workers.number} workers"
                )
            self._report(
                f"ray {ray.__version__}: nodes {len(nodes)}, workers {fitted.number}{gpus}, "
                f"shards to encode {missing} of {of}"
            )
            self._missing = missing
            yield terminal

    def encode(self, shards: Shards, tell: Tell) -> Iterator[tuple[int, torch.Tensor]]:
        """See the module. A shard whose worker dies goes to another."""
        crew = _Crew(self._ray, self._settings, self._fitted, iter(shards))
        try:
            for number, texts, data in crew.results(self._missing):
                tell(len(texts))
                yield number, load(data)["vectors"]
        except self._ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[-1][:300].rstrip(".") if lines else "no reason given"
            raise UserError(
                f"Encoding with Ray failed ({type(error).__name__}: {reason}); finished shards are "
                f"kept, and the same command continues (more in {LOG} beside them).",
                where=self._work / LOG,
            ) from error
        finally:
            crew.dismiss()


class _Crew:
    """Workers that come and go, and the shards they are at."""

    def __init__(self, ray: Any, settings: EncoderSettings, workers: Workers, shards: Iterator):
        errors = ray.exceptions
        self._gone = (
            errors.RayActorError, errors.ObjectLostError, errors.OutOfMemoryError,
            errors.WorkerCrashedError, errors.NodeDiedError,
        )  # fmt: skip
        self._ray, self._shards = ray, shards
        self._settings = settings.elsewhere("cuda" if workers.gpus else "cpu")
        self._actor = ray.remote(EncodeWorker).options(num_cpus=1, num_gpus=workers.gpus)
        self._lost: list[tuple[int, list[str]]] = []  # Shards whose worker died
        self._deaths: Counter = Counter()  # By shard; None: before the first
        self._alive: dict[int, Any] = {}  # Workers by number
        self._free: deque = deque()  # Numbers of those that can take a shard; two at a time
        # What is waited for → the worker, and the shard, if it is not its start.
        self._waiting: dict[Any, tuple[int, Any]] = {}
        self._numbers = itertools.count()
        for _ in range(workers.number or 0):
            self._start()

    def results(self, count: int) -> Iterator[tuple[int, list[str], bytes]]:
        """As many shards as there are, with their vectors."""
        while count:
            self._give()
            [result], _ = self._ray.wait(list(self._waiting), num_returns=1)
            worker, shard = self._waiting.pop(result)
            try:
                found = self._ray.get(result)
            except self._gone as error:
                self._lose(worker, shard, error)
                continue
            if shard is None:
                self._deaths[None] = 0
                self._free += [worker, worker]  # one waits there when the other is done
                continue
            data, refusal = found
            if refusal:
                raise UserError(refusal)
            self._free.append(worker)
            count -= 1
            yield *shard, data

    def dismiss(self) -> None:
        """Kill all workers."""
        for worker in self._alive.values():
            with contextlib.suppress(Exception):
                self._ray.kill(worker)

    def _start(self) -> None:
        """A worker may have to wait for room. It is given shards only when it has found some."""
        number = next(self._numbers)
        self._alive[number] = self._actor.remote(self._settings)
        self._waiting[self._alive[number].ready.remote()] = number, None

    def _give(self) -> None:
        while self._free:
            shard = self._lost.pop() if self._lost else next(self._shards, None)
            if shard is None:
                return
            number = self._free.popleft()
            if number in self._alive:
                self._waiting[self._alive[number].encode.remote(shard[1])] = number, shard
            else:
                self._lost.append(shard)

    def _lose(self, worker: int, shard: tuple[int, list[str]] | None, error: Exception) -> None:
        """Another worker in the place of one that is gone, and its shard to be done again."""
        which = None if shard is None else shard[0]
        self._deaths[which] += 1
        if self._deaths[which] == _MOST_DEATHS:
            what = "before they began" if shard is None else f"over the shard {which}"
            raise UserError(
                f"{_MOST_DEATHS} workers died {what} ({reason_of(error)}); give each more memory, "
                f"or look into {LOG} beside the shards."
            ) from error
        if shard is not None:
            self._lost.append(shard)
        if worker in self._alive:
            with contextlib.suppress(Exception):
                self._ray.kill(self._alive[worker])
            del self._alive[worker]
            self._start()


@contextlib.contextmanager
def _aside(log: Path) -> Iterator[TextIO]:
    """Everything that is written to standard error goes to a file, but for what is written to the
    terminal that this gives: Ray's core prints past every logger."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(log, "ab") as file, open(os.dup(kept), "w") as terminal:
            os.dup2(file.fileno(), 2)
            yield terminal
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
