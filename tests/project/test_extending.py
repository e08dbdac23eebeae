"""What is added from outside the package, in at most 30 lines, and used by the command line.

One test for each row of the table in docs/contributing.md.
"""

import importlib
import json
import re
import sys

import pytest
from conftest import ROOT

from recbole_llmemb import plugin
from recbole_llmemb.cli.main import main
from recbole_llmemb.config.keys import Settings
from recbole_llmemb.core import registry
from recbole_llmemb.core.errors import UserError, nearest, own_place
from recbole_llmemb.run.stages import train_and_evaluate

ADAPTER = """
from torch import nn


class Mine(nn.Linear):
    used = 0

    def forward(self, rows):
        Mine.used += 1
        return 2 * super().forward(rows.float())
"""

ITEM_EMBEDDING = """
from recbole_llmemb.models.llmemb.item_embedding import TableItemEmbedding


class Mine(TableItemEmbedding):
    used = 0

    def _all_rows(self):
        Mine.used += 1
        return super()._all_rows().clamp(-0.5, 0.5)

    def _some_rows(self, ids):
        return super()._some_rows(ids).clamp(-0.5, 0.5)
"""

LOSS = """
import torch

from recbole_llmemb.models.losses import Loss


class Mine(Loss):
    used = 0

    def forward(self, positive, negative):
        Mine.used += 1
        return torch.relu(1 - positive + negative).mean()
"""

METRIC = """
from recbole.evaluator.base_metric import TopkMetric


class Mine(TopkMetric):
    used = 0
    smaller = True

    def calculate_metric(self, dataobject):
        Mine.used += 1
        hits, _ = self.used_info(dataobject)
        return self.topk_result("mine", (hits.cumsum(axis=1) == 0).astype(float))
"""

BACKBONE = """
from recbole.model.sequential_recommender import SASRec

from recbole_llmemb import llmemb


class Mine(SASRec):
    one_pass, products, size_key = "causal", True, "hidden_size"
    used = 0

    def forward(self, item_seq, item_seq_len):
        Mine.used += 1
        return 2 * super().forward(item_seq, item_seq_len)


llmemb(Mine)
"""

METHOD = """
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn

from recbole_llmemb.models.contract import Method
from recbole_llmemb.models.losses import item_cross_entropy
from recbole_llmemb.models.losses import Items, ItemScores
from recbole_llmemb.plugin import register


@register
class Mine(Method, SequentialRecommender):
    used, losses = 0, ("CE",)

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.last = nn.Embedding(self.n_items, 8)
        self.following = nn.Embedding(self.n_items, 8)
        self.item_scores = ItemScores()

    def states(self, batch):
        Mine.used += 1
        last = batch[self.ITEM_SEQ_LEN].unsqueeze(1) - 1
        return self.last(batch[self.ITEM_SEQ].gather(1, last).squeeze(1))

    def items(self):
        return Items(self.following.weight)

    def loss_terms(self, batch):
        items, targets = self.items().vectors, batch[self.POS_ITEM_ID]
        return {"next": item_cross_entropy(self.states(batch), items, targets)}
"""

KEY = """
from recbole_llmemb.config.keys import Settings, key
from recbole_llmemb.models.llmemb.model import LLMEmbMixin
from recbole_llmemb.models.registry import model_class
from recbole_llmemb.plugin import register


class MyKeys(Settings):
    shared = False
    louder: float = key(1.0, gt=0, le=10)
    \"\"\"What states are multiplied by.\"\"\"


@register
class Mine(model_class("LLMEmbSASRec")):
    used, Keys = 0, MyKeys

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.louder = MyKeys.of(config).louder

    def sequence_forward(self, *given):
        Mine.used += self.louder == 3
        return self.louder * super().sequence_forward(*given)
"""

COMMAND = """
from recbole_llmemb.cli.options import Options
from recbole_llmemb.core.checked import Checked


class Greeting(Checked):
    whom: str = "you"
    \"\"\"Who is greeted.\"\"\"


def main(argv):
    print("hello", Greeting(**Options("hello", "Greets.").add(Greeting).typed(argv)).whom)
"""


# Which METHOD does not read.
SIZES = ("hidden_size", "inner_size", "n_layers", "n_heads", "hidden_dropout_prob")
SIZES += ("attn_dropout_prob",)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """``mine(text)``: the name of a module of somebody's with this text."""
    name, sections = f"mine_{abs(hash(str(tmp_path)))}", list(Settings.sections)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_trusted", set())
    monkeypatch.setattr(plugin.registry, "MODELS", dict(plugin.registry.MODELS))

    def write(text):
        assert len(text.strip().splitlines()) <= 30
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write
    sys.modules.pop(name, None)
    Settings.sections[:] = sections
    for model in ("llmembmine", "mine"):
        sys.modules.pop(f"recbole.model.sequential_recommender.{model}", None)


