"""Comparing runs: which belong together, means, changes, tests, tables, bad input."""

import json
import math

import numpy as np
import pytest
from compare_files import result, user_file
from scipy import stats

import recbole_llmemb  # noqa: F401
from recbole_llmemb.apps.compare import grouping
from recbole_llmemb.apps.compare.comparison import (
    Cell,
    Comparison,
    compare,
    values_of,
)
from recbole_llmemb.apps.compare.grouping import (
    Group,
    choose_baseline,
    differing_settings,
    read_groups,
)
from recbole_llmemb.apps.compare.report import (
    Table,
    latex,
    render_files,
    tables_of,
    to_latex,
    to_markdown,
    to_text,
    verdict,
)
from recbole_llmemb.apps.compare.significance import direction, holm, mark, paired_p
from recbole_llmemb.cli.main import main
from recbole_llmemb.core.errors import UserError


def labels(groups):
    return {group.label: [run.seed for run in group.runs] for group in groups}


# -- which runs belong together -----------------------------------------------------------


def test_old_files_are_put_together_by_name(tmp_path):
    files = [result(tmp_path, f"{kind}-{seed}", 0.1, seed=seed) for kind in "ab" for seed in (7, 8)]
    assert labels(read_groups(files)) == {"a": [7, 8], "b": [7, 8]}
    assert labels(read_groups([tmp_path / "*.json"])) == {"a": [7, 8], "b": [7, 8]}
    # Twice the same file counts once.
    assert labels(read_groups([*files, files[0], tmp_path / "a-*.json"])) == {
        "a": [7, 8],
        "b": [7, 8],
    }


def test_old_files_without_seed_in_the_name_stay_apart(tmp_path):
    files = [result(tmp_path, name, 0.1, seed=seed) for name, seed in (("x", 7), ("y", 8))]
    assert list(labels(read_groups(files)).values()) == [[7], [8]]


def test_new_files_are_put_together_by_settings(tmp_path):
    files = [result(tmp_path, f"run{i}", 0.1, seed=i, new=True) for i in (1, 2)]
    other = result(
        tmp_path, "third", 0.1, seed=1, config={"valid_metric": "NDCG@10", "adapter": "mlp"}
    )
    groups = read_groups([*files, other])
    assert [[run.seed for run in group.runs] for group in groups] == [[1, 2], [1]]
    assert groups[0].label == "run"  # what the files' names have before the seed
    assert groups[1].label == "LLMEmbSASRec, adapter=mlp"
    assert differing_settings(groups) == {"adapter": ["linear", "mlp"]}


def test_labels_have_no_more_settings_than_tell_the_runs_apart(tmp_path):
    kinds = {"x": ("linear", 64, "a"), "y": ("mlp", 64, "b"), "z": ("mlp", 32, "c")}
    files = []
    for name, (adapter, size, zeta) in kinds.items():
        config = {"valid_metric": "NDCG@10", "adapter": adapter, "hidden_size": size, "zeta": zeta}
        files.append(result(tmp_path, name, 0.1, new=True, config=config))
    model = "LLMEmbSASRec"
    two = read_groups(files[:2])
    assert [g.label for g in two] == [f"{model}, adapter=linear", f"{model}, adapter=mlp"]
    # One setting tells all three apart, though it is not the first that differs.
    three = read_groups(files)
    assert [g.label for g in three] == [f"{model}, zeta={value}" for value in "abc"]
    # Of two that do, the one that says what the run is about.
    for name, adapter in (("v", "linear"), ("w", "mlp")):
        config = {"valid_metric": "NDCG@10", "adapter": adapter, "a_rate": name}
        files.append(result(tmp_path, name, 0.1, new=True, config=config))
    assert read_groups(files[3:])[1].label == f"{model}, adapter=mlp"
    # The baseline may be told by what one label alone has.
    assert [g.label for g in choose_baseline(three, "b")][0] == f"{model}, zeta=b"
    assert [g.label for g in choose_baseline(three, "zeta=c")][0] == f"{model}, zeta=c"
    with pytest.raises(UserError, match="--baseline is 'LLMEmbSASRec'; it must be one of"):
        choose_baseline(three, model)


