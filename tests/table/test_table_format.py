"""The table on disk: round trip, atomic writing, and every way a directory can be wrong."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from recbole_llmemb.core.errors import TableError
from recbole_llmemb.table import EmbeddingTable, match
from recbole_llmemb.table import format as table_format
from recbole_llmemb.table.format import read_manifest


def make_table(n=6, width=4, dtype=torch.float32):
    torch.manual_seed(0)
    return EmbeddingTable(
        tokens=[f"tok{i}" for i in range(n)],
        vectors=torch.randn(n, width).to(dtype),
        manifest={"encoder": "e", "prompt": "p:", "fields": ["title"]},
    )


@pytest.fixture
def saved(tmp_path):
    make_table().save(tmp_path / "table")
    return tmp_path / "table"


def edit_manifest(directory, **changes):
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest.update(changes)
    manifest.pop("sha256", None)  # as of an earlier version; another test is about that
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip(tmp_path, dtype):
    table = make_table(dtype=dtype)
    table.tokens[2] = "Ünï cödé  with spaces\u2028 and a line separator"
    table.save(tmp_path / "table")
    loaded = EmbeddingTable.load(tmp_path / "table")
    assert loaded.tokens == table.tokens
    assert loaded.vectors.dtype == dtype
    assert torch.equal(loaded.vectors, table.vectors)
    assert loaded.fingerprint == table.fingerprint
    assert loaded.manifest["encoder"] == "e"
    assert (loaded.manifest["count"], loaded.manifest["width"]) == (6, 4)
    assert sorted(os.listdir(tmp_path)) == ["table"]


def test_vectors_of_numpy():
    table = make_table()
    again = EmbeddingTable(table.tokens, table.vectors.numpy())
    again.validate()
    assert again.fingerprint == table.fingerprint
    with pytest.raises(TableError, match="torch.float64"):
        EmbeddingTable(table.tokens, table.vectors.double().numpy()).validate()


def test_fingerprint_tells_tables_apart():
    table = make_table()
    assert table.fingerprint == make_table().fingerprint
    other = make_table()
    other.vectors[3, 1] += 1e-6
    assert other.fingerprint != table.fingerprint
    swapped = make_table()
    swapped.tokens[0], swapped.tokens[1] = swapped.tokens[1], swapped.tokens[0]
    assert swapped.fingerprint != table.fingerprint


@pytest.mark.parametrize("inference", [False, True])
def test_a_table_is_hashed_and_scanned_once(saved, monkeypatch, inference):
    read = []
    for name in ("_fingerprint", "_check_vectors"):
        whole = getattr(table_format, name)
        monkeypatch.setattr(table_format, name, lambda *a, f=whole: (read.append(f), f(*a))[1])
    with torch.inference_mode(inference):
        table = EmbeddingTable.load(saved)
        for _ in range(3):
            match(table, ["[PAD]", *table.tokens])
            assert table.fingerprint == table.manifest["fingerprint"]
    assert len(read) == 2
    before = table.fingerprint
    table.tokens[0], table.tokens[1] = table.tokens[1], table.tokens[0]
    assert table.fingerprint != before and len(read) == 3
    if not inference:
        table.vectors[0, 0] = float("nan")
        with pytest.raises(TableError, match="NaN"):
            table.validate()


def test_nothing_is_there_until_all_is(tmp_path, monkeypatch):
    """A failure at any file leaves neither a table nor remains."""

    def fails(path, text, **kwargs):
        path.write_bytes(text[:9].encode())
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(TableError, match="cannot be written: disk full"):
        make_table().save(tmp_path / "table")
    assert os.listdir(tmp_path) == []


def test_failed_overwrite_keeps_the_old_table(saved, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(table_format, "save_file", fails)
    with pytest.raises(TableError, match="cannot be written"):
        make_table(n=3).save(saved, overwrite=True)
    assert len(EmbeddingTable.load(saved)) == 6
    assert os.listdir(saved.parent) == ["table"]


def test_target_is_absent_while_writing(tmp_path, monkeypatch):
    """Readers never see a directory that is being filled: a full one is renamed."""
    seen = []

    def watching(tensors, path, *args):
        seen.append((tmp_path / "table").exists())
        seen.append(os.stat(os.path.dirname(path)).st_ino)
        return save_file(tensors, path, *args)

    monkeypatch.setattr(table_format, "save_file", watching)
    make_table().save(tmp_path / "table")
    assert seen == [False, os.stat(tmp_path / "table").st_ino]


def test_existing_table_needs_overwrite(saved):
    with pytest.raises(TableError, match="already holds an embedding table.*--overwrite"):
        make_table(n=3).save(saved)
    make_table(n=3).save(saved, overwrite=True)
    assert len(EmbeddingTable.load(saved)) == 3


def test_other_directories_are_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(TableError, match="something else than an embedding table"):
        make_table().save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["embeddings.safetensors", "items.txt", "manifest.json"])
def test_files_of_a_tables_names_alone_are_somebodys(tmp_path, name):
    own = tmp_path / "own" / name
    own.parent.mkdir()
    own.write_text('{"name": "mine"}')
    with pytest.raises(TableError, match="something else than an embedding table"):
        make_table().save(own.parent, overwrite=True)
    assert own.read_text() == '{"name": "mine"}'


@pytest.mark.parametrize("name", ["embeddings.safetensors", "items.txt", "manifest.json"])
def test_missing_file(saved, name):
    (saved / name).unlink()
    with pytest.raises(TableError, match=f"{name} is missing"):
        EmbeddingTable.load(saved)


def test_missing_directory(tmp_path):
    with pytest.raises(TableError, match="no embedding table at .*nowhere"):
        EmbeddingTable.load(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_tensors(saved, keep):
    path = saved / "embeddings.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TableError, match="truncated or damaged"):
        EmbeddingTable.load(saved)


def test_one_flipped_bit(saved):
    path = saved / "embeddings.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(TableError, match="another fingerprint: .* damaged"):
        EmbeddingTable.load(saved)


def test_other_tensors_in_the_file(saved):
    save_file({"weights": torch.zeros(2, 2)}, str(saved / "embeddings.safetensors"))
    with pytest.raises(TableError, match=r"holds the tensors \['weights'\]"):
        EmbeddingTable.load(saved)


def test_items_count_mismatch(saved):
    with open(saved / "items.txt", "a") as file:
        file.write("one-more\n")
    with pytest.raises(TableError, match="6 embedding rows but 7 item tokens"):
        EmbeddingTable.load(saved)


def test_reordered_items_are_noticed(saved):
    lines = (saved / "items.txt").read_text().splitlines()
    (saved / "items.txt").write_text("\n".join(reversed(lines)) + "\n")
    with pytest.raises(TableError, match="items.txt reordered"):
        EmbeddingTable.load(saved)


def test_windows_line_ends_are_no_change(saved):
    text = (saved / "items.txt").read_text()
    (saved / "items.txt").write_bytes(text.replace("\n", "\r\n").encode())
    assert EmbeddingTable.load(saved).tokens == make_table().tokens


@pytest.mark.parametrize(("key", "value"), [("count", 7), ("width", 8), ("dtype", "int8")])
def test_manifest_that_does_not_fit(saved, key, value):
    edit_manifest(saved, **{key: value})
    with pytest.raises(TableError, match=f"manifest was written for another {key}"):
        EmbeddingTable.load(saved)


def test_unknown_format_version(saved):
    edit_manifest(saved, format_version=99)
    with pytest.raises(TableError, match="format version 99, this version reads 1"):
        EmbeddingTable.load(saved)


def test_a_table_whose_manifest_has_a_damaged_key_is_known(saved, tmp_path):
    path = saved / "manifest.json"
    path.write_text(path.read_text().replace("format_version", "formav_version"))
    assert table_format.table_files(saved) == {file.name for file in saved.iterdir()}
    path.write_text('{"name": "another"}')
    assert not table_format.table_files(saved)


@pytest.mark.parametrize("text", ["{", "[1]", "\ud800".encode("utf-8", "surrogatepass")])
def test_damaged_manifest(saved, text):
    data = text if isinstance(text, bytes) else text.encode()
    (saved / "manifest.json").write_bytes(data)
    with pytest.raises(TableError, match="manifest"):
        EmbeddingTable.load(saved)


def test_a_folder_that_is_no_table(tmp_path):
    (tmp_path / "table").mkdir()
    with pytest.raises(TableError, match="has no manifest.json") as caught:
        read_manifest(tmp_path / "table")
    assert "damaged" not in str(caught.value)


def test_wrong_width(saved):
    assert EmbeddingTable.load(saved, expected_width=4).width == 4
    with pytest.raises(TableError, match="are 4 wide, but 384 is expected"):
        EmbeddingTable.load(saved, expected_width=384)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(tmp_path, value):
    table = make_table()
    table.vectors[4, 2] = value
    table.vectors[1, 0] = value
    with pytest.raises(TableError, match="2 of 6 items have NaN or infinity.*'tok1', 'tok4'"):
        table.save(tmp_path / "table")
    assert os.listdir(tmp_path) == []


def test_not_finite_is_found_on_loading_too(saved):
    """Tables of other programs carry no fingerprint, but are checked all the same."""
    vectors = make_table().vectors
    vectors[5] = float("nan")
    save_file({"embeddings": vectors}, str(saved / "embeddings.safetensors"))
    edit_manifest(saved, fingerprint=None)
    with pytest.raises(TableError, match="1 of 6 items have NaN or infinity.*'tok5'"):
        EmbeddingTable.load(saved)


def test_all_equal():
    table = make_table()
    table.vectors[:] = table.vectors[0].clone()
    with pytest.raises(TableError, match="all 6 embeddings are equal"):
        table.validate()
    table.vectors[5, 3] += 1
    table.validate()


def test_duplicate_tokens():
    table = make_table()
    table.tokens[3] = table.tokens[5] = "tok0"
    with pytest.raises(TableError, match="1 item token.* more than once: 'tok0'"):
        table.validate()


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "row 2 is empty"), ("a\nb", "line break"), ("a\r", "line break"), (7, "no text")],
)
def test_impossible_tokens(token, message):
    table = make_table()
    table.tokens[2] = token
    with pytest.raises(TableError, match=message):
        table.validate()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.zeros(6), "items, width"),
        (torch.zeros(6, 0), "items, width"),
        (torch.zeros(0, 4), "no rows"),
        (torch.zeros(6, 4, dtype=torch.int64), "int64"),
        (torch.randn(5, 4), "5 embedding rows but 6 item tokens"),
    ],
)
def test_impossible_vectors(vectors, message):
    table = make_table()
    table.vectors = vectors
    with pytest.raises(TableError, match=message):
        table.validate()
