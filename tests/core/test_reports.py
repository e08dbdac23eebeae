"""Reports as one page: whole, and nothing in it is taken for markup."""

from __future__ import annotations

import base64

import pytest
from jinja2 import UndefinedError

from recbole_llmemb.core.reports import legend, new_figure, render, svg


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a template of its own."""
    folder = tmp_path / "my_reports"
    (folder / "templates").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "templates" / "mine.html.j2").write_text(
        '{% extends "base.html.j2" %}{% from "figure.html.j2" import figure %}'
        '{% block main %}<p>{{ text }}</p>{{ figure("A & B", png, "what it shows") }}{% endblock %}'
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "my_reports"


def test_a_page_is_whole_and_what_is_filled_in_is_escaped(package):
    page = render(package, "mine.html.j2", title="a < b", text="<b>", png=b"bytes")
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert page.count("a &lt; b") == 2 and "<p>&lt;b&gt;</p>" in page
    assert base64.b64encode(b"bytes").decode() in page
    assert 'alt="A &amp; B"' in page and "what it shows" in page


def test_what_a_template_lacks_is_an_error(package):
    with pytest.raises(UndefinedError, match="text"):
        render(package, "mine.html.j2", title="t", png=b"")


def test_figures_follow_the_color_scheme_and_are_the_same_each_time():
    pytest.importorskip("matplotlib")

    def drawn():
        figure = new_figure(5, 3)
        axes = figure.subplots()
        axes.plot([1, 2], [3, 4], color="black", label="one")
        axes.set_title("a title")
        legend(figure, axes)
        return svg(figure).decode()

    text = drawn()
    assert text == drawn()
    assert "prefers-color-scheme: dark" in text and ">a title</text>" in text
    assert "stroke: currentColor" in text and "#000000" not in text
    assert "#ffffff" not in text  # nor a ground of its own
