"""Settings that contradict each other are refused in one sentence."""

import pytest

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.cli.run import parse  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip

BAD = [
    ({"learn_temperature": True, "similarity_temperature": 0.001}, "similarity_temperature"),
    ({"adapter": "mlp", "adapter_hidden_size": 0}, "adapter_hidden_size"),
    ({"adapter": "none", "adapter_hidden_size": 8}, "adapter_hidden_size"),
    ({"adapter": "whitening", "adapter_hidden_size": 8}, "adapter_hidden_size"),
    ({"adapter_dropout": 0.2}, "adapter_dropout"),
    ({"adapter": "whitening", "llm_whiten": 0}, "llm_whiten"),
    ({"llm_init_std": 0.02}, "llm_init_std"),
    ({"adapter": "whitening", "llm_init_std": 0.02}, "llm_init_std"),
    ({"offset_decay": 0.1}, "offset_decay"),
    ({"offset_decay": 0.1, "item_embedding": "both"}, "offset_decay"),
    ({"offset_decay": 0.1, "item_embedding": "id"}, "offset_decay"),
    ({"item_embedding": "both", "adapter": "none", "llm_freeze": False}, "item_embedding"),
    ({"item_embedding": "residual", "adapter": "whitening", "llm_freeze": False}, "item_embedding"),
    (
        {"item_embedding": "residual", "adapter_hidden_size": 0, "llm_freeze": False},
        "item_embedding",
    ),
    ({"hidden_size": 8, "n_heads": 3}, "n_heads"),
    ({"llm_table_device": "cpu", "llm_freeze": False}, "llm_table_device"),
]


@pytest.mark.parametrize(("settings", "key"), BAD, ids=str)
def test_refused(tiny_config, settings, key):
    with pytest.raises(UserError) as caught:
        tiny_config(**settings)
    text = str(caught.value)
    assert caught.value.key == key and text.startswith(f"{key} is ")
    assert "\n" not in text and text.endswith(".") and text.count(". ") == 0


GOOD = [
    {"adapter": "none", "adapter_hidden_size": 0},
    {"adapter_hidden_size": 0, "llm_init_std": 0.1},
    {"adapter": "mlp", "adapter_hidden_size": 8, "adapter_dropout": 0.5},
    {"adapter": "none", "llm_whiten": 0},
    {"item_embedding": "residual", "offset_decay": 0},
    {"item_embedding": "residual", "llm_freeze": False},  # a trained table has an adapter to feed
    {"item_embedding": "id", "adapter": "mlp", "adapter_hidden_size": 0},  # no adapter at all
    {"similarity_temperature": 20.0},
    {"learn_temperature": True},
    {"learn_temperature": True, "similarity_temperature": 10},
    {"item_learning_rate": 0.0},
]


def test_no_adapter_may_be_typed(tiny_config):
    """The command line reads none as no value."""
    assert tiny_config(**parse(["--adapter=none"]))["adapter"] == "none"
    assert tiny_config()["adapter"] == "linear"


@pytest.mark.parametrize("settings", GOOD, ids=str)
def test_not_refused(tiny_config, settings):
    config = tiny_config(**settings)
    assert all(config[key] == value for key, value in settings.items())
