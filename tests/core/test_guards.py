"""Two things that must not happen silently: seeing the future, and training a teacher twice."""

import threading

import pytest
from recbole.data.utils import get_dataloader

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.loaders import PrefixTrainDataLoader
from recbole_llmemb.models.registry import model_class
from recbole_llmemb.run import stages, teacher


def test_a_backbone_that_sees_the_future_is_refused_in_sequence_mode(tiny_config, monkeypatch):
    assert tiny_config()["train_mode"] == "sequence"
    monkeypatch.setattr(model_class("LLMEmbSASRec"), "one_pass", "")
    with pytest.raises(UserError, match="LLMEmbSASRec is not causal.*train_mode: prefix"):
        tiny_config(train_mode="sequence")
    assert tiny_config()["train_mode"] == "prefix"
    assert get_dataloader(tiny_config(), "train") is PrefixTrainDataLoader


def test_two_runs_train_one_teacher(tiny_config, monkeypatch):
    config = tiny_config(align_weight=0.01, epochs=1)
    trained, both = [], threading.Barrier(2)
    original = stages.train_in_isolation

    def counted(own, *others):
        trained.append(own["model"])
        return original(own, *others)

    monkeypatch.setattr(stages, "train_in_isolation", counted)
    paths = []

    def run():
        both.wait()
        paths.append(teacher.ensure_teacher(config, 8, lambda line: None))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 2 and paths[0] == paths[1]
    assert trained == ["LLMEmbSASRec"]
