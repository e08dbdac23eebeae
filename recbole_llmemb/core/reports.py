"""Reports: text and pages made from templates, figures, and the folder of ``--out``."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import atomic_file, content_of, require_writable
from recbole_llmemb.core.imports import optional

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

#: Okabe and Ito's colors, which color-blind readers tell apart as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"  # one more than colors, so that no pair of the two comes back soon
LINES = ("-", "--", "-.", ":")
#: How the items of a map look: as pixels, or thousands of them would make a file of megabytes.
DOTS: dict[str, Any] = {"s": 7, "alpha": 0.7, "linewidths": 0, "rasterized": True}
# The list of files that a report begins with: a comment of a page, or the first key of JSON.
_LIST = re.compile(r'(?:<!doctype html>\n<!-- |\{\s*")files"?: (\[.*?\])', re.DOTALL)
_STYLE = '<style type="text/css">'
_THEME = (
    ":root { color: #1d2330; fill: currentColor }"
    "@media (prefers-color-scheme: dark) { :root { color: #d9dde5 } }"
)
_IN_LATEX: dict[str, Any] = {
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "block_start_string": "<%",
    "block_end_string": "%>",
}


def render(package: str, template: str, **values: Any) -> str:
    """Text from a template in a package's folder ``templates``.

    What is filled into HTML is escaped. ``base.html.j2`` of this package, which pages extend, has
    the frame and the style, ``figure.html.j2`` a macro for figures. Templates of LaTeX, which is
    full of braces, have ``<< >>`` and ``<% %>`` in their place.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(__package__)]),
        autoescape=select_autoescape(["html.j2"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **(_IN_LATEX if template.endswith(".tex.j2") else {}),
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(template).render(**values)


def no_html(markdown: str) -> str:
    """Markdown in which what looks like HTML is text."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", markdown))


def in_markdown(text: str) -> str:
    """Text in Markdown, cells of tables too, as which it is read again."""
    return no_html(re.sub(r"[\\`*|\[\]~$]|(?<![^\W_])_", r"\\\g<0>", text))


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


class OutFolder:
    """A folder for tables and figures; made before any work, so that it can refuse.

    ``folder``: made if it is not there; files of an earlier run in it are replaced, no others.
    ``listing``: the file that lists those at its beginning: JSON under ``files``, or a page in a
    comment (:func:`comment`).
    ``names``: a pattern of the names that such files have.
    """

    def __init__(self, folder: str | os.PathLike[str], listing: str, names: str) -> None:
        self.folder, self.listing, self.names = Path(folder), listing, names
        self._check([listing])
        need_matplotlib("figures", "--out")
        require_writable(self.folder / listing)

    def write(self, contents: dict[str, bytes]) -> list[Path]:
        """Write each file, by its path inside the folder; returns where they are."""
        self._check(contents)
        stale = self._listed() - set(contents)
        for name in contents:  # all or none
            require_writable(self.folder / name)
        # The listing first: a run that is killed after it knows the others for its own.
        for name in sorted(contents, key=lambda name: name != self.listing):
            with atomic_file(self.folder / name) as fresh:
                fresh.write_bytes(contents[name])
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        return [self.folder / name for name in contents]

    def _check(self, names: Iterable[str]) -> None:
        listed = self._listed()
        for path in (self.folder / name for name in names if name not in listed):
            if os.path.lexists(path):
                told = f"{path} was there before and is not of an earlier run of this command"
                advice = "move it away, or give --out another folder"
                raise UserError(f"{told}; {advice}.", key="out", where=path)

    def _listed(self) -> set[str]:
        """The files of an earlier run, those below the folder whatever links there are."""
        try:
            text = content_of(self.folder / self.listing).decode("utf-8")
            found = _LIST.match(text)
            names = json.loads(found[1] if found else "[]")
        except (OSError, ValueError):
            return set()
        folder = Path(os.path.realpath(self.folder))  # which links in a circle are nothing to
        return {
            name
            for name in names
            if isinstance(name, str)
            and re.fullmatch(self.names, name)
            and folder in Path(os.path.realpath(folder / name)).parents
        }


def comment(names: Iterable[str]) -> str:
    """The list of files that a page carries."""
    return f"<!-- files: {json.dumps(sorted(names))} -->"


def need_matplotlib(extra: str, who: str) -> None:
    """Import matplotlib, as :func:`optional`; a screen that it does not know is none."""
    screen = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    matplotlib = optional("matplotlib", extra, who)
    if screen is not None:
        os.environ["MPLBACKEND"] = screen
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = screen


def new_figure(
    width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> Figure:
    """A figure that is drawn without a screen, whatever pyplot may be set to.

    Up to five inches wide it can be read on a phone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def style(number: int) -> dict[str, str]:
    """How the curve of the ``number``-th group looks, the same in every figure."""
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number // len(COLORS) % len(LINES)],
    }


def legend(figure: Figure, axes: Any, **look: Any) -> None:
    """The names of what ``axes`` shows, above everything, where they hide nothing."""
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    columns = max(1, min(3, 50 // (max(map(len, named), default=0) + 6)))
    look |= {"loc": "outside upper left", "ncols": columns, "frameon": False, "fontsize": 9}
    figure.legend(list(named.values()), list(named), **look)


def plain_log(axis: Any, low: float, high: float) -> None:
    """Ticks of a logarithmic axis that are numbers, not formulas."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1,) if high >= 1000 * low else (1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, file: Any, **how: Any) -> None:
    """``figure.savefig`` with all text as it is: dollars and carets begin no formula."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]
    # Labels of ticks are made when they are drawn.
    style: Any = {
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "recbole-llmemb",
    }
    with rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a reader's font has it
        figure.savefig(file, **how)


def svg(figure: Figure) -> bytes:
    """The figure as an SVG file on no ground, whose black is white in the dark.

    Text stays text. Equal figures give equal bytes.
    """
    file = io.StringIO()
    save(figure, file, format="svg", dpi=130, transparent=True, metadata={"Date": None})
    written = file.getvalue().replace(": #000000", ": currentColor")
    return written.replace(_STYLE, _STYLE + _THEME, 1).encode()


def principal_plane(vectors: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Points on the plane of their two first principal components.

    Shapes: ``vectors`` (n, D).
    Returns the points ``(n, 2)``, and their share of the variance.
    """
    import torch

    centered = vectors - vectors.mean(0)
    _, singular, directions = torch.linalg.svd(centered, full_matrices=False)
    share = (singular[:2].square().sum() / singular.square().sum()).item()
    return centered @ directions[:2].t(), share


def bare(axes: Any, points: torch.Tensor, name: str) -> None:
    """Axes for a map: a title, equal scales, no ticks."""
    low, high = points.amin(0), points.amax(0)
    (x, y), edge = ((low + high) / 2).tolist(), 0.53 * (high - low).max().item() or 1.0
    axes.set_title(name, fontsize=9)
    axes.set(xlim=(x - edge, x + edge), ylim=(y - edge, y + edge), xticks=[], yticks=[])
    axes.set_aspect("equal")


def dots(axes: Any, points: NDArray[Any], categories: list[str]) -> None:
    """Items of a map, a color for each of the most frequent categories."""
    colors = COLORS[:-1]  # black pixels could not be seen in the dark
    most = [name for name, _ in Counter(filter(None, categories)).most_common(len(colors))]
    of = np.array([most.index(name) if name in most else -1 for name in categories])
    for place in (*range(len(most)), -1):
        chosen = of == place
        if chosen.any():
            color, name = ("0.6", "other") if place < 0 else (colors[place], most[place])
            axes.scatter(*points[chosen].T, color=color, label=name, zorder=place + 2, **DOTS)
