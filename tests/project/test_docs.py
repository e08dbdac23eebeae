"""What the pages show: commands that parse, keys that exist, messages that are given."""

from __future__ import annotations

import ast
import importlib
import json
import pickle
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from recbole_llmemb.apps.tune import SearchOptions
from recbole_llmemb.cli import (
    convert,
    encode,
    order_test,
    run,
    scft,
    tune,
)
from recbole_llmemb.cli.compare import CompareOptions
from recbole_llmemb.cli.export import ExportOptions
from recbole_llmemb.cli.main import COMMANDS
from recbole_llmemb.cli.options import Options
from recbole_llmemb.cli.recommend import RecommendOptions
from recbole_llmemb.config import recbole_config as config
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import seal, unseal
from recbole_llmemb.records.items import read_items
from recbole_llmemb.run.schema import Use, declared, refuse_values, use_of
from recbole_llmemb.run.teacher import teacher_config
from recbole_llmemb.table import EmbeddingTable, import_table, match, reduce_pca

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# All but the search spaces, whose keys are the model's.
SETTINGS = sorted(f for f in (ROOT / "properties").rglob("*.yaml") if f.parent.name != "tune")

sys.path.append(str(DOCS / "_ext"))
reference = importlib.import_module("reference")
sys.path.pop()


def blocks(page, language):
    """The fenced blocks of a language, ``(page name, text)`` each."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(page.name, block) for block in found]


def all_blocks(language):
    return [found for page in PAGES for found in blocks(page, language)]


def commands():
    """Every command line shown, as a list of arguments."""
    for page, block in all_blocks("bash"):
        for line in block.replace("\\\n", " ").split("\n"):
            words = shlex.split(line, comments=True)
            if words:
                yield pytest.param(words, id=f"{page}: {' '.join(words)[:60]}")


@pytest.fixture(scope="module")
def known_keys():
    """All configuration keys of ours and RecBole's."""
    found = {"model", "dataset", "config_files", "preset", "protocol", "seeds", "result_json"}
    for model in ("LLMEmbSASRec", "LLMEmbGRU4Rec", "LLMEmbBERT4Rec", "LLMSRec"):
        built = config.make_config(model, "ml-100k")
        found |= set(built.internal_config_dict)
        found |= {key for keys in built.parameters.values() for key in keys}
    return found


# -- commands -----------------------------------------------------------------------------


@pytest.mark.parametrize("words", list(commands()))
def test_command(words, known_keys):
    program, *arguments = words
    if program == "torchrun":  # options of its own, then the command
        where = arguments.index("run_recbole_llm.py")
        program, arguments = "recbole-llm", arguments[where + 1 :]
    if program == "recbole-llm":
        check_recbole_llm(arguments, known_keys)
    elif program == "make":
        check_make(arguments)
    elif program == "python" and arguments[0].endswith(".py"):
        source = (ROOT / arguments[0]).read_text(encoding="utf-8")
        for option in arguments[1:]:
            assert f'"{option.split("=")[0]}"' in source, f"{arguments[0]} has no {option}"
    elif program == "python" and arguments[0] == "-m":
        place = ROOT / arguments[1].replace(".", "/")
        file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        source = file.read_text(encoding="utf-8")
        if "study.options" in source:
            source += (ROOT / "benchmarks/study.py").read_text(encoding="utf-8")
        for option in arguments[2:]:
            assert f'"{option.split("=")[0]}"' in source, f"{arguments[1]} has no {option}"
    elif program == "python":
        assert arguments[0] == "-c"
        check_python(arguments[1])
    else:
        assert program == "pip" and arguments[0] == "install"
        extras = re.findall(r"\.\[(.+)\]", " ".join(arguments))
        offered = (ROOT / "setup.cfg").read_text(encoding="utf-8")
        assert all(f"\n{extra} =\n" in offered for extra in extras)


PARSERS = {
    "convert": convert.build_parser,
    "scft": scft.build_parser,
    "compare": lambda: Options("compare", "").add(CompareOptions),
    "export": lambda: Options("export", "").add(ExportOptions),
    "order-test": order_test.build_parser,
    "recommend": lambda: Options("recommend", "").add(RecommendOptions),
}


