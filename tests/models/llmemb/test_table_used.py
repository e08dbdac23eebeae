"""A checkpoint names its table, and a model is not rebuilt over another one."""

import pytest
import torch

from recbole_llmemb.config.recbole_config import config_from_plain, config_to_plain
from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.run.artifacts import item_table
from recbole_llmemb.table import EmbeddingTable


def test_another_table_at_the_same_place_is_refused(tiny_data, tiny_table, tmp_path):
    table = EmbeddingTable.load(tiny_table)
    mine = tmp_path / "mine"
    table.save(mine)
    config, data = tiny_data(llm_table=str(mine))
    rows = item_table(config, data.dataset, print).rows()
    again = config_from_plain(config_to_plain(config))
    assert torch.equal(item_table(again, data.dataset, print).rows(), rows)
    EmbeddingTable(table.tokens, table.vectors + 1, {}).save(mine, overwrite=True)
    with pytest.raises(TableError, match="is not the table this model was trained over"):
        item_table(again, data.dataset, print)


def test_a_run_over_a_given_table_of_other_texts_says_so(tiny, tiny_data, tiny_table, tmp_path):
    """Once, when it is trained; what is rebuilt from a checkpoint does not ask again."""
    table, mine = EmbeddingTable.load(tiny_table), tmp_path / "mine"
    rows = [row for row, token in enumerate(table.tokens) if token in tiny.items]
    about = {"fields": ["title"], "prompt": "", "value_max_chars": 100, "texts_hash": "other"}
    EmbeddingTable([table.tokens[r] for r in rows], table.vectors[rows], about).save(mine)
    config, data = tiny_data(llm_table=str(mine))
    config["llm_table_used"], lines = None, []  # as before the run has asked for it
    item_table(config, data.dataset, lines.append)
    assert [line for line in lines if "other texts" in line and str(mine) in line]
    lines.clear()
    again = config_from_plain(config_to_plain(config))
    item_table(again, data.dataset, lines.append)
    assert not lines


def test_loaders_are_not_kept_as_pickles(tiny_config):
    with pytest.raises(UserError, match="save_dataloaders"):
        tiny_config(save_dataloaders=True)


def test_losses_of_shape_one_are_taken(tiny_run):
    _, data, model, trainer = tiny_run()
    loss = model.calculate_loss
    total = trainer._train_epoch(data.train, 0, loss_func=lambda batch: loss(batch).view(1))
    assert isinstance(total, float) and total > 0
