"""Files that commands read, and what may be wrong with each: its bytes, its columns, its place."""

from __future__ import annotations

import gzip
import itertools
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .cases import Case

#: What becomes of a file's bytes, and whether it still says the same.
SAME = {
    "bom": lambda old, draw: b"\xef\xbb\xbf" + old,
    "crlf": lambda old, draw: old.replace(b"\n", b"\r\n"),
    "blank lines": lambda old, draw: old.replace(b"\n", b"\n\n"),
    "no last line feed": lambda old, draw: old.rstrip(b"\n"),
}


def _lines(change):
    """A change of one line below the first."""

    def changed(old, draw):
        lines = old.split(b"\n")
        place = draw.randrange(1, max(2, len(lines) - 1))
        lines[place : place + 1] = change(lines[place % len(lines)], draw)
        return b"\n".join(lines)

    return changed


def _cell(text):
    """Another value in one place."""

    def change(line, draw):
        mark = b"\t" if b"\t" in line else b","
        cells = line.split(mark)
        cells[draw.randrange(len(cells))] = text
        return [mark.join(cells)]

    return _lines(change)


CELLS = [b"", b" ", b"x", b"1e39", b"-1e39", b"1e400", b"nan", b"inf", b"-inf", b"-1", b"0x10",
         b"1_000", b"1,5", b"\x00", b"\xff", b"\xed\xa0\x80", "ü☃".encode(), b'"', b'"a', b"'",
         b"a" * 2_000_000, b"[1, 2]", b"9" * 400, b"True", b"2024-01-01", b"1e308", b"\r", b"<b>",
         b"=1+1", b"../x", b"{{7*7}}", b"NULL"]  # fmt: skip
