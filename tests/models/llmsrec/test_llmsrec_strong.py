# ruff: noqa: F811 (fixtures come by name)
"""LLM-SRec beside its CF model: the causal pass, the softmax over all items, the sum of scores."""

import pytest
import torch
import torch.nn.functional as F
from llmsrec_fixtures import cf_model, llms, llmsrec  # noqa: F401

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.histories import sampled_users
from recbole_llmemb.data.loaders import LOSS_POSITION
from recbole_llmemb.models.llmsrec.prompts import USER_START
from recbole_llmemb.run.stages import train_and_evaluate

CAUSAL = {"causal_pass": True, "train_targets": "every"}


def alone(model, history):
    """The user's vector after a history, read by the LLM at once and with nothing after it."""
    form, llm = model.form, model.llm
    (start,) = llm.tokenize([USER_START.rstrip()])
    slots = [form.table_projection(form.table[i]) + form.history_projection(form.cf_items[i])
             for i in history]  # fmt: skip
    whole = torch.cat([llm.embed(torch.tensor(llm.head + start)), torch.stack(slots)])
    return model.user_head(llm.model(inputs_embeds=whole[None]).last_hidden_state[0, -1])


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_every_item_of_a_sequence_sees_those_before_it_alone(llmsrec, kind):
    _, data, model, _ = llmsrec(kind, **CAUSAL)
    batch = next(iter(data.train))
    items, lengths = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
    found = model.user_head(model.form.position_states(items, lengths))
    for row, length, states in zip(items.tolist(), lengths.tolist(), found):
        for end in range(1, length + 1):
            assert torch.allclose(states[end - 1], alone(model, row[:end]), atol=1e-4)
    tested = next(iter(data.test))[0]
    histories = zip(tested[model.ITEM_SEQ].tolist(), tested[model.ITEM_SEQ_LEN].tolist())
    for state, (row, length) in zip(model.states(tested), histories):
        assert torch.allclose(state, alone(model, row[:length]), atol=1e-4)


def test_each_training_item_is_told_from_all_others(llmsrec):
    off = {"distill_weight": 0.0, "uniformity_weight": 0.0}
    _, data, model, _ = llmsrec("llama", **CAUSAL, **off)
    batch, losses, n = next(iter(data.train)), [], 0
    items = torch.stack([model.item_vectors(torch.tensor([i]))[0] for i in range(1, model.n_items)])
    width = batch[model.ITEM_SEQ].shape[1]
    for place, target in zip(batch[LOSS_POSITION].tolist(), batch[model.POS_ITEM_ID].tolist()):
        history = batch[model.ITEM_SEQ][place // width, : place % width + 1].tolist()
        losses.append(-F.log_softmax(items @ alone(model, history), dim=0)[target - 1])
        n += 1
    assert n > len(batch[model.ITEM_SEQ])
    assert model.calculate_loss(batch).item() == pytest.approx(sum(losses).item() / n, abs=1e-4)


@pytest.mark.parametrize("own", [{}, {"user_sample": 20, "shuffle_train": True}])
def test_everything_is_trained(llmsrec, own):
    config, data, model, trainer = llmsrec("bert", **CAUSAL, **own)
    batch = next(iter(data.train))
    sum(model.calculate_loss(batch)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    if own:
        assert sampled_users(data.dataset, 20)[data.train.windows.users].all()
    assert 0 <= train_and_evaluate(config, data, model, trainer).test_result["ndcg@10"] <= 1


@pytest.mark.parametrize("mode", ["full", "uni20"])
def test_scores_of_the_cf_model_are_added_at_equal_spread(llmsrec, mode):
    from llmsrec_fixtures import _EVALUATION

    own = {"cf_score_weight": 0.7, "eval_args": {**_EVALUATION, "mode": mode}}
    _, data, model, trainer = llmsrec("bert", **CAUSAL, **own)
    batch = next(iter(data.test))[0]
    users = model.user_vectors(batch)
    ids = torch.arange(1, model.n_items)
    own = users @ model.item_vectors(ids).t()
    states = model.teacher.user_states(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN])
    cf = states @ model.teacher.item_embeddings[1:].t()
    even = [scores / scores.std(1, correction=0, keepdim=True) for scores in (own, cf)]
    expected = even[0] + 0.7 * even[1]
    assert torch.allclose(model.full_sort_predict(batch)[:, 1:], expected, atol=1e-3)
    assert torch.allclose(model.queries(batch) @ model.item_matrix()[1:].t(), expected, atol=1e-3)
    assert 0 <= trainer.evaluate(data.test, load_best_model=False)["ndcg@10"] <= 1


@pytest.mark.parametrize("causal", [False, True])
def test_scores_may_be_cosines(llmsrec, causal):
    _, data, model, _ = llmsrec("bert", **(CAUSAL if causal else {}), cosine_temperature=0.2)
    batch = next(iter(data.test))[0]
    users, items = model.user_vectors(batch), model.item_vectors(torch.arange(1, model.n_items))
    expected = F.cosine_similarity(users.unsqueeze(1), items.unsqueeze(0), dim=-1) / 0.2
    assert torch.allclose(model.full_sort_predict(batch)[:, 1:], expected, atol=1e-4)
    assert expected.abs().max() > 1


def test_dropout_is_for_training(llmsrec):
    _, data, model, _ = llmsrec("bert", **CAUSAL, input_dropout=0.5)
    batch = next(iter(data.train))
    assert model.calculate_loss(batch)[0] != model.calculate_loss(batch)[0]
    model.eval()
    assert model.calculate_loss(batch)[0] == model.calculate_loss(batch)[0]


@pytest.mark.parametrize(
    "setting, key",
    [
        ({**CAUSAL, "item_input": "text"}, "causal_pass"),
        ({"causal_pass": True}, "causal_pass"),
        ({**CAUSAL, "epoch_parts": 2}, "causal_pass"),
        ({**CAUSAL, "MAX_ITEM_LIST_LENGTH": 600}, "MAX_ITEM_LIST_LENGTH"),
    ],
)
def test_what_does_not_go_together(llmsrec, setting, key):
    with pytest.raises(UserError) as caught:
        llmsrec("llama", **setting)
    assert caught.value.key == key
