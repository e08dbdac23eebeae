"""What ``compare --out`` writes: whole, in order, and complete without a network."""

import base64
import contextlib
import html
import io
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
import yaml
from compare_files import result
from conftest import write_tiny

import recbole_llmemb  # noqa: F401
from recbole_llmemb.apps.compare.comparison import compare
from recbole_llmemb.apps.compare.figures import (
    bin_label,
    draw_map,
    figures_of,
    flatten,
    merge_small,
    read_map,
)
from recbole_llmemb.apps.compare.grouping import read_groups
from recbole_llmemb.cli.main import main
from recbole_llmemb.records.items import first_category

pytest.importorskip("matplotlib")
BROWSER = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)


class _Page(HTMLParser):
    """Where a page leads to, and what it is made of."""

    def __init__(self, text):
        super().__init__()
        self.references, self.ids, self.tags, self.open = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        self.ids.add(given.get("id"))
        for key in ("src", "href", "srcset", "data", "poster", "action"):
            if key in given:
                self.references.append(given[key])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report over two groups of new files with per-user files, and its folder."""
    tmp_path = tmp_path_factory.mktemp("written")
    users = {f"u{i}": 0.05 * (i % 3 - 1) for i in range(12)}
    for name, gain in (("a", 0.0), ("b_<i>&", 0.5)):
        for seed in (1, 2):
            hit = 0.1 + gain / 5 + seed / 100
            apart = [hit + gain * 0.05 * (i % 4 - 1.5) for i in range(12)]
            own = {user: v + more for (user, v), more in zip(users.items(), apart, strict=True)}
            result(tmp_path, f"{name}-{seed}", hit, seed=seed, new=True, users=own, model=name)
    out = tmp_path / "out"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["compare", f"{tmp_path}/*.json", f"--out={out}"]) == 0
    return out, printed.getvalue()


def test_files(written):
    out, printed = written
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    names = ("history_length", "item_popularity", "learning_curves", "training_cost")
    figures = [f"figures/{name}.svg" for name in names]
    assert files == [*figures, "report.html", "table.md", "table.tex"]
    for name in figures:
        data = (out / name).read_bytes()
        assert data.startswith(b"<?xml") and 5_000 < len(data) < 150_000
    markdown, latex = (out / "table.md").read_text(), (out / "table.tex").read_text()
    assert "| a | 2 | 0.1150 ± 0.0071 | 0.0575 ± 0.0035 |" in markdown
    assert "| b_&lt;i>& | 2 | **0.2150** ± 0.0071 +87.0%" in markdown
    assert "paired t-test against a over 12 users" in markdown
    assert (
        latex.startswith("% Needs \\usepackage{booktabs}.") and latex.count("\\begin{table}") == 3
    )
    assert latex.count("Marks: two-sided paired t-test") == 2 and "b\\_$<$i$>$\\&" in latex
    assert "report.html" in printed and "t-test" in printed


def test_the_verdict_stands_on_top(written):
    out, printed = written
    page = (out / "report.html").read_text()
    (sentence,) = [line for line in printed.splitlines() if line.startswith("ndcg@10: b_<i>& is")]
    sentence = sentence.removeprefix("ndcg@10: ")
    assert sentence.startswith("b_<i>& is ahead of a by 87.0% (p ")
    assert html.escape(sentence) in page.partition("<table>")[0]
    sentence = sentence.replace("<i>", "&lt;i>")
    assert f"- {sentence}" in (out / "table.md").read_text().partition("| run")[0]


def test_page_refers_to_nothing_outside(written):
    text = (written[0] / "report.html").read_text()
    page = _Page(text)
    assert page.open == [] and page.tags.count("img") == 4 and page.tags.count("table") == 5
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in text and "@import" not in text and "http" not in text
    inner = [each for each in page.references if each.startswith("#")]
    data = [each for each in page.references if not each.startswith("#")]
    assert len(inner) == page.tags.count("section") > 5 and {each[1:] for each in inner} <= page.ids
    prefix = "data:image/svg+xml;base64,"
    assert len(data) == 4 and all(each.startswith(prefix) for each in data)
    drawn = {base64.b64decode(each.removeprefix(prefix)) for each in data}
    assert drawn == {file.read_bytes() for file in (written[0] / "figures").iterdir()}
    assert "b_&lt;i&gt;&amp;" in text and "<i>" not in text
    assert '<meta name="viewport"' in text and '<html lang="en">' in text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def in_a_browser(page, width, tmp_path):
    """What a page is at this width: figures drawn, what sticks out, tables outside or cut."""
    script = """<script>addEventListener("load", () => {
        const wide = document.documentElement.scrollWidth - innerWidth;
        const drawn = [...document.images].filter(i => i.complete && i.naturalWidth > 400).length;
        const cut = [...document.querySelectorAll(".scroll")].filter(
            box => box.scrollWidth > box.clientWidth + 1).length;
        const out = [...document.querySelectorAll("table")].filter(
            table => !table.closest(".scroll")).length;
        document.body.innerHTML = `drawn=${drawn} wide=${Math.max(0, wide)} out=${out} cut=${cut};`;
    })</script></body>"""
    probe = tmp_path / "probe.html"
    probe.write_text(page.read_text().replace("</body>", script))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_page_opens_on_a_telephone(written, tmp_path):
    """Every image is drawn, and only a table's own box scrolls."""
    assert "drawn=4 wide=0 out=0" in in_a_browser(written[0] / "report.html", 500, tmp_path)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_nine_metrics_are_not_cut_on_a_screen(tmp_path):
    metrics = [f"{name}@{k}" for name in ("hit", "ndcg", "mrr") for k in (5, 10, 20)]
    for name, gain in (("ids", 0.1), ("whitened_cosine", 0.25)):
        for seed in (1, 2):
            values = dict.fromkeys(metrics, gain + seed / 100)
            result(tmp_path, f"{name}-{seed}", 0.1, seed=seed, test_result=values)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["compare", f"{tmp_path}/*.json", f"--out={tmp_path}/out"]) == 0
    seen = in_a_browser(tmp_path / "out" / "report.html", 1366, tmp_path)
    assert "drawn=1 wide=0 out=0 cut=0;" in seen


