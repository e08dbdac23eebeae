"""What all figures share: an empty one, colors, saving, and the plane of a cloud of points."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

import torch

from recbole_llmemb.core.optional import optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colors, which color-blind readers tell apart as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"  # one more than colors, so that no pair of the two comes back soon
LINES = ("-", "--", "-.", ":")


def check_matplotlib(option: str) -> None:
    """Refuse to draw without matplotlib, before any work is done for a figure."""
    optional("matplotlib", "figures", option)


def new_figure(
    width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> Figure:
    """A figure that is drawn without a screen, whatever pyplot may be set to."""
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


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; equal figures give equal bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return file.getvalue()


def principal_plane(vectors: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Points on the plane of their two first principal components.

    Shapes: ``vectors`` (n, D).
    Returns the points ``(n, 2)``, and their share of the variance.
    """
    centred = vectors - vectors.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    share = (singular[:2].square().sum() / singular.square().sum()).item()
    return centred @ directions[:2].t(), share


def bare(axes: Any, points: torch.Tensor, name: str) -> None:
    """Axes for a map: a title, equal scales, no ticks."""
    low, high = points.amin(0), points.amax(0)
    (x, y), edge = ((low + high) / 2).tolist(), 0.53 * (high - low).max().item() or 1.0
    axes.set_title(name, fontsize=9)
    axes.set(xlim=(x - edge, x + edge), ylim=(y - edge, y + edge), xticks=[], yticks=[])
    axes.set_aspect("equal")
