"""Options made from the fields of a model."""

from collections.abc import Sequence
from os.path import expanduser
from typing import Literal

import pytest
from pydantic import Field

from recbole_llmemb.cli.options import Options
from recbole_llmemb.core.checked import Checked
from recbole_llmemb.core.errors import UserError

HOME = expanduser("~")


class Job(Checked):
    out: str = Field(description="where to, 100 % of it")
    overwrite: bool = Field(False, description="replace it")
    progress: bool = Field(True, description="show a bar")
    fields: Sequence[str] | None = Field(
        None, description="columns", json_schema_extra={"group": "text"}
    )
    id_field: str = Field("item_id", json_schema_extra={"name": "item_id_field", "also": ["id"]})
    bits: Literal[4, 8] | None = None
    kinds: list[Literal["a", "b"]] = []
    size: int = Field(64, ge=1, description="at once")
    share: float = Field(0.5, gt=0)
    found: list[str] = Field([], json_schema_extra={"repeat": True})
    files: list[str] = Field([], json_schema_extra={"positional": True})
    secret: int = Field(3, json_schema_extra={"hidden": True})


class Other(Checked):
    depth: int = Field(1, json_schema_extra={"group": "text"})


@pytest.fixture
def parser():
    return Options("test", "what it does").add(Job).add(Other)


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        ([], {}),
        (["--overwrite", "--no-progress"], {"overwrite": True, "progress": False}),
        (["--overwrite=yes", "--progress=False"], {"overwrite": True, "progress": False}),
        (["--overwrite", "a.json", "b.json"], {"overwrite": True, "files": ["a.json", "b.json"]}),
        (['--fields=a, b,"c,d"'], {"fields": ["a", "b", "c,d"]}),
        (["--item_id_field=asin"], {"id_field": "asin"}),
        (["--id", "asin"], {"id_field": "asin"}),
        (["--bits=8", "--size=7", "--share=1e-3"], {"bits": 8, "size": 7, "share": 0.001}),
        (["--found=a,b", "--found=c"], {"found": ["a,b", "c"]}),
        (["--depth=2"], {"depth": 2}),
        (
            ["--depth=2", "--depth=2", "--overwrite", "--overwrite=True"],
            {"depth": 2, "overwrite": True},
        ),
        (
            ["--id=~/a", "--found=~/b", "~/c"],
            {"id_field": f"{HOME}/a", "found": [f"{HOME}/b"], "files": [f"{HOME}/c"]},
        ),
    ],
    ids=str,
)
def test_what_was_typed(parser, argv, values):
    assert parser.typed(["--out=x", *argv]) == {"out": "x", **values}


@pytest.mark.parametrize(
    ("argv", "key", "tokens"),
    [
        (["--size=0"], "size", ["--size is 0", "at least 1"]),
        (["--size=many"], "size", ["--size is 'many'", "whole number"]),
        (["--share=nan"], "share", ["--share", "nan"]),
        (["--kinds=a,c"], "kinds", ["--kinds is 'c'", "'a', 'b'"]),
        (["--bits=3"], "bits", ["--bits", "4, 8"]),
        (["--overwrite=perhaps"], "overwrite", ["--overwrite", "'perhaps'"]),
        (["--feilds=a"], "feilds", ["--feilds", "--fields"]),
        (["--siz=3"], "siz", ["--siz"]),  # no abbreviations
        (["--secret=1"], "secret", ["--secret"]),
        (["--depth=2", "--depth=3"], "depth", ["--depth", "'2'", "'3'"]),
        (["--id=a", "--item_id_field=b"], "id_field", ["'a'", "'b'"]),
        (["--overwrite", "--no-overwrite"], "overwrite", ["twice"]),
        (["--size"], None, ["--size", "--help"]),
    ],
    ids=str,
)
def test_refused_in_a_sentence_that_names_the_option(parser, argv, key, tokens):
    with pytest.raises(UserError) as caught:
        parser.typed(["--out=x", *argv])
    assert caught.value.key == key and "\n" not in str(caught.value)
    assert all(token in str(caught.value) for token in tokens), str(caught.value)


def test_what_is_required(parser):
    with pytest.raises(UserError, match="--out"):
        parser.typed([])


def test_help(parser):
    text = parser.format_help()
    assert "where to, 100 % of it" in text and "at once (default: 64)" in text
    assert "show a bar (default: True)" in text and "--overwrite, --no-overwrite" in text
    group = text.partition("\ntext:\n")[2]
    assert "--fields A,B,C" in group and "--depth" in group and "--out" not in group
    assert "--bits 4|8" in text and "secret" not in text
