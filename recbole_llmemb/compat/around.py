"""Changing a method of RecBole's, and keeping what it did at hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def around(owner: Any, name: str) -> Callable[[Function], Function]:
    """Let ``function(inner, …)`` be called instead of ``inner``, which ``owner`` has under a name.

    ``owner``: a class or module.
    """

    def put(function: Function) -> Function:
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def changed(*arguments: Any, **options: Any) -> Any:
            return function(inner, *arguments, **options)

        setattr(owner, name, changed)
        return function

    return put
