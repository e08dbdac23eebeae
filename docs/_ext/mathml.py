"""Formulas as MathML, which browsers draw by themselves: no script to be fetched."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

_logger = logging.getLogger(__name__)


def _append(translator, node, block):
    try:
        body = tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        _logger.warning("formula cannot be converted: %s", error, location=node)
        body = translator.encode(node.astext())
    translator.body.append(f'<div class="math">{body}</div>\n' if block else body)
    raise nodes.SkipNode


def visit_math(translator, node):
    _append(translator, node, block=False)


def visit_math_block(translator, node):
    _append(translator, node, block=True)


def setup(app):
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"version": "1", "parallel_read_safe": True}
