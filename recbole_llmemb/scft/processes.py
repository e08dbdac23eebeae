"""The processes that train together: one, or as many as torchrun or accelerate started."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.imports import optional

# The others wait while the first one waits for an adapter that somebody else is training.
_PATIENCE = timedelta(days=30)


class Processes:
    """This process among those that train together.

    ``device``: ``auto``, ``cpu`` or ``cuda``; each process takes the GPU of its local rank.

    ``count``: How many they are.
    ``is_main``: Whether this is the one that writes and reports.
    ``cpu``: Whether they train on the CPU.
    ``device``: Where this process trains.
    """

    def __init__(self, device: Any = None):
        kind, _, number = str(device or "auto").partition(":")
        if kind not in ("auto", "cpu", "cuda") or number not in ("", "0"):
            raise UserError(
                f"llm_device is {str(device)!r}, which scft cannot train on; set auto, cpu or "
                "cuda, and CUDA_VISIBLE_DEVICES to the GPU if there are several.",
                key="llm_device",
            )
        there = torch.cuda.is_available()
        if kind == "cuda" and not there:
            raise UserError(
                "llm_device is 'cuda', but PyTorch finds no GPU; set auto or cpu.", key="llm_device"
            )
        self.cpu = kind == "cpu" or not there
        self.count, self.is_main = 1, True
        self.device = torch.device("cpu") if self.cpu else torch.device("cuda", 0)
        if "LOCAL_RANK" in os.environ:  # both launchers set it
            accelerate = optional("accelerate", "finetune", "scft")
            self._state = accelerate.PartialState(cpu=self.cpu, timeout=_PATIENCE)
            self.count, self.is_main = self._state.num_processes, self._state.is_main_process
            self.device = self._state.device

    def precision(self, wanted: str) -> str:
        """What ``auto`` stands for here: bfloat16 where the GPU computes in it, else float32."""
        if wanted == "auto":
            if self.cpu or not torch.cuda.is_bf16_supported(including_emulation=False):
                return "float32"
            return "bfloat16"
        if wanted == "float16" and self.cpu:
            raise UserError(
                "scft_precision is 'float16', in which a CPU does not train; set float32 or "
                "bfloat16.",
                key="scft_precision",
            )
        return wanted

    def broadcast(self, thing: Any) -> Any:
        """What the first process has, on all of them."""
        if self.count == 1:
            return thing
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([thing])[0]

    def barrier(self) -> None:
        """Until all of them are here."""
        if self.count > 1:
            self._state.wait_for_everyone()
