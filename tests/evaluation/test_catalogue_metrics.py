"""Metrics of what is recommended, by their definitions, from the lists themselves."""

import math
from collections import Counter
from statistics import mean

import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)
from recbole_llmemb.evaluation import GROUP_NAMES
from recbole_llmemb.run.stages import train_and_evaluate

from recbole.evaluator import Evaluator  # isort: skip
from recbole.evaluator.collector import DataStruct  # isort: skip

METRICS = [
    "NDCG", "ItemCoverage", "ShannonEntropy", "GiniIndex", "AveragePopularity", "TailPercentage",
]  # fmt: skip


def by_hand(lists, counts, ratio=0.1):
    """Of lists of items, where ``counts`` says of every item how often training has it."""
    times, n = Counter(item for one in lists for item in one), len(counts)
    total = sum(times.values())
    spread = sorted(times[item] for item in counts)
    rarest = sorted(counts, key=lambda item: (counts[item], item))
    rarest = {i for i in counts if counts[i] <= ratio} if ratio > 1 else rarest[: int(ratio * n)]
    return {
        "itemcoverage": len(times) / n,
        "shannonentropy": -sum(v / total * math.log(v / total) for v in times.values()),
        "giniindex": sum((2 * i - n - 1) * v for i, v in enumerate(spread, 1)) / n / total,
        "averagepopularity": mean(mean(counts[item] for item in one) for one in lists if one),
        "tailpercentage": mean(mean(item in rarest for item in one) for one in lists if one),
    }


def lists_of(trainer, struct):
    """Keep what the trainer's evaluator is given."""
    evaluate = trainer.evaluator.evaluate

    def noted(dataobject):
        struct.append(dataobject.get("rec.items"))
        return evaluate(dataobject)

    trainer.evaluator.evaluate = noted


@pytest.mark.parametrize("mode", ["full", "uni20"])
@pytest.mark.parametrize("model", ["LLMEmbSASRec", "SASRec", "BPR"])
@pytest.mark.parametrize("ratio", [0.1, 3])
def test_metrics_of_a_run(tiny_run, tiny, model, mode, ratio):
    split = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": mode}
    settings = {"eval_args": split, "metrics": METRICS, "tail_ratio": ratio, "epochs": 1}
    if model == "BPR":
        settings["train_neg_sample_args"] = {"distribution": "uniform", "sample_num": 1}
    config, data, built, trainer = tiny_run(model, **settings)
    lists = []
    lists_of(trainer, lists)
    outcome = train_and_evaluate(config, data, built, trainer)
    counts = dict.fromkeys(range(1, data.dataset.item_num), 0)
    ids = data.dataset.field2token_id["item_id"]
    for items in tiny.sequences.values():
        shown = len(items) - (1 if model == "BPR" else 2)  # what sequences cannot hold out
        kept = len(items) - max(0, min(2, shown))
        for item in items[:kept] if model == "BPR" or len(items) > 1 else ():
            counts[ids[item]] += 1
    assert 0 in counts.values()
    for k in config["topk"]:
        for name, value in by_hand(lists[-1][:, :k].tolist(), counts, ratio).items():
            assert outcome.test_result[f"{name}@{k}"] == pytest.approx(value, abs=1e-7), name
    if model == "LLMEmbSASRec":
        rows, masks = trainer.eval_collector.rows, trainer.evaluator.groups.masks
        masks = masks(rows.user_id, rows.item_id)
        for group in GROUP_NAMES:
            found = by_hand(lists[-1][masks[group], :5].tolist(), counts, ratio)
            for name, value in found.items():
                assert outcome.groups[group][f"{name}@5"] == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("ratio", [0.3, 2])
def test_padding_in_a_list_is_no_item(ratio):
    """As it comes where a list is longer than what there is to rank."""
    struct, counts = DataStruct(), {1: 3, 2: 1, 3: 2, 4: 5}
    struct.set("rec.items", torch.tensor([[2, 1, 0], [2, 0, 3], [4, 0, 0], [0, 0, 0]]))
    struct.set("data.num_items", 4)
    struct.set("data.count_items", counts)
    settings = {"metrics": METRICS[1:], "topk": [3], "metric_decimal_place": 8, "tail_ratio": ratio}
    expected = by_hand([[2, 1], [2, 3], [4], []], counts, ratio)
    for name, value in Evaluator(settings).evaluate(struct).items():
        assert value == pytest.approx(expected[name[:-2]], abs=1e-8), name
