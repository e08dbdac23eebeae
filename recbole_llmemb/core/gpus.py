"""The GPUs that a process may use."""

from __future__ import annotations

import contextlib
import os


@contextlib.contextmanager
def preserve_cuda_visible_devices():
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
