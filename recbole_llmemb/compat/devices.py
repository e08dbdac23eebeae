"""Where a run computes."""

from __future__ import annotations

import functools


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

    _init_device.obeys = True
    Config._init_device = _init_device
