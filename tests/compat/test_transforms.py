"""RecBole's changes of histories that need a setting of their own."""

import pytest


@pytest.mark.parametrize("model", ["SASRec", "LLMEmbCaser"])
def test_histories_cropped_and_reordered_by_recbole(tiny_data, model):
    from recbole.data.transform import construct_transform

    shared = {"train_neg_sample_args": None, "loss_type": "CE", "train_mode": "prefix"}
    for chosen in ({"transform": "crop_itemseq", "eta": 0.6},
                   {"transform": "reorder_itemseq", "beta": 0.9}):  # fmt: skip
        config, data = tiny_data(model, **shared, **chosen)
        rows = construct_transform(config)(data.train._dataset, next(iter(data.train)))
        histories, lengths = rows["item_id_list"], rows["item_length"].tolist()
        found = rows["Crop_item_id_list" if "eta" in chosen else "Reorder_item_id_list"]
        for before, after, length in zip(histories.tolist(), found.tolist(), lengths):
            if "beta" in chosen:
                assert sorted(before[:length]) == sorted(after[:length])
                continue
            kept = int(length * 0.6)
            stretches = [before[i : i + kept] for i in range(length - kept + 1)]
            assert after[:kept] in stretches and not any(after[kept:])
