"""Imports what the steps need, once for all of them: each step's process is a copy of this one.

A module that cannot be imported fails again, and is told, in the step that needs it.
"""

import contextlib
import importlib

for _name in ("peak", "training", "ranking", "encoders", "llmsrec"):
    with contextlib.suppress(Exception):
        importlib.import_module(f"benchmarks.gpu.{_name}")