def check_recbole_llm(arguments, known_keys):
    if arguments[0] == "encode":
        typed = set(encode.build_parser().typed(arguments[1:]))
        assert ("source" in typed) != bool({"dataset", "items"} & typed)
        return
    if arguments[0] in PARSERS:
        PARSERS[arguments[0]]().typed(arguments[1:])
        return
    if arguments[0] == "tune":
        _, settings = tune.read_arguments(arguments[1:])
        assert set(settings) <= known_keys
        return
    assert arguments[0].startswith("-") or arguments.pop(0) in COMMANDS
    values = run.parse(arguments)
    assert set(values) <= known_keys
    for file in str(values.get("config_files", "")).split():
        made = file.startswith("dataset/")  # by convert; test_first_hour does both
        assert "/" not in file or made or (ROOT / file).is_file(), file
    refuse_values(values)


def check_make(arguments):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for argument in arguments:
        name, given, _ = argument.partition("=")
        assert re.search(rf"^{name}\s*\?=" if given else rf"^{name}:", makefile, re.MULTILINE), name


def test_targets_in_text_exist():
    for page in PAGES:
        for target in re.findall(r"`make ([\w-]+)", page.read_text(encoding="utf-8")):
            check_make([target])


# -- Python and settings ------------------------------------------------------------------


def check_python(source):
    """The code compiles, and what it imports is there."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(ast.unparse(node), {})


@pytest.mark.parametrize(("page", "source"), all_blocks("python"))
def test_python(page, source):
    check_python(source)


@pytest.mark.parametrize(("page", "source"), all_blocks("yaml"))
def test_settings_shown(page, source, known_keys):
    assert set(yaml.safe_load(source)) <= known_keys


def keys_in(text):
    """What looks like a setting in running text: `key: value` and `--key=value`."""
    return set(re.findall(r"`(?:--)?([a-z]\w+_\w+)(?:: ?|=)[^`]*`", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_in_text(page, known_keys):
    parsers = [encode.build_parser(), *(build() for build in PARSERS.values())]
    options = {name.lstrip("-") for parser in parsers for name in parser._option_string_actions}
    found = keys_in(page.read_text(encoding="utf-8"))
    options |= set(SearchOptions.model_fields)
    assert found <= known_keys | options | {"config_dict"}


def test_another_backbone_is_as_short_as_shown(monkeypatch):
    """The class in the page on backbones registers and is configured."""
    from recbole_llmemb import plugin

    monkeypatch.setattr(plugin.registry, "MODELS", dict(plugin.registry.MODELS))
    (shown,) = [text for _, text in blocks(DOCS / "backbones.md", "python")]
    space: dict = {"__name__": "shown"}
    exec(shown, space)
    built = config.make_config("LLMEmbMyModel", "ml-100k", overrides={"loss_type": "CE"})
    assert built["train_mode"] == "prefix" and built["num_layers"] == 1


def test_every_backbone_is_listed():
    """Each of RecBole's sequential models once, with what holds for it."""
    from recbole_llmemb.models.llmemb.backbones import BACKBONES

    page = reference.expand((DOCS / "backbones.md").read_text(encoding="utf-8"))
    for name, spec in BACKBONES.items():
        shown = name if spec.unsupported else f"`LLMEmb{name}`"
        (line,) = re.findall(rf"^\| {re.escape(shown)} \|.*$", page, re.MULTILINE)
        assert spec.unsupported in line and spec.note in line
        if not spec.unsupported:
            assert ("sequence" in line.split("|")[2]) == bool(spec.one_pass)
    assert "<!-- backbones" not in page


# -- the reference ------------------------------------------------------------------------


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.stem)
def test_every_key_has_a_comment(file):
    found = [key for section in reference.sections_of(file) for key in section.keys]
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert [key.name for key in found] == list(values)
    assert all(key.type and key.text for key in found)
    assert {key.name: key.default for key in found} == values


