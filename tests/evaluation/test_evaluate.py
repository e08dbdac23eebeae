"""One pass over a loader gives what RecBole's trainer gives, on RecBole's own loaders as well."""

import numpy as np
import pytest
from recbole.trainer import Trainer

import recbole_llmemb  # noqa: F401
from recbole_llmemb.evaluation.ranking import GroupCollector
from recbole_llmemb.run.stages import build

NEGATIVES = {
    "distribution": "uniform", "sample_num": 1, "dynamic": False, "alpha": 1.0, "candidate_num": 0,
}  # fmt: skip
LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO"}
WAYS = {
    "full": {"eval_args": {**LEAVE_ONE_OUT, "mode": "full"}},
    "several targets": {"eval_args": {"split": {"RS": [6, 2, 2]}, "order": "TO", "mode": "uni6"}},
    "single scores": {
        "eval_args": {**LEAVE_ONE_OUT, "mode": "labeled"},
        "metrics": ["AUC", "LogLoss"],
        "valid_metric": "AUC",
        "threshold": {"rating": 3},
        "loss_type": "BPR",
        "train_neg_sample_args": NEGATIVES,
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [4096, 7])
def test_as_recboles_trainer(tiny_data, way, size):
    config, data = tiny_data("LLMEmbSASRec", eval_batch_size=size, **WAYS[way])
    model, trainer = build(config, data)
    stock = Trainer(config, model)
    stock.eval_collector = GroupCollector(config)  # RecBole's own fails on some metrics
    results = []
    for each in (trainer, stock):
        np.random.seed(5)  # of the candidates that RecBole's loader draws
        results.append(each.evaluate(data.test, load_best_model=False))
    assert results[0] == results[1] and len(results[0]) > 1
