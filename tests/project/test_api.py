"""The Python interface: what its page shows is public, and what an earlier one showed is there."""

import importlib
import re
import warnings

import pytest
from conftest import ROOT


def shown():
    """What docs/api.md shows: module and name of each."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    found = re.findall(r"^\.\. auto(\w+):: ([\w.]+)(?:\n   :members: (.+))?", page, re.MULTILINE)
    for kind, path, members in found:
        if kind == "module":
            yield from ((path, name) for name in members.split(", "))
        else:
            yield path.rsplit(".", 1)


@pytest.mark.parametrize(("module", "name"), list(shown()))
def test_what_is_shown_is_public(module, name):
    found = importlib.import_module(module)
    assert name in found.__all__ and getattr(found, name) is not None


# Old path → new path of what the documentation of 0.1.0 showed and has since moved.
MOVED = {
    "checkpoint": {
        "core.checkpoint": "save load",
        "config.plain": "config_to_plain config_from_plain",
    },
    "errors": {"core.errors": "UserError TableError name_some"},
    "model.adapters": {"models.adapters": "LinearAdapter MLPAdapter NoAdapter"},
    "model.backbones": {"models.llmemb.backbones": "Traits BACKBONES"},
    "model.backbones.bert4rec": {"models.llmemb.backbones.special": "BERT4RecModel"},
    "model.item_embedding": {"models.llmemb.item_embedding": "TableItemEmbedding"},
    "model.item_layer": {"models.llmemb.parts": "item_layer"},
    "model.llmemb": {"models.llmemb.model": "LLMEmbMixin"},
    "model.losses": {
        "models.losses": "item_cross_entropy bpr_loss bce_loss PairwiseBCE AlignmentLoss"
    },
    "model.offsets": {"models.llmemb.item_embedding": "ItemOffsets"},
    "model.scoring": {"models.losses": "ItemScores"},
    "pipeline": {"run.stages": "prepare_data build train_and_evaluate Data Outcome"},
    "registry": {"plugin": "register llmemb"},
    "results": {"run.result": "results_table write_result_json"},
    "serve": {"apps.serve": "Recommender"},
    "teacher": {"run.teacher": "teacher_config ensure_teacher read_item_embeddings"},
    "trainer": {"training": "LLMEmbTrainer"},
    "training.trainer": {"training": "LLMEmbTrainer"},
    "cli.run": {"run.execute": "execute"},
    "config": {
        "config.values": "check",
        "config.recbole_config": "make_config preset_file properties_folder",
    },
    "data.dataset": {"data.dataset": "LazySequentialDataset"},
    "data.windows": {"data.windows": "Windows next_item_windows whole_windows"},
    "data.batching": {"data.windows": "plan_batches"},
    "data.loaders": {"data.loaders": "SequenceTrainDataLoader ClozeTrainDataLoader"},
    "data.negatives": {"data.loaders": "NegativeSampler"},
    "encode": {
        "encode.build_or_load": "ensure_table cache_directory",
        "encode.shards": "item_prompts",
        "records.items": "read_items ItemText",
    },
    "encode.encoder": {"encode.encoder": "Encoder"},
    "encode.source": {"encode.source": "find_encoder"},
    "evaluation": {
        "evaluation.groups": "Groups group_results",
        "evaluation.loaders": "CandidateEvalDataLoader LengthSortedFullSortEvalDataLoader",
    },
    "table": {
        "table.format": "EmbeddingTable",
        "table.transform": "match reduce_pca",
        "table.imports": "import_table",
    },
}


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_gives_the_same(old):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = importlib.import_module(f"recbole_llmemb.{old}")
        for new, names in MOVED[old].items():
            now = importlib.import_module(f"recbole_llmemb.{new}")
            for name in names.split():
                assert getattr(before, name) is getattr(now, name)
    # An import of what lies below an old package leaves the package of today as it is.
    models = importlib.import_module("recbole_llmemb.models")
    assert models.llmemb.__name__ == "recbole_llmemb.models.llmemb"


def test_an_old_path_warns(monkeypatch):
    monkeypatch.delitem(importlib.import_module("sys").modules, "recbole_llmemb.trainer", False)
    with pytest.warns(DeprecationWarning, match=r"is now recbole_llmemb\.training"):
        importlib.import_module("recbole_llmemb.trainer")
