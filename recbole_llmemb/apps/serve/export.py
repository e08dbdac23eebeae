"""What other systems serve from: vectors, an index, a user encoder and the item table, as files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from recbole_llmemb.apps.serve import export_parts
from recbole_llmemb.core.artifacts import atomic_directory, files_in, require_free
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import inputs_of, refuse_inputs
from recbole_llmemb.table.format import library_versions

PARTS = ("items", "users", "index", "encoder", "table")
MANIFEST = "export.json"
_WHAT = "an export"
_SAMPLE = 256


def export(
    recommender,
    out,
    parts: Sequence[str] = ("items", "users"),
    form: str = "safetensors",
    index: str = "Flat",
    overwrite: bool = False,
    show_progress: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Write parts of a model into a directory, which appears when all of it is there.

    Every part is read back and compared with the model; what was found is reported and kept in
    ``export.json``.

    ``recommender``: new items that it was given are exported with the rest.
    ``out``: the directory.
    ``parts``: ``items``, ``users`` (vectors whose inner products are the scores), ``index`` (FAISS,
    over the items), ``encoder`` (history to user vector, by torch.export), ``table`` (the LLM table
    with a dataset card).
    ``form``: of items and users.
    ``index``: FAISS' name of an index: ``Flat``, ``HNSW32``, ``IVF256,Flat``.
    ``overwrite``: replace an export that is there.
    ``report``: told in one line each what was written and how well it agrees.
    """
    out, parts = Path(out), list(dict.fromkeys(parts))
    check(recommender, parts, form)
    refuse_inputs(out, [recommender.path, *inputs_of(recommender.config)])
    require_free(out, overwrite, export_files, _WHAT)
    catalogue = recommender.catalogue
    facts = {
        "model": recommender.config["model"],
        "dataset": recommender.config["dataset"],
        "checkpoint": Path(recommender.path).name,
        "items": len(catalogue) - 1,
        "new_items": len(catalogue.new_tokens),
        "ids": "an item's id is its line in items.txt, from 1; 0 is padding",
        "files": {},
        "checks": {},
        "versions": library_versions(),
    }
    with atomic_directory(out, overwrite, export_files, _WHAT) as folder:
        export_parts.write_tokens(folder / "items.txt", catalogue.tokens[1:])
        for part in parts:
            _WRITERS[part](recommender, folder, facts, form, index, show_progress)
        facts["written"] = files_in(folder)
        (folder / MANIFEST).write_text(
            json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    for name, what in facts["files"].items():
        report(f"{out / name}: {what}")
    for name, found in facts["checks"].items():
        report(f"check: {name}: {found:.3g}")
    return out


def check(recommender, parts, form="safetensors") -> None:
    """Refuse what cannot be exported; as :func:`export`."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        shown = repr(unknown[0]) if unknown else "nothing"
        raise UserError(f"There is no part {shown} to export; choose among {', '.join(PARTS)}.")
    if form not in export_parts.FORMATS:
        raise UserError(f"--format is {form!r}; it must be {' or '.join(export_parts.FORMATS)}.")
    if set(parts) - {"table"}:
        recommender.require("vectors", "there are no vectors to export")
    if form == "parquet" or "table" in parts:
        export_parts.pyarrow()
    if "index" in parts:
        export_parts.faiss()
    if "encoder" in parts:
        why = recommender.method.why_not("user_encoder", recommender.config)
        if why:
            raise UserError(f"{why}; leave encoder out of --what.")
    if "table" in parts and not recommender.config["llm_table_used"]:
        raise UserError(
            f"The items of this {recommender.config['model']} have learnt IDs and no table; leave "
            "table out of --what."
        )


def export_files(directory: Path) -> list[str]:
    """The files of an export, as its ``export.json`` lists them; none where there is none."""
    try:
        facts = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        return [MANIFEST, *facts["written"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def sample(recommender):
    """Some users of the dataset, with which parts are compared with the model."""
    people = recommender.people("all")
    draw = torch.randperm(len(people), generator=torch.Generator().manual_seed(0))
    return people.select(draw[:_SAMPLE].sort().values)


@torch.no_grad()
def reference_scores(recommender, people):
    """What the model itself gives these people for the dataset's items, ``(b, n_items - 1)``."""
    parts, known = [], recommender.catalogue.item_count
    for begin in range(0, len(people), recommender.batch_size):
        batch = recommender._batch(people.part(begin, begin + recommender.batch_size))
        parts.append(recommender.method.scores(batch).float()[:, 1:known].cpu())
    return torch.cat(parts)


def _items(recommender, folder, facts, form, index, show_progress):
    vectors = recommender.item_vectors[1:].cpu()
    name = f"items.{form}"
    export_parts.write(folder / name, recommender.catalogue.tokens[1:], vectors, "item")
    facts["width"] = vectors.shape[1]
    facts["files"][name] = f"{len(vectors):,} item vectors, {vectors.shape[1]} wide (items.txt)"
    people = sample(recommender)
    kept = export_parts.read(folder / name)
    known = recommender.catalogue.item_count - 1
    scores = recommender.user_vectors(people) @ kept[:known].t()
    gap = (scores - reference_scores(recommender, people)).abs().max()
    facts["checks"][f"scores from {name} against the model, largest difference"] = float(gap)


def _users(recommender, folder, facts, form, index, show_progress):
    people = recommender.people("all")
    vectors = recommender.user_vectors(people, show_progress)
    name = f"users.{form}"
    export_parts.write(folder / name, people.names, vectors, "user")
    export_parts.write_tokens(folder / "users.txt", people.names)
    facts["users"] = len(people)
    facts["files"][name] = f"{len(vectors):,} user vectors, {vectors.shape[1]} wide (users.txt)"
    some = torch.arange(len(people))[:: max(1, len(people) // _SAMPLE)]
    scores = export_parts.read(folder / name)[some] @ recommender.item_vectors[1:].cpu().t()
    own = reference_scores(recommender, people.select(some))
    gap = (scores[:, : own.shape[1]] - own).abs().max()
    facts["checks"][f"scores from {name} against the model, largest difference"] = float(gap)


def _index(recommender, folder, facts, form, index, show_progress):
    vectors = recommender.item_vectors[1:].cpu()
    people = sample(recommender)
    export_parts.write_index(folder / "items.faiss", vectors, index)
    found = export_parts.search(folder / "items.faiss", recommender.user_vectors(people))
    k = found.shape[1]
    parts = recommender.stream(people, k)
    exact = torch.cat([part.places for part in parts]) - 1
    share = (found.unsqueeze(2) == exact.unsqueeze(1)).any(1).double().mean()
    facts["files"]["items.faiss"] = f"FAISS {index}, inner product (items.txt)"
    facts["checks"][f"share of the best {k} that the index finds"] = float(share)


def _encoder(recommender, folder, facts, form, index, show_progress):
    from recbole_llmemb.apps.serve.user_encoder import NAME, write_encoder

    gap, inputs = write_encoder(folder / NAME, recommender, sample(recommender))
    facts["encoder_inputs"] = inputs
    facts["files"][NAME] = f"user encoder of torch.export: {', '.join(inputs)} to a user vector"
    facts["checks"][f"vectors of {NAME} against the model, largest difference"] = gap


def _table(recommender, folder, facts, form, index, show_progress):
    from recbole_llmemb.apps.serve.export_parts import write_table

    table = write_table(folder / "table", recommender.config)
    facts["files"]["table"] = f"LLM table, {len(table):,} × {table.width}, with a dataset card"


_WRITERS = {
    "items": _items,
    "users": _users,
    "index": _index,
    "encoder": _encoder,
    "table": _table,
}