def test_old_files_get_the_figures_that_they_suffice_for(tmp_path):
    result(tmp_path, "old-1", 0.1)
    found = compare(read_groups([tmp_path / "*.json"]))
    assert list(figures_of(found)) == ["training_cost"]
    assert any("In no figure" in note for note in found.notes)
    result(tmp_path, "new-1", 0.1, new=True)
    found = compare(read_groups([tmp_path / "*.json"]))
    assert len(figures_of(found)) == 4
    assert any("Not in every figure: old;" in note for note in found.notes)


def test_small_bins_are_put_together():
    rows = [
        {"from": 2**i, "to": 2 ** (i + 1) - 1, "users": n, "hit@10": value}
        for i, (n, value) in enumerate([(2, 1.0), (6, 0.5), (92, 0.0), (500, 0.4), (5, 1.0)])
    ]
    merged = merge_small(rows)
    assert [(row["from"], row["to"], row["users"]) for row in merged] == [
        (1, 7, 100),
        (8, 31, 505),
    ]
    assert merged[0]["hit@10"] == pytest.approx((2 * 1.0 + 6 * 0.5) / 100)
    assert merged[1]["hit@10"] == pytest.approx((500 * 0.4 + 5) / 505)
    assert len(rows) == 5 and merge_small([]) == []


def test_figures_show_means_over_seeds(tmp_path):
    for seed, hit in ((1, 0.1), (2, 0.3)):
        result(tmp_path, f"a-{seed}", hit, seed=seed, new=True)
    found = compare(read_groups([tmp_path / "*.json"]), main="hit@10")
    figures = figures_of(found)
    lines = figures["item_popularity"][1].axes[0].get_lines()
    assert lines[0].get_ydata().tolist() == pytest.approx([0.2, 0.2, 0.2])
    shown = [text.get_text() for text in figures["item_popularity"][1].axes[0].get_xticklabels()]
    assert shown == ["0", "1", "2–3"]
    left, right = figures["learning_curves"][1].axes
    assert [line.get_xdata().tolist() for line in left.get_lines()] == [[1, 2, 3]] * 2
    assert left.get_ylabel() == "validation ndcg@10"
    assert right.get_lines()[0].get_ydata().tolist() == [3.5, 2.5, 1.5]
    assert bin_label({"from": 4, "to": 7}) == "4–7"


