"""Commands on a small world of files, run by forks of this process, and what they leave behind.

Forks import nothing again, so that a command takes a second, and can be meddled with from inside.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from recbole_llmemb.core.files import file_digests
from tests.kept.commands import COMMANDS as KEPT
from tests.kept.make import Kept

_SASREC = "--checkpoint=results/sasrec.json"
_RATINGS = [f"u{i % 9},i{i * i % 11},{1 + i % 5},2024-05-{1 + i % 28:02}" for i in range(120)]
# Each command: what it needs of the others, and its words.
COMMANDS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    **{name: ((), KEPT[name]) for name in ("table", "gru4rec", "adapter", "stock")},
    "adapted_table": (("adapter",), KEPT["adapted_table"]),
    **{name: (("table",), KEPT[name]) for name in ("sasrec", "reduced", "aligned", "llmsrec")},
    "recommend": (
        ("table", "sasrec"),
        ["recommend", _SASREC, "--users=u1,u3", "--device=cpu", "--out=found.jsonl"],
    ),
    "export": (
        ("table", "sasrec"),
        ["export", _SASREC, "--device=cpu", "--out=exported", "--what=items,users,table"],
    ),
    "order": (
        ("table", "sasrec"),
        ["order-test", "--quiet", _SASREC, "--use_gpu=False", "--shuffles=2", "--out=order"],
    ),
    "compare": (
        ("table", "sasrec", "reduced"),
        ["compare", "results/sasrec.json", "results/reduced.json", "--map=none", "--out=report"],
    ),
    "convert": (
        (),
        ["convert", "--interactions=ratings.csv", "--min_user=2", "--min_item=2",
         "--show_progress=False", "--out=converted/shop"],
    ),
    # The one that goes on only if it is told, as Ray's own record of a search is a pickle.
    "tune": (("table",), [*KEPT["interrupted_search"], "--resume"]),
    "import": ((), ["encode", "--import=vectors.npy", "--tokens=tokens.txt", "--out=imported"]),
}  # fmt: skip
# Seconds, where they are more than 60: Ray waits a minute itself for what does not start.
LIMITS = {"tune": 240.0}


@dataclass
class Ended:
    """How a command ended."""

    status: int | None  # None: too slow; negative: the signal that ended it
    told: str
    seconds: float
    events: int  # Changes of files that it made

    @property
    def last(self) -> str:
        """The last line that it printed."""
        return next(reversed(self.told.strip().splitlines() or [""]))


class World:
    """A folder of what commands read, and of what each of them leaves, undisturbed.

    ``folder``: empty, and this one's own. Commands always run at ``here``, as paths are kept.
    """

    def __init__(self, folder: Path):
        self.here, self._kept = folder / "here", folder / "kept"
        self._whole: dict[str, tuple[dict[str, str], Ended]] = {}
        self.here.mkdir()
        self.fork(_prepare)
        self._keep("")

    def before(self, name: str) -> None:
        """Put everything as it is before a command."""
        self._bring(self._place(*COMMANDS[name][0]))

    def after(self, name: str) -> Ended:
        """Put everything as it is after a command, undisturbed."""
        whole = self.whole(name)[1]
        self._bring(self._place(*COMMANDS[name][0], name))
        return whole

    def whole(self, name: str) -> tuple[dict[str, str], Ended]:
        """What a command leaves, undisturbed, and how it ends."""
        if name not in self._whole:
            self.before(name)
            ended = self.run(name)
            assert ended.status == 0, f"{name}: {ended.told}"
            self._keep(",".join([*COMMANDS[name][0], name]))
            self._whole[name] = figures(self.here), ended
        return self._whole[name]

    def run(self, name: str, inside: Callable | None = None, kill_after=None, twice=False) -> Ended:
        """Run a command here; ``inside`` is called in its process before.

        ``twice``: by two processes at once; the status is the larger one.
        """
        from recbole_llmemb.cli.main import main

        def go():
            if inside:
                inside()
            other = os.fork() if twice else None
            status = main(list(COMMANDS[name][1]))
            if other == 0:
                sys.stdout.flush()
                os._exit(status)
            if other:
                status = max(status, os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
            return status

        return self.fork(go, kill_after, LIMITS.get(name, 60.0))

    def fork(self, function: Callable, kill_after=None, limit=120.0) -> Ended:
        """Call a function in a fork of this process, at ``here``."""
        began, told = time.monotonic(), {}
        # Pipes, as a limit on the size of files is none for them.
        (output, into), (counter, count) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            _be_child(self.here, into, count, function)

        def read(end: int) -> None:
            with open(end, "rb") as file:
                told[end] = file.read()

        readers = [threading.Thread(target=read, args=[end]) for end in (output, counter)]
        for end, reader in zip((into, count), readers):
            os.close(end)
            reader.start()
        status = _wait(child, began, kill_after, limit)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it has begun itself
        for reader in readers:
            reader.join()
        text = told[output].decode(errors="replace")
        return Ended(status, text, time.monotonic() - began, len(told[counter]))

    def _place(self, *done: str) -> Path:
        """The state after some commands."""
        place = self._kept / (",".join(done) or "nothing")
        if not place.exists() and done:
            self._bring(self._place(*done[:-1]))
            ended = self.run(done[-1])
            assert ended.status == 0, f"{done[-1]}: {ended.told}"
            self._keep(",".join(done))
        return place

    def _keep(self, name: str) -> None:
        place = self._kept / (name or "nothing")
        if not place.exists():
            shutil.copytree(self.here, place, symlinks=True)

    def _bring(self, place: Path) -> None:
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(place, self.here, symlinks=True)


def _prepare() -> int:
    import numpy as np

    Kept()._prepare()
    Path("ratings.csv").write_text("\n".join(["user,item,rating,date", *_RATINGS]) + "\n")
    np.save("vectors.npy", np.random.default_rng(0).normal(size=(9, 5)).astype("float32"))
    Path("tokens.txt").write_text("".join(f"t{i}\n" for i in range(9)))
    return 0


def import_everything() -> None:
    """What commands import, once for all forks."""
    import matplotlib.backends.backend_svg  # noqa: F401
    import peft  # noqa: F401

    import recbole_llmemb.apps.compare.comparison
    import recbole_llmemb.apps.convert.dataset
    import recbole_llmemb.apps.order_test
    import recbole_llmemb.apps.serve.export
    import recbole_llmemb.run.execute
    import recbole_llmemb.scft.training  # noqa: F401


# -- inside a fork ---------------------------------------------------------------------------


def _be_child(folder, output, counter, function) -> None:
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", 1) for number in (1, 2))
        os.environ["RECBOLE_LLMEMB_CACHE"] = "cache"
        on_change(lambda number, event: os.write(counter, b"."))
        status = function() or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def on_change(call: Callable[[int, str], object]) -> None:
    """From here on, ``call`` is told before each change of a file below the working folder.

    It gets its number from 1, and what kind of change it is. What it raises, the change raises.
    """
    seen, below = 0, os.path.join(os.getcwd(), "")

    def watch(event, arguments):
        nonlocal seen
        if event != "open" and event not in _CHANGES:
            return
        if event == "open" and not (arguments[2] or 0) & _WRITES:
            return
        path = arguments[0]
        if not isinstance(path, (str, os.PathLike)):
            return
        if os.path.abspath(path).startswith(below):
            seen += 1
            call(seen, event)

    sys.addaudithook(watch)


def _wait(child, began, kill_after, limit) -> int | None:
    late = False
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return None if late else os.waitstatus_to_exitcode(status)
        spent = time.monotonic() - began
        if kill_after is not None and spent > kill_after:
            os.kill(child, signal.SIGKILL)
            kill_after = None
        elif spent > limit:
            late = True
            os.kill(child, signal.SIGKILL)
        time.sleep(0.003)


# -- what is compared ------------------------------------------------------------------------

# The digests are of times, too, and of bits of a checkpoint that mean nothing.
_TIMES = {"seconds", "epoch_seconds", "sha256", "asked"}
_PASSED = {"log", "log_tensorboard", "log_tune"}


def figures(folder: Path) -> dict[str, str]:
    """A digest of each file that a command is to leave, by its path; times do not count."""
    return {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and not is_passing(path.relative_to(folder))
    }


def is_passing(path: Path) -> bool:
    """Whether a file is of the work, not of its result."""
    hidden = any(part.startswith(".") for part in path.parts)
    # Files of a search have times, names drawn at random, and are Ray's.
    search = path.parts[0] == "tune" and path.name not in ("best.json", "best.yaml")
    return hidden or search or path.parts[0] in _PASSED or path.name.endswith(".resume.pth")


def leftovers(folder: Path) -> list[str]:
    """Work that nobody will go on with; a temporary file of a killed process is none."""
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    kept = (".lock", ".tmp")
    return sorted(
        path.as_posix()
        for path in found
        if is_passing(path) and path.parts[0] not in {*_PASSED, "tune"} and path.suffix not in kept
        and not any(part.endswith(".tmp") for part in path.parts)
    )[:4]  # fmt: skip


def _digest(path: Path) -> str:
    text: str | bytes = path.read_bytes()
    with suppress(Exception):  # what is damaged is compared by its bytes
        if path.suffix == ".json":
            text = _plain(json.loads(path.read_bytes()))
        elif path.suffix == ".safetensors":  # its facts are written in any order
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                facts = dict(sorted((file.metadata() or {}).items()))
                text = _plain([facts, {name: file.get_tensor(name) for name in file.keys()}])  # noqa: SIM118
        elif path.suffix == ".done":  # a teacher's, whose digest is of times, too
            own = json.dumps(file_digests(path.parent, [f"{path.stem}.pth"])).encode()
            text = "of the checkpoint beside it" if text in (b"", own) else text
        elif path.suffix == ".pth":
            import torch

            text = _plain(torch.load(path, map_location="cpu", weights_only=True))
    data = text if isinstance(text, bytes) else text.encode()
    return hashlib.sha256(data).hexdigest()[:16]


def _plain(value) -> str:
    from tests.record.files import tensor_digest

    if isinstance(value, dict):
        kept = {key: _plain(entry) for key, entry in value.items() if key not in _TIMES}
        return repr(kept)
    if isinstance(value, (list, tuple)):
        return repr([_plain(entry) for entry in value])
    return tensor_digest(value) if hasattr(value, "detach") else repr(value)


def difference(wanted: dict[str, str], found: dict[str, str]) -> str:
    """In words, where what was found is not what was wanted; empty where it is."""
    lacking = [name for name in wanted if name not in found]
    other = [name for name in wanted if name in found and found[name] != wanted[name]]
    more = [name for name in found if name not in wanted]
    parts = {"lacks": lacking, "differs in": other, "has also": more}
    return "; ".join(f"{what} {', '.join(names[:4])}" for what, names in parts.items() if names)
