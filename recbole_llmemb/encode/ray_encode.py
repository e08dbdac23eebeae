"""Encoding with Ray Data: the item file streams through workers, shards come back here.

Only this process writes, and only the node it runs on reads the item file; other nodes need the
encoder and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
from tqdm import tqdm

from recbole_llmemb.core.cluster import connected
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.assemble import assemble
from recbole_llmemb.encode.ray_worker import EncodeWorker, SpanReader, WorkerSettings
from recbole_llmemb.encode.shards import ShardFolder, unpack
from recbole_llmemb.encode.source import EncoderSource
from recbole_llmemb.encode.workers import Workers, require_ray

if TYPE_CHECKING:
    from recbole_llmemb.encode.job import EncodeJob, Prepared

# Shards that one reading task streams through: what is read again when it is lost.
_SHARDS_PER_SPAN = 16
# What Ray has to say, beside the shards.
LOG = "ray.log"


def encode_with_ray(
    job: EncodeJob, ready: Prepared, work: Path, report: Callable[[str], None], workers: Workers
) -> tuple[torch.Tensor, int]:
    """Encode the texts of a job; the parameters and results are those of ``encode_locally``.

    ``ready``: of the job, streamed.
    Returns ``vectors`` : (n, D), one row per item, mapped from a file in ``work``.
    """
    workers.check(job.device)
    catalogue = ready.catalogue
    count = -(-catalogue.unique // job.shard_size)
    shards = ShardFolder(
        work,
        count,
        lambda shard: f"{job.key}/{job.shard_size}/{catalogue.shard_digest(shard, job.shard_size)}",
        lambda shard: min(job.shard_size, catalogue.unique - shard * job.shard_size),
    )
    missing = [shard for shard in range(count) if not shards.has(shard)]
    encoded = sum(map(shards.rows, missing))
    if missing:
        ray = require_ray()
        with _aside(work / LOG) as terminal, connected(ray, cpus=workers.number), _quiet(ray):
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            fitted = workers.fit(nodes, job.device)
            gpus = f", {fitted.gpus:g} GPUs each" if fitted.gpus else ""
            if fitted.number < (workers.number or 0):
                report(f"ray: no room for more than {fitted.number} of {workers.number} workers")
            report(
                f"ray {ray.__version__}: nodes {len(nodes)}, workers {fitted.number}{gpus}, "
                f"shards to encode {len(missing)} of {count}"
            )
            with tqdm(
                total=catalogue.unique,
                initial=catalogue.unique - encoded,
                desc="encode",
                unit="text",
                file=terminal,
                disable=None,
            ) as progress:
                for shard, data in _results(ray, job, ready, fitted, missing):
                    shards.put(shard, unpack(data))
                    progress.update(shards.rows(shard))
    return assemble(shards, catalogue.text_of, job.shard_size, work), encoded


def _results(
    ray: Any, job: EncodeJob, ready: Prepared, workers: Workers, missing: list[int]
) -> Iterator[tuple[int, bytes]]:
    """Shards as they are finished, in any order."""
    me = ray.get_runtime_context().get_node_id()
    [here] = {  # a resource that every node has
        name
        for node in ray.nodes()
        for name in node["Resources"]
        if node["NodeID"] == me and name.startswith("node:") and "__" not in name
    }
    spans = [ready.catalogue.span(start, stop, job.shard_size) for start, stop in _spans(missing)]
    # Workers may stand elsewhere.
    place = (Path(job.item_file).absolute(), ready.items.fields, *job.place[2:])
    data = ray.data.from_items(spans, override_num_blocks=len(spans)).map_batches(
        SpanReader(place, ready.instruction, job.value_max_chars),
        batch_format="pyarrow",
        batch_size=None,
        # Little work, which must not wait for a CPU that only workers have.
        num_cpus=0,
        resources={here: 0.001},
        concurrency=1,
    )
    data = data.map_batches(
        EncodeWorker,
        fn_constructor_args=(_settings(job, ready, workers),),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=1,
        num_gpus=workers.gpus,
        concurrency=workers.number,
    )
    batches = data.iter_batches(batch_size=None, batch_format="pyarrow")
    done: set[int] = set()
    try:
        for batch in batches:
            for row in batch.to_pylist():
                if row["error"]:
                    raise UserError(row["error"])
                done.add(row["shard"])
                yield row["shard"], row["data"]
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1][:300].rstrip(".") if lines else "no reason given"
        raise UserError(
            f"Encoding with Ray failed ({type(error).__name__}: {reason}); finished shards are "
            f"kept, and the same command continues (more in {LOG} beside them)."
        ) from error
    if len(done) < len(missing):
        raise UserError(
            f"Ray gave back {len(done)} of {len(missing)} shards; the same command continues."
        )


def _spans(missing: list[int]) -> list[tuple[int, int]]:
    """Runs of shards that follow each other, none too long."""
    spans: list[tuple[int, int]] = []
    for shard in missing:
        if spans and spans[-1][1] == shard and shard - spans[-1][0] < _SHARDS_PER_SPAN:
            spans[-1] = (spans[-1][0], shard + 1)
        else:
            spans.append((shard, shard + 1))
    return spans


def _settings(job: EncodeJob, ready: Prepared, workers: Workers) -> WorkerSettings:
    adapter = ready.adapter
    return WorkerSettings(
        source=_absolute(ready.source),
        adapter_path=str(adapter.path.absolute()) if adapter else None,
        adapter_fingerprint=adapter.fingerprint if adapter else None,
        pooling=ready.pooling,
        dtype=job.dtype,
        max_length=ready.max_length,
        normalize=job.normalize,
        batch_size=job.batch_size,
        trust_remote_code=job.trust_remote_code,
        device="cuda" if workers.gpus else "cpu",
    )


def _absolute(source: EncoderSource) -> EncoderSource:
    if not source.is_directory:
        return source
    return replace(source, location=str(Path(source.location).expanduser().absolute()))


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


@contextlib.contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Ray Data without bars of its own, and with blocks of one shard, so that each is saved as
    soon as it is there."""
    context = ray.data.DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "target_max_block_size": 1,
        # A large shard may take longer than Ray thinks anything can.
        "execution_no_progress_timeout_s": -1,
    }
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
    try:
        for name in before:
            setattr(context, name, wanted[name])
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
