"""What fine-tuning did to the items: their map and their similarities, before and after."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import atomic_file, require_writable
from recbole_llmemb.core.reports import (
    bare,
    dots,
    legend,
    need_matplotlib,
    new_figure,
    principal_plane,
    save,
    svg,
)
from recbole_llmemb.encode.adapters import find_adapter
from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.shards import item_prompts
from recbole_llmemb.records.items import CATEGORY_FIELDS, first_category

_KINDS = (".png", ".pdf", ".svg")


def check_figure(file: str) -> None:
    """Refuse a figure that could not be drawn, before anything is trained for it."""
    if Path(file).suffix not in _KINDS:
        raise UserError(f"--figure is {file!r}; its name must end in {', '.join(_KINDS)}.")
    require_writable(file)
    if Path(file).is_file() and b"atplotlib" not in Path(file).read_bytes():  # it signs its files
        told = f"{file} is no figure that was drawn here, so it is not replaced"
        raise UserError(f"{told}; give --figure another file.", key="figure", where=file)
    need_matplotlib("figures", "--figure")


def draw(job, adapter: Path, file: str) -> None:
    """Draw the held-out items (with none, as many others) without and with an adapter.

    Above: the items in the plane of their two first principal components, each map
    with its own components and both to the same scale. Below: the cosine similarities of all
    pairs of items; the further left, the better items tell apart.
    """
    items = (job.views[1].items or job.views[0].items)[:1000]
    prompts = item_prompts(items, *job.text.prompt)
    options, vectors = job.text.encoder_options, []
    for each in (None, find_adapter(adapter)):
        encoder = Encoder(**options | {"adapter": each})
        vectors.append(encoder.encode(prompts).float())
        encoder.close()
    field = next((name for name in CATEGORY_FIELDS if any(name in item for item in items)), "")
    categories = [first_category(item.get(field, "")) for item in items]
    title = f"{len(items):,} items of {Path(job.text.item_file).stem}"
    before, after = vectors
    plot(before, after, file, title + (field and f" by {field}"), categories)


def plot(before, after, file: str, title: str, categories: list[str]) -> None:
    """See :func:`draw`; ``before`` and ``after`` are (n, D), ``categories`` color the items."""
    figure = new_figure(5, 6)
    axes = figure.subplot_mosaic([["before", "after"], ["cosines", "cosines"]])
    edge = 0.0
    for name, vectors in (("before", before), ("after", after)):
        flat, share = principal_plane(vectors)
        edge = max(edge, 1.05 * flat.abs().max().item())
        dots(axes[name], flat.numpy(), categories)
        bare(axes[name], flat, name)
        axes[name].set_xlabel(f"two components,\n{share:.0%} of the variance", fontsize=9)
        unit = F.normalize(vectors, dim=1)
        rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
        cosines = (unit @ unit.t())[rows, columns]
        label = f"{name}: mean {cosines.mean():.2f}"
        axes["cosines"].hist(cosines.numpy(), bins=60, density=True, alpha=0.5, label=label)
    for name in ("before", "after"):
        axes[name].set(xlim=(-edge, edge), ylim=(-edge, edge))
    axes["cosines"].set_xlabel("cosine similarity of two items")
    axes["cosines"].set_yticks([])
    axes["cosines"].legend(frameon=False, fontsize=9)
    if any(categories):
        legend(figure, axes["before"], title=title, markerscale=2)
    else:
        figure.suptitle(title, fontsize=10)
    with atomic_file(file) as fresh:
        if Path(file).suffix == ".svg":
            fresh.write_bytes(svg(figure))
        else:
            save(figure, fresh, dpi=120, format=Path(file).suffix[1:])