def test_a_run_over_a_given_table_has_no_encoder(tmp_path):
    """Whatever its settings say, which took no part."""
    told = {"llm_encoder": "mine"}, {"llm_encoder": "all-MiniLM-L6-v2", "llm_table": "T"}
    files = [result(tmp_path, name, 0.1, new=True, config={"valid_metric": "NDCG@10", **config})
             for name, config in zip("xy", told)]  # fmt: skip
    groups = read_groups(files)
    assert [group.label for group in groups] == ["LLMEmbSASRec", "LLMEmbSASRec, llm_table=T"]
    assert differing_settings(groups) == {"llm_encoder": ["mine", None], "llm_table": [None, "T"]}
    # So runs over one table that name others are the same run.
    given = [
        result(
            tmp_path,
            f"g{seed}",
            0.1,
            seed=seed,
            new=True,
            config={"llm_table": "T", "llm_adapter": f"a{seed}"},
        )
        for seed in (1, 2)
    ]
    assert [len(group.runs) for group in read_groups(given)] == [2]


def test_model_names_are_labels_where_they_differ(tmp_path):
    files = [
        result(tmp_path, "x", 0.1, new=True),
        result(tmp_path, "y", 0.1, new=True, model="LLMEmbGRU4Rec"),
    ]
    assert [group.label for group in read_groups(files)] == ["LLMEmbSASRec", "LLMEmbGRU4Rec"]


def test_files_that_a_run_named_after_its_preset_tell_it(tmp_path):
    """As in ``--result_json=runs/``: MODEL-DATASET-PRESET-SEED, or with a checkpoint's key."""
    one, two = ({"config": {"llm_whiten": value}} for value in (0.3, 0.6))
    key = {"checkpoint": "saved/LLMEmbSASRec-toy-0123456789.pth"}
    files = [
        result(tmp_path, "LLMEmbSASRec-toy-best-1", 0.3, **one),
        result(tmp_path, "LLMEmbSASRec-toy-best-2", 0.3, seed=2, **one),
        result(tmp_path, "LLMEmbSASRec-toy-best_longtail", 0.3, **two),
        result(tmp_path, "LLMEmbSASRec-toy", 0.3, config={"llm_whiten": 0.1}),
        result(tmp_path, "LLMEmbSASRec-toy-0123456789", 0.3, config={"llm_whiten": 0.2}, **key),
    ]
    groups = read_groups(files)
    assert labels(groups) == {
        "LLMEmbSASRec, best": [1, 2],
        "LLMEmbSASRec, best_longtail": [1],
        "LLMEmbSASRec": [1],
        "LLMEmbSASRec, llm_whiten=0.2": [1],
    }
    assert choose_baseline(groups, "best")[0].label == "LLMEmbSASRec, best"


def test_runs_over_other_tables_of_one_path_are_no_seeds_of_each_other(tmp_path):
    both = {"config": {"llm_table": "tables/mine"}}
    files = [
        result(tmp_path, f"a-{seed}", 0.3, seed=seed, **both, **more)
        for seed, more in enumerate(({"table": "x"}, {"table": "y"}, {"table": "x"}, {}))
    ]
    assert sorted(labels(read_groups(files)).values()) == [[0, 2, 3], [1]]
    (note,) = [note for note in compare(read_groups(files)).notes if "tables differ" in note]
    assert all(f"{str(file)!r} {table}" in note for file, table in zip(files, "xy"))
    assert "tables differ" not in str(compare(read_groups([files[0], *files[2:]])).notes)


def test_values_that_are_rounded_otherwise_are_told(tmp_path):
    places = ({"metric_decimal_place": 6}, {"metric_decimal_place": [2]}, {})  # changed by hand
    files = [result(tmp_path, f"a-{n}", 0.3, seed=n, config=c) for n, c in enumerate(places)]
    (note,) = [note for note in compare(read_groups(files[:2])).notes if "rounded" in note]
    assert f"{str(files[0])!r} to 6" in note and f"{str(files[1])!r} to [2]" in note
    same = result(tmp_path, "b-0", 0.3, config={"metric_decimal_place": 4})
    assert "rounded" not in str(compare(read_groups([files[2], same])).notes)


def test_labels(tmp_path):
    one, two = (result(tmp_path, f"a-{seed}", 0.1, seed=seed) for seed in (1, 2))
    other = result(tmp_path, "b", 0.2, seed=1)
    groups = read_groups([f"mine={one},{two}", f"yours={tmp_path}/b*.json"])
    assert labels(groups) == {"mine": [1, 2], "yours": [1]}
    assert labels(read_groups([f"w/o text={one}"])) == {"w/o text": [1]}
    # Whatever is named may be put together.
    assert labels(read_groups([f"all={one},{two},{other}"])) == {"all": [1, 2, 1]}
    # A file with = in its name is a file.
    odd = result(tmp_path, "x=1", 0.1)
    assert read_groups([odd])[0].runs[0].file == odd


