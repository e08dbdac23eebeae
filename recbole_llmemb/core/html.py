"""Reports as one HTML page each, which need no other file and no network."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render_page(package: str, template: str, **values: Any) -> str:
    """A page from a template in a package's folder ``templates``.

    What is filled in is escaped. ``base.html.j2`` of this package, which templates extend, has the
    frame, the style, and macros for figures and tables.
    """
    loaders = [PackageLoader(package), PackageLoader(__package__)]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(template).render(**values)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