# -- item maps ----------------------------------------------------------------------------


@pytest.fixture
def trained(tiny_settings, tmp_path):
    """Results of a run over the table and of one over IDs, both on ``tiny``."""
    files = []
    for kind in ("table", "id"):
        settings = tiny_settings("LLMEmbSASRec", item_embedding=kind, epochs=1)
        settings.pop("gpu_id")
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
        argv = ["--model=LLMEmbSASRec", "--dataset=tiny", "--config_files=settings.yaml"]
        files.append(tmp_path / f"{kind}.json")
        assert main([*argv, "--seed=3", f"--result_json={files[-1]}"]) == 0
    return files


def test_maps_of_checkpoints(trained, tiny, tiny_table, tmp_path, capsys):
    runs = [group.runs[0] for group in read_groups(trained)]
    shown = read_map(runs[0].checkpoint)
    assert shown.before.shape == (60, 16) and shown.after.shape == (60, 8)
    assert shown.field == "categories" and set(shown.categories) == {"red", "blue", "gel"}
    # Items in the order of their tokens; rows of the table as they were encoded.
    from recbole_llmemb.table import EmbeddingTable

    table = EmbeddingTable.load(tiny_table)
    expected = table.vectors[[table.tokens.index(t) for t in tiny.items]]
    torch.testing.assert_close(shown.before, expected.float())
    categories = [["red", "blue", "gel"][int(token[1:]) % 3] for token in tiny.items]
    assert shown.categories == categories
    assert read_map(runs[1].checkpoint).before is None
    figure = draw_map(shown, "pca", "title")
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert [title.split(":")[0].split(" (")[0] for title in titles] == [
        "before", "after adaptation", "", ""
    ]  # fmt: skip
    capsys.readouterr()
    out = tmp_path / "out"
    assert main(["compare", *map(str, trained), f"--out={out}", "--map=tsne"]) == 0
    maps = sorted(file.name for file in (out / "figures").glob("item_map_*"))
    assert len(maps) == 2
    text = (out / "report.html").read_text()
    assert "Settings that differ" in text and '<th scope="row">item_embedding</th>' in text
    # A checkpoint that is gone is told of, and the rest is made all the same.
    runs[1].checkpoint.unlink()
    capsys.readouterr()
    assert main(["compare", *map(str, trained), f"--out={out}"]) == 0
    assert "No item map of" in capsys.readouterr().out
    assert main(["compare", str(trained[0]), f"--out={out}", "--category_field=colour"]) == 2
    assert "--category_field is 'colour';" in capsys.readouterr().err


def test_categories_in_another_encoding(tiny_settings, tmp_path):
    data = write_tiny(tmp_path / "data").folder
    text = (data / "tiny.item").read_text().replace("\tred\n", "\tcafé\n")
    (data / "tiny.item").write_bytes(text.encode("latin-1"))
    settings = tiny_settings("LLMEmbSASRec", epochs=1, data_path=str(data.parent))
    settings = settings | {"encoding": "latin-1"}
    settings.pop("gpu_id")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    argv = ["--model=LLMEmbSASRec", "--dataset=tiny", "--config_files=settings.yaml"]
    assert main([*argv, "--seed=3", "--result_json=found.json"]) == 0
    [group] = read_groups([tmp_path / "found.json"])
    assert set(read_map(group.runs[0].checkpoint).categories) == {"café", "blue", "gel"}


def test_categories():
    assert first_category("Animation Comedy") == "Animation"
    assert first_category("Hair Care, Shampoo") == "Hair Care"
    assert first_category("['Hair Care', 'Shampoo']") == "Hair Care"
    assert first_category("Beauty > Hair Care") == "Beauty"
    assert first_category("") == ""


def test_planes():
    vectors = torch.zeros(6, 4)
    vectors[:, 0] = torch.arange(6.0)
    points, words = flatten(vectors, "pca")
    spread = points[:, 0].sort().values - points[:, 0].min()
    torch.testing.assert_close(spread, torch.arange(6.0))
    assert words == "two components, 100% of the variance"
    points, words = flatten(torch.randn(20, 4), "tsne")
    assert points.shape == (20, 2) and words == "t-SNE"
