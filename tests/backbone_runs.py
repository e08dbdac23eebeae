"""Runs of any backbone on the ``tiny`` dataset, and batches written by hand."""

import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.models.llmemb.backbones import BACKBONES  # isort: skip
from recbole.data.interaction import Interaction  # isort: skip

SERVED = [name for name, spec in BACKBONES.items() if not spec.unsupported]
REFUSED = [name for name in BACKBONES if name not in SERVED]
CAUSAL = [name for name in SERVED if BACKBONES[name].one_pass == "causal"]
HISTORIES = [[4], [3, 2], [12, 13, 12, 15], [5, 9, 2, 40, 9, 31, 7]]


@pytest.fixture
def small(tiny_settings, tiny):
    """``small(name, **overrides)``: settings of a quick run of ``LLMEmb<name>``."""

    def settings(name, **overrides):
        values = tiny_settings(f"LLMEmb{name}", embedding_size=8, topk=[10], epochs=1)
        for key in ("n_layers", "n_heads", "num_layers", "hidden_dropout_prob", "dropout_prob",
                    "attn_dropout_prob", "inner_size"):  # fmt: skip
            values.pop(key, None)  # what the backbone's own defaults are for
        if BACKBONES.get(name) and BACKBONES[name].item_fields:
            values["llm_missing"] = "mean"  # the .item file has two items that nobody met
        if name == "FEARec":
            values["n_layers"] = 2
        if "CPR" in name:
            values["reranker_CAN_NUM"] = 10
        return values | overrides

    return settings


@pytest.fixture
def built(small, tiny_run):
    """``built(name, **overrides)``: data and a model whose weights make every difference show."""

    def make(name, **overrides):
        quiet = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "dropout_prob": 0.0}
        settings = small(name, **quiet, dropout_probs=[0.0, 0.0], **overrides)
        _, data, model, _ = tiny_run(f"LLMEmb{name}", **settings)
        torch.manual_seed(3)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if parameter.dim() > 1 or key in ("T", "lambda_"):
                    parameter.normal_(0, 0.3)
            if "NARM" not in name and BACKBONES[name].padding_free:
                model.item_embedding.weight[0].zero_()
        return data, model

    return make


def batch_of(*histories, width=10):
    rows = torch.zeros(len(histories), width, dtype=torch.long)
    for row, history in zip(rows, histories):
        row[: len(history)] = torch.tensor(history)
    return Interaction(
        {
            "user_id": torch.arange(1, len(rows) + 1),
            "item_id_list": rows,
            "item_length": torch.tensor([len(history) for history in histories]),
            "item_id": torch.arange(len(rows)) + 7,
            "neg_item_id": torch.arange(len(rows)) + 23,
        }
    )