CHANGES = {
    "empty": lambda old, draw: b"",
    "blank": lambda old, draw: b" \n",
    "first line alone": lambda old, draw: old.split(b"\n")[0],
    "first line alone and ended": lambda old, draw: old.split(b"\n")[0] + b"\n",
    "no first line": lambda old, draw: old.partition(b"\n")[2],
    "first line twice": lambda old, draw: old.split(b"\n")[0] + b"\n" + old,
    "utf-16": lambda old, draw: old.decode(errors="replace").encode("utf-16"),
    "utf-16 without a mark": lambda old, draw: old.decode(errors="replace").encode("utf-16-le"),
    "utf-32": lambda old, draw: old.decode(errors="replace").encode("utf-32"),
    "halved": lambda old, draw: old[: len(old) // 2],
    "cut": lambda old, draw: old[: draw.randrange(len(old) + 1)],
    "zeros": lambda old, draw: b"\x00" * len(old),
    "noise": lambda old, draw: draw.randbytes(len(old) or 9),
    "a flipped byte": lambda old, draw: _flipped(old, draw),
    "carriage returns": lambda old, draw: old.replace(b"\n", b"\r"),
    "commas": lambda old, draw: old.replace(b"\t", b",").replace(b" ", b","),
    "semicolons": lambda old, draw: old.replace(b"\t", b";").replace(b",", b";"),
    "blanks": lambda old, draw: old.replace(b"\t", b" ").replace(b",", b" "),
    "tabs": lambda old, draw: old.replace(b",", b"\t"),
    "commas below": lambda old, draw: b"\n".join(
        line if not i else line.replace(b"\t", b",") for i, line in enumerate(old.split(b"\n"))
    ),
    "a column less": lambda old, draw: b"\n".join(
        line[: max(line.rfind(b"\t"), line.rfind(b","), 0)] for line in old.split(b"\n")
    ),
    "a column twice": lambda old, draw: b"\n".join(
        line + b"\t" + re.split(b"[\t,]", line)[0] for line in old.split(b"\n")
    ),
    "columns without types": lambda old, draw: re.sub(rb":\w+", b"", old, count=99),
    "another type": lambda old, draw: old.replace(b":float", b":token", 1),
    "an unknown type": lambda old, draw: old.replace(b":float", b":number"),
    "tokens as numbers": lambda old, draw: old.replace(b":token", b":float", 1),
    "other names": lambda old, draw: old.replace(b"item_id", b"item").replace(b"user_id", b"u"),
    "a short line": _lines(lambda line, draw: [line[: len(line) // 2]]),
    "a long line": _lines(lambda line, draw: [line + b"\tx\tx,y"]),
    "a line of noise": _lines(lambda line, draw: [draw.randbytes(40)]),
    "one line": lambda old, draw: b"\n".join(old.split(b"\n")[:2]),
    "one user": lambda old, draw: re.sub(rb"(?m)^u\d+", b"u1", old),
    "one item": lambda old, draw: re.sub(rb"\bi\d+", b"i1", old),
    "gzip": lambda old, draw: gzip.compress(old),
    "zip": lambda old, draw: b"PK\x03\x04" + old,
    "deep": lambda old, draw: b"[" * 100_000,
    "deep objects": lambda old, draw: b'{"a":' * 100_000,
    "a list": lambda old, draw: b"[]",
    "null": lambda old, draw: b"null",
    "a number": lambda old, draw: b"3",
    "huge number": lambda old, draw: re.sub(rb"\d+", b"9" * 5000, old, count=1),
    "negative numbers": lambda old, draw: re.sub(rb"\b(\d)", rb"-\1", old),
    "other kinds": lambda old, draw: re.sub(rb"\d+(\.\d+)?", b'"x"', old, count=draw.randint(1, 9)),
    "lists for objects": lambda old, draw: old.replace(b"{", b"[", 1).replace(b":", b",", 1),
    "nulls": lambda old, draw: re.sub(
        rb'"[^"]*"(?=[,}\]])', b"null", old, count=draw.randint(1, 3)
    ),
    "NaN": lambda old, draw: re.sub(rb"(?<=: )[\d.]+", b"NaN", old, count=1),
    **{f"cell {cell[:12]!r}": _cell(cell) for cell in CELLS},
}
# What is not a file of bytes.
PLACES = ["none", "folder", "fifo", "loop", "device", "unreadable"]


def _flipped(old, draw):
    changed = bytearray(old or b"x")
    changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


@dataclass
class Reading:
    """A command that reads a file; ``{}`` in its words stands for it."""

    file: str
    argv: list[str]
    slow: bool = False

    def case(self, way: str, change: Callable[[Path], None]) -> Case:
        """The command over a copy in which the file was changed."""
        top = "/".join(Path(self.file).parts[: 2 if self.file.startswith("data/") else 1])
        target = Path("changed", *Path(top).parts[-1:])
        place = Path("changed", *Path(self.file).parts[1 if self.file.startswith("data/") else 0 :])

        def prepare() -> None:
            _clear(Path("changed"))
            if Path(top).is_dir():
                shutil.copytree(top, target)
            else:
                target.parent.mkdir()
                shutil.copy(top, target)
            change(place)

        number = next(_numbers)
        argv = [word.replace("{}", str(place)).replace("{n}", f"n{number}") for word in self.argv]
        named = [str(place), place.name, place.parent.name, str(place.parent), str(target)]
        named += [re.split("[-=]", word)[2] for word in self.argv if "={}" in word]
        named += [word.partition("=")[0].strip("-").replace("_", " ") for word in self.argv]
        if way.startswith("cell") or place.suffix == ".yaml":
            named = []  # what is wrong then is a value, or a key
        name = f"{self.file} {way}: {' '.join(argv)}"
        return Case(name, argv, named, key=self.file, prepare=prepare)


_numbers = itertools.count()


def _clear(folder: Path) -> None:
    for path in folder.rglob("*") if folder.exists() else ():
        if not path.is_symlink() and path.exists():
            path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


_GIVEN = ["run", "--config_files=shared.yaml", "--dataset=small"]
_RUN = [*_GIVEN, "--data_path=changed"]
_WHOLE = [*_GIVEN, "--data_path=data"]
_OURS = ["--model=LLMEmbSASRec", "--align_weight=0"]
_SHOP = ["convert", "--out=converted/{n}", "--min_user=1", "--min_item=1", "--show_progress=False"]
_CHECKPOINT = "--checkpoint=results/ours.json"
READINGS = [
    Reading("data/small/small.inter", [*_RUN, "--model=SASRec"]),
    Reading("data/small/small.inter", [*_RUN, *_OURS, "--llm_table=table"]),
    Reading("data/small/small.inter", [*_RUN, "--model=BPR"]),
    Reading("data/small/small.item", [*_RUN, "--model=SASRecF", "--selected_features=['brand']"]),
    Reading("data/small/small.item", [*_RUN, *_OURS, "--llm_encoder=encoder", "--llm_device=cpu"]),
    Reading("data/small/small.user",
            [*_RUN, "--model=SASRec", "--load_col={'inter':['user_id','item_id','timestamp'],"
                                      "'user':['user_id']}"]),
    Reading("data/parts/parts.train.inter",
            ["run", "--config_files=shared.yaml", "--data_path=changed", "--dataset=parts",
             *_OURS, "--llm_table=table",
             "--benchmark_filename=['train','valid','test']"]),
    Reading("shared.yaml", ["run", "--epochs=1", "--config_files={}", "--data_path=data",
                            "--dataset=small", *_OURS, "--llm_table=table"]),
    Reading("data/small/small.item", ["encode", "--dataset=small", "--data_path=changed",
                                      "--encoder=encoder", "--device=cpu", "--out=tables/{n}"]),
    Reading("items.jsonl", ["encode", "--items={}", "--encoder=encoder", "--device=cpu",
                            "--out=tables/{n}"]),
    Reading("items.csv", ["encode", "--items={}", "--encoder=encoder", "--device=cpu",
                          "--out=tables/{n}"]),
    *(Reading(f"vectors.{kind}", ["encode", "--import={}", "--tokens=tokens.txt",
                                  "--out=tables/{n}"]) for kind in ("npy", "npz")),
    Reading("vectors.parquet", ["encode", "--import={}", "--out=tables/{n}"]),
    Reading("vectors.itememb", ["encode", "--import={}", "--out=tables/{n}"]),
    Reading("vectors.pkl", ["encode", "--import={}", "--tokens=tokens.txt", "--out=tables/{n}",
                            "--i-trust-this-pickle"]),
    Reading("tokens.txt", ["encode", "--import=vectors.npy", "--tokens={}", "--out=tables/{n}"]),
    *(Reading(f"ratings.{kind}", [*_SHOP, "--interactions={}"])
      for kind in ("csv", "jsonl", "json", "parquet", "tsv", "csv.gz")),
    *(Reading(f"items.{kind}", [*_SHOP, "--interactions=ratings.csv", "--items={}"])
      for kind in ("csv", "jsonl", "parquet")),
    Reading("new.item", ["recommend", _CHECKPOINT, "--users=u1", "--new_items={}"]),
    Reading("items.jsonl", ["recommend", _CHECKPOINT, "--users=u1", "--new_items={}"]),
    Reading("people.jsonl", ["recommend", _CHECKPOINT, "--history_file={}"]),
    Reading("people.csv", ["recommend", _CHECKPOINT, "--history_file={}"]),
    Reading("tokens.txt", ["recommend", _CHECKPOINT, "--users=u1", "--candidates={}"]),
    Reading("results/ours.json", ["recommend", "--checkpoint={}", "--users=u1"]),
    Reading("results/ours.json", ["compare", "{}", "results/stock.json"]),
    Reading("results/ours.json", ["order-test", "--checkpoint={}", "--shuffles=0", "--quiet"]),
    Reading("model.pth", ["recommend", "--checkpoint={}", "--users=u1"]),
    Reading("model.pth", ["export", "--checkpoint={}", "--out=exported/{n}"]),
    Reading("model.pth", ["order-test", "--checkpoint={}", "--shuffles=1", "--quiet"]),
    Reading("stock.pth", ["recommend", "--checkpoint={}", "--users=u1"]),
    Reading("model.pth", [*_WHOLE, *_OURS[:1], "--llm_table=table",
                          "--align_teacher={}"]),
    *(Reading(f"table/{name}", [*_WHOLE, *_OURS, "--llm_table=changed/table"])
      for name in ("manifest.json", "items.txt", "embeddings.safetensors")),
    *(Reading(f"encoder/{name}", ["encode", "--dataset=small", "--data_path=data", "--device=cpu",
                                  "--encoder=changed/encoder", "--out=tables/{n}"])
      for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
                   "modules.json", "1_Pooling/config.json")),
    *(Reading(f"llm/{name}", [*_WHOLE, "--model=LLMSRec", "--llm_table=table",
                              "--llm_model=changed/llm"]) for name in ("config.json",)),
    *(Reading(f"adapter/{name}", ["encode", "--dataset=small", "--data_path=data", "--device=cpu",
                                  "--encoder=encoder", "--adapter=changed/adapter",
                                  "--out=tables/{n}"])
      for name in ("adapter_config.json", "adapter_model.safetensors", "scft.json")),
    Reading("space.yaml", ["tune", "--model=SASRec", "--dataset=small", "--data_path=data",
                           "--space={}", "--num_samples=1", "--config_files=shared.yaml",
                           "--storage=tune/{n}"], slow=True),
]  # fmt: skip


def changed_files(draw: random.Random) -> Iterator[Case]:
    """Each file that a command reads, changed in every way."""
    ways = [*SAME, *CHANGES, *PLACES]
    pairs = [(one, way) for one in READINGS for way in ways if Path(one.file).exists()]
    draw.shuffle(pairs)
    for reading, way in pairs:
        if not reading.slow or draw.random() < 0.1:
            yield reading.case(way, _change(way, draw))


def _change(way: str, draw: random.Random) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        old = place.read_bytes()
        if content := SAME.get(way) or CHANGES.get(way):
            place.write_bytes(content(old, draw))
            return
        place.unlink()
        if way == "folder":
            place.mkdir()
        elif way == "fifo":
            os.mkfifo(place)
        elif way in ("loop", "device"):
            place.symlink_to(place.name if way == "loop" else "/dev/zero")
        elif way == "unreadable":
            place.write_bytes(old)
            place.chmod(0)

    return change