def test_baseline(tmp_path):
    files = [result(tmp_path, f"{kind}-1", 0.1) for kind in "abc"]
    groups = read_groups(files)
    assert [g.label for g in choose_baseline(groups, "b")] == ["b", "a", "c"]
    with pytest.raises(UserError, match="--baseline is 'z'; it must be one of 'a', 'b', 'c'"):
        choose_baseline(groups, "z")


# -- numbers ------------------------------------------------------------------------------


def test_mean_spread_and_change(tmp_path):
    for seed, hit in ((1, 0.10), (2, 0.20), (3, 0.30)):
        result(tmp_path, f"a-{seed}", hit, seed=seed)
    for seed, hit in ((1, 0.2), (2, 0.4)):
        result(tmp_path, f"b-{seed}", hit, seed=seed)
    found = compare(read_groups([tmp_path / "*.json"]))
    assert (found.dataset, found.metrics, found.main) == ("toy", ["hit@10", "ndcg@10"], "ndcg@10")
    a, b = (row["hit@10"] for row in found.overall)
    assert (a.mean, a.std, a.change) == (pytest.approx(0.2), pytest.approx(0.1), None)
    assert b.mean == pytest.approx(0.3) and b.change == pytest.approx(0.5)
    assert b.std == pytest.approx(np.std([0.2, 0.4], ddof=1))
    assert (a.best, b.best) == (False, True)
    # By group: of NDCG, an eighth of hit@10 for tail items.
    assert found.by_group[1]["tail_items"].mean == pytest.approx(0.3 / 8)
    assert found.by_group[1]["tail_items"].change == pytest.approx(0.5)
    assert found.sizes == {"tail_items": 3, "head_items": 7, "short_users": 6, "long_users": 4}


def test_less_is_better_for_some_metrics(tmp_path):
    for name, value in (("a-1", 0.5), ("b-1", 0.25)):
        result(tmp_path, name, 0.1, test_result={"giniindex@10": value})
    found = compare(read_groups([tmp_path / "*.json"]))
    assert [row["giniindex@10"].best for row in found.overall] == [False, True]


def test_values_that_do_not_exist(tmp_path):
    result(tmp_path, "a-1", 0.1, test_result={"hit@10": None})
    result(tmp_path, "b-1", 0.1, test_result={"hit@10": 0.5})
    found = compare(read_groups([tmp_path / "*.json"]))
    cells = [row["hit@10"] for row in found.overall]
    assert cells[0] == Cell(None) and (cells[1].mean, cells[1].change) == (0.5, None)
    assert to_text(Table("t", ["run", "hit@10"], [["a", cells[0]]])).split()[-1] == "-"


def test_groups_of_other_training_interactions_are_left_out(tmp_path):
    """Of one size they may have other members: under a share of the users, say."""
    for name, training in (("a", "1"), ("b", "2"), ("c", "1")):
        result(tmp_path, f"{name}-1", 0.1, tested={"training": training})
    found = compare(read_groups([tmp_path / "a-1.json", tmp_path / "c-1.json"]))
    assert "tail_items" in found.sizes
    found = compare(read_groups([tmp_path / "*.json"]))
    assert not found.sizes and any("tail items" in note for note in found.notes)


def test_groups_of_other_thresholds_are_left_out(tmp_path):
    path = result(tmp_path, "a-1", 0.1)
    groups = read_groups([path])[0].runs[0].groups
    groups["tail_items"]["users"] = 4
    result(tmp_path, "b-1", 0.1, groups=groups)
    found = compare(read_groups([tmp_path / "*.json"]))
    assert list(found.sizes) == ["head_items", "short_users", "long_users"]
    assert any("tail items" in note and "thresholds" in note for note in found.notes)


def test_paired_tests_are_scipys():
    draw = np.random.default_rng(1)
    ours, theirs = draw.random(50), draw.random(50)
    assert paired_p(ours, theirs) == stats.ttest_rel(ours, theirs).pvalue
    assert paired_p(ours, theirs, "wilcoxon") == stats.wilcoxon(ours, theirs).pvalue
    # By hand: differences 1, 2, 3 have mean 2 and t = 2 / (1 / sqrt(3)), 2 degrees of freedom;
    # P(|t| > x) is then 1 - x / sqrt(x² + 2).
    x = 2 * math.sqrt(3)
    assert paired_p([1, 2, 3], [0, 0, 0]) == pytest.approx(1 - x / math.sqrt(x * x + 2))
    assert paired_p([1, 2], [1, 2]) == paired_p([1, 2], [1, 2], "wilcoxon") == 1.0
    assert paired_p([1.1, 2.1, 3.1], [1, 2, 3]) == 0.25  # all of one sign: 2 / 2³
    assert math.isnan(paired_p([1], [2]))


