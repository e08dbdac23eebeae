"""How things of RecBole's are changed, with what they were at hand."""

from __future__ import annotations

import functools
import types
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


class StandIn(types.ModuleType):
    """A module as some other module finds it: with other things under some names."""

    def __init__(self, module: types.ModuleType, **changed: Any) -> None:
        super().__init__(module.__name__)
        vars(self).update(changed, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
