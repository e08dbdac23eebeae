"""Settings that are written as arithmetic, and those that only look like it."""

from os.path import expanduser

import pytest

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole.config import Config  # isort: skip
from recbole_llmemb.config.recbole_config import without_argv  # isort: skip


ARITHMETIC = {
    "1/1000": 0.001, "1e-3": 0.001, "-1": -1, "2**5": 32, "7//2": 3, "7%4": 3, "2 * (3 + 1)": 8,
    "[64]*3": [64, 64, 64], "[64]*2+[32]": [64, 64, 32], "2*(1,)": (1, 1), "(0.1, 0.2)": (0.1, 0.2),
    "{'RS': [8/10, 1/10, 1/10]}": {"RS": [0.8, 0.1, 0.1]}, "0,1": (0, 1), "True": True,
    "true": True, "None": None, "'text'": "text", "": "", "uni100": "uni100", "NDCG@10": "NDCG@10",
    "~/x": f"{expanduser('~')}/x", "~": "~",
}  # fmt: skip
STAYS = ["9**9**9", "[0]*10**9", "[[[0]*999]*999]*999", "10**5000", "10.0**400", "1/0", "(-1)**.5",
         "len([1])", "__import__('os')", "[1]*1.5", "'a'*9", "{1, 2}", "b'x'", "1j", "[1,", "x+1",
         "(1).real", "[i for i in (1,)]", "lambda: 1", "(" * 999, "1<2"]  # fmt: skip


@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec"])
def test_text_that_recbole_evaluates(model):
    """Nothing is run for it, and nothing that would not fit into memory is made."""
    given = {f"my_{i}": text for i, text in enumerate([*ARITHMETIC, *STAYS])}
    with without_argv():
        config = Config(model, "tiny", None, {"train_neg_sample_args": None} | given)
    found = [config[f"my_{i}"] for i in range(len(given))]
    assert found == [*ARITHMETIC.values(), *STAYS]
    assert [type(value) for value in found[:14]] == list(map(type, ARITHMETIC.values()))[:14]


def test_arithmetic_in_a_search_space_of_recbole(tmp_path):
    from recbole_llmemb.apps.tune.space import read_space

    file = tmp_path / "hyper.test"
    file.write_text("learning_rate choice [1/1000, 1e-2]\nn_layers choice [1,2]+[2+1]\n")
    space = read_space(file)
    assert [dimension.values for dimension in space.dimensions] == [(0.001, 0.01), (1, 2, 3)]