@pytest.fixture
def command(tiny_settings, tmp_path):
    """``command(model, key=value)``: run by the command line; the result file's content."""

    def run(model, **settings):
        like = model if model.startswith("LLMEmb") else "LLMEmbSASRec"
        values = tiny_settings(like, epochs=1, topk=[5], valid_metric="NDCG@5") | settings
        values |= {"result_json": str(tmp_path / "out.json")}
        values.pop("load_col")
        words = [f"--{key}={value}" for key, value in values.items() if value not in ("", None)]
        assert main([f"--model={model}", "--dataset=tiny", *words]) == 0
        return json.loads((tmp_path / "out.json").read_text())

    return run


@pytest.mark.parametrize(
    ("text", "key"),
    [(ADAPTER, "adapter"), (ITEM_EMBEDDING, "item_embedding"), (LOSS, "loss_type")],
    ids=lambda value: value if len(value) < 20 else "",
)
def test_a_part_by_import_path(mine, command, text, key):
    path = f"{mine(text)}:Mine"
    assert command("LLMEmbSASRec", **{key: path})["config"][key] == path
    assert sys.modules[path[:-5]].Mine.used


def test_an_adapter_of_another_width_is_named(mine, tiny_run):
    lines = "used = 0\n\n    def __init__(self, a, b):\n        super().__init__(a, b + 1)"
    path = f"{mine(ADAPTER.replace('used = 0', lines))}:Mine"
    with pytest.raises(UserError) as refused:
        tiny_run("LLMEmbSASRec", adapter=path)
    assert refused.value.key == "adapter" and path in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        "rows.mul_(2)",
        "return super().forward(rows).double()",
        "rows = rows + torch.randn(1)",
        "rows = rows - rows.mean(0)",
    ],
)
def test_an_adapter_that_does_what_none_may(mine, tiny_run, wrong):
    text = ADAPTER.replace("        Mine.used += 1\n", f"        {wrong}\n")
    path = f"{mine(text.replace('from torch', 'import torch' + chr(10) + 'from torch'))}:Mine"
    with pytest.raises(UserError) as refused:
        tiny_run("LLMEmbSASRec", adapter=path)
    assert refused.value.key == "adapter" and path in str(refused.value)


def test_code_that_fails_after_training_is_named(mine, command, tmp_path, capsys):
    """As the sentence of any command says: by module and line."""
    text = ADAPTER.replace("Mine.used += 1", "assert Mine.used >= 0, 'too few'")
    module = mine(text)
    command("LLMEmbSASRec", adapter=f"{module}:Mine")
    sys.modules[module].Mine.used = -1
    capsys.readouterr()
    given = [f"--checkpoint={tmp_path}/out.json", f"--out={tmp_path}/items"]
    assert main(["export", *given]) == 2
    line = 1 + text.splitlines().index("        assert Mine.used >= 0, 'too few'")
    assert f"{module}:{line} " in capsys.readouterr().err


def test_a_failure_of_the_package_itself_is_none_of_somebodys():
    for call, place in ((lambda: nearest(None, []), ""), (lambda: json.loads(1), __name__)):
        with pytest.raises(Exception) as failed:
            call()
        assert own_place(failed.value).rpartition(":")[0] == place


def test_an_adapter_is_tried_without_a_trace(mine, tiny_run):
    text = ADAPTER.replace("    used = 0\n", """
    def __init__(self, a, b):
        super().__init__(a, b)
        self.norm = nn.BatchNorm1d(a)
""").replace("rows.float()", "self.norm(rows)").replace("        Mine.used += 1\n", "")  # fmt: skip
    _, _, model, _ = tiny_run("LLMEmbSASRec", adapter=f"{mine(text)}:Mine")
    norm = model.item_embedding.adapter.norm
    assert norm.training and norm.num_batches_tracked == 0 and not norm.running_mean.any()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("return torch.relu(1 - positive + negative)", "one"),
        ("return torch.relu(1 - positive + negative).mean().detach()", "no gradient"),
        ("torch.relu(1 - positive + negative).mean()", "NoneType"),
        ("return {}['there']", "mine_[0-9]+:[0-9]+"),
    ],
)
def test_a_loss_that_is_none(mine, tiny_run, wrong, told):
    text = LOSS.replace("return torch.relu(1 - positive + negative).mean()", wrong)
    config, data, model, trainer = tiny_run("LLMEmbSASRec", loss_type=f"{mine(text)}:Mine")
    with pytest.raises(UserError, match=told):
        train_and_evaluate(config, data, model, trainer)


