"""LLM-SRec recommends as RecBole says it does, and says what it cannot do."""

import pytest
import torch
from llmsrec_fixtures import cf_model, llms, llmsrec  # noqa: F401
from recbole.quick_start import load_data_and_model
from recbole.utils.case_study import full_sort_topk
from serve_runs import save

from recbole_llmemb import Recommender
from recbole_llmemb.apps.serve.export import export
from recbole_llmemb.core.errors import UserError


@pytest.fixture
def path(llmsrec, tmp_path):  # noqa: F811
    """The checkpoint of an LLM-SRec over a table."""
    return save(llmsrec(), tmp_path / "srec.pth")


def test_lists_are_those_of_full_sort_topk(path):
    _, model, dataset, _, _, test = load_data_and_model(str(path))
    ids = test.dataset.inter_feat["user_id"].numpy()[:12]
    scores, _ = full_sort_topk(ids, model, test, 7)
    users = [str(token) for token in dataset.field2id_token["user_id"][ids]]
    found = Recommender(path).recommend(users, topk=7, split="test", batch_size=5)
    torch.testing.assert_close(found.scores, scores, rtol=1e-4, atol=1e-4)


def test_what_it_cannot_do_is_said(path, tmp_path):
    recommender = Recommender(path)
    with pytest.raises(UserError, match="is its vector in the CF model"):
        recommender.add_items([{"item_id": "a", "title": "soap"}])
    with pytest.raises(UserError, match="reads a history by an LLM"):
        export(recommender, tmp_path / "out", ["encoder"])
    export(recommender, tmp_path / "out", ["items", "users"], report=lambda line: None)


def test_prompts_with_dates_need_times(llmsrec, tmp_path):  # noqa: F811
    run = llmsrec(item_input="text", prompt_dates=True)
    recommender = Recommender(save(run, tmp_path / "text.pth"))
    with pytest.raises(UserError, match="name dates; give each history a time per item"):
        recommender.recommend(histories=[["i1", "i2"]])
    batch = recommender.batch(recommender.people(["u1"]))
    del batch.interaction[recommender.model.time_list]  # as somebody else may make one
    with pytest.raises(UserError) as caught:
        recommender.model.full_sort_predict(batch)
    assert caught.value.key == "prompt_dates"
    day = 86_400
    one, other = (
        recommender.recommend(histories=[["i1", "i2"]], times=[[start * day, start * day + day]])
        for start in (1, 9_000)
    )
    assert not torch.allclose(one.scores, other.scores)


def test_a_cf_model_that_is_gone_is_named_with_its_place(llmsrec, cf_model, tmp_path):  # noqa: F811
    import shutil

    own = shutil.copy(cf_model, tmp_path / "cf.pth")
    path = save(llmsrec(align_teacher=str(own)), tmp_path / "srec.pth")
    own.unlink()
    with pytest.raises(UserError, match="The CF model that .* was trained with was in .*cf.pth"):
        Recommender(path)
