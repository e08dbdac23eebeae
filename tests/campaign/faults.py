"""Each file that a command writes is damaged, or the disk is full; then the command is given again.

What is damaged lies there after the command, or after it was killed in the midst. Read are damaged
files by the command that wrote them, and by those that need it.
"""

from __future__ import annotations

import errno
import os
import random
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .counts import Counts, end_of, within
from .kills import killer
from .world import COMMANDS, World, difference, figures, import_everything, is_passing, on_change

# Most of what a command writes is read, or written, again; the others are never looked at.
_LOGS = {"log", "log_tensorboard"}


def run(minutes: float, seed: int, folder: Path) -> Counts:
    """Damage files for most of the time, and fill the disk for the rest."""
    import_everything()
    world, counts, draw = World(folder), Counts(), random.Random(seed)
    cases: dict[str, list[Case]] = {}
    fresh = draw.sample(list(COMMANDS), len(COMMANDS))
    for number in within(minutes):
        if number % 6 == 5:
            _full(world, counts, draw.choice(list(COMMANDS)), draw)
            continue
        # Each command, then as many of each as are left, then those at moments in the midst.
        weights = [len(left) or 1e-6 for left in cases.values()]
        name = fresh.pop() if fresh else draw.choices(list(cases), weights)[0]
        if name not in cases:
            cases[name] = draw.sample(found := _cases(world, name, 0), len(found))
        midst = draw.randint(1, world.whole(name)[1].events)
        left = cases[name] or _cases(world, name, midst)
        if left:
            _damaged(world, counts, left.pop(draw.randrange(len(left))), draw)
    untried = sum(map(len, cases.values())) + len(fresh)
    print(f"faults: {untried} damaged files of ended commands are left to try", flush=True)
    return counts


# -- damaged files ---------------------------------------------------------------------------


def halved(file: Path, draw: random.Random) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flipped(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def emptied(file: Path, draw: random.Random) -> None:
    os.truncate(file, 0)


def made_a_folder(file: Path, draw: random.Random) -> None:
    file.unlink()
    file.mkdir()


WAYS = halved, flipped, emptied, made_a_folder


@dataclass(frozen=True)
class Case:
    """A file that is damaged, and what then reads it."""

    name: str  # Of the command that wrote it
    change: int  # Before which the command was killed; 0: it ended
    file: str
    way: Callable[[Path, random.Random], None]
    reader: str

    def __str__(self) -> str:
        when = f"killed before change {self.change}" if self.change else "ended"
        return f"{self.file} of {self.name} ({when}) {self.way.__name__}, then {self.reader}"


def _cases(world: World, name: str, change: int) -> list[Case]:
    """For each file that a command leaves when it ends, or is killed before a change."""
    world.before(name)
    before = _files(world.here)
    _bring(world, name, change)
    files = sorted(file for file, size in _files(world.here).items() if before.get(file) != size)
    readers = [] if change else [each for each, (needs, _) in COMMANDS.items() if name in needs]
    return [
        Case(name, change, file, way, reader)
        for file in files
        for way in WAYS
        for reader in (name, *readers)
    ]


def _bring(world: World, name: str, change: int) -> None:
    if change:
        world.before(name)
        world.run(name, lambda: on_change(killer(change)))
    else:
        world.after(name)


def _files(folder: Path) -> dict[str, tuple]:
    found = {}
    for file in folder.rglob("*"):
        path = file.relative_to(folder)
        if file.is_file() and path.parts[0] not in _LOGS and file.suffix != ".lock":
            found[path.as_posix()] = file.stat().st_size, file.read_bytes()
    return found


def _damaged(world: World, counts: Counts, case: Case, draw: random.Random) -> None:
    wanted, same, file = world.whole(case.reader)[0], case.reader == case.name, case.file
    if same:
        _bring(world, case.name, case.change)
    else:
        world.before(case.reader)
    path = world.here / file
    if not path.is_file():  # a name that was drawn at random
        return
    case.way(path, draw)
    ended = world.run(case.reader)
    end = end_of(ended.status, ended.told)
    if end == "whole":
        found = figures(world.here)
        if case.way is made_a_folder:  # where a result file is one, its file is in it
            found = {name: found[name] for name in found if not name.startswith(f"{file}/")}
        if not same or case.way is made_a_folder:  # which need not mend it
            found, wanted = {**found, file: ""}, {**wanted, file: ""}
        differs = difference(wanted, found)
        counts.note("believed" if differs else "whole", f"{case}: {differs}")
    elif end == "refused" and same and is_intermediate(file) and case.way is not made_a_folder:
        counts.note("lost", f"{case}: {ended.last}")
    else:
        counts.note(end, f"{case}: {ended.last}")


def is_intermediate(file: str) -> bool:
    """Whether nobody asked for a file: work begins again without it."""
    return file.startswith("cache/") or is_passing(Path(file)) and not file.startswith("tune/")


# -- full disks ------------------------------------------------------------------------------


def _full(world: World, counts: Counts, name: str, draw: random.Random) -> None:
    """The disk is full from some change on, or for files above some size; then it is not."""
    wanted, whole = world.whole(name)
    world.before(name)
    if draw.random() < 0.5:
        change = draw.randint(1, whole.events)
        case = f"{name}, disk full from change {change} of {whole.events}"
        ended = world.run(name, lambda: on_change(_no_space_from(change)))
    else:
        size = int(10 ** draw.uniform(0, 5.5))
        case = f"{name}, no file above {size} bytes"
        ended = world.run(name, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    end = end_of(ended.status, ended.told)
    if end not in ("whole", "refused"):
        counts.note(end, f"{case}: {ended.last}")
        return
    again = world.run(name)
    if again.status != 0:
        counts.note("lost", f"{case}, then room: {again.last}")
        return
    differs = difference(wanted, figures(world.here))
    counts.note("believed" if differs else end, f"{case}, then room: {differs}")


def _no_space_from(change: int):
    def call(number, event):
        if number >= change and event not in ("os.remove", "os.rmdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return call
