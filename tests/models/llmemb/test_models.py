"""What the models may look at, and that every way of scoring gives the same scores."""

import numpy as np
import pytest
import torch

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole.data.interaction import Interaction  # isort: skip
from recbole.model.layers import FeedForward  # isort: skip
from recbole_llmemb.models.llmemb.parts import BitDropout, use_fast_ops  # isort: skip

MODELS = ["LLMEmbSASRec", "LLMEmbGRU4Rec", "LLMEmbBERT4Rec"]
CAUSAL = MODELS[:2]


@pytest.fixture
def model_of(tiny_run):
    """A model whose weights are large enough for every difference to show."""

    def make(name, **settings):
        _, data, model, _ = tiny_run(name, **settings)
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.5)
            if "BERT" in name:
                model.output_bias.normal_()
        return data, model.eval()

    return make


def batch_of(*histories, width=10, n_items=60):
    """Padded histories as an interaction, with random users and targets."""
    rows = torch.zeros(len(histories), width, dtype=torch.long)
    for row, history in zip(rows, histories):
        row[: len(history)] = torch.tensor(history)
    return Interaction(
        {
            "user_id": torch.arange(1, len(rows) + 1),
            "item_id_list": rows,
            "item_length": torch.tensor([len(history) for history in histories]),
            "item_id": torch.arange(len(rows)) % n_items + 1,
        }
    )


HISTORIES = [[5, 9, 2, 40, 9, 31, 7, 8, 1, 60], [4], [12, 13, 14, 15], [3, 2], list(range(20, 30))]


@pytest.mark.parametrize("kind", ["id", "table", "both", "residual"])
@pytest.mark.parametrize("name", ["LLMEmbSASRec", "LLMEmbGRU4Rec", "LLMEmbBERT4Rec"])
def test_matrices_that_start_by_xavier(tiny_run, name, kind):
    """Normal, of variance 2 / (rows + columns); what starts as texts, or at zero, stays."""
    _, _, own, _ = tiny_run(name, item_embedding=kind)
    _, _, model, _ = tiny_run(name, item_embedding=kind, initialization="xavier")
    before, spreads = dict(own.named_parameters()), []
    for key, weight in model.named_parameters():
        kept = weight.dim() < 2 or "offsets" in key or "extra" in key
        same = torch.equal(weight, before[key])
        assert same == kept, key
        if not kept:
            rows = weight[1:] if key == "item_embedding.weight" else weight
            spreads.append((rows.var() * sum(weight.shape) / 2).item())
    assert len(spreads) > 2 and 0.8 < sum(spreads) / len(spreads) < 1.2
    if kind == "id":
        assert not model.item_embedding.weight[0].any()


def test_a_trained_table_starts_as_its_texts(tiny_run):
    own = {"adapter": "none", "llm_freeze": False, "llm_pca_dim": 8}
    rows = [tiny_run(initialization=i, **own)[2].item_embedding.weight for i in ("own", "xavier")]
    assert torch.equal(*rows)


@pytest.mark.parametrize("settings", [{}, {"item_embedding": "id"}, {"n_layers": 2}], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CAUSAL)
def test_no_position_sees_the_future(model_of, name, training, settings):
    _, model = model_of(name, **settings)
    assert model.one_pass == "causal"
    model.train(training)  # dropout is 0
    before = model.position_states(batch_of(*HISTORIES[:1]))
    for place in range(10):
        changed = list(HISTORIES[0])
        changed[place] = 50
        after = model.position_states(batch_of(changed))
        same = torch.isclose(before, after, atol=1e-6).all(-1)[0]
        assert same[:place].all() and not same[place:].any(), place
    # Nor what comes after it, even if it is nothing: a longer sequence, another padding.
    for length in range(1, 11):
        part = model.position_states(batch_of(HISTORIES[0][:length], width=10))
        assert torch.allclose(part[0, :length], before[0, :length], atol=1e-6)


def test_bert4rec_sees_both_sides(model_of):
    _, model = model_of("LLMEmbBERT4Rec")
    assert model.one_pass == "cloze"
    before = model.position_states(batch_of(*HISTORIES[:1]))
    after = model.position_states(batch_of(HISTORIES[0][:9] + [50]))
    assert not torch.isclose(before, after, atol=1e-4).all(-1).any()


