"""Tables made elsewhere, each kind of file against the same vectors."""

import pickle

import numpy as np
import pytest
import torch

from recbole_llmemb.core.errors import TableError
from recbole_llmemb.table import import_table

TOKENS = ["B00A", "7", "x y", "0012"]
VECTORS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


@pytest.fixture
def tokens_file(tmp_path):
    (tmp_path / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    return tmp_path / "tokens.txt"


def check(table):
    assert table.tokens == TOKENS
    assert np.array_equal(table.vectors.numpy(), VECTORS)


def test_npy(tmp_path, tokens_file):
    np.save(tmp_path / "v.npy", VECTORS)
    table = import_table(tmp_path / "v.npy", tokens_file)
    check(table)
    assert table.manifest["imported_from"] == "v.npy"
    with pytest.raises(TableError, match="without item tokens.*--tokens"):
        import_table(tmp_path / "v.npy")


def test_float64_and_float16(tmp_path, tokens_file):
    np.save(tmp_path / "v.npy", VECTORS.astype(np.float64))
    assert import_table(tmp_path / "v.npy", tokens_file).vectors.dtype == torch.float32
    np.save(tmp_path / "h.npy", VECTORS.astype(np.float16))
    assert import_table(tmp_path / "h.npy", tokens_file).vectors.dtype == torch.float16


def test_tokens_of_another_number(tmp_path, tokens_file):
    np.save(tmp_path / "v.npy", VECTORS[:3])
    with pytest.raises(TableError, match="3 embedding rows but 4 item tokens"):
        import_table(tmp_path / "v.npy", tokens_file)
    with pytest.raises(TableError, match="cannot be read from .*none.txt"):
        import_table(tmp_path / "v.npy", tmp_path / "none.txt")


def test_two_arrays_in_one_npy_are_refused(tmp_path, tokens_file):
    with open(tmp_path / "v.npy", "wb") as file:
        np.save(file, VECTORS)
        np.save(file, VECTORS)
    with pytest.raises(TableError, match="v.npy cannot be read.*more follows"):
        import_table(tmp_path / "v.npy", tokens_file)


def test_npy_is_not_unpickled(tmp_path, tokens_file):
    np.save(tmp_path / "v.npy", np.array([[1.0], "x"], dtype=object), allow_pickle=True)
    with pytest.raises(TableError, match="cannot be read as a NumPy file"):
        import_table(tmp_path / "v.npy", tokens_file)


def test_not_finite_is_refused_at_once(tmp_path, tokens_file):
    broken = VECTORS.copy()
    broken[1, 1] = np.nan
    np.save(tmp_path / "v.npy", broken)
    with pytest.raises(TableError, match="v.npy .*: 1 of 4 items have NaN or infinity.*'7'"):
        import_table(tmp_path / "v.npy", tokens_file)
    np.save(tmp_path / "big.npy", np.full((4, 3), 1e300) * VECTORS)
    with pytest.raises(TableError, match="NaN or infinity"):
        import_table(tmp_path / "big.npy", tokens_file)


def test_damaged_npy(tmp_path, tokens_file):
    np.savez(tmp_path / "v.npz", VECTORS)
    np.save(tmp_path / "w.npy", VECTORS)
    whole = (tmp_path / "w.npy").read_bytes()
    for damaged in (
        (tmp_path / "v.npz").read_bytes()[:80],
        whole.replace(b"'descr': ", b"'descr': ((" + b"(" * 50),  # what numpy takes apart as code
    ):
        (tmp_path / "v.npy").write_bytes(damaged)
        with pytest.raises(TableError) as caught:
            import_table(tmp_path / "v.npy", tokens_file)
        assert caught.value.where == str(tmp_path / "v.npy")


def test_the_file_of_wrong_tokens_is_named(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    (tmp_path / "twice.txt").write_text("a\nb\nc\na\n")
    with pytest.raises(TableError) as caught:
        import_table(tmp_path / "v.npy", tmp_path / "twice.txt")
    assert "twice.txt" in str(caught.value)


def test_npz(tmp_path, tokens_file):
    np.savez(tmp_path / "v.npz", tokens=np.array(TOKENS), embeddings=VECTORS)
    check(import_table(tmp_path / "v.npz"))
    with pytest.raises(TableError, match="holds its own item tokens"):
        import_table(tmp_path / "v.npz", tokens_file)
    np.savez(tmp_path / "bare.npz", VECTORS)
    check(import_table(tmp_path / "bare.npz", tokens_file))


def test_npz_tokens_in_another_encoding(tmp_path):
    tokens = np.array([b"a", b"b", "é".encode("latin-1"), b"d"])
    np.savez(tmp_path / "v.npz", ids=tokens, e=VECTORS)
    with pytest.raises(TableError, match="the item tokens are not in utf-8"):
        import_table(tmp_path / "v.npz")


def test_npz_number_tokens(tmp_path):
    np.savez(tmp_path / "v.npz", ids=np.array([3, 1, 2, 10]), e=VECTORS)
    assert import_table(tmp_path / "v.npz").tokens == ["3", "1", "2", "10"]
    np.savez(tmp_path / "f.npz", ids=np.array([3.0, 1, 2, 10]), e=VECTORS)
    with pytest.raises(TableError, match="floating-point"):
        import_table(tmp_path / "f.npz")


def test_npz_that_is_unclear(tmp_path):
    torch.save({"a": 1}, tmp_path / "t.npz")  # another archive
    with pytest.raises(TableError, match="exactly one 2-D array"):
        import_table(tmp_path / "t.npz")
    np.savez(tmp_path / "v.npz", a=VECTORS, b=VECTORS, tokens=np.array(TOKENS))
    with pytest.raises(TableError, match="exactly one 2-D array"):
        import_table(tmp_path / "v.npz")
    np.savez(tmp_path / "o.npz", e=VECTORS, tokens=np.array(TOKENS, dtype=object))
    with pytest.raises(TableError, match="text array"):
        import_table(tmp_path / "o.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "v.npz").read_bytes()[:80])
    with pytest.raises(TableError, match="cannot be read as a NumPy archive"):
        import_table(tmp_path / "cut.npz")


class TestParquet:
    pa = pytest.importorskip("pyarrow")

    def write(self, path, **columns):
        import pyarrow.parquet as pq

        pq.write_table(self.pa.table(columns), path)
        return path

    def test_list_column(self, tmp_path):
        check(import_table(self.write(tmp_path / "v.parquet", sku=TOKENS, e=VECTORS.tolist())))

    def test_numeric_columns(self, tmp_path):
        columns = {f"d{i}": VECTORS[:, i] for i in range(3)}
        check(import_table(self.write(tmp_path / "v.parquet", item_id=TOKENS, **columns)))

    @pytest.mark.parametrize("more", [[], ["price"]])
    def test_numeric_columns_that_are_called_otherwise_are_told(self, tmp_path, caplog, more):
        names = ["d0", "d1", "d10", *more]
        columns = {name: VECTORS[:, 0] for name in names}
        import_table(self.write(tmp_path / "v.parquet", item_id=TOKENS, **columns))
        assert ("price" in caplog.text) == bool(more)

    def test_integer_tokens(self, tmp_path):
        path = self.write(tmp_path / "v.parquet", item_id=[4, 3, 2, 1], e=VECTORS.tolist())
        assert import_table(path).tokens == ["4", "3", "2", "1"]

    def test_the_index_of_pandas_is_no_vector(self, tmp_path):
        columns = {"__index_level_0__": [3, 2, 1, 0], **{f"d{i}": VECTORS[:, i] for i in range(3)}}
        check(import_table(self.write(tmp_path / "v.parquet", item_id=TOKENS, **columns)))

    def test_two_columns_of_tokens(self, tmp_path):
        columns = {"item": TOKENS[::-1], "token": TOKENS, "e": VECTORS.tolist()}
        path = self.write(tmp_path / "v.parquet", **columns)
        with pytest.raises(TableError) as refused:
            import_table(path)
        assert refused.value.key == "token_column"
        check(import_table(path, token_column="token"))

    def test_tokens_file_or_column(self, tmp_path, tokens_file):
        path = self.write(tmp_path / "v.parquet", e=VECTORS.tolist())
        check(import_table(path, tokens_file))
        path = self.write(tmp_path / "w.parquet", a=TOKENS, b=["x"] * 4, e=VECTORS.tolist())
        check(import_table(path, token_column="a"))
        with pytest.raises(TableError, match="no column 'c'"):
            import_table(path, token_column="c")

    def test_rows_of_different_width(self, tmp_path):
        rows = VECTORS.tolist()
        rows[2] = rows[2][:2]
        path = self.write(tmp_path / "v.parquet", item_id=TOKENS, e=rows)
        with pytest.raises(TableError, match="1 of 4 vectors are not 3 wide.*'x y'.*has 2"):
            import_table(path)

    def test_fixed_size_lists_in_pieces(self, tmp_path):
        import pyarrow.parquet as pq

        kind = self.pa.list_(self.pa.float64(), 3)
        columns = {"item_id": TOKENS, "e": self.pa.array(VECTORS.tolist(), kind)}
        pq.write_table(self.pa.table(columns), tmp_path / "v.parquet", row_group_size=3)
        check(import_table(tmp_path / "v.parquet"))

    def test_lists_of_text(self, tmp_path):
        path = self.write(tmp_path / "v.parquet", item_id=TOKENS, e=[["a", "b", "c"]] * 4)
        with pytest.raises(TableError, match="the vectors are not of numbers"):
            import_table(path)

    def test_nulls(self, tmp_path):
        rows = VECTORS.tolist()
        rows[2][1] = None
        path = self.write(tmp_path / "v.parquet", item_id=TOKENS, e=rows)
        with pytest.raises(TableError, match="NaN or infinity.*'x y'"):
            import_table(path)
        path = self.write(tmp_path / "w.parquet", item_id=["a", None, "c", "d"], e=VECTORS.tolist())
        with pytest.raises(TableError, match="1 item tokens are missing"):
            import_table(path)

    def test_truncated(self, tmp_path):
        path = self.write(tmp_path / "v.parquet", item_id=TOKENS, e=VECTORS.tolist())
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(TableError, match="cannot be read as a Parquet file"):
            import_table(path)


class TestItemEmb:
    def write(self, path, header, rows):
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    def test_float_seq(self, tmp_path):
        rows = [
            f"{token}\t{' '.join(repr(float(x)) for x in row)}"
            for token, row in zip(TOKENS, VECTORS, strict=True)
        ]
        path = self.write(tmp_path / "d.itememb", "iid:token\titem_emb:float_seq", rows)
        check(import_table(path))
        path.write_text(path.read_text()[:-30])
        with pytest.raises(TableError, match="not 3 wide|line 5"):
            import_table(path)

    def test_float_columns(self, tmp_path):
        rows = [
            "\t".join([token, *(repr(float(x)) for x in row)])
            for token, row in zip(TOKENS, VECTORS, strict=True)
        ]
        check(
            import_table(
                self.write(tmp_path / "d.itememb", "iid:token\ta:float\tb:float\tc:float", rows)
            )
        )

    def test_wrong_files(self, tmp_path):
        path = self.write(tmp_path / "d.itememb", "iid:token\tname:token_seq", ["a\tb"])
        with pytest.raises(TableError, match="float_seq"):
            import_table(path)
        path = self.write(tmp_path / "e.itememb", "iid:token\te:float_seq", ["a\t1 two"])
        with pytest.raises(TableError, match="line 2.*two"):
            import_table(path)
        for number in ("1_0", "٣"):
            path = self.write(tmp_path / "f.itememb", "iid:token\te:float_seq", [f"a\t1 {number}"])
            with pytest.raises(TableError, match="line 2"):
                import_table(path)
        with pytest.raises(TableError) as caught:
            import_table(path, token_column="iid")
        assert caught.value.key == "token_column"


class Bomb:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


class TestPickle:
    def write(self, path, value, protocol=pickle.HIGHEST_PROTOCOL):
        path.write_bytes(pickle.dumps(value, protocol=protocol))
        return path

    def test_refused_unless_trusted(self, tmp_path, tokens_file):
        path = self.write(tmp_path / "v.pkl", VECTORS)
        with pytest.raises(TableError, match="can run code.*--i-trust-this-pickle"):
            import_table(path, tokens_file)

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_array(self, tmp_path, tokens_file, protocol):
        path = self.write(tmp_path / "v.pkl", VECTORS, protocol)
        with pytest.warns(UserWarning, match="prefer .npy"):
            check(import_table(path, tokens_file, allow_pickle_file=True))

    @pytest.mark.parametrize("value", [VECTORS.tolist(), list(VECTORS), tuple(VECTORS)])
    def test_lists(self, tmp_path, tokens_file, value):
        path = self.write(tmp_path / "v.pkl", value)
        with pytest.warns(UserWarning):
            check(import_table(path, tokens_file, allow_pickle_file=True))

    def test_array_of_the_other_numpy(self, tmp_path, tokens_file):
        """The authors' files are of NumPy 1, whose modules have other names."""
        data = pickle.dumps(VECTORS, protocol=0)
        old = data.replace(b"numpy._core.", b"numpy.core.")
        new = data.replace(b"numpy.core.", b"numpy._core.")
        for name, content in {"old": old, "new": new}.items():
            (tmp_path / f"{name}.pkl").write_bytes(content)
            with pytest.warns(UserWarning, match="prefer"):
                check(import_table(tmp_path / f"{name}.pkl", tokens_file, allow_pickle_file=True))
        assert old != new

    def test_needs_tokens(self, tmp_path):
        path = self.write(tmp_path / "v.pkl", VECTORS)
        with pytest.warns(UserWarning), pytest.raises(TableError, match="without item tokens"):
            import_table(path, allow_pickle_file=True)

    def test_code_is_not_run_even_when_trusted(self, tmp_path, tokens_file):
        path = self.write(tmp_path / "v.pkl", Bomb(tmp_path / "boom"))
        with pytest.warns(UserWarning), pytest.raises(TableError, match="refers to .*open"):
            import_table(path, tokens_file, allow_pickle_file=True)
        assert not (tmp_path / "boom").exists()

    @pytest.mark.parametrize(
        ("value", "what"),
        [
            ({"a": 1}, "holds a dict"),
            ("text", "holds a str"),
            ([[1, 2], [3]], "not 1 wide"),
            ([["a"], ["b"]], "not of numbers"),
            (np.array(["a", "b"]), "numbers are needed"),
        ],
    )
    def test_other_content(self, tmp_path, tokens_file, value, what):
        path = self.write(tmp_path / "v.pkl", value)
        with pytest.warns(UserWarning), pytest.raises(TableError, match=what) as caught:
            import_table(path, tokens_file, allow_pickle_file=True)
        assert caught.value.where == str(path)

    def test_truncated(self, tmp_path, tokens_file):
        path = self.write(tmp_path / "v.pkl", VECTORS)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.warns(UserWarning), pytest.raises(TableError, match="was not read"):
            import_table(path, tokens_file, allow_pickle_file=True)


def test_unknown_kind_and_missing_file(tmp_path):
    (tmp_path / "v.csv").write_text("1,2")
    with pytest.raises(TableError, match="from a .csv file, only from .npy"):
        import_table(tmp_path / "v.csv")
    with pytest.raises(TableError, match="no file .*gone.npy"):
        import_table(tmp_path / "gone.npy")


def test_a_folder_is_no_file(tmp_path):
    """As a table directory is, which is used as it is."""
    for path, told in ((tmp_path, "is a folder"), (tmp_path / "v.npy", "There is no file")):
        with pytest.raises(TableError, match=f"{told}.*llm_table") as refused:
            import_table(path)
        assert refused.value.where == str(path)
