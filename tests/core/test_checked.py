"""Declared values, and what is refused."""

from typing import Literal

import pytest
from pydantic import Field, field_validator

from recbole_llmemb.core.checked import Checked
from recbole_llmemb.core.errors import UserError


class Job(Checked):
    out: str
    size: int = Field(4, ge=1)
    share: float | None = Field(None, gt=0, lt=1)
    kind: Literal["a", "b"] | None = None

    @field_validator("out")
    @classmethod
    def _no_blanks(cls, value):
        if " " in value:
            raise UserError("out has blanks; do without.", key="out")
        return value


def test_values_are_kept():
    job = Job(out="x", share=0.5)
    assert (job.out, job.size, job.share, job.kind) == ("x", 4, 0.5, None)


@pytest.mark.parametrize(
    ("values", "key", "tokens"),
    [
        ({}, "out", ["out"]),
        ({"out": 3}, "out", ["3", "text"]),
        ({"out": "a b"}, "out", ["blanks"]),
        ({"out": "x", "size": 0}, "size", ["size is 0", "at least 1"]),
        ({"out": "x", "size": "4"}, "size", ["'4'", "whole number"]),
        ({"out": "x", "size": True}, "size", ["True", "whole number"]),
        ({"out": "x", "size": None}, "size", ["empty", "whole number"]),
        ({"out": "x", "share": 1.0}, "share", ["1.0", "less than 1", "or empty"]),
        ({"out": "x", "share": float("nan")}, "share", ["nan"]),
        ({"out": "x", "kind": "c"}, "kind", ["'c'", "'a', 'b'", "or empty"]),
        ({"out": "x", "other": 1}, "other", ["other"]),
    ],
    ids=str,
)
def test_one_sentence_that_names_the_field(values, key, tokens):
    with pytest.raises(UserError) as caught:
        Job(**values)
    text = str(caught.value)
    assert caught.value.key == key and "\n" not in text and text.endswith(".")
    assert all(token in text for token in tokens), text