def test_every_key_is_in_the_reference():
    pages = [
        (DOCS / name).read_text("utf-8")
        for name in ("configuration.md", "variants.md", "llmsrec.md")
    ]
    page = reference.expand("\n\n".join(pages))
    assert "<!--" not in page
    for file in SETTINGS:
        assert reference.render_keys(file) in page, f"the reference lacks {file.name}"
        for key in yaml.safe_load(file.read_text(encoding="utf-8")):
            assert f"| `{key}` |" in page
    ours = {name for name, field in declared() if not use_of(field) & Use.ANY}
    assert ours - set(re.findall(r"\| `(\w+)` \|", page)) == {
        "save_dataloaders",
        "dataloaders_save_path",
    }


def test_key_without_comment_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("good: 1  # (int) One.\nbad: '# (str) no comment'\n")
    with pytest.raises(ValueError, match="bad has no comment"):
        reference.sections_of(tmp_path / "a.yaml")


def test_markers(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    assert "Not measured" in reference.expand("<!-- measured: a.md -->")
    (tmp_path / "a.md").write_text("| a |\n")
    (tmp_path / "b.txt").write_text("\n  b 1\n")
    (tmp_path / "c.txt").write_text("c 2\n")
    used: set = set()
    assert "measured\n\n| a |\n\n:" in reference.expand("x\n<!-- measured: a.md -->\ny", used)
    both = reference.expand("<!-- measured-text: *.txt -->", used)
    assert "`b.txt`\n\n```none\n  b 1\n```" in both and "c 2" in both
    assert used == {tmp_path / name for name in ("a.md", "b.txt", "c.txt")}


def test_a_notebook_is_a_page():
    page = reference.expand((DOCS / "notebook.md").read_text(encoding="utf-8"))
    assert page.startswith("# ") and "```python\nfrom recbole_llmemb import" in page
    assert "```none\nprepare: reading ml-100k" in page and "{download}`tutorial.ipynb`" in page
    tables = page.split("```{raw} html\n")[1:]
    assert len(tables) >= 4 and all("<td>" in table and "<style" not in table for table in tables)


def test_parameters_in_the_short_form_are_a_list():
    lines = ["What it does.", "", "``a``, ``b``: one", "and on.", "``**c``: two.", "Returns three."]
    assert reference.listed(lines) == [
        "What it does.", "", "", "* ``a``, ``b``: one", "  and on.", "* ``**c``: two.", "",
        "Returns three.",
    ]  # fmt: skip


# -- links and paths ----------------------------------------------------------------------


def anchors(page):
    """The anchors of a page: its headings as Sphinx and forges spell them, and its labels."""
    text = page.read_text(encoding="utf-8")
    found = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name}: {target}"


def test_every_page_is_in_the_contents():
    toc = (DOCS / "index.md").read_text(encoding="utf-8").partition("```{toctree}")[2].split()
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} <= set(toc)


def test_no_paths_of_a_machine():
    for page in [*PAGES, DOCS / "conf.py", *DOCS.glob("_*/*.*")]:
        if page.suffix in (".png", ".svg"):
            continue
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.~])/(work|root|tmp|home|Users|opt|mnt)/", text), page.name


# -- messages -----------------------------------------------------------------------------


@pytest.fixture
def table():
    tokens = [f"B{number}" for number in range(100, 142)]
    return EmbeddingTable(tokens, torch.randn(42, 384, generator=torch.manual_seed(0)), {})


