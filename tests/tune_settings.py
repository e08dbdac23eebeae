"""Settings of small searches on ``tiny``."""

from conftest import MAX_LENGTH

from recbole_llmemb.apps.tune.plan import make_plan
from recbole_llmemb.apps.tune.space import read_space

RATES = {"learning_rate": {"choice": [0.001, 0.01]}}


def settings_for(tiny, table, **more):
    return {
        "data_path": str(tiny.folder.parent),
        "llm_table": str(table),
        "align_weight": 0.0,
        "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
        "hidden_size": 8,
        "inner_size": 16,
        "n_layers": 1,
        "epochs": 3,
        "train_batch_size": 16,
        "topk": [5, 10],
        "metric_decimal_place": 8,
        **more,
    }


def plan_of(settings, space=RATES, model="LLMEmbSASRec", metric=None):
    foreign = ("embedding_size", "num_layers", "dropout_prob")  # that no SASRec knows
    settings = {key: value for key, value in settings(model).items() if key not in foreign}
    return make_plan(model, "tiny", (), settings, read_space(space), metric)
