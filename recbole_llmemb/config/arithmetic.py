"""Values in text: what RecBole takes from ``eval``, without running anything.

RecBole evaluates the text of a setting, so that ``1/1000`` is a number and ``[64]*3`` a list.
Here the same comes from the text's syntax tree, by the few operations that a value needs.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

# Text that would make more than this stays text: 9**9**9 takes a computer with it.
_MOST_BITS = 4096
_MOST_ENTRIES = 10_000

_OPERATIONS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_ERRORS = (ValueError, SyntaxError, TypeError, ArithmeticError, MemoryError, RecursionError)


def value_of(text: str) -> Any:
    """The value that a text writes down: a number, text in quotes, list, tuple, dictionary, …

    ``text``: numbers may be combined by ``+ - * / // % **``, lists and tuples by ``+`` and ``*``.
    Returns ``text`` itself, if it is anything else, or more than a setting can mean.
    """
    try:
        return _evaluate(ast.parse(text.lstrip(" \t"), mode="eval").body)
    except _ERRORS:
        return text


def _evaluate(node: Any) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, type(None))):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return (list if isinstance(node, ast.List) else tuple)(map(_evaluate, node.elts))
    if isinstance(node, ast.Dict) and None not in node.keys:
        return dict(zip(map(_evaluate, node.keys), map(_evaluate, node.values)))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_evaluate(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _evaluate(node.left), _evaluate(node.right)
        _check_size(node.op, left, right)
        value = _OPERATIONS[type(node.op)](left, right)
        if isinstance(value, (int, float, list, tuple)):
            return value
    raise ValueError


def _check_size(kind: ast.operator, left: Any, right: Any) -> None:
    """Refuse, before it is computed, what would be too large, and text among the operands."""
    if isinstance(left, str) or isinstance(right, str):
        raise TypeError
    if isinstance(left, int) and isinstance(right, int):
        sizes = left.bit_length(), right.bit_length()
        bits = sizes[0] * abs(right) if isinstance(kind, ast.Pow) else sum(sizes)
        if bits > _MOST_BITS:
            raise OverflowError
    elif isinstance(kind, ast.Mult):
        for sequence, times in ((left, right), (right, left)):
            counted = isinstance(sequence, (list, tuple)) and isinstance(times, int)
            if counted and _entries(sequence) * times > _MOST_ENTRIES:
                raise OverflowError


def _entries(value: Any) -> int:
    """How many values there are in a nest of lists."""
    if isinstance(value, dict):
        return 1 + sum(map(_entries, value.values()))
    return 1 + sum(map(_entries, value)) if isinstance(value, (list, tuple)) else 1
