"""A run by ``execute``: what it reports, returns and refuses."""

import json

import pytest
import yaml

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.run.execute import execute


@pytest.fixture
def typed(tiny_settings, tmp_path):
    """What is typed for a run on ``tiny``, whose settings are in a file."""

    def make(model="LLMEmbSASRec", **overrides):
        settings = tiny_settings(model, epochs=1, **overrides)
        settings.pop("gpu_id")
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
        return {"model": model, "dataset": "tiny", "config_files": "settings.yaml"}

    return make


def test_everything_is_reported_and_nothing_printed(typed, tmp_path, capsys):
    lines = []
    result = execute({**typed(holdout_items=0.1), "result_json": "r.json"}, report=lines.append)
    assert capsys.readouterr().out == ""
    told = "\n".join(lines)
    for part in ("prepare: done in", "test, all", "held out", "checkpoint: ", "results:    r.json"):
        assert part in told
    assert lines[-1].startswith("total:")
    assert result == json.loads((tmp_path / "r.json").read_text())
    assert "checkpoint" not in execute(typed(), report=lines.append)


@pytest.mark.parametrize("key", ["save_users", "holdout_items"])
@pytest.mark.parametrize("where", ["typed", "file"])
def test_what_recboles_own_models_would_pass_over(typed, key, where):
    value = {"save_users": True, "holdout_items": 0.1}[key]
    asked = typed("SASRec", **({key: value} if where == "file" else {}))
    asked |= {key: value} if where == "typed" else {}
    with pytest.raises(UserError) as caught:
        execute({**asked, "result_json": "r.json"}, report=lambda line: None)
    assert caught.value.key == key and "SASRec" in str(caught.value)


def test_the_older_place(tmp_path):
    with pytest.warns(DeprecationWarning, match="run.execute"):
        from recbole_llmemb.cli.run import execute as older
    assert older is execute