def test_means_over_seeds_tie_as_their_sums_do():
    """1 - 2/3 is another float than 1/3 - 0, and the same difference."""
    ours, theirs = np.array([1] * 12 + [3] * 12 + [1] * 10), np.array([0] * 12 + [2] * 22)
    assert paired_p(ours / 3, theirs / 3, "wilcoxon") == stats.wilcoxon(ours - theirs).pvalue
    assert direction(ours / 3, theirs / 3, "wilcoxon") == direction(ours, theirs, "wilcoxon")
    assert direction([1, 2 / 3, 0.1], [2 / 3, 1, 0.2], "wilcoxon") == -1


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([0.5, float("nan"), 0.9])
    assert adjusted[0] == 1.0 and math.isnan(adjusted[1]) and adjusted[2] == 1.0
    assert [mark(p) for p in (0.0005, 0.005, 0.03, 0.05, None)] == ["***", "**", "*", "", ""]


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_users_are_compared_over_seeds(tmp_path, test):
    """Two seeds each: a user's values are averaged before the users are paired."""
    draw = np.random.default_rng(0)
    users = [f"u{i}" for i in range(30)]
    values = {}
    for name, shift in (("a", 0.0), ("b", 0.4)):
        for seed in (1, 2):
            values[name, seed] = draw.random(30) + shift
            given = dict(zip(users, values[name, seed], strict=True))
            if seed == 2:  # the order in a file means nothing
                given = dict(reversed(given.items()))
            mean = values[name, seed].mean()
            result(tmp_path, f"{name}-{seed}", mean, seed=seed, users=given)
    groups = read_groups([tmp_path / "*.json"])
    a, b = ((values[name, 1] + values[name, 2]) / 2 for name in "ab")
    tokens, read = values_of(groups[1])
    order = [users.index(token) for token in tokens]
    np.testing.assert_allclose(read["hit@10"], b[order], rtol=1e-6)
    found = compare(groups, test=test)
    raw = (stats.ttest_rel(b, a) if test == "t" else stats.wilcoxon(b - a)).pvalue
    cell = found.overall[1]["hit@10"]
    assert cell.p == pytest.approx(2 * raw, rel=1e-3)  # two metrics, equal p-values
    assert found.overall[0]["hit@10"].p is None
    assert ("t-test" if test == "t" else "Wilcoxon") in found.marks
    assert any("30 users" in note and "2 comparisons" in note for note in found.notes)
    # The table by group: the rows with the fewest and most training interactions, adjusted apart.
    tail = [users.index(user) for user in sorted(users)[:3]]
    raw = (stats.ttest_rel if test == "t" else stats.wilcoxon)(b[tail], a[tail]).pvalue
    parts = {name: cell.p for name, cell in found.by_group[1].items()}
    assert 0 < raw <= parts["tail_items"] <= 4 * raw * 1.001 and parts["head_items"] < 1
    # One seed of one group without its file: no test of that group.
    result(tmp_path, "b-2", 0.5, seed=2)
    found = compare(read_groups([tmp_path / "*.json"]))
    assert found.marks is None and "per-user files of b" in found.notes[0]


def judged(overall, tail=None, head=None, main="hit@10"):
    """The verdict on one group against ``base``."""
    cells = {"tail_items": tail, "head_items": head} if tail else {}
    found = Comparison([Group("base", []), Group("new", [])], "toy", [main], main)
    found.overall = [{main: Cell(0.1)}, {main: overall}]
    found.by_group = [{}, cells] if cells else []
    return verdict(found)


def test_verdict():
    gain, loss = Cell(0.12, change=0.2, p=0.0004), Cell(0.09, change=-0.1, p=0.02)
    chance = Cell(0.11, change=0.1, p=0.3)
    assert judged(gain, chance, loss) == [
        "new is ahead of base by 20.0% (p < 0.001), on tail items not significantly different "
        "(+10.0%, p = 0.3), on head items behind by 10.0% (p = 0.02)."
    ]
    assert judged(gain, gain, gain)[0].endswith(
        "on tail items by 20.0% (p < 0.001), on head items by 20.0% (p < 0.001)."
    )
    assert judged(chance) == ["new is not significantly different from base (+10.0%, p = 0.3)."]
    assert judged(Cell(0.12, change=0.2)) == [
        "new is ahead of base by 20.0%; not tested for significance."
    ]
    untested = Cell(0.12, change=0.2)  # the per-user files do not tell who is in the group
    assert judged(gain, untested, loss)[0].endswith(
        "on tail items by 20.0% (not tested), on head items behind by 10.0% (p = 0.02)."
    )
    for none in (0.0, -0.0004):  # which is shown as 0.0%
        assert judged(Cell(0.1, change=none)) == ["new is equal to base."]
    same = Cell(0.1, change=0.0, p=1.0)
    assert judged(gain, same, same)[0].endswith("on tail items equal, on head items equal.")
    # Less is better for some metrics; where there is no change there is no verdict.
    assert judged(loss, main="giniindex@10") == ["new is ahead of base by 10.0% (p = 0.02)."]
    assert judged(Cell(None)) == []