def test_refusals_shown(table, tmp_path, monkeypatch):
    """Each message in the page on one's own data is what is really said, word for word."""
    monkeypatch.chdir(tmp_path)
    said = []

    def refused(work, *arguments, **options):
        with pytest.raises(UserError) as caught:
            work(*arguments, **options)
        said.append(f"error: {caught.value}")

    tokens, vectors = table.tokens, table.vectors
    wanted = ["[PAD]", *tokens]

    def other(tokens=tokens, vectors=vectors):
        return EmbeddingTable(tokens, vectors, {})

    refused(match, other(tokens[3:], vectors[3:]), wanted, where="mine")
    refused(match, other([str(row) for row in range(42)]), wanted, where="mine")
    refused(match, other([*tokens[:-1], "B100"]), wanted, where="mine")
    broken = vectors.clone()
    broken[5, 0] = torch.nan
    refused(match, other(vectors=broken), wanted, where="mine")
    refused(match, other(vectors=torch.ones(42, 384)), wanted, where="mine")

    folder = Path("tables/mine")
    manifest, items, stored = (
        folder / name for name in ("manifest.json", "items.txt", "embeddings.safetensors")
    )
    table.save(folder)
    refused(table.save, folder)
    manifest.write_text(seal({**unseal(manifest.read_text()), "width": 768}))
    refused(EmbeddingTable.load, folder)
    table.save(folder, overwrite=True)
    items.write_text("\n".join([tokens[1], tokens[0], *tokens[2:]]) + "\n")
    refused(EmbeddingTable.load, folder)
    table.save(folder, overwrite=True)
    stored.write_bytes(stored.read_bytes()[:-100])
    refused(EmbeddingTable.load, folder)

    np.save("vectors.npy", vectors.numpy())
    Path("vectors.pkl").write_bytes(pickle.dumps(vectors.numpy()))
    Path("short.txt").write_text("\n".join(tokens[:40]))
    refused(import_table, "vectors.npy")
    refused(import_table, "vectors.npy", tokens_path="short.txt")
    refused(import_table, "vectors.pkl")
    refused(reduce_pca, table, 512)

    page = (DOCS / "your-data.md").read_text(encoding="utf-8")
    shown = re.findall(r"^error: .*$", page, re.MULTILINE)
    assert sorted(shown) == sorted(said)


def test_unknown_key_shown(capsys):
    with pytest.raises(UserError) as caught:
        config.make_config("LLMEmbSASRec", "ml-100k", overrides={}, strict=["llm_poling"])
    assert f"error: {caught.value}\n" in (DOCS / "quickstart.md").read_text(encoding="utf-8")


def test_files_shown_are_readable(tmp_path):
    """The .item file and the texts shown are each other's."""
    text = (DOCS / "your-data.md").read_text(encoding="utf-8")
    item_file = re.search(r"^item_id:token.*?(?=^```)", text, re.MULTILINE | re.DOTALL).group()
    (tmp_path / "mine.item").write_text(item_file)
    items = read_items(tmp_path / "mine.item", fields=["title", "kind"])
    assert items.attributes[0] == {"title": "Rose Shampoo", "kind": "shampoo"}
    assert "attributes: title is Rose Shampoo; kind is shampoo" in text


def test_manifest_shown_has_the_keys_written(table, tmp_path):
    from recbole_llmemb.encode.job import EncodeJob, manifest_of

    (tmp_path / "mine.item").write_text("item_id:token\ttitle:token_seq\nB1\tRose\nB2\tMint\n")
    job = EncodeJob(item_file=tmp_path / "mine.item")
    table.manifest = manifest_of(job)
    table.save(tmp_path / "table")
    (_, shown), *_ = blocks(DOCS / "tables.md", "json")
    written = json.loads((tmp_path / "table" / "manifest.json").read_text())
    assert list(json.loads(shown)) == list(written)


def test_defaults_told_in_text():
    """Numbers that the pages give for defaults."""
    ours = config.defaults("LLMEmbSASRec", "none")
    assert (ours["align_weight"], ours["align_temperature"]) == (0.01, 2.0)
    assert (ours["epochs"], ours["stopping_step"]) == (200, 20)
    built = config.make_config("LLMEmbSASRec", "ml-100k")
    assert (built["MAX_ITEM_LIST_LENGTH"], built["seed"]) == (50, 2020)
    assert teacher_config(built, 128)["seed"] == 2020
    other = config.make_config("LLMEmbSASRec", "ml-100k", overrides={"seed": 7})
    assert teacher_config(other, 128)["seed"] == 2020