def test_scores_that_are_others_each_time_are_told(mine, command, caplog):
    noisy = "2 * super().forward(item_seq, item_seq_len)"
    mending = f"nn.functional.dropout({noisy}, 0.5, self.training)"
    for text, warned in ((mending.replace(", self.training", ""), True), (mending, False)):
        module = mine(BACKBONE.replace(noisy, text).replace("\n\n", "\nfrom torch import nn\n", 1))
        importlib.import_module(module)
        command("LLMEmbMine", epochs=2)
        assert caplog.text.count("other scores each time") == warned
        caplog.clear()
        sys.modules.pop(module)
        plugin.registry.MODELS.pop("LLMEmbMine")


def test_a_metric_by_import_path(mine, command):
    result = command("LLMEmbSASRec", metrics=["Hit", "NDCG", f"{mine(METRIC)}:Mine"])["test_result"]
    assert result["mine@5"] == pytest.approx(1 - result["hit@5"])


@pytest.mark.parametrize(
    "wrong", ['{"ndcg@5": 0.9}', '{"mine@5": None}', '{"mine@5": "much"}', "[1, 2]", "1 / 0"]
)
def test_a_metric_that_is_none(mine, tiny_run, wrong):
    line = 'return self.topk_result("mine", (hits.cumsum(axis=1) == 0).astype(float))'
    path = f"{mine(METRIC.replace(line, 'return ' + wrong))}:Mine"
    metrics = {"metrics": ["Hit", "NDCG", path], "topk": [5], "valid_metric": "NDCG@5"}
    config, data, model, trainer = tiny_run("LLMEmbSASRec", **metrics)
    with pytest.raises(UserError, match="Mine") as refused:
        train_and_evaluate(config, data, model, trainer)
    assert refused.value.key == "metrics"


@pytest.mark.parametrize(
    ("text", "model", "settings"),
    [
        (BACKBONE, "LLMEmbMine", {}),
        (METHOD, "Mine", dict.fromkeys(SIZES)),
        (KEY, "Mine", {"louder": 3.0}),
    ],
    ids=["backbone", "method", "key"],
)
def test_a_model_that_is_imported_first(mine, command, capsys, text, model, settings):
    module = importlib.import_module(mine(text))
    found = command(model, **settings)
    assert found["model"] == model and module.Mine.used
    if model == "Mine" and "louder" in settings:
        assert found["config"]["louder"] == 3
        assert main([f"--model={model}", "--louder=11"]) == 2
        assert "louder" in capsys.readouterr().err


def test_what_a_method_cannot_have_exported_is_told(mine, command, tmp_path, capsys):
    """Without a way to export its users; and with scores that its vectors do not give."""
    noisy = METHOD.replace("gather(1, last)", "gather(1, last).roll(Mine.used)")
    for text, parts, told in ((METHOD, "encoder", "user_encoder"), (noisy, "items", "differ")):
        module = mine(text)
        importlib.import_module(module)
        command("Mine", **dict.fromkeys(SIZES))
        capsys.readouterr()
        given = [f"--checkpoint={tmp_path}/out.json", f"--out={tmp_path}/{parts}"]
        assert main(["export", *given, f"--what={parts}"]) == 2
        assert told in capsys.readouterr().err
        sys.modules.pop(module)


def test_a_subcommand_by_entry_point(mine, tmp_path, capsys):
    module = mine(COMMAND)
    about = tmp_path / "mine-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[recbole_llmemb.commands]\nhello = {module}\n")
    assert main(["hello", "--whom=me"]) == 0 and capsys.readouterr().out == "hello me\n"
    assert main(["--help"]) == 0 and "hello" in capsys.readouterr().out
    assert main(["hello", "--nonsense=1"]) == 2 and main(["helo"]) == 2


def test_every_row_of_the_table_is_here():
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    table = page.split("| to add |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (?:an?|one) ([a-z ]+) \|", table, re.MULTILINE)
    texts = [
        name.lower().replace("_", " ")
        for name, value in globals().items()
        if name.isupper() and "\n" in str(value)
    ]
    texts.append(texts.pop(texts.index("command")).replace("command", "subcommand"))
    assert sorted(rows) == sorted(texts)
