"""Atomic files are read by pandas' C parser, to the same frames as by the Python one."""

import random

import pandas as pd

from recbole_llmemb.compat.datasets import _PandasInC


def test_both_parsers_give_the_same_frame(tmp_path):
    draw = random.Random(0)
    lines = ["user_id:token\tprice:float\ttitle:token_seq"]
    titles = ['A 5" brush', "it's, well; fine", "", "naïve — crème", "NA gel", '"quoted"']
    for row in range(300):
        price = "" if row % 7 == 0 else repr(draw.uniform(-1e9, 1e9) * 10 ** draw.randint(-12, 3))
        lines.append(f"u{row:03d}\t{price}\t{draw.choice(titles)}")
    file = tmp_path / "x.inter"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = {
        "delimiter": "\t",
        "usecols": lines[0].split("\t"),
        "dtype": {"user_id:token": str, "price:float": "float64", "title:token_seq": str},
        "encoding": "utf-8",
        "engine": "python",
    }
    asked = []

    class Recorder:
        @staticmethod
        def read_csv(*arguments, **given):
            asked.append(given["engine"])
            return pd.read_csv(*arguments, **given)

    found = _PandasInC(Recorder).read_csv(file, **options)
    assert asked == ["c"]
    pd.testing.assert_frame_equal(found, pd.read_csv(file, **options), check_exact=True)


def test_recbole_reads_with_it(tiny_data, monkeypatch):
    from recbole.data.dataset import dataset as module

    engines = []
    inner = module.pd.inner.read_csv

    def read_csv(*arguments, **options):
        engines.append(options.get("engine"))
        return inner(*arguments, **options)

    monkeypatch.setattr(module.pd.inner, "read_csv", read_csv, raising=False)
    tiny_data()
    assert engines and set(engines) == {"c"}


def test_long_separators_stay_with_the_python_parser(tmp_path):
    file = tmp_path / "x.inter"
    file.write_text("a::b\n1::2\n")
    frame = _PandasInC(pd).read_csv(file, delimiter="::", engine="python")
    assert frame.to_dict("list") == {"a": [1], "b": [2]}
