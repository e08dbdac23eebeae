"""Settings of small searches on ``tiny``."""

from conftest import MAX_LENGTH


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
