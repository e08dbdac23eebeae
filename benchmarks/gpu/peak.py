"""What the card can do at most: products of large matrices, and copies."""

from __future__ import annotations

import torch


def rows(bench):
    """bfloat16 and float32 products, and the memory's bandwidth."""
    size = bench.size(8192, 128)
    for name, kind in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        yield bench.row(f"{name} product of {size}×{size}", product, size, kind)
    yield bench.row("copy on the device", copy, bench.size(2**30, 2**16))


def product(bench, size, kind):
    """Operations per second of a square product, of random numbers: zeros are faster."""
    left, right = torch.randn(2, size, size, device=bench.device).to(kind)
    out = torch.empty_like(left)
    rate = 2 * size**3 / bench.seconds(lambda: torch.mm(left, right, out=out), least=10)
    found = {"teraflops": rate / 1e12}
    return found | ({"peak": rate} if kind == torch.bfloat16 else {})


def copy(bench, size):
    """Bytes read and written per second."""
    source = torch.randint(100, (size,), dtype=torch.int8, device=bench.device)
    target = torch.empty_like(source)
    return {"gigabytes/s": 2 * size / bench.seconds(lambda: target.copy_(source), least=10) / 1e9}
