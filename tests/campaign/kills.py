"""Commands are killed at random moments and given again; they must end as if undisturbed.

Half of the moments are just before a change of a file, so that each between two is met; the others
are moments in time. Each sixth command is given twice at once instead.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from .counts import Counts, end_of, within
from .world import (
    COMMANDS,
    World,
    difference,
    figures,
    import_everything,
    leftovers,
    on_change,
)  # fmt: skip


def run(minutes: float, seed: int, folder: Path) -> Counts:
    """Kill, and kill again, then let the command end."""
    import_everything()
    world, counts, draw = World(folder), Counts(), random.Random(seed)
    names = []
    for number in within(minutes):
        if not names:  # all of them, in another order each time
            names = draw.sample(list(COMMANDS), len(COMMANDS))
        _case(world, counts, names.pop(), random.Random(f"{seed} {number}"), number)
    return counts


def _case(world: World, counts: Counts, name: str, draw: random.Random, number: int) -> None:
    wanted, whole = world.whole(name)
    world.before(name)
    if number % 6 == 5:
        ended = world.run(name, twice=True)
        end, differs = end_of(ended.status, ended.told), difference(wanted, figures(world.here))
        if differs and end in ("whole", "refused"):
            end = "believed"
        counts.note(end, f"{number}, {name} twice at once: {differs or ended.last}")
        return
    moments = []
    for _ in range(draw.choice((1, 1, 1, 2))):
        if draw.random() < 0.5:
            change = draw.randint(1, whole.events)
            moments.append(f"before change {change} of {whole.events}")
            ended = world.run(name, lambda change=change: on_change(killer(change)))
        else:
            after = draw.random() * whole.seconds
            moments.append(f"after {after:.2f} of {whole.seconds:.2f} s")
            ended = world.run(name, kill_after=after)
        if ended.status not in (0, -signal.SIGKILL):
            break  # seen below, as it was not killed
    else:
        ended = world.run(name)
    end = end_of(ended.status, ended.told)
    case = f"{number}, {name} killed {' and '.join(moments)}"
    if end == "whole":
        differs = difference(wanted, figures(world.here))
        left = [] if differs else leftovers(world.here)
        end = "believed" if differs else "odd" if left else "whole"
        counts.note(end, f"{case}: {differs}{' '.join(left)}")
    else:  # what was there is of no use any more, unless it failed in other ways
        counts.note("lost" if end == "refused" else end, f"{case}: {ended.last}")


def killer(change: int):
    """For :func:`~world.on_change`: ends the process before a change."""

    def call(number, event):
        if number == change:
            os.kill(os.getpid(), signal.SIGKILL)

    return call
