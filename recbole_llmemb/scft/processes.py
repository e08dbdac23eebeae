"""The processes that train together: one, or as many as torchrun or accelerate started."""

from __future__ import annotations

import os

import torch

from recbole_llmemb.core.errors import UserError


class Processes:
    """This process among those that train together. Costs nothing while there is only one.

    ``device``: ``auto``, ``cpu`` or ``cuda``; each process takes the GPU of its local rank.

    ``first``: Whether this is the one that writes and reports.
    ``cpu``: Whether they train on the CPU.
    """

    def __init__(self, device=None):
        kind, _, number = str(device or "auto").partition(":")
        if kind not in ("auto", "cpu", "cuda") or number not in ("", "0"):
            raise UserError(
                f"llm_device is {str(device)!r}, which scft cannot train on; set auto, cpu or "
                "cuda, and CUDA_VISIBLE_DEVICES to the GPU if there are several."
            )
        if kind == "cuda" and not torch.cuda.is_available():
            raise UserError("llm_device is 'cuda', but PyTorch finds no GPU; set auto or cpu.")
        self.cpu = kind == "cpu" or not torch.cuda.is_available()
        started = "LOCAL_RANK" in os.environ  # what both launchers set
        self.count = int(os.environ.get("WORLD_SIZE", 1)) if started else 1
        self.first = not started or int(os.environ.get("RANK", 0)) == 0

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        if self.cpu:
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) if self.count > 1 else 0)

    def precision(self, wanted: str) -> str:
        """What ``auto`` stands for here: bfloat16 where the GPU computes in it, else float32."""
        if wanted == "auto":
            if self.cpu or not torch.cuda.is_bf16_supported(including_emulation=False):
                return "float32"
            return "bfloat16"
        if wanted == "float16" and self.cpu:
            raise UserError(
                "scft_precision is 'float16', in which a CPU does not train; set float32 or "
                "bfloat16."
            )
        return wanted

    def tell(self, thing):
        """What the first process has, on all of them."""
        if self.count == 1:
            return thing
        from accelerate.utils import broadcast_object_list

        self._state()
        return broadcast_object_list([thing])[0]

    def wait(self) -> None:
        """Until all of them are here."""
        if self.count > 1:
            self._state().wait_for_everyone()

    def _state(self):
        from accelerate import PartialState

        return PartialState(cpu=self.cpu)
