"""Who turns the texts of shards into vectors: this process, or the workers of a Ray.

A pool has ``running(missing, of)``, a context to encode in, and ``encode(missing, texts_of,
tell)``: numbers of shards to pairs of a number and vectors, in any order. ``texts_of`` gives the
texts of a shard; ``tell`` is told how many texts are done.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from socket import gethostname
from typing import Any

import torch

from recbole_llmemb.core.devices import connected, require_ray
from recbole_llmemb.core.errors import UserError, reason_of
from recbole_llmemb.encode.adapters import find_adapter
from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.settings import Workers
from recbole_llmemb.encode.source import find_encoder

_QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
# What Ray has to say, beside the shards.
LOG = "ray.log"
# Workers that may die over one shard before it is given up.
_MOST_DEATHS = 5
_GONE = (
    "RayActorError", "ObjectLostError", "OutOfMemoryError", "WorkerCrashedError", "NodeDiedError",
)  # fmt: skip

TextsOf = Callable[[int], list[str]]
Tell = Callable[[int], object]


class LocalPool:
    """An encoder on the devices of this machine. Loaded at its first text: a job whose shards are
    all there needs none.

    ``options``: what :class:`~recbole_llmemb.encode.encoder.Encoder` takes.
    """

    def __init__(self, options: dict[str, Any]):
        self._options = options

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder, loaded."""
        return Encoder(**self._options)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return self.encoder.lengths(texts)

    def running(self, missing: int, of: int) -> contextlib.AbstractContextManager[None]:
        """See the module."""
        return contextlib.nullcontext()

    def encode(
        self, missing: Sequence[int], texts_of: TextsOf, tell: Tell
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """See the module."""
        # One batch a call, as the library would sort a call's texts again by another length; with
        # several devices, some batches for each.
        step = self.encoder.batch_size * (4 if len(self.encoder.devices) > 1 else 1)
        for number in missing:
            yield number, in_steps(self.encoder, texts_of(number), step, tell)

    def close(self) -> None:
        """Let go of the encoder."""
        if "encoder" in vars(self):
            self.encoder.close()


def in_steps(encoder: Any, texts: Sequence[str], step: int, tell: Tell) -> torch.Tensor:
    """Vectors of texts, ``step`` at a time."""
    parts = []
    for start in range(0, len(texts), step):
        parts.append(encoder.encode(texts[start : start + step]))
        tell(len(parts[-1]))
    return torch.cat(parts)


def longest_first(encoder: Any, texts: Sequence[str], step: int, tell: Tell) -> torch.Tensor:
    """Vectors of texts, encoded longest first and given back in their own order."""
    sizes = encoder.lengths(texts)
    order = sorted(range(len(texts)), key=lambda i: (-sizes[i], texts[i]))
    found = in_steps(encoder, [texts[i] for i in order], step, tell)
    vectors = torch.empty_like(found)
    vectors[torch.tensor(order)] = found
    return vectors


class EncodeWorker:
    """An actor that holds an encoder. Only it needs the encoder's files, and nothing else.

    Errors that a user can cause are results, as Ray would wrap them in a traceback.
    """

    def __init__(self, options: dict[str, Any]):
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one thread per worker
        self._options = options

    def ready(self) -> tuple[None, str]:
        """Is over when the actor has found a place."""
        return None, ""

    def encode(self, texts: list[str]) -> tuple[torch.Tensor | None, str]:
        """Vectors, or why there are none."""
        try:
            step = self._options["batch_size"]
            return longest_first(self._encoder, texts, step, lambda count: None), ""
        except UserError as error:
            return None, str(error)

    @cached_property
    def _encoder(self) -> Any:
        if self._options["device"] == "cpu":
            torch.set_num_threads(1)
        return Encoder(**_found_on_this_node(self._options))


def _elsewhere(options: dict[str, Any], device: str) -> dict[str, Any]:
    """What an encoder is made of, in words that other machines understand."""
    source, adapter = options["source"], options["adapter"]
    if source.is_directory:
        place = Path(source.location).expanduser().absolute()
        source = replace(source, location=str(place))
    if adapter:
        adapter = replace(adapter, path=adapter.path.absolute())
    return options | {"source": source, "adapter": adapter, "device": device}


def _found_on_this_node(options: dict[str, Any]) -> dict[str, Any]:
    """The encoder and the adapter as they are found here; they must be the very same."""
    source, adapter = options["source"], options["adapter"]
    here = f"on the node {gethostname()}"
    if adapter and find_adapter(adapter.path).fingerprint != adapter.fingerprint:
        raise UserError(f"The adapter {adapter.path} is another one {here}.")
    if not source.is_directory:
        # Another machine's local cache says nothing.
        return options | {"source": replace(source, offline=False)}
    # The bundled one is wherever it is installed here; a directory is where it is there.
    there = Path(source.location).is_dir()
    found = find_encoder(source.location if there else source.name, trusted=source.trusted)
    found = replace(found, name=source.name)
    if found.identity != source.identity:
        told = f"The encoder {source.name!r} {here} is another one than where the command runs"
        raise UserError(f"{told}; put the same files on every node.")
    return options | {"source": found}


class RayPool:
    """Workers on the nodes of a Ray, each with an encoder and a CPU.

    ``options``: what :class:`~recbole_llmemb.encode.encoder.Encoder` takes.
    ``work``: folder for what Ray says.
    ``report``: told in a line who encodes.
    """

    def __init__(
        self, options: dict[str, Any], workers: Workers, work: Path, report: Callable[[str], None]
    ):
        self._options, self._workers = options, workers
        self._log, self._report = work / LOG, report

    @contextlib.contextmanager
    def running(self, missing: int, of: int) -> Iterator[None]:
        """See the module."""
        self._ray = ray = require_ray("encode --ray", "ray", "ray", _QUIET)
        wanted = self._workers.number or 0
        with _redirect_stderr(self._log), connected(ray, cpus=wanted):
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self._workers = fitted = self._workers.allocate(nodes, self._options["device"])
            if (fitted.number or 0) < wanted:
                self._report(f"ray: no room for more than {fitted.number} of {wanted} workers")
            gpus = f", {fitted.gpus:g} GPUs each" if fitted.gpus else ""
            self._report(
                f"ray {ray.__version__}: nodes {len(nodes)}, workers {fitted.number}{gpus}, "
                f"shards to encode {missing} of {of}"
            )
            yield

    def encode(
        self, missing: Sequence[int], texts_of: TextsOf, tell: Tell
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """See the module. A shard whose worker dies goes to another."""
        crew: list[Any] = []
        try:
            yield from self._results(crew, deque(missing), texts_of, tell)
        except self._ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[-1][:300].rstrip(".") if lines else "no reason given"
            told = f"Encoding with Ray failed ({type(error).__name__}: {reason}); finished shards"
            more = f"are kept, and the same command continues (more in {LOG} beside them)"
            raise UserError(f"{told} {more}.", where=self._log) from error
        finally:
            for worker in crew:
                with contextlib.suppress(Exception):
                    self._ray.kill(worker)

    def _results(self, crew: list[Any], todo: deque[int], texts_of: TextsOf, tell: Tell):
        ray, gpus = self._ray, self._workers.gpus
        gone = tuple(getattr(ray.exceptions, name) for name in _GONE)
        actor = ray.remote(EncodeWorker).options(num_cpus=1, num_gpus=gpus)
        options = _elsewhere(self._options, "cuda" if gpus else "cpu")
        # What is waited for → the worker, and its shard; None while it looks for a place, before
        # which it is given no shard.
        waiting: dict[Any, tuple[Any, int | None]] = {}
        free: deque[Any] = deque()  # Workers that can take a shard
        deaths: Counter[int | None] = Counter()  # By shard

        def start() -> None:
            crew.append(actor.remote(options))
            waiting[crew[-1].ready.remote()] = crew[-1], None

        for _ in range(self._workers.number or 0):
            start()
        left = len(todo)
        while left:
            while free and todo:
                worker = free.popleft()
                if worker in crew:
                    number = todo.popleft()
                    waiting[worker.encode.remote(texts_of(number))] = worker, number
            [result], _ = ray.wait([*waiting], num_returns=1)
            worker, shard = waiting[result]
            try:
                vectors, refusal = ray.get(result)
            except gone as error:
                lost = [each for each, (whose, _) in waiting.items() if whose is worker]
                shards = [waiting.pop(each)[1] for each in lost]
                # It was at the first one; a second has only waited there.
                first, *second = shards
                deaths[first] += 1
                if deaths[first] == _MOST_DEATHS:
                    raise _given_up(first, error) from error
                todo.extendleft(number for number in second if number is not None)
                if first is not None:
                    todo.append(first)  # the others are done before it is tried again
                crew.remove(worker)
                ray.kill(worker)
                start()  # another in its place
                continue
            del waiting[result]
            if refusal:
                raise UserError(refusal)
            deaths[shard] = 0
            free.append(worker)
            if shard is None:
                free.append(worker)  # a second shard waits there when the first is done
                continue
            left -= 1
            tell(len(vectors))
            yield shard, vectors


def _given_up(shard: int | None, error: Exception) -> UserError:
    what = "before they began" if shard is None else f"over the shard {shard}"
    advice = f"give each more memory, or look into {LOG} beside the shards"
    return UserError(f"{_MOST_DEATHS} workers died {what} ({reason_of(error)}); {advice}.")


@contextlib.contextmanager
def _redirect_stderr(log: Path) -> Iterator[None]:
    """What libraries write to standard error past Python goes to a file: Ray's core prints past
    every logger. What Python writes stays on the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(log, "ab") as file, open(os.dup(kept), "w", buffering=1) as terminal:
            os.dup2(file.fileno(), 2)
            with contextlib.redirect_stderr(terminal):
                yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
