"""What other systems serve from: vectors, an index, a user encoder and the item table, as files."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from recbole_llmemb.apps.serve import hub
from recbole_llmemb.core import files
from recbole_llmemb.core.artifacts import atomic_directory, files_in, require_free
from recbole_llmemb.core.checkpoint import fingerprint
from recbole_llmemb.core.errors import UserError, explained, reason_of
from recbole_llmemb.core.imports import optional
from recbole_llmemb.data.dataset import files_hash
from recbole_llmemb.table.format import library_versions

PARTS = ("items", "users", "index", "encoder", "table")
FORMATS = ("safetensors", "parquet")
MANIFEST = "export.json"
_WHAT = "an export"
# What an export writes, beside MANIFEST: other names in one are not believed.
_NAMES = re.compile(r"(items|users)\.(txt|safetensors|parquet|faiss)|user_encoder\.pt2|table/[^/]+")
_BEST, _SAMPLE = 10, 256
_MOST = 4096  # of anything in FAISS' name of an index, but for clusters: it would take hours


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
    ``parts``: ``items``, ``users`` (vectors whose inner products are the scores), ``index`` (FAISS,
    over the items), ``encoder`` (history to user vector, by torch.export), ``table`` (the LLM table
    with a dataset card).
    ``index``: FAISS' name of an index: ``Flat``, ``HNSW32``, ``IVF256,Flat``.
    ``report``: told in one line each what was written and how well it agrees.
    """
    out = Path(out)
    for part in parts or [""]:
        check(recommender, part, form)
    files.refuse_inputs(out, [recommender.path, *files.inputs_of(recommender.config)])
    asked = _asked(recommender, parts, form, index)
    # The same again takes the place of what nobody has touched: a command that was killed at its
    # last moment ends well, too.
    there = _read(out)
    if there.get("asked") == asked and not files.damaged_file(out, there.get("digests")):
        overwrite = True
    with atomic_directory(out, overwrite, export_files, _WHAT) as folder:
        made = _Export(recommender, folder, form, index, show_progress)
        for part in dict.fromkeys(parts):
            getattr(made, part)()
        written = files_in(folder)
        facts = made.facts | {"written": written, "asked": asked}
        facts["digests"] = files.file_digests(folder, written)
        (folder / MANIFEST).write_text(files.seal(facts), encoding="utf-8")
    for name, what in facts["files"].items():
        report(f"{out / name}: {what}")
    for name, found in facts["checks"].items():
        report(f"check: {name}: {found:.3g}")
    return out


def check(recommender, part: str, form: str = "safetensors") -> None:
    """Refuse what cannot be exported; as :func:`export`."""
    if part not in PARTS:
        told = f"There is no part {part!r} to export; choose among {', '.join(PARTS)}."
        raise UserError(told, key="what")
    if form not in FORMATS:
        raise UserError(f"--format is {form!r}; it must be {' or '.join(FORMATS)}.", key="format")
    if part != "table":
        recommender.require("vectors", "there are no vectors to export")
    if form == "parquet" or part == "table":
        _parquet()
    why, config = "", recommender.config
    if part == "index":
        _faiss()
    elif part == "encoder":
        why = recommender.method.why_not("user_encoder", config)
    elif part == "table" and not config["llm_table_used"]:
        why = f"The items of this {config['model']} come from no table"
    if why:
        raise UserError(f"{why}; leave {part} out of --what.", key="what")


def _asked(recommender, parts, form: str, index: str) -> str:
    """What an export is of."""
    vectors = {}
    if set(parts) != {"table"}:
        vectors["items"] = recommender.item_vectors
    asked = [sorted(set(parts)), form, index, recommender.item_index.tokens, fingerprint(vectors)]
    data = files_hash(recommender.config, ("inter", "item", "user"))
    return files.asked_hash([*asked, data], [recommender.path])


def require_room(out) -> None:
    """Refuse, before any work, a directory that can be no place for an export."""
    require_free(Path(out), True, export_files, _WHAT)


def export_files(directory: Path) -> list[str]:
    """The files of an export, as its ``export.json`` lists them; none where there is none."""
    written = _read(directory).get("written")
    if not isinstance(written, list):
        return []
    return [MANIFEST, *(name for name in map(str, written) if _NAMES.fullmatch(name))]


