"""One sentence out of what went wrong: which key or file it names, and what it keeps."""

import pytest

from recbole_llmemb.core.artifacts import build_or_load
from recbole_llmemb.core.errors import (
    TableError,
    UserError,
    explained,
    name_some,
    reason_of,
    refuse_twice,
)
from recbole_llmemb.core.imports import optional


def test_an_error_of_a_library_becomes_our_sentence():
    with (
        pytest.raises(TableError) as caught,
        explained(
            "F cannot be read ({reason}).", ValueError, kind=TableError, key="llm_table", where="F"
        ),
    ):
        raise ValueError("two\n  lines.")
    assert str(caught.value) == "F cannot be read (two lines)."
    assert (caught.value.key, caught.value.where) == ("llm_table", "F")
    assert isinstance(caught.value.__cause__, ValueError)


def test_what_is_a_sentence_already_and_what_is_not_asked_for_pass():
    ours = UserError("ours", key="k")
    with pytest.raises(UserError) as caught, explained("no ({reason}).", ValueError):
        raise ours
    assert caught.value is ours
    with pytest.raises(OSError), explained("no ({reason}).", KeyError):
        raise OSError(2, "gone")


@pytest.mark.parametrize(
    "error, text",
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError(" many \n words : "), "many words"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 999), "x" * 300),
    ],
)
def test_what_a_library_says_in_one_line(error, text):
    assert reason_of(error) == text


def test_tokens_that_occur_twice_are_named_once_each():
    refuse_twice(["a", "b"], "F", "name each once")
    with pytest.raises(TableError, match="2 item token") as caught:
        refuse_twice(["a", "b", "a", "a", "c", "c"], "F", "name each once", TableError)
    assert "'a', 'c'" in str(caught.value) and "'b'" not in str(caught.value)
    assert caught.value.where == "F"
    assert name_some("abcdef", 2) == "'a', 'b', … (6 in all)"


def test_a_library_that_is_not_there(monkeypatch, tmp_path):
    assert optional("json.decoder", "x", "It").__name__ == "json.decoder"
    with pytest.raises(UserError, match="no_such_library, which is not installed") as caught:
        optional("no_such_library.inner", "parquet", "--format=parquet")
    assert "--format=parquet" in str(caught.value)
    assert "recbole-llmemb[parquet]" in str(caught.value)
    (tmp_path / "broken_library.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="broken_library, which cannot be imported"):
        optional("broken_library", "x", "It")


def test_what_another_process_made_meanwhile_is_found(tmp_path):
    """It is looked for again once this process has its turn."""
    answers = iter([None, "made by another"])
    found = build_or_load(lambda: next(answers), lambda: pytest.fail("made twice"),
                          tmp_path / "out", "table")  # fmt: skip
    assert found == ("made by another", True)
    assert build_or_load(lambda: None, lambda: "made", tmp_path / "out", "table") == ("made", False)
