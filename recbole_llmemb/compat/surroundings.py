"""What RecBole does to the process and the folder that it runs in."""

from __future__ import annotations

import functools
import os


def obey_use_gpu() -> None:
    """Let ``use_gpu: False`` keep a run on the CPU, as RecBole's documentation says.

    ``Config`` looks at ``gpu_id`` only, which is empty for the CPU.
    """
    from recbole.config import Config

    choose = Config._init_device
    if getattr(choose, "obeys", False):
        return

    @functools.wraps(choose)
    def _init_device(self):
        if self.final_config_dict.get("use_gpu") is False:
            self.final_config_dict["gpu_id"] = ""
        choose(self)

    vars(_init_device)["obeys"] = True
    Config._init_device = _init_device


def let_folders_exist() -> None:
    """Let RecBole make a folder that another process makes at the same moment.

    ``ensure_dir`` looks whether ``log/``, ``log_tensorboard/`` or the folder of the
    checkpoints is there and then makes it, so that one of two runs that start together
    in one place fails with ``FileExistsError``.
    """
    from recbole.utils import utils

    # Its modules hold the function itself, so it is given another inside.
    utils.ensure_dir.__code__ = _ensure_dir.__code__


def _ensure_dir(dir_path):
    os.makedirs(dir_path, exist_ok=True)


def switch_anomaly_detection_off() -> None:
    """Undo what ``recbole.model.sequential_recommender.sine`` does when it is imported.

    It calls ``torch.autograd.set_detect_anomaly(True)`` at module level, and the package
    imports all its models at once: every training step of every model in the process then
    records a stack trace per operation and checks every gradient for NaN. Somebody who
    had anomaly detection on before keeps it.
    """
    import torch

    before = torch.is_anomaly_enabled()
    import recbole.model.sequential_recommender  # noqa: F401

    torch.autograd.set_detect_anomaly(before)