def _read(directory: Path) -> dict:
    """What ``export.json`` holds, nothing where there is none that is whole."""
    try:
        facts = files.unseal(files.content_of(directory / MANIFEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


@torch.no_grad()
def reference_scores(recommender, people):
    """What the model itself gives these people for the dataset's items, ``(b, n_items - 1)``."""
    known, method = recommender.item_index.item_count, recommender.method
    parts = people.in_parts(recommender.batch_size, "scores")
    found = [method.scores(recommender.batch(part)).float()[:, 1:known].cpu() for part in parts]
    return torch.cat(found)


class _Export:
    """Writes the parts of a model, each by the method of its name, and says how they agree."""

    def __init__(self, recommender, folder: Path, form: str, index: str, show_progress: bool):
        self.recommender, self.folder = recommender, folder
        self.form, self.kind, self.show_progress = form, index, show_progress
        self.tokens = recommender.item_index.tokens[1:]
        self.facts = {
            "model": recommender.config["model"],
            "dataset": recommender.config["dataset"],
            "checkpoint": Path(recommender.path).name,
            "items": len(self.tokens),
            "new_items": len(recommender.item_index.new_tokens),
            "ids": "an item's id is its line in items.txt, from 1; 0 is padding",
            "files": {},
            "checks": {},
            "versions": library_versions(),
        }
        _write_tokens(folder / "items.txt", self.tokens)

    @cached_property
    def people(self):
        """Some users of the dataset, with which parts are compared with the model."""
        return self.recommender.people("all").sample(_SAMPLE)

    @cached_property
    def queries(self):
        """Their vectors."""
        return self.recommender.user_vectors(self.people)

    def items(self):
        vectors = self.recommender.item_vectors[1:].cpu()
        self.facts["width"] = vectors.shape[1]
        self._compare("item", self.queries, self._vectors("item", self.tokens, vectors))

    def users(self):
        everybody = self.recommender.people("all")
        vectors = self.recommender.user_vectors(everybody, self.show_progress)
        self.facts["users"] = len(everybody)
        _write_tokens(self.folder / "users.txt", everybody.names)
        kept = self._vectors("user", everybody.names, vectors)
        kept = kept[torch.searchsorted(everybody.users, self.people.users)]
        self._compare("user", kept, self.recommender.item_vectors[1:].cpu())

    def _vectors(self, what: str, tokens, vectors: torch.Tensor) -> torch.Tensor:
        """Write vectors ``(n, d)``, and what is read of them again."""
        vectors, path = vectors.float().contiguous(), self.folder / f"{what}s.{self.form}"
        told = f"{len(vectors):,} {what} vectors, {vectors.shape[1]} wide ({what}s.txt)"
        self.facts["files"][path.name] = told
        if self.form == "safetensors":
            save_file({"vectors": vectors}, str(path))
            return load_file(str(path))["vectors"]
        hub.write_parquet(path, what, tokens, vectors)
        column = _parquet().read_table(path)["vectors"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        return torch.from_numpy(values.copy()).view(len(column), -1)

    def _compare(self, what: str, queries, items):
        own = reference_scores(self.recommender, self.people)
        gap = (queries @ items[: own.shape[1]].t() - own).abs().max()
        if not gap < 1e-2 * max(1.0, float(own.abs().max())):
            model = self.recommender.config["model"]
            told = f"Scores of the exported {what} vectors differ from {model}'s by {gap:.3g}"
            advice = "its forward has to give the same each time, and scores have to be products"
            raise UserError(f"{told}; {advice}.", key="what")
        name = f"scores from {what}s.{self.form} against the model, largest difference"
        self.facts["checks"][name] = float(gap)

    def index(self):
        library, path = _faiss(), self.folder / "items.faiss"
        rows = self.recommender.item_vectors[1:].cpu().float().contiguous().numpy()
        told = f"FAISS makes no index {self.kind!r} of {len(rows)} vectors ({{reason}})"
        advice = "give another --index, as HNSW32"
        if any(int(digits) > max(_MOST, len(rows)) for digits in re.findall(r"\d+", self.kind)):
            told = told.format(reason="a number is too large")
            raise UserError(f"{told}; {advice}.", key="index")
        with explained(f"{told}; {advice}.", RuntimeError, key="index"):
            made = library.index_factory(rows.shape[1], self.kind, library.METRIC_INNER_PRODUCT)
            if not made.is_trained:
                made.train(rows)
            made.add(rows)
        # By Python, which says why a file cannot be written.
        path.write_bytes(library.serialize_index(made).tobytes())
        k = min(_BEST, len(rows))
        found = library.read_index(str(path)).search(self.queries.float().numpy(), k)[1]
        exact = [part.places for part in self.recommender.stream(self.people, k)]
        same = torch.from_numpy(found + 1).unsqueeze(2) == torch.cat(exact).unsqueeze(1)
        self.facts["files"][path.name] = f"FAISS {self.kind}, inner product (items.txt)"
        share = same.any(1).double().mean()
        self.facts["checks"][f"share of the best {k} that the index finds"] = float(share)

    def encoder(self):
        path = self.folder / "user_encoder.pt2"
        gap, inputs = _write_encoder(path, self.recommender, self.people, self.queries)
        self.facts["encoder_inputs"] = inputs
        told = f"user encoder of torch.export: {', '.join(inputs)} to a user vector"
        self.facts["files"][path.name] = told
        self.facts["checks"][f"vectors of {path.name} against the model, largest difference"] = gap

    def table(self):
        table = hub.write_table(self.folder / "table", self.recommender.config)
        told = f"LLM table, {len(table):,} × {table.width}, with a dataset card"
        self.facts["files"]["table"] = told


def _write_tokens(path: Path, tokens: Iterable[str]) -> None:
    """One token per line, in the order of the vectors."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.writelines(f"{token}\n" for token in tokens)


def _parquet():
    return optional("pyarrow.parquet", "parquet", "Parquet")


def _faiss():
    return optional("faiss", "faiss", "An index")


# -- the user encoder ---------------------------------------------------------------------


def _write_encoder(path: Path, recommender, people, wanted) -> tuple[float, list[str]]:
    """Export a model's way from a history to a user vector, and compare it with the model.

    ``people``, ``wanted``: with whom to compare, and their vectors.
    Returns largest absolute difference of a vector's entry, and descriptions of the inputs.
    """
    dataset, config = recommender.dataset, recommender.config
    names = [dataset.iid_field + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"]]
    reads_users = "users" in recommender.method.reads
    names += [dataset.uid_field] * reads_users
    batch = people.batch(dataset, config, narrow=False)  # as wide as the model reads
    columns = [batch[name] for name in names]
    encoder = recommender.method.user_encoder().cpu()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer about a GRU's list of weights
        program, fixed = _exported(encoder, columns, recommender.model)
    whole = io.BytesIO()  # written by Python: PyTorch ends the process where a disk is full
    torch.export.save(program, whole)
    path.write_bytes(whole.getbuffer())
    run = torch.export.load(str(path)).module()
    gap = 0.0
    for rows in (slice(None), slice(1)):  # a batch, and one
        given = [column[rows] for column in columns]
        if rows.stop and not fixed:
            given[0] = given[0][:, : max(2, int(given[1]))].contiguous()
        with torch.no_grad():
            gap = max(gap, float((run(*given) - wanted[rows]).abs().max()))
    if not gap < 1e-3 * max(1.0, float(wanted.abs().max())):
        told = f"The exported user encoder of {config['model']} differs from it by {gap:.3g}"
        raise UserError(f"{told}; leave encoder out of --what.", key="what")
    width = columns[0].shape[1]
    inputs = [f"items (b, {width if fixed else f'up to {width}'}) int64", "lengths (b,) int64"]
    return gap, inputs + ["users (b,) int64"] * reads_users


def _exported(encoder, columns, model):
    """The program for any batch, and any width if the model allows it; whether it does not."""
    batch = torch.export.Dim("batch")
    columns = [torch.cat([column[:3]] * 4)[:4] for column in columns]
    longest = columns[0].shape[1]
    failure: Exception | None = None
    for fixed in (False, True) if model.padding_free and longest > 4 else (True,):
        shapes = [{0: batch} for _ in columns]
        given = list(columns)
        if not fixed:
            shapes[0][1] = torch.export.Dim("width", min=2, max=longest)
            given[0] = columns[0][:, : longest - 1].contiguous()
            given[1] = columns[1].clamp(max=longest - 1)
        try:
            return torch.export.export(encoder, tuple(given), dynamic_shapes=tuple(shapes)), fixed
        except Exception as error:  # whatever a tracer meets in somebody's model
            failure = error
    why = f"{type(failure).__name__}: {reason_of(failure, 200)}"
    told = f"{type(model).__name__} cannot be exported by torch.export ({why})"
    raise UserError(f"{told}; leave encoder out of --what.", key="what") from failure