def test_the_best_comes_first(tmp_path):
    for name, hit in (("a-1", 0.1), ("b-1", 0.2), ("c-1", 0.3)):
        result(tmp_path, name, hit)
    said = verdict(compare(read_groups([tmp_path / "*.json"])))
    assert [sentence[:15] for sentence in said] == ["c is ahead of a", "b is ahead of a"]


# -- tables -------------------------------------------------------------------------------

TABLE = Table(
    "Test set of my_data",
    ["run", "seeds", "hit@10"],
    [
        ["id_only", "3", Cell(0.2, 0.01)],
        ["A|B 100%", "1", Cell(0.25, None, 0.25, 0.004, best=True)],
        ["worse", "3", Cell(0.15, 0.02, -0.25)],
        ["none", "1", Cell(None)],
    ],
)


def test_text():
    assert to_text(TABLE) == (
        "Test set of my_data\n\n"
        "run         seeds                  hit@10\n"
        "--------  -------  ----------------------\n"
        "id_only         3         0.2000 ± 0.0100\n"
        "A|B 100%        1         0.2500 +25.0%**\n"
        "worse           3  0.1500 ± 0.0200 -25.0%\n"
        "none            1                       -"
    )


def test_markdown():
    assert to_markdown(TABLE) == (
        "| run | seeds | hit@10 |\n"
        "| --- | ---: | ---: |\n"
        "| id_only | 3 | 0.2000 ± 0.0100 |\n"
        "| A\\|B 100% | 1 | **0.2500** +25.0%\\*\\* |\n"
        "| worse | 3 | 0.1500 ± 0.0200 -25.0% |\n"
        "| none | 1 | - |"
    )
    odd = Table("t", ["run", "a|b"], [["**b** `c` [d](e) <i> __f_ g_h $x$ &lt; R&D", Cell(0.1)]])
    assert to_markdown(odd) == (
        "| run | a\\|b |\n| --- | ---: |\n"
        "| \\*\\*b\\*\\* \\`c\\` \\[d\\](e) &lt;i> \\_\\_f_ g_h \\$x\\$ &amp;lt; R&D | 0.1000 |"
    )


def test_names_stay_on_their_line(tmp_path, capsys):
    """In the terminal and in Markdown, whatever they are."""
    pytest.importorskip("matplotlib")
    files = [
        result(tmp_path, name, 0.1, dataset="d\n\n# e", test_result={"x\n# y|z": 0.5})
        for name in "ab"
    ]
    status, out, err = run(capsys, f"a\x1b\n# b={files[0]}", files[1], f"--out={tmp_path}/out")
    assert (status, err) == (0, "")
    written = (tmp_path / "out/table.md").read_text()
    for text in (out, written):
        assert "\n#" not in text.replace("\n## ", "") and "\x1b" not in text
    assert "## Test set of d # e\n" in written and "x # y\\|z |" in written


def test_latex():
    assert to_latex(TABLE, "Marks: p < 0.05.") == (
        "\\begin{table}[t]\n"
        "\\centering\n"
        "\\caption{Test set of my\\_data. Marks: p $<$ 0.05.}\n"
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        "run & seeds & hit@10 \\\\\n"
        "\\midrule\n"
        "id\\_only & 3 & 0.2000 $\\pm$ 0.0100 \\\\\n"
        "A\\textbar{}B 100\\% & 1 & \\textbf{0.2500} (+25.0\\%)$^{**}$ \\\\\n"
        "worse & 3 & 0.1500 $\\pm$ 0.0200 ($-$25.0\\%) \\\\\n"
        "none & 1 & -- \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\end{table}"
    )
    assert latex("a\\b{c}~^&#$") == (
        r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\&\#\$"
    )
    # What would be part of a row's end, and what would be a dash.
    assert [latex(text) for text in ("[2pt]", "*two", "a---b", "`c`", "all-in", "")] == [
        "{}[2pt]", "{}*two", "a-{}-{}-b", "\\textasciigrave{}c\\textasciigrave{}", "all-in", "",
    ]  # fmt: skip


