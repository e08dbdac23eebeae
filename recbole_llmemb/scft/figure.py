"""What fine-tuning did to the items: their map and their similarities, before and after."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import atomic_file, require_writable
from recbole_llmemb.core.imports import optional
from recbole_llmemb.core.reports import bare, new_figure, principal_plane
from recbole_llmemb.encode.adapter import find_adapter
from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.texts import item_prompts

_KINDS = (".png", ".pdf", ".svg")


def check_figure(file: str) -> None:
    """Refuse a figure that could not be drawn, before anything is trained for it."""
    if Path(file).suffix not in _KINDS:
        raise UserError(f"--figure is {file!r}; its name must end in {', '.join(_KINDS)}.")
    require_writable(file)
    if Path(file).is_file() and b"atplotlib" not in Path(file).read_bytes():  # it signs its files
        raise UserError(
            f"{file} is not a figure that was drawn here, so it is not replaced; move it away, or "
            "give --figure another file."
        )
    optional("matplotlib", "figures", "--figure")


def draw(job, adapter: Path, file: str) -> None:
    """Draw the held-out items (with none, as many others) without and with an adapter.

    Left and middle: the items in the plane of their two first principal components, each map
    with its own components and both to the same scale. Right: the cosine similarities of all
    pairs of items; the further left, the better items tell apart.

    ``adapter``: the directory it made.
    ``file``: where to; its suffix is the format.
    """
    ready, text = job.prepare(), job.text.settings
    items = (ready.held.items or ready.train.items)[:1000]
    prompts = item_prompts(items, job.text.instruction, job.text.value_max_chars)
    vectors = []
    for each in (None, find_adapter(adapter)):
        encoder = Encoder(
            text.source,
            pooling=job.text.pooling,
            device=job.device,
            max_length=job.text.max_length,
            trust_remote_code=job.text.trust_remote_code,
            adapter=each,
        )
        vectors.append(encoder.encode(prompts).float())
        encoder.close()
    plot(vectors[0], vectors[1], file, f"{len(items):,} items of {Path(job.text.item_file).stem}")


def plot(before: torch.Tensor, after: torch.Tensor, file: str, title: str) -> None:
    """See :func:`draw`; ``before`` and ``after`` are (n, D)."""
    figure = new_figure(11, 3.8)
    left, middle, right = figure.subplots(1, 3)
    figure.suptitle(title)
    edge = 0.0
    for axes, name, vectors in ((left, "before", before), (middle, "after", after)):
        flat, share = principal_plane(vectors)
        edge = max(edge, 1.05 * flat.abs().max().item())
        axes.scatter(*flat.t().numpy(), s=6, alpha=0.5, linewidths=0)
        bare(axes, flat, f"{name}: first two components, {share:.0%} of the variance")
    for axes in (left, middle):
        axes.set(xlim=(-edge, edge), ylim=(-edge, edge))
    for name, vectors in (("before", before), ("after", after)):
        unit = F.normalize(vectors, dim=1)
        rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
        cosines = (unit @ unit.t())[rows, columns]
        label = f"{name}: mean {cosines.mean():.2f}"
        right.hist(cosines.numpy(), bins=60, density=True, alpha=0.5, label=label)
    right.set_title("cosine similarity of two items", fontsize=9)
    right.set_yticks([])
    right.legend(fontsize=8)
    with atomic_file(file) as fresh:
        figure.savefig(fresh, dpi=120, format=Path(file).suffix[1:])
