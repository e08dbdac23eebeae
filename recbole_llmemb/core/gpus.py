"""The devices that a process may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from recbole_llmemb.core.errors import UserError, explained


@contextlib.contextmanager
def preserve_cuda_visible_devices() -> Iterator[None]:
    """Undo what a configuration does to CUDA_VISIBLE_DEVICES.

    RecBole sets it to ``gpu_id``: whatever is started afterwards would see that GPU only.
    """
    kept = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        yield
    finally:
        if kept is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = kept


def usable_device(name: str, key: str) -> torch.device:
    """The device of a name, if this machine has it; ``key``: the setting that names it."""
    sentence = f"{key} {name!r} cannot be used ({{reason}}); choose auto or cpu."
    with explained(sentence, RuntimeError, AssertionError, NotImplementedError, key=key):
        if name == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=name)
        return torch.device(name)


def refuse_too_large(rows: int, width: int, dtype: torch.dtype, device: torch.device | str) -> None:
    """Refuse a table ``(rows, width)`` that the memory of a GPU cannot hold."""
    import torch

    if torch.device(device).type != "cuda":
        return
    free, size = torch.cuda.mem_get_info(device)[0], rows * width * dtype.itemsize
    if size > free:
        raise UserError(
            f"The table takes {size / 2**30:,.1f} GiB ({rows:,} rows, {width:,} wide, "
            f"{str(dtype).removeprefix('torch.')}), but {device} has {free / 2**30:,.1f} GiB free; "
            "set llm_pca_dim, llm_table_dtype: bfloat16, or use_gpu: False.",
            key="llm_table_dtype",
        )
