"""Reports as one page: whole, and nothing in it is taken for markup."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys

import pytest
from jinja2 import UndefinedError

from recbole_llmemb.core.reports import legend, new_figure, plain_log, render, save, svg


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


def test_what_is_drawn_is_no_formula(recwarn):
    """Labels of ticks neither, which are made anew when they are drawn."""
    pytest.importorskip("matplotlib")
    odd = "cost $5_^ to $9 \u4e2d"
    figure = new_figure(5, 3)
    axes = figure.subplots()
    axes.barh([odd], [1000], label=odd)
    axes.set_xlim(1, 2000)
    axes.set_xscale("log")
    plain_log(axes.xaxis, 1, 2000)
    legend(figure, axes)
    text = svg(figure).decode()
    assert text.count(odd) >= 2 and ">1,000</text>" in text and "mathdefault" not in text
    save(figure, io.BytesIO(), format="png")
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_figures_need_no_screen():
    pytest.importorskip("matplotlib")
    code = "from recbole_llmemb.core.reports import need_matplotlib, new_figure, svg\n"
    code += "need_matplotlib('figures', '--out'); svg(new_figure(1, 1))"
    environment = os.environ | {"MPLBACKEND": "bogus"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
