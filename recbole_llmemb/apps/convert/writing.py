"""A RecBole dataset on disk, and the settings that go with it."""

from __future__ import annotations

from pathlib import Path

import yaml

_ROWS = 100_000
MARK = "# Made by recbole-llm convert"
_HAS_ITEMS = "# The .item file beside it was made with it."


def line_of(cells) -> str:
    """A line of an atomic file; the cells hold neither tabs nor line breaks."""
    return "\t".join(map(str, cells)) + "\n"


def converted_files(folder: Path) -> list[str]:
    """What :func:`convert` wrote into a folder, which alone it may replace."""
    settings = folder / f"{folder.name}.yaml"
    if not settings.is_file():
        return []
    first, *others = settings.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if not first.startswith(MARK):
        return []
    has_items = any(line == _HAS_ITEMS for line in others)
    return [settings.name, f"{folder.name}.inter"] + [f"{folder.name}.item"] * has_items


def write_interactions(path: Path, interactions) -> None:
    """Write ``.inter``: by user, then time; equal times as they were read."""
    names = ["user_id:token", "item_id:token"]
    names += [] if interactions.ratings is None else ["rating:float"]
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(line_of([*names, "timestamp:float"]))
        user_of, item_of = (
            interactions.user_tokens.__getitem__,
            interactions.item_tokens.__getitem__,
        )
        for begin in range(0, len(interactions), _ROWS):
            piece = slice(begin, begin + _ROWS)
            columns = [
                map(user_of, interactions.users[piece].tolist()),
                map(item_of, interactions.items[piece].tolist()),
            ]
            if interactions.ratings is not None:
                columns.append(f"{value:g}" for value in interactions.ratings[piece].tolist())
            columns.append(map(_number, interactions.times[piece].tolist()))
            file.writelines(map(line_of, zip(*columns)))


def write_items(path: Path, lines, item_tokens, kept) -> None:
    """Write ``.item`` from the gathered lines of the items that were kept, ``(n_items,)``."""
    with (
        open(lines.path, encoding="utf-8", newline="\n") as source,
        open(path, "w", encoding="utf-8", newline="") as file,
    ):
        kinds = ["float" if number else "token_seq" for number in lines.numeric]
        fields = [f"{name}:{kind}" for name, kind in zip(lines.fields, kinds)]
        file.write(line_of(["item_id:token", *fields]))
        for line in source:
            number, *cells = line.removesuffix("\n").split("\t")
            if kept[int(number)]:
                file.write(line_of([item_tokens[int(number)], *cells]))


def write_settings(path: Path, about: list[str], settings: dict[str, tuple]) -> None:
    """Write a property file, the last of the folder: each key, its value and what it means."""
    lines = [MARK + f" {about[0]}", *(f"# {line}" for line in about[1:])]
    lines += [_HAS_ITEMS] * path.with_suffix(".item").is_file()
    for key, (value, meaning) in settings.items():
        shown = yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n")[0]
        lines.append(f"{key}: {shown}  # {meaning}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _number(value):
    return int(value) if value == int(value) else value
