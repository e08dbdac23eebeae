"""What a training left: a checkpoint, or the result file of the run that stands for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.run.result import RunResult


def checkpoint_of(path) -> Path:
    """A checkpoint: itself, or the one of a run whose result file (``.json``) is given."""
    if Path(path).suffix != ".json":
        return Path(path)
    found = RunResult.read(path).checkpoint
    if found is None:
        raise UserError(f"{path} names no checkpoint; give the .pth file itself.", where=path)
    return Path(found)


def read(path) -> dict[str, Any]:
    """The state in a checkpoint that a trainer saved; any other is refused."""
    result, path = path, checkpoint_of(path)
    state = checkpoint.load(path)
    if not state.get("config") or "state_dict" not in state:
        told = f"The checkpoint {path} has no configuration or no weights"
        raise UserError(f"{told}; give one that a trainer saved.", where=path)
    if Path(result).suffix == ".json":
        _check_run(RunResult.read(result), state, path)
    return state


def _check_run(result, state, path):
    """Refuse a checkpoint that is of another run than the result file that names it."""
    plain = state["config"]
    data, table = (plain.get(key) or {} for key in ("trained_on", "llm_table_used"))
    pairs = {
        **{key: (getattr(result, key), plain.get(key)) for key in ("model", "dataset", "seed")},
        "data": (result.data, data.get("inter")),
        "table": (result.table, table.get("fingerprint")),
        "settings": (result.run_key, state.get("run_key")),
    }
    for what, (named, found) in pairs.items():
        if None not in (named, found) and named != found:
            told = f"{path}, which {result.file} names, is of another run: its {what} is {found}"
            raise UserError(f"{told}, not {named}; put the run's own back.", where=path)