def test_the_caption_has_what_the_marks_mean_whatever_was_noted_before(tmp_path):
    pytest.importorskip("matplotlib")
    users = {f"u{i}": float(i % 3) for i in range(6)}
    for name in "ab":
        result(tmp_path, f"{name}-1", 0.1, users=users)
    found = compare(read_groups([tmp_path / "*.json"]))
    found.notes.insert(0, "Something else.")
    written = render_files(found, map_method=None)
    captions = [line for line in written["table.tex"].decode().split("\n") if "caption" in line]
    assert len(captions) == len(tables_of(found)) == 3
    assert ["Marks: two-sided" in line for line in captions] == [True, True, False]
    assert "Something else" not in written["table.tex"].decode()
    assert "Something else." in written["table.md"].decode()


# -- the command --------------------------------------------------------------------------


def run(capsys, *argv):
    status = main(["compare", *map(str, argv)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_command(tmp_path, capsys):
    one, two = result(tmp_path, "a-1", 0.1), result(tmp_path, "b-1", 0.2)
    status, out, err = run(capsys, one, two)
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["a", "1", "0.1000", "0.0500"] in lines
    assert ["b", "1", "0.2000", "+100.0%", "0.1000", "+100.0%"] in lines
    assert "--save_users=True" in out
    status, out, _ = run(capsys, f"--labels=x={two}", one, "--metrics=hit@10", "--baseline=a")
    assert status == 0 and "ndcg@10 " not in out.partition("by group")[0].partition("hit")[2]
    assert out.index("\na ") < out.index("\nx ")
    twice = run(capsys, f"--labels=x={two}", one, "--metrics=hit@10,Hit@10", "--baseline=a")
    assert twice[1] == out


def test_one_run_is_shown_without_comparison(tmp_path, capsys):
    status, out, err = run(capsys, result(tmp_path, "a-1", 0.1))
    assert (status, err) == (0, "")
    assert "0.1000" in out and "%" not in out and "significance" not in out


def test_bad_input(tmp_path, capsys):
    good = result(tmp_path, "a-1", 0.1)
    text, array, empty = (tmp_path / name for name in ("text.json", "array.json", "empty.json"))
    text.write_text("hello")
    array.write_text("[]")
    empty.write_text("{}")
    (tmp_path / "wide.json").write_text("{}", encoding="utf-16")
    cases = {
        (): "There is nothing to compare; give files",
        (tmp_path / "no.json",): "no.json' is no result file",
        (tmp_path / "no*.json",): "There is no file like",
        (tmp_path,): "it is a folder",
        (text,): "text.json' is no result file (it is not JSON",
        (tmp_path / "wide.json",): "wide.json' is no result file (it is not UTF-8",
        (array,): "array.json' is no result file (it holds no object)",
        (empty,): "is no result file (it has no 'model')",
        (result(tmp_path, "s", 0.1, seed="one"),): "(its seed is 'one')",
        (result(tmp_path, "n", 0.1, test_result={}),): "has no metrics",
        (result(tmp_path, "m", 0.1, test_result={"hit@10": "x"}),): "its test_result.hit@10 is 'x'",
        (result(tmp_path, "g", 0.1, groups=[1]),): "(its groups is [1])",
        (result(tmp_path, "h", 0.1, groups={"tail_items": 3}),): "its groups.tail_items is 3",
        (result(tmp_path, "i", 0.1, groups={"a": {"hit@10": 1.0}}),): "its groups.a.users is None",
        (result(tmp_path, "j", 0.1, seconds={"train": "x"}),): "its seconds.train is 'x'",
        (result(tmp_path, "k", 0.1, curve=[1]),): "its curve.0 is 1",
        (result(tmp_path, "l", 0.1, bins={"popularity": [1]}),): "its bins.popularity.0 is 1",
        (result(tmp_path, "p", 0.1, test_result={"hit@10": float("nan")}),): "NaN",
        (good, result(tmp_path, "o", 0.1, dataset="other")): "of dataset toy and",
        # Files of one name that lie in two folders; results of before do not tell.
        (
            result(tmp_path, "d-1", 0.1, data="x"),
            result(tmp_path, "d-2", 0.1, seed=2, data="y"),
        ): "d-2.json' is of the interactions y",
        (good, result(tmp_path, "t", 0.1, test_result={"mrr@5": 1.0})): "has the metrics hit@10",
        (good, "--metrics=hit@5"): "has hit@10, ndcg@10, but no hit@5",
        (good, "--metric=hit@5"): "--metric is 'hit@5'; it must be one of hit@10, ndcg@10",
        (good, "--metrics=hit@10", "--metric=ndcg@10"): "--metric is 'ndcg@10'",
        (good, "--baseline=z"): "--baseline is 'z'",
        (good, "--test=z"): "--test is 'z'",
        (good, "--map=umap"): "--map is 'umap'",
        (good, "--metics=hit@10"): "--metrics",
        (f"x={good}", f"y={good}"): "is given twice, as 'y' and before",
        (f"x={good}", f"x={empty}"): "label 'x' is given twice",
        (f"x={empty}",): "is no result file",
        ("x=",): "'x=' is neither a file nor of the form LABEL=FILE,FILE",
        (good, f"--out={text}/report"): "cannot be written",
    }
    for arguments, message in cases.items():
        status, _, err = run(capsys, *arguments)
        assert status == 2, arguments
        assert err.startswith("error: ") and message in err and err.count("\n") == 1, err
    status, _, err = run(capsys, good, result(tmp_path, "t", 0.1, test_result={"hit@10": 1.0}))
    assert "add --metrics=hit@10." in err
    assert run(capsys, good, tmp_path / "t.json", "--metrics=hit@10")[0] == 0


@pytest.mark.parametrize(
    "path, value",
    [
        ("bins.item_popularity.0.from", "x"),
        ("bins.item_popularity.0.to", None),
        ("bins.item_popularity.0.users", "3"),
        ("bins.item_popularity.0.users", 10**400),
        ("bins.item_popularity.0.ndcg@10", "x"),
        ("curve.0.train_loss", "abc"),
        ("curve.0.train_loss", 1.5),
        ("curve.0.valid_score", 1e299),
        ("curve.0.epoch", "1"),
        ("config", [1]),
        ("groups.tail_items.users", -1),
        ("test_result.mae", 10**400),
        ("test_result.mae", 1.7e308),
        ("test_result.mae", float("1e999")),
        ("test_result.hit@10", 17.0),
        ("test_result.HIT@10", 0.5),
        ("seconds.train", -5),
        ("checkpoint", 5),
    ],
)
def test_what_no_run_has_is_refused_where_it_stands(tmp_path, path, value):
    """With what to look for in the file, and before anything is computed with it."""
    file = result(tmp_path, "a-1", 0.1, new=True)
    content = inner = json.loads(file.read_text())
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in above:
        inner = inner[part]
    inner[last] = value
    file.write_text(json.dumps(content).replace("Infinity", "1e999"))
    with pytest.raises(UserError) as refused:
        read_groups([file])
    assert refused.value.where == str(file)
    assert f"(its {path.lower()} is " in str(refused.value).lower()


def test_newer_files_hold_more(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file = result(tmp_path, "a-1", 0.1, new=True)
    content = json.loads(file.read_text())
    for inner in (content, content["seconds"], content["parameters"], content["curve"][0]):
        inner["more"] = 1
    del content["bins"]["item_popularity"][0]["hit@10"]  # and bins less; one of no users
    content["bins"]["history_length"][0]["users"] = 0
    content["curve"][1]["train_loss"] = [None]
    content["test_result"]["averagepopularity@10"] = 1e20
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert run(capsys, file, f"--out={tmp_path}/out")[::2] == (0, "")


def test_other_rows_and_protocols_are_refused(tmp_path, capsys):
    good = result(tmp_path, "a-1", 0.1, config={"eval_args": {"mode": "full"}})
    run_groups = read_groups([good])[0].runs[0].groups
    run_groups["short_users"]["users"] = 60
    more = result(tmp_path, "b-1", 0.1, groups=run_groups)
    status, _, err = run(capsys, good, more)
    assert status == 2 and "tested on 10 rows and" in err and "on 64" in err
    sampled = result(tmp_path, "c-1", 0.1, config={"eval_args": {"mode": "uni100"}})
    status, _, err = run(capsys, good, sampled)
    assert status == 2 and "{'mode': 'full'}" in err and "{'mode': 'uni100'}" in err


def test_other_targets_are_refused_and_other_candidates_told(tmp_path, capsys):
    files = {}
    for name, (targets, items) in {"a": ("10-a", "40-c"), "b": ("10-b", "40-c"),
                                   "c": ("10-a", "35-d")}.items():  # fmt: skip
        file = result(tmp_path, f"{name}-1", 0.1, config={"name": name})
        content = json.loads(file.read_text())
        content.pop("sha256", None)
        content["tested"] = {"targets": targets, "items": items}
        file.write_text(json.dumps(content))
        files[name] = file
    status, _, err = run(capsys, files["a"], files["b"])
    assert status == 2 and "a-1.json" in err and "b-1.json" in err and "10-b" in err
    status, out, _ = run(capsys, files["a"], files["c"])
    assert status == 0 and "40" in out and "35" in out and "c-1.json" in out
    old = result(tmp_path, "d-1", 0.1, config={"name": "d"})
    status, out, _ = run(capsys, files["a"], old)
    assert status == 0 and "candidates" not in out


def test_what_is_better_in_the_mean_and_worse_for_most_has_no_mark(tmp_path, capsys):
    """The signed ranks say that b is worse, its mean is higher: neither is ahead."""
    users = [f"u{i}" for i in range(20)]
    a = result(tmp_path, "a-1", 0.1, users=dict.fromkeys(users, 0.1))
    values = {user: 1.0 if user in ("u0", "u1") else 0.1 - int(user[1:]) / 1000 for user in users}
    b = result(tmp_path, "b-1", sum(values.values()) / 20, users=values)
    status, out, _ = run(capsys, a, b, "--test=wilcoxon", "--metrics=hit@10")
    assert status == 0 and "*" not in out.partition("Marks")[0] and "not tested" in out
    assert "Without a mark" in out and "b, hit@10" in out
    differ = [values[user] - 0.1 for user in users]
    assert sum(differ) > 0 > direction(differ, [0] * 20, "wilcoxon")
    assert direction([1, 0, 3], [0, 0, 1], "wilcoxon") == 3 and direction([1], [3], "t") == -2
    _, out, _ = run(capsys, a, b, "--metrics=hit@10")  # the t-test is about the mean
    assert "b, hit@10" not in out


def test_repeated_runs_are_refused_unless_named(tmp_path, capsys):
    one, two = (result(tmp_path, name, 0.1, new=True) for name in ("x", "y"))
    status, _, err = run(capsys, one, two)
    assert status == 2 and "are the same run" in err and "x.json" in err and "y.json" in err
    assert run(capsys, f"x={one}", f"y={two}")[0] == 0
    then, now = (result(tmp_path, n, 0.1, new=True, data=f"5-2037{n}") for n in ("v", "w"))
    status, _, err = run(capsys, then, now)
    assert status == 2 and "same run" not in err and "2037v" in err
    status, _, err = run(capsys, f"x={one},{two}")  # one run is no two seeds
    assert status == 2 and "x.json" in err and "y.json" in err


def test_files_of_different_users(tmp_path, capsys):
    one = result(tmp_path, "a-1", 0.1, users={"u1": 0.0, "u2": 1.0, "u3": 1.0})
    two = result(tmp_path, "b-1", 0.1, users={"u1": 0.0, "u2": 1.0, "other": 1.0})
    status, _, err = run(capsys, one, two)
    assert status == 2 and "have different users (only in one: 'other', 'u3')" in err
    user_file(tmp_path / "b-1.users.safetensors", {"u1": 1.0, "u2": 1.0, "u3": 1.0})
    status, _, err = run(capsys, one, two)
    assert status == 2 and "is of another run than" in err and "hit@10 is 1.0000, not 0.66" in err
    targets = {"u2": 1.0, "u1": 0.0, "u3": 1.0}  # each with the item of its place
    user_file(tmp_path / "b-1.users.safetensors", targets)
    status, _, err = run(capsys, one, two)
    assert status == 2 and "have different test items (for: 'u1', 'u2')" in err
    (tmp_path / "b-1.users.safetensors").write_bytes(b"rubbish")
    status, _, err = run(capsys, one, two)
    assert status == 2 and "is damaged or no per-user file" in err
    (tmp_path / "b-1.users.safetensors").unlink()
    status, _, err = run(capsys, one, two)
    assert status == 2 and "There is no per-user file" in err and "--save_users=True" in err


def test_means_to_many_places_are_those_of_the_file(tmp_path, capsys):
    """Whose numbers are rounded to float32."""
    users = {f"u{n}": 1 / (n + 3) for n in range(50)}
    exact = {"metric_decimal_place": 17}
    paths = [result(tmp_path, name, 0.1, users=users, config=exact) for name in ("a-1", "b-1")]
    status, _, err = run(capsys, *(f"{path.stem}={path}" for path in paths))
    assert status == 0, err


def test_three_settings_name_a_group_where_more_would_be_needed():
    """Sixteen groups by four switches: the three that say most, though they leave pairs alike."""
    switches = ["dropout", "loss_type", "learning_rate", "item_embedding"]
    values = {key: [place >> bit & 1 for place in range(16)] for bit, key in enumerate(switches)}
    assert grouping._distinguishing_settings(values) == ["item_embedding", "loss_type", "dropout"]
    assert grouping._distinguishing_settings({**values, "epochs": list(range(16))}) == ["epochs"]