@pytest.mark.parametrize("name", CAUSAL)
def test_states_at_the_last_position(model_of, name):
    _, model = model_of(name)
    batch = batch_of(*HISTORIES)
    states = model.position_states(batch)
    assert states.shape[:2] == (5, 10)
    last = states[torch.arange(5), batch["item_length"] - 1]
    assert torch.allclose(last, model.states(batch), atol=1e-6)
    assert model.states(batch).dim() == 2  # the pass over all positions is over


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("item_embedding", ["table", "id"])
@pytest.mark.parametrize("name", MODELS)
def test_every_way_of_scoring(model_of, name, item_embedding, grad):
    data, model = model_of(name, item_embedding=item_embedding)
    batch, n_items = batch_of(*HISTORIES), data.dataset.item_num
    candidates = torch.tensor([[7, 1, 60], [3, 3, 4], [9, 60, 2], [1, 2, 3], [5, 6, 7]])
    with torch.set_grad_enabled(grad):
        every = model.full_sort_predict(batch)
        assert every.shape == (5, n_items)
        some = model.scores(batch, candidates)
        one = model.predict(batch)
        weight = model.item_embedding.weight[:n_items]
    assert torch.allclose(some, every.gather(1, candidates), atol=1e-5)
    assert torch.allclose(one, every[torch.arange(5), batch["item_id"]], atol=1e-5)
    expected = torch.stack([(state * weight).sum(-1) for state in model.states(batch)])
    if "BERT" in name:
        expected = expected + model.output_bias
    assert torch.allclose(every, expected, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(model_of, name):
    """Batches cut to their longest history score as RecBole's, padded to the maximum."""
    _, model = model_of(name)
    histories = HISTORIES[1:4]
    whole = model.full_sort_predict(batch_of(*histories, width=10))
    cut = model.full_sort_predict(batch_of(*histories, width=4))
    alone = [model.full_sort_predict(batch_of(h, width=len(h)))[0] for h in histories]
    assert torch.allclose(whole, cut, atol=1e-5)
    assert torch.allclose(whole, torch.stack(alone), atol=1e-5)
    assert len(model.states(batch_of(*HISTORIES))) == len(HISTORIES)


@pytest.mark.parametrize("width", [3, 4, 9, 10])
def test_mask_follows_the_history(model_of, width):
    """After the last item; only a history that fills the model loses its oldest one."""
    _, model = model_of("LLMEmbBERT4Rec")
    histories = [list(range(1, n + 1)) for n in range(1, width + 1)]
    batch = batch_of(*histories, width=width)
    masked, place = model.append_mask(batch["item_id_list"], batch["item_length"])
    assert masked.shape == (width, min(width + 1, 10))
    for row, history, at in zip(masked.tolist(), histories, place.tolist()):
        expected = (history if len(history) < 10 else history[1:]) + [model.mask_token]
        assert row == expected + [0] * (len(row) - len(expected))
        assert row[at] == model.mask_token == model.n_items
    assert model.mask_token not in batch["item_id_list"]  # which is as it was


def test_full_histories_score_as_in_recboles_bert4rec(model_of, tiny_run):
    """There RecBole drops the oldest item as well; the weights are interchangeable."""
    _, model = model_of("LLMEmbBERT4Rec", item_embedding="id")
    _, _, stock, _ = tiny_run("BERT4Rec", mask_ratio=0.6)
    stock.load_state_dict(model.state_dict())
    full = batch_of(HISTORIES[0], HISTORIES[4])
    assert torch.allclose(
        model.full_sort_predict(full), stock.eval().full_sort_predict(full), atol=1e-5
    )


def test_learned_mask_beside_the_table(model_of):
    data, model = model_of("LLMEmbBERT4Rec")
    layer = model.item_embedding
    assert len(layer.weight) == data.dataset.item_num + 1 and layer.extra.requires_grad
    model.calculate_loss(next(iter(data.train))).backward()
    assert layer.extra.grad.abs().sum() > 0


def test_bit_dropout():
    """Rate, scale, gradient, and the numbers of ``nn.Dropout`` where it is not used."""
    x = torch.ones(1_000_003, requires_grad=True)
    for rate in (0.1, 0.5, 0.9):
        layer = BitDropout(rate)
        torch.manual_seed(0)
        y = layer(x)
        kept = y != 0
        share = kept.double().mean().item()
        assert abs(share - (1 - rate)) < 5 * (rate * (1 - rate) / len(x)) ** 0.5
        assert torch.allclose(y[kept], torch.full_like(y[kept], 1 / (1 - rate)), rtol=1e-3)
        assert abs(y.double().mean().item() - 1) < 0.01
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, y.detach())
        neighbors = (kept[1:] & kept[:-1]).double().mean().item()  # four share a random number
        assert abs(neighbors - share**2) < 0.005
        torch.manual_seed(0)
        assert torch.equal(layer(x), y) and not torch.equal(layer(x), y)
        assert torch.equal(layer.eval()(x), x)
    assert torch.equal(BitDropout(0.0)(x), x) and not BitDropout(1.0)(x).any()
    half = BitDropout(0.5)(torch.ones(7, 3, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16 and set(half.unique().tolist()) <= {0.0, 2.0}


def test_quickening_is_for_sequence_mode_only(tiny_run):
    _, _, quick, _ = tiny_run("LLMEmbSASRec", hidden_dropout_prob=0.3)
    _, _, plain, _ = tiny_run("LLMEmbSASRec", hidden_dropout_prob=0.3, train_mode="prefix")
    kinds = [{type(m) for m in model.modules()} for model in (quick, plain)]
    assert BitDropout in kinds[0] and torch.nn.Dropout not in kinds[0]
    assert BitDropout not in kinds[1] and torch.nn.Dropout in kinds[1]
    assert {m.p for m in quick.modules() if isinstance(m, torch.nn.Dropout)} == {0.0, 0.3}
    x = torch.linspace(-6, 6, 401)
    for act in ("gelu", "relu"):
        layer = FeedForward(4, 4, 0.0, act, 1e-12)
        before = layer.intermediate_act_fn(x)
        use_fast_ops(torch.nn.Sequential(layer))
        assert np.allclose(before, layer.intermediate_act_fn(x), atol=1e-6)
