"""Checkpoints to serve from, saved as trainers save them but with random, telling weights."""

from __future__ import annotations

import pytest
import torch
from encode_models import make_model

from recbole_llmemb.core import checkpoint


def save(run, path):
    """Save a run's model with weights large enough for scores to differ; returns the path."""
    config, data, model, trainer = run
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    if hasattr(trainer, "_state"):
        trainer._train_data = data.train
        checkpoint.save(trainer._state(0), path)
    else:
        trainer.saved_model_file = str(path)
        trainer._save_checkpoint(0, verbose=False)
    return path


@pytest.fixture
def saved(tiny_run, tmp_path):
    """``saved(model, **overrides)``: the checkpoint of a run on ``tiny``."""

    def make(model="LLMEmbSASRec", **overrides):
        return save(tiny_run(model, **overrides), tmp_path / f"{model}.pth")

    return make


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A small random encoder whose tokenizer tells any two texts apart."""
    return make_model(tmp_path_factory.mktemp("encoder") / "qwen2", "qwen2")


@pytest.fixture
def from_text(saved, encoder):
    """As ``saved``, over a table that is encoded from the items' text."""

    def make(model="LLMEmbSASRec", **overrides):
        given = {"llm_table": None, "llm_encoder": str(encoder)}
        return saved(model, **given | overrides)

    return make
