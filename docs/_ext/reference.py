"""What the pages take from files instead of repeating it.

A page names a file in a line of its own:

``<!-- keys: overall.yaml -->``
    The reference of a settings file in ``properties/``, made from its comments.
``<!-- backbones: served -->``, ``<!-- backbones: refused -->``
    RecBole's sequential models as the package declares them.
``<!-- measured: _generated/beauty.md -->``
    A Markdown file (a table that a benchmark printed), if it is there.
``<!-- measured-text: ../benchmarks/results/*.txt -->``
    Plain text files, each under its name, if there are any.
``<!-- notebook: tutorial.ipynb -->``
    A notebook, with what its cells printed and returned.

Where something measured is not there yet, the page says so. A listing of messages gets the class
``message``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from notebook import to_markdown

DOCS = Path(__file__).resolve().parents[1]
PROPERTIES = DOCS.parent / "properties"

_MARKER = re.compile(
    r"^<!-- (keys|backbones|measured|measured-text|notebook): (\S+) -->$", re.MULTILINE
)
_COMMENT = re.compile(r"\((?P<type>[^)]*)\)\s+(?P<text>\S.*)")
_KEY = re.compile(r"[A-Za-z_]\w*(?=:)")


@dataclass
class Key:
    """One key of a settings file."""

    name: str
    default: object
    type: str
    text: str


@dataclass
class Section:
    """Keys under one heading comment; the first section of a file may have none."""

    title: str
    keys: list[Key]


def sections_of(path: Path) -> list[Section]:
    """Read the keys of a settings file, with their comments.

    Raises
    ------
    ValueError
        For a key whose line does not end in ``# (type) meaning``.
    """
    text = path.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    ends: dict[int, int] = {}  # line → where its last token ends, and so its comment may begin
    for token in yaml.scan(text):
        mark = token.end_mark
        ends[mark.line] = max(ends.get(mark.line, 0), mark.column)
    sections = [Section("", [])]
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line.startswith("# ") and number and not lines[number - 1].strip():
            sections.append(Section(line[2:].strip(), []))
        name = _KEY.match(line)
        if name is None:
            continue
        found = _COMMENT.fullmatch(line[ends.get(number, 0) :].strip().removeprefix("#").strip())
        if found is None:
            raise ValueError(f"{path.name}: {name.group()} has no comment '# (type) meaning'")
        key = Key(name.group(), values[name.group()], found["type"], found["text"].strip())
        sections[-1].keys.append(key)
    return [section for section in sections if section.keys]


def render_keys(path: Path) -> str:
    """The Markdown reference of a settings file: what it says, and what the schema lets keys be."""
    from recbole_llmemb.core.checked import wanted
    from recbole_llmemb.run.schema import SECTIONS

    blocks, own = [], path.stem == "LLMSRec"
    fields = {
        name: wanted(field).replace(", in quotes if need be", "")
        for section in SECTIONS
        if section.shared or own
        for name, field in section.model_fields.items()
    }
    for section in sections_of(path):
        rows = [
            f"| `{key.name}` | {_default(key.default)} | *{_escaped(fields[key.name])}.* "
            f"{_escaped(key.text)} |"
            for key in section.keys
        ]
        heading = [f"### {section.title}", ""] if section.title else []
        blocks.append("\n".join([*heading, "| key | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(blocks)


def render_backbones(backbones: dict, refused: bool) -> str:
    """The Markdown table of RecBole's sequential models, served or refused."""
    if refused:
        rows = [
            f"| {n} | {spec.unsupported}. |" for n, spec in backbones.items() if spec.unsupported
        ]
        return "\n".join(["| model | why not |", "|---|---|", *rows])
    rows = []
    for name, spec in backbones.items():
        if spec.unsupported:
            continue
        cut = {True: "yes", "table": "table", False: "no"}[spec.padding_free]
        cells = [
            f"`LLMEmb{name}`",
            "sequence, prefix" if spec.one_pass else "prefix",
            ", ".join(spec.losses),
            "yes" if spec.products else "no",
            cut,
            "; ".join([*["features"] * spec.item_fields, *[spec.note] * bool(spec.note)]),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    titles = "| model | `train_mode` | `loss_type` | similarity | `prefix_trim` | note |"
    return "\n".join([titles, "|---|---|---|---|---|---|", *rows])


def expand(text: str, used: set | None = None) -> str:
    """Replace the markers in a page's text.

    Parameters
    ----------
    text : str
        The page.
    used : set, optional
        Is given the paths that the result depends on.
    """
    used = set() if used is None else used

    def replacement(found: re.Match) -> str:
        kind, name = found.groups()
        if kind == "keys":
            used.add(PROPERTIES / name)
            return render_keys(PROPERTIES / name)
        if kind == "notebook":
            used.add(DOCS / name)
            return to_markdown((DOCS / name).read_text(encoding="utf-8"))
        if kind == "backbones":
            from recbole_llmemb.models.llmemb import backbones

            used.add(Path(backbones.__file__))
            return render_backbones(backbones.BACKBONES, refused=name == "refused")
        files = sorted(DOCS.glob(name)) if "*" in name else [DOCS / name]
        files = [file for file in files if file.is_file()]
        used.update(files)
        if not files:
            return f":::{{note}}\nNot measured in this checkout: `{Path(name).name}`.\n:::"
        contents = [(file.name, file.read_text(encoding="utf-8").strip("\n")) for file in files]
        if kind == "measured":
            content = "\n\n".join(content for _, content in contents)
            return f"::::{{container}} measured\n\n{content}\n\n::::"
        if len(contents) == 1:
            return f"```none\n{contents[0][1]}\n```"
        return "\n\n".join(f"`{name}`\n\n```none\n{content}\n```" for name, content in contents)

    return _MARKER.sub(replacement, text)


def listed(lines: list[str]) -> list[str]:
    """A docstring whose parameters, a line ``name``: meaning each, are a list."""
    made, inside = [], False
    for line in lines:
        if re.match(r"(\*\*)?``[^`]+``(,? (to )?``[^`]+``)*: ", line):
            made += [*[""] * (not inside), f"* {line}"]
            inside = True
        elif inside and line.strip() and not line.startswith(("Returns", "Raises")):
            made.append(f"  {line}")
        else:
            made += [*[""] * inside, line]
            inside = False
    return made


def _default(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, str):
        return f"`{value!r}`" if value != value.strip() or not value else f"`{value}`"
    flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return f"`{flow.removesuffix(chr(10)).removesuffix('...').strip()}`"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*").replace("<", r"\<").replace("$", r"\$")


def setup(app):
    """Sphinx calls this."""
    from docutils import nodes  # Sphinx brings it; tests read this module without either

    def source_read(app, docname, source):
        used: set = set()
        source[0] = expand(source[0], used)
        for path in used:  # so that a page is made again when what it shows has changed
            app.env.note_dependency(str(path), docname=docname)

    def doctree_read(app, doctree):
        for block in doctree.findall(nodes.literal_block):
            if re.search("^error: ", block.astext(), re.MULTILINE):
                block["classes"].append("message")

    def docstring(app, what, name, obj, options, lines):
        lines[:] = listed(lines)

    app.connect("autodoc-process-docstring", docstring)
    app.connect("source-read", source_read)
    app.connect("doctree-read", doctree_read)
    return {"version": "1", "parallel_read_safe": True}
